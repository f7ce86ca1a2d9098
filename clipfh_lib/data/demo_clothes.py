"""One drawn garment -> pixels: cloth with its pattern and details, worn in some light."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

ALIKE = 8  # garments of one kind, colour and pattern
COLORS = {
    "black": (38, 36, 40), "white": (232, 230, 224), "grey": (134, 136, 140),
    "navy": (36, 46, 92), "blue": (66, 116, 190), "red": (182, 40, 48), "green": (52, 118, 74),
    "yellow": (222, 184, 64), "pink": (222, 142, 160), "brown": (112, 74, 50),
    "beige": (204, 182, 148), "violet": (112, 72, 142),
}  # fmt: skip
PATTERNS = ("plain", "striped", "dotted", "checked")
FOLDERS = {  # kind: folders of the partition, as in In-Shop
    "shirt": ("WOMEN/Blouses_Shirts", "MEN/Shirts_Polos"),
    "jacket": ("WOMEN/Jackets_Coats", "MEN/Jackets_Vests"),
    "dress": ("WOMEN/Dresses", "WOMEN/Dresses"),
    "skirt": ("WOMEN/Skirts", "WOMEN/Skirts"),
    "trousers": ("WOMEN/Pants", "MEN/Pants"),
}
VIEWS = ("front", "side", "back", "full")
NECKS = ("round", "v", "square", "collared")
PRINTS = ("", "", "disc", "ring", "bar", "triangle", "square")
SKINS = np.array([(238, 208, 184), (214, 170, 136), (168, 118, 84), (104, 70, 50)], float)


@dataclass(frozen=True)
class Garment:
    """What all photographs of an item share; lengths in body units, shoulders to hips is 0.95."""

    pid: int
    kind: str
    folder: str
    color: str
    pattern: str
    second: str  # colour of the pattern
    period: float
    share: float  # of the period that has the second colour
    angle: float  # radians
    length: float  # 0 short ... 1 long
    sleeve: float  # 0 none ... 1 long
    flare: float
    neck: str
    depth: float  # of the neckline
    buttons: int
    pockets: int
    printed: str
    place: tuple[float, float]  # of the print
    accent: str  # colour of print, trim and buttons
    trim: float  # width of the hem's band; 0: none


@dataclass(frozen=True)
class Shot:
    """How one photograph is taken; colours are 0..255, angles radians."""

    view: str
    aside: int  # -1 or 1: to which side a side view turns
    arms: tuple[float, float]
    turn: float
    scale: float
    shift: tuple[float, float]
    skin: tuple[float, ...]
    beside: tuple[float, ...]  # colour of the other clothes
    backdrop: tuple[float, ...]  # colours above and below
    light: tuple[float, ...]  # gain of red, green and blue
    slope: tuple[float, float]  # of the light across the picture
    folds: tuple[float, ...]
    noise_seed: int


def garment(seed: int, pid: int) -> Garment:
    """The item with this number, from 1: the same for the same seed, whatever else is drawn."""
    family = np.random.default_rng([seed, 211, (pid - 1) // ALIKE])
    kind, color, pattern = (str(family.choice([*names])) for names in (FOLDERS, COLORS, PATTERNS))
    folder = FOLDERS[kind][family.integers(2)]
    others = [name for name in COLORS if name != color]
    own = np.random.default_rng([seed, 223, pid])
    top = kind in ("shirt", "jacket", "dress")
    return Garment(
        pid=pid, kind=kind, folder=folder, color=color, pattern=pattern,
        second=str(own.choice(others)), period=float(own.uniform(0.07, 0.22)),
        share=float(own.uniform(0.25, 0.55)),
        angle=float(own.choice([0.0, np.pi / 2, np.pi / 4, -np.pi / 4])),
        length=float(own.random()),
        sleeve=float(own.choice([0.0, 0.3, 0.6, 1.0][kind != "dress":])) if top else 0.0,
        flare=float(own.random()), neck=str(own.choice(NECKS)) if top else "",
        depth=float(own.uniform(0.1, 0.3)), buttons=int(own.choice([0, 0, 3, 4, 6])),
        pockets=int(own.integers(3)), printed=str(own.choice(PRINTS)),
        place=(float(own.choice([-0.15, 0.0, 0.15])), float(own.uniform(0.3, 0.7))),
        accent=str(own.choice(others)), trim=float(own.choice([0.0, 0.0, 0.05, 0.09])),
    )  # fmt: skip


def shot(seed: int, pid: int, number: int) -> Shot:
    """Photograph `number` of an item, from 0; four of them are a session."""
    session = np.random.default_rng([seed, 227, pid, number // len(VIEWS)])
    own = np.random.default_rng([seed, 229, pid, number])
    skin = SKINS[session.integers(len(SKINS))] * session.uniform(0.9, 1.05)
    beside = np.array(COLORS[str(session.choice([*COLORS]))]) * session.uniform(0.7, 1.1)
    backdrop = np.concatenate([session.uniform(120, 235) + session.normal(0, 14, 3)] * 2)
    backdrop[3:] *= session.uniform(0.6, 1.1)
    light = session.uniform(0.72, 1.18) * (1 + session.normal(0, 0.06, 3)) * own.uniform(0.92, 1.08)
    return Shot(
        view=VIEWS[number % len(VIEWS)], aside=int(own.choice([-1, 1])),
        arms=tuple(own.uniform(0.08, 0.75, 2).tolist()), turn=float(own.normal(0, 0.07)),
        scale=float(own.uniform(0.8, 1.15)), shift=tuple(own.uniform(-0.12, 0.12, 2).tolist()),
        skin=tuple(skin.tolist()), beside=tuple(beside.tolist()), backdrop=tuple(backdrop.tolist()),
        light=tuple(light.tolist()), slope=tuple(own.normal(0, 0.16, 2).tolist()),
        folds=tuple(own.uniform(0, 2 * np.pi, 5).tolist()), noise_seed=int(own.integers(2**31)),
    )  # fmt: skip


# --- one photograph -------------------------------------------------------------------------------


class _Canvas:
    """A picture of twice the size that is painted in body units, and the place of every pixel."""

    def __init__(self, item: Garment, taken: Shot, size: int):
        self.size = 2 * size
        middle, span = {"trousers": (1.5, 1.9), "skirt": (1.3, 1.7), "dress": (0.75, 2.5)}.get(
            item.kind, (0.45, 1.9)
        )
        if taken.view == "full":
            middle, span = 0.9, 3.3
        squeeze = 0.62 if taken.view == "side" else 1.0
        cos, sin = np.cos(taken.turn), np.sin(taken.turn)
        unit = self.size / span * taken.scale  # pixels
        self.matrix = unit * np.array([[cos * squeeze, -sin], [sin * squeeze, cos]])
        self.origin = self.size * (0.5 + np.array(taken.shift)) - self.matrix @ [0, middle]
        rows, columns = np.mgrid[: self.size, : self.size] + 0.5
        places = np.linalg.inv(self.matrix) @ (
            np.stack([columns.ravel(), rows.ravel()]) - self.origin[:, None]
        )
        self.x, self.y = places.reshape(2, self.size, self.size)
        if taken.view == "side":  # the middle of the garment's front turns away
            self.x = self.x - 0.12 * taken.aside
        up, down = np.array(taken.backdrop).reshape(2, 3)
        self.pixels = up + (down - up) * (rows / self.size)[..., None]

    def mask(self, *polygons: np.ndarray) -> np.ndarray:
        """Which pixels lie in one of the polygons, (points, 2) in body units."""
        image = Image.new("L", (self.size, self.size))
        for polygon in polygons:
            points = polygon @ self.matrix.T + self.origin
            ImageDraw.Draw(image).polygon([tuple(point) for point in points.tolist()], fill=1)
        return np.asarray(image) > 0

    def paint(self, where: np.ndarray, color: np.ndarray | tuple[float, ...]) -> None:
        """Give pixels a colour, or each its own."""
        color = np.asarray(color, float)
        self.pixels[where] = color[where] if color.ndim == 3 else color


def draw(item: Garment, taken: Shot, size: int) -> np.ndarray:
    """Draw one photograph: (size, size, 3) uint8, RGB."""
    canvas = _Canvas(item, taken, size)
    _person(canvas, item, taken)
    cloth = canvas.mask(*_cut(item, taken))
    canvas.paint(cloth, _cloth(canvas, item))
    _details(canvas, item, taken, cloth)
    x, y, (a, b, c, d, e) = canvas.x, canvas.y, taken.folds
    folds = np.sin(9 * x + 5 * y + a) * np.sin(4 * y + b) + 0.6 * np.sin(17 * x - 3 * y + c)
    folds += 0.5 * np.sin(23 * y + 6 * x + d) * np.sin(5 * x + e)
    canvas.pixels *= np.where(cloth, 1 + 0.09 * folds, 1)[..., None]
    if taken.view == "side":
        canvas.pixels *= np.where(cloth, np.clip(1 + 0.7 * taken.aside * x, 0.5, 1.3), 1)[..., None]
    ramp = np.linspace(-1, 1, canvas.size)
    light = 1 + taken.slope[0] * ramp[:, None] + taken.slope[1] * ramp[None]
    image = canvas.pixels * light[..., None] * taken.light
    image = image.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
    image += np.random.default_rng(taken.noise_seed).normal(0, 3.5, image.shape)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _hem(item: Garment) -> float:
    """How far down the garment reaches."""
    short, long = {"trousers": (1.45, 2.25), "skirt": (1.3, 2.05), "dress": (1.25, 2.0)}.get(
        item.kind, (0.8, 1.2)
    )
    return short + (long - short) * item.length


def _cut(item: Garment, taken: Shot) -> list[np.ndarray]:
    """Polygons of the garment as it is worn: two halves, then sleeves."""
    wide = 0.05 + 0.3 * item.flare
    hem = _hem(item)
    if item.kind == "trousers":
        leg = 0.09 + 0.12 * item.flare
        half = [(0, 0.85), (0.29, 0.85), (0.33, 1.1), (0.2 + leg, hem), (0.2 - leg, hem), (0, 1.28)]
        return _both(half)
    if item.kind == "skirt":
        return _both([(0, 0.82), (0.28, 0.82), (0.34, 1.0), (0.28 + wide, hem), (0, hem)])
    if item.kind == "dress":
        body = [(0, -0.03), (0.1, -0.03), (0.36, 0.05), (0.31, 0.3), (0.27, 0.55), (0.34, 0.9),
                (0.3 + wide, hem), (0, hem)]  # fmt: skip
    else:
        body = [(0, -0.03), (0.1, -0.03), (0.38, 0.05), (0.34, 0.3),
                (0.29 + 0.08 * item.flare, 0.6), (0.32 + wide / 3, hem), (0, hem)]  # fmt: skip
    found = _both(body)
    if item.sleeve:
        ends = 0.08 + 0.05 * item.flare
        found += [_limb(side, angle, 0.11, ends, 0.95 * item.sleeve)
                  for side, angle in zip((-1, 1), taken.arms, strict=True)]  # fmt: skip
    return found


def _both(half: list[tuple[float, float]]) -> list[np.ndarray]:
    """A polygon of the right side, and of the left."""
    return [np.array(half, float) * [side, 1] for side in (-1, 1)]


def _limb(side: int, angle: float, start: float, end: float, length: float) -> np.ndarray:
    """An arm or sleeve from the shoulder, so many radians off the body."""
    along = np.array([side * np.sin(angle), np.cos(angle)])
    across = np.array([along[1], -along[0]])
    top = np.array([side * 0.28, 0.14])
    bottom = top + along * length
    return np.array([top + across * start, top - across * start,
                     bottom - across * end, bottom + across * end])  # fmt: skip


def _person(canvas: _Canvas, item: Garment, taken: Shot) -> None:
    """Who wears it, with other clothes above or below."""
    around = np.linspace(0, 2 * np.pi, 24)
    head = np.stack([0.15 * np.sin(around), -0.36 + 0.2 * np.cos(around)], axis=1)
    limbs = [_limb(side, angle, 0.08, 0.05, 1.05)
             for side, angle in zip((-1, 1), taken.arms, strict=True)]  # fmt: skip
    trunk = _both([(0, -0.2), (0.08, -0.2), (0.09, -0.03), (0.35, 0.06), (0.27, 0.55), (0.3, 0.95),
                   (0.26, 1.6), (0.2, 2.3), (0.1, 2.3), (0, 1.25)])  # fmt: skip
    canvas.paint(canvas.mask(head, *limbs, *trunk), taken.skin)
    if taken.view == "back":
        canvas.paint(canvas.mask(head), np.array(taken.skin) * 0.3)  # hair
    if item.kind in ("shirt", "jacket"):
        below = [(0, 0.8), (0.31, 0.8), (0.32, 1.1), (0.24, 2.2), (0.1, 2.2), (0, 1.3)]
        canvas.paint(canvas.mask(*_both(below)), taken.beside)
    elif item.kind != "dress":
        above = [(0, -0.02), (0.1, -0.02), (0.36, 0.05), (0.3, 0.3), (0.28, 0.9), (0, 0.9)]
        sleeves = [_limb(side, angle, 0.1, 0.08, 0.35)
                   for side, angle in zip((-1, 1), taken.arms, strict=True)]  # fmt: skip
        canvas.paint(canvas.mask(*_both(above), *sleeves), taken.beside)


def _cloth(canvas: _Canvas, item: Garment) -> np.ndarray:
    """Colour of every pixel if it were cloth, (H, W, 3)."""
    base, other = np.array(COLORS[item.color], float), np.array(COLORS[item.second], float)
    cos, sin = np.cos(item.angle), np.sin(item.angle)
    along = (canvas.x * cos + canvas.y * sin) / item.period % 1
    across = (canvas.y * cos - canvas.x * sin) / item.period % 1
    if item.pattern == "striped":
        part = (along < item.share).astype(float)
    elif item.pattern == "checked":
        part = ((along < item.share) + (across < item.share).astype(float)) / 2
    elif item.pattern == "dotted":
        part = (np.hypot(along - 0.5, across - 0.5) < 0.75 * item.share).astype(float)
    else:
        part = np.zeros_like(along)
    return base + part[..., None] * (other - base)


def _details(canvas: _Canvas, item: Garment, taken: Shot, cloth: np.ndarray) -> None:
    """Neckline, hem, belt, buttons, pockets and print; most are seen from the front alone."""
    x, y, accent = canvas.x, canvas.y, np.array(COLORS[item.accent], float)
    base, back = np.array(COLORS[item.color], float), taken.view == "back"
    top = item.kind in ("shirt", "jacket", "dress")
    start = 0.0 if top else 0.85
    if item.trim:
        halves = canvas.mask(*_cut(item, taken)[:2])
        canvas.paint(halves & (y > _hem(item) - item.trim), accent)
        if not top or item.kind == "dress":
            waist = 0.55 if top else start + 0.03
            canvas.paint(cloth & (np.abs(y - waist) < item.trim / 2), accent)
    if top:
        deep = 0.06 if back else item.depth
        form = np.hypot(x / 0.16, y / deep)
        if not back and item.neck in ("v", "collared"):
            form = np.abs(x) / 0.16 + y / deep
        elif not back and item.neck == "square":
            form = np.maximum(np.abs(x) / 0.16, y / deep)
        canvas.paint(cloth & (form < 1), taken.skin)
        rim = cloth & (form >= 1) & (form < (1.7 if item.neck == "collared" else 1.15))
        canvas.paint(rim & (y < deep + 0.08), 0.5 * base + 0.5 * accent)
    if back:
        return
    if item.kind == "jacket" or item.buttons:
        first = start + (item.depth if top else 0.0)
        canvas.paint(cloth & (np.abs(x) < 0.008) & (y > first), 0.45 * base)
        for number in range(item.buttons):
            height = first + 0.08 + 0.6 * number / item.buttons
            canvas.paint(cloth & (np.hypot(x - 0.02, y - height) < 0.024), accent)
    for side in (-1, 1)[: item.pockets]:
        across, down = (np.abs(x + 0.19 * side) / 0.09, np.abs(y - start - 0.62) / 0.1)
        edge = np.maximum(across, down)
        canvas.paint(cloth & (edge < 1) & (edge > 0.82), 0.55 * base)
    if item.printed:
        dx, dy = (x - item.place[0]) / 0.1, (y - start - item.place[1]) / 0.1
        form = {
            "disc": np.hypot(dx, dy), "ring": 2 * np.abs(np.hypot(dx, dy) - 0.75) + 0.4,
            "bar": np.maximum(np.abs(dx) / 1.6, 3 * np.abs(dy)),
            "square": np.maximum(np.abs(dx), np.abs(dy)),
            "triangle": np.maximum(1.5 * np.abs(dx) - 0.5 * dy + 0.2, dy),
        }[item.printed]  # fmt: skip
        canvas.paint(cloth & (form < 1), accent)
