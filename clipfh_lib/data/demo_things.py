"""Drawn things, scenes and places, each a combination of attributes that its captions name.

No download, no licence. A thing is photographed several times; what of it changes from one
photograph to the next (ground, light, view) and what does not is said in `objects`, `scenes` and
`places`. Test things are other combinations of the attributes that training things have.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (196, 36, 40), "orange": (238, 134, 30), "yellow": (240, 212, 52),
    "green": (52, 146, 66), "blue": (44, 84, 186), "purple": (128, 56, 150),
    "white": (240, 240, 236), "black": (38, 36, 40),
}  # fmt: skip
PATTERNS = ("plain", "striped", "dotted")
SIZES = {"small": 0.36, "large": 0.64}  # half the height of a thing in half heights of the picture
GROUNDS = {
    "a wooden table": (168, 118, 74), "a grey floor": (140, 142, 146),
    "a white cloth": (228, 226, 220), "a green lawn": (112, 162, 82),
}  # fmt: skip
SETTINGS = {  # of scenes: colours of what is above and below
    "under a blue sky": ((134, 186, 236), (124, 160, 84)),
    "under a grey sky": ((168, 172, 178), (118, 132, 96)),
    "under an evening sky": ((240, 164, 108), (104, 96, 82)),
    "in a room with yellow walls": ((236, 218, 150), (150, 104, 66)),
    "in a room with green walls": ((164, 204, 172), (150, 104, 66)),
}
RELATIONS = {  # places of the first and of the second thing: x, y, half height
    "left of": ((-0.62, 0.25, 0.42), (0.62, 0.25, 0.42)),
    "right of": ((0.62, 0.25, 0.42), (-0.62, 0.25, 0.42)),
    "on top of": ((0.0, -0.40, 0.33), (0.0, 0.32, 0.40)),
    "in front of": ((0.12, 0.52, 0.32), (-0.10, 0.02, 0.50)),
}
MIRRORED = {"left of": "right of", "right of": "left of", "on top of": "below",
            "in front of": "behind"}  # fmt: skip
ROOFS, FLOORS = ("flat", "pitched", "round"), {"two": 2, "three": 3, "five": 5}
FLOOR = 0.26  # height of a floor in half heights of the picture
BESIDE = ("a tree", "a lamp post", "a fountain", "a car")
LIGHTS = {  # of places: gain of red, green and blue, and the colour of a window
    "by day": ((1.0, 1.0, 1.0), (196, 218, 232)),
    "in the evening": ((1.02, 0.78, 0.58), (220, 176, 140)),
    "at night": ((0.34, 0.38, 0.56), (255, 228, 120)),
}
Points = Sequence[tuple[float, float]]


class Picture(NamedTuple):
    """One photograph: of which thing, what is said of it, and how it is painted at a size."""

    thing: int
    category: str
    captions: list[str]
    traits: dict[str, str]
    paint: Callable[[int], Image.Image]


# --- shapes, in half heights of a thing, y downwards ----------------------------------------------


def _oval(x: float, y: float, wide: float, high: float, start: float = 0, end: float = 1) -> Points:
    turn = 2 * np.pi * np.linspace(start, end, 33)
    return list(zip(x + wide * np.cos(turn), y + high * np.sin(turn), strict=True))


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


DARK, STEEL, PALE = (58, 48, 44), (150, 152, 158), (244, 242, 234)
LEAVES, GLOW, WATER = (48, 120, 50), (250, 230, 130), (120, 190, 230)
KINDS: dict[str, tuple[list[Points], list[tuple[tuple[int, int, int], Points]]]] = {
    # what has the thing's colour and pattern; then what has a colour of its own
    "ball": ([_oval(0, 0, 1, 1)], []),
    "box": ([_box(-1, -0.3, 0.6, 1), [(-1, -0.3), (-0.6, -0.8), (1, -0.8), (0.6, -0.3)],
             [(0.6, -0.3), (1, -0.8), (1, 0.5), (0.6, 1)]],
            [(DARK, _box(-1, -0.34, 0.6, -0.28)), (DARK, _box(0.57, -0.3, 0.62, 1))]),
    "cup": ([_box(-0.8, -0.7, 0.45, 0.9),
             _oval(0.5, 0.1, 0.5, 0.55, -0.25, 0.25) + _oval(0.45, 0.1, 0.3, 0.33, 0.25, -0.25)],
            [(DARK, _oval(-0.175, -0.7, 0.62, 0.1))]),
    "bottle": ([[(-0.38, 1), (0.38, 1), (0.38, -0.1), (0.14, -0.5), (0.14, -0.9), (-0.14, -0.9),
                 (-0.14, -0.5), (-0.38, -0.1)]], [(DARK, _box(-0.17, -1, 0.17, -0.84))]),
    "lamp": ([[(-0.8, 0.1), (-0.4, -1), (0.4, -1), (0.8, 0.1)]],
             [(STEEL, _box(-0.06, 0.1, 0.06, 0.9)), (STEEL, _box(-0.45, 0.88, 0.45, 1))]),
    "chair": ([_box(-0.6, -1, -0.35, 0.2), _box(-0.6, 0.1, 0.65, 0.34)],
              [(DARK, _box(x, 0.34, x + 0.14, 1)) for x in (-0.6, 0.5)]),
    "clock": ([_oval(0, 0, 0.95, 0.95)], [(PALE, _oval(0, 0, 0.62, 0.62)),
              (DARK, _box(-0.04, -0.5, 0.04, 0)), (DARK, _box(0, -0.04, 0.38, 0.04))]),
    "car": ([[(-1.4, 0.6), (-1.4, 0.1), (-0.8, 0), (-0.5, -0.5), (0.5, -0.5), (0.8, 0), (1.4, 0.1),
              (1.4, 0.6)]], [(PALE, [(-0.6, 0), (-0.4, -0.38), (0.4, -0.38), (0.6, 0)]),
             (DARK, _oval(-0.8, 0.62, 0.32, 0.32)), (DARK, _oval(0.8, 0.62, 0.32, 0.32))]),
}  # fmt: skip


# --- the three sets -------------------------------------------------------------------------------


def pictures(what: str, things: int, images: int, seed: int) -> Iterator[Picture]:
    """Photographs of drawn things, thing by thing.

    Args:
        what: objects, scenes or places.
        things: how many; each another combination of attributes.
        images: of each thing.
        seed: the same seed gives the same pictures.

    Raises:
        ValueError: there are fewer combinations than things.
    """
    of, parts = {
        "objects": (_object, (_SOME, COLOURS, PATTERNS, SIZES)),
        "scenes": (_scene, (_SOME, COLOURS, RELATIONS, _SOME, COLOURS, SETTINGS)),
        "places": (_place, (COLOURS, COLOURS, ROOFS, FLOORS, COLOURS, BESIDE)),
    }[what]
    combinations = [
        each for each in product(*parts) if what == "objects" or len({*each}) == len(each)
    ]
    if things > len(combinations):
        raise ValueError(f"people={things}: there are {len(combinations)} different {what}")
    draw = np.random.default_rng([seed, 211])
    for thing, row in enumerate(draw.choice(len(combinations), things, replace=False)):
        for number in range(images):
            drawn = np.random.default_rng([seed, 223, thing, number])
            yield Picture(thing, *of(combinations[row], drawn))


_SOME = tuple(KINDS)


def _object(attributes: tuple[str, ...], draw: np.random.Generator) -> tuple:
    """One thing; from photograph to photograph it stands on other ground, in other light."""
    kind, colour, pattern, size = attributes
    ground = str(draw.choice(list(GROUNDS)))
    looks = f"{colour} {pattern}" if pattern != "plain" else colour
    captions = [f"A {size} {looks} {kind} on {ground}", f"A photo of a {kind}, {colour}, {pattern}"]
    seed = int(draw.integers(2**31))

    def paint(width: int) -> Image.Image:
        own, view = np.random.default_rng(seed), _canvas(width, (206, 210, 214), GROUNDS[ground])
        place = own.uniform(-0.45, 0.45), own.uniform(0.0, 0.2), SIZES[size]
        _put(view, kind, colour, place, own.uniform(-9, 9), own, pattern)
        return _photograph(view, width, own)

    traits = {"colour": colour, "pattern": pattern, "size": size, "ground": ground}
    return kind, captions[: 1 + int(draw.random() < 0.5)], traits, paint


def _scene(attributes: tuple[str, ...], draw: np.random.Generator) -> tuple:
    """Two things beside each other, at times a third far away, which the captions tell."""
    kind, colour, relation, other, second, setting = attributes
    one, two = f"{_a(colour)} {kind}", f"{_a(second)} {other}"
    third = str(draw.choice([k for k in KINDS if k not in (kind, other)]))
    far = draw.random() < 0.33
    captions = [f"{one} {relation} {two} {setting}".capitalize(),
                f"{two} {MIRRORED[relation]} {one} {setting}".capitalize()]  # fmt: skip
    captions = [f"{text}, far away a {third}" for text in captions] if far else captions
    seed = int(draw.integers(2**31))

    def paint(width: int) -> Image.Image:
        own, view = np.random.default_rng(seed), _canvas(width, *SETTINGS[setting])
        if far:
            side = own.choice([-1, 1]) * own.uniform(0.95, 1.15)
            _put(view, third, "white", (side, -0.12, 0.14), 0, own)
        first, behind = RELATIONS[relation]
        for name, tint, (x, y, half) in ((other, second, behind), (kind, colour, first)):
            place = x + own.uniform(-0.06, 0.06), y + own.uniform(-0.04, 0.04), half
            _put(view, name, tint, place, own.uniform(-5, 5), own)
        return _photograph(view, width, own)

    traits = {"relation": relation, "setting": setting}
    return kind, captions[: 1 + int(draw.random() < 0.5)], traits, paint


def _place(attributes: tuple[str, ...], draw: np.random.Generator) -> tuple:
    """A building that looks the same from several sides and in several lights; one caption."""
    wall, top, roof, floors, door, beside = attributes
    first, side = f"{_a(wall)} house of {floors} floors".capitalize(), f"beside it {beside}"
    caption = f"{first} with a {roof} {top} roof and {_a(door)} door, {side}"
    light, seed = str(draw.choice(list(LIGHTS))), int(draw.integers(2**31))

    def paint(width: int) -> Image.Image:
        own, (gain, pane) = np.random.default_rng(seed), LIGHTS[light]
        view = _canvas(width, (150, 196, 238), (128, 126, 124))
        place = own.uniform(-0.35, 0.35), 0.66, own.uniform(0.8, 1.0)
        house = {"wall": COLOURS[wall], "roof": COLOURS[top], "door": COLOURS[door]}
        _building(view, house, roof, FLOORS[floors], place)
        _beside(view, beside, (place[0] - 0.95 * place[2], 0.7, 0.42 * place[2]), own)
        bands = [
            band.point(lambda v, k=k: v * k) for band, k in zip(view.split(), gain, strict=True)
        ]
        view = Image.merge("RGB", bands)
        _windows(view, FLOORS[floors], place, pane)
        view = _seen_from(view, own.uniform(-0.16, 0.16))
        return _photograph(view, width, own)

    traits = {"wall": wall, "roof": roof, "door": door, "beside": beside, "light": light}
    return "house", [caption], traits, paint


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


# --- painting -------------------------------------------------------------------------------------


def _canvas(width: int, above: tuple, below: tuple) -> Image.Image:
    """An empty view of twice the size: what is above and what is below the horizon."""
    view = Image.new("RGB", (2 * width, 2 * (3 * width // 4)), above)
    view.paste(below, (0, int(0.54 * view.height), view.width, view.height))
    return view


def _pixels(points: Points, view: Image.Image, place: tuple, turn: float = 0) -> Points:
    """Points of a thing at a place (x, y, half height), turned by degrees, in pixels."""
    x, y, half = place
    sine, cosine, unit = np.sin(np.deg2rad(turn)), np.cos(np.deg2rad(turn)), view.height / 2
    return [
        (
            view.width / 2 + unit * (x + half * (a * cosine - b * sine)),
            unit * (1 + y + half * (a * sine + b * cosine)),
        )
        for a, b in points
    ]


def _put(view: Image.Image, kind: str, colour: str, place: tuple, turn: float,
         draw: np.random.Generator, pattern: str = "plain") -> None:  # fmt: skip
    """Paint a thing with its shadow."""
    body, details = KINDS[kind]
    pen = ImageDraw.Draw(view, "RGBA")
    pen.polygon(_pixels(_oval(0.1, 1, 1.05, 0.16), view, place), (0, 0, 0, 70))
    mask = Image.new("L", view.size)
    for part in body:
        ImageDraw.Draw(mask).polygon(_pixels(part, view, place, turn), 255)
    tint = np.clip(np.array(COLOURS[colour]) + draw.uniform(-10, 10, 3), 0, 255)
    rows, columns = np.mgrid[: view.height, : view.width].astype(np.float32)
    u = (columns - view.width / 2) / (view.height / 2 * place[2]) - place[0] / place[2]
    v = (rows - view.height / 2) / (view.height / 2 * place[2]) - place[1] / place[2]
    marked = {
        "plain": np.zeros(u.shape, bool),
        "striped": (u + 0.25 * v) * 2.2 % 1 < 0.45,
        "dotted": np.hypot(u * 2.2 % 1 - 0.5, v * 2.2 % 1 - 0.5) < 0.3,
    }[pattern]
    mark = np.array(COLOURS["black" if colour in ("white", "yellow") else "white"])
    paint = np.where(marked[..., None], mark, tint) * np.clip(1.02 - 0.16 * u, 0.7, 1.2)[..., None]
    view.paste(Image.fromarray(np.clip(paint, 0, 255).astype(np.uint8)), mask=mask)
    for shade, part in details:
        pen.polygon(_pixels(part, view, place, turn), shade)


def _building(
    view: Image.Image, tints: dict[str, tuple], roof: str, floors: int, place: tuple
) -> None:
    """A house on the ground line of its place, without windows."""
    pen, high = ImageDraw.Draw(view), FLOOR * floors
    crown = {
        "flat": _box(-0.66, -high - 0.1, 0.66, -high),
        "pitched": [(-0.7, -high), (0, -high - 0.42), (0.7, -high)],
        "round": _oval(0, -high, 0.62, 0.34, 0.5, 1),
    }[roof]
    parts = {"wall": _box(-0.6, -high, 0.6, 0), "roof": crown, "door": _box(-0.12, -0.22, 0.12, 0)}
    for name, part in parts.items():
        pen.polygon(_pixels(part, view, place), tints[name], outline=DARK)


def _windows(view: Image.Image, floors: int, place: tuple, pane: tuple) -> None:
    """Three windows on each floor; in the middle of the lowest is the door."""
    pen = ImageDraw.Draw(view)
    for floor, x in product(range(floors), (-0.4, 0, 0.4)):
        if floor or x:
            low = -FLOOR * floor - 0.06
            part = _box(x - 0.1, low - 0.13, x + 0.1, low)
            pen.polygon(_pixels(part, view, place), pane, outline=DARK)


def _beside(view: Image.Image, what: str, place: tuple, draw: np.random.Generator) -> None:
    """What stands in the street, left of the house."""
    pen = ImageDraw.Draw(view)
    if what == "a car":
        _put(view, "car", "white", (place[0], place[1], 0.6 * place[2]), 0, draw)
        return
    parts = {
        "a tree": [((96, 66, 42), _box(-0.12, -0.6, 0.12, 0)), (LEAVES, _oval(0, -1.1, 0.6, 0.7))],
        "a lamp post": [(DARK, _box(-0.06, -2, 0.06, 0)), (GLOW, _oval(0, -2, 0.2, 0.2))],
        "a fountain": [
            (STEEL, _oval(0, 0, 0.75, 0.2)),
            (WATER, _oval(0, -0.04, 0.6, 0.14)),
            (PALE, [(-0.35, -0.6), (0, -0.95), (0.35, -0.6), (0, 0)]),
        ],
    }
    for tint, part in parts[what]:
        pen.polygon(_pixels(part, view, place), tint)


def _seen_from(view: Image.Image, side: float) -> Image.Image:
    """The view from further left or right: one edge is nearer, so that it is taller."""
    wide, high = view.size
    left, right = max(side, 0) * high / 2, max(-side, 0) * high / 2
    corners = (0, left, 0, high - left, wide, high - right, wide, right)
    return view.transform(view.size, Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)


def _photograph(view: Image.Image, width: int, draw: np.random.Generator) -> Image.Image:
    """The view at its size, a little darker or lighter, with the noise of a camera."""
    small = view.resize((width, 3 * width // 4), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32) * draw.uniform(0.82, 1.12)
    pixels += draw.normal(0, 4, pixels.shape)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
