"""One drawn hand -> pixels: a height field under a lamp, with skin that absorbs light.

A hand is described in hand lengths: x towards the thumb, y towards the finger tips, the origin
between the roots of the fingers. Fingers are tapered capsules with coordinates of their own
(t along, s across, -1..1), the palm is an outline rounded by its distance to the edge. Lines
(creases, folds, veins, hair) are drawn into layers that absorb light and shape the surface.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from clipfh_lib.data.demo_people import ASPECTS, METALS, POLISHES, SLEEVES, STRAPS, Person, Shot

_SHIFT = 4  # fractional bits of the coordinates that cv2 draws
_TILE = 256  # side of the tile of skin texture
_PX = 200.0  # pixels of the tile in a hand length
# Skin colours (sRGB grey levels) at melanin 0, 0.3, 0.6, 1; back of the hand.
_SKIN = np.array([[240, 206, 188], [222, 174, 146], [186, 134, 104], [112, 74, 56]], np.float64)
# Optical density a unit of each layer adds to red, green and blue.
_FOLD = np.array([0.38, 0.66, 0.70], np.float32)
_BLOOD = np.array([0.02, 0.25, 0.20], np.float32)
_VEIN = np.array([0.34, 0.16, 0.10], np.float32)
_PIVOTS = np.array([[0.142, -0.095], [0.050, -0.078], [-0.047, -0.088], [-0.138, -0.125]])
_LENGTHS = np.array([0.520, 0.570, 0.530, 0.430])  # pivot to tip, index to little
_WIDTHS = np.array([0.0530, 0.0535, 0.0500, 0.0445])  # half widths at the middle joint
_FAN = np.array([9.0, 1.5, -7.0, -17.0])  # degrees at full spread
_REST = np.array([1.5, 0.0, -1.5, -4.0])  # degrees with the fingers together
_JOINTS = (0.47, 0.755)  # along a finger from its pivot; the thumb has one


@dataclass(frozen=True)
class _Finger:
    """A finger in the canvas: origin, unit vectors (pixels), length, half width, curve."""

    origin: np.ndarray
    along: np.ndarray
    across: np.ndarray
    length: float
    width: float
    bend: float
    profile: np.ndarray  # half width over t = 0..1, in parts of width
    thumb: bool = False

    def place(self, t: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Finger coordinates (n,), (n,) -> canvas pixels (n, 2)."""
        half = np.interp(t, np.linspace(0, 1, len(self.profile)), self.profile) * self.width
        side = s * half + self.bend * self.length * t**2
        return self.origin + t[:, None] * self.length * self.along + side[:, None] * self.across


@dataclass(frozen=True)
class _Frame:
    """Where the hand lies in the canvas: hand lengths -> pixels."""

    matrix: np.ndarray  # (2, 2)
    offset: np.ndarray  # (2,)
    unit: float  # pixels in a hand length
    flip: float  # 1 where the thumb is on the right of the picture, else -1

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) hand lengths -> (n, 2) pixels."""
        return np.asarray(points) @ self.matrix.T + self.offset


def wrist_in_frame(who: Person, aspect: str, taken: Shot) -> bool:
    """Whether the wrist, where watches and sleeves are, is inside the picture."""
    return bool(
        _frame(who, aspect, taken, 120)(np.array([[0.0, -0.62 * who.palm_length]]))[0, 1] > 4
    )


def draw(who: Person, aspect: str, taken: Shot, size: int) -> np.ndarray:
    """Draw one photograph.

    Args:
        who: the person.
        aspect: dorsal_r, dorsal_l, palmar_r or palmar_l.
        taken: how it is taken, of demo_people.shot.
        size: width in pixels, 32 or more; the picture is 4:3.

    Returns:
        (3 * size // 4, size, 3) uint8, RGB.

    Raises:
        ValueError: for an unknown aspect.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect {aspect!r} is none of {', '.join(ASPECTS)}")
    width, height = size, 3 * size // 4
    sharp = 2 if size <= 200 else 1.5  # canvas pixels in a pixel
    shape = (round(height * sharp), round(width * sharp))
    frame = _frame(who, aspect, taken, shape[0])
    noise = np.random.default_rng([who.seed, 113, taken.noise_seed])
    image = _paint(who, aspect, taken, frame, shape)
    blur = taken.blur * size / 160 * sharp
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    grain = noise.standard_normal((height, width, 3), dtype=np.float32)
    grain = 0.7 * grain[..., :1] + 0.5 * grain
    image += grain * (taken.noise * (1.25 - image / 330))
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _frame(who: Person, aspect: str, taken: Shot, height: float) -> _Frame:
    flip = 1.0 if aspect in ("dorsal_r", "palmar_l") else -1.0
    unit = taken.scale * height
    turn = np.deg2rad(taken.rotation)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = unit * rotate @ np.diag([flip * taken.squeeze, 1.0])
    tip = np.array([0.05, -0.078 + _LENGTHS[1] * who.finger_length * who.finger_lengths[2]])
    middle = matrix @ np.array([0.0, -0.1])
    offset = np.array([taken.x * height * 4 / 3, taken.tip * height])
    offset -= np.array([middle[0], (matrix @ tip)[1]])
    return _Frame(matrix, offset, unit, flip)


def _hand(who: Person, aspect: str, stream: int) -> np.random.Generator:
    """Random numbers of one hand: the small differences between left and right."""
    return np.random.default_rng([who.seed, stream, who.pid, int(aspect.endswith("l"))])


def _profile(who: Person, half_width: float, length: float, thumb: bool) -> np.ndarray:
    """Half width along a finger (129,), 1 at the middle joint, round at the tip."""
    t = np.linspace(0, 1, 129)
    j, thin = who.joints, who.taper
    if thumb:
        knots = [0, 0.2, 0.5, 0.68, 0.82, 1]
        values = [1.12, 0.98, 0.94 + j, 1.0, 0.96 - 0.2 * thin, 0.9 - 0.4 * thin]
    else:
        knots = [0, 0.3, _JOINTS[0], 0.61, _JOINTS[1], 0.86, 1]
        values = [1.1, 1.0 - 0.3 * j, 1.0 + 0.5 * j, 0.95 - 0.6 * j - 0.3 * thin,
                  0.93 - 0.6 * thin, 0.91 - 0.75 * thin, 0.88 - 0.9 * thin]  # fmt: skip
    half = cv2.GaussianBlur(np.interp(t, knots, values)[None], (0, 0), 4)[0]
    start = 1 - 1.15 * half_width * half[-1] / length
    cap = np.clip((t - start) / (1 - start), 0, 1)
    return (half * np.sqrt(1 - cap**2.2)).astype(np.float32)


def _fingers(who: Person, aspect: str, taken: Shot, frame: _Frame) -> list[_Finger]:
    """Thumb first, then index to little."""
    own = _hand(who, aspect, 127).normal(0, 1, (5, 3))
    found = []
    for i in range(5):
        if i == 0:
            angle = who.thumb_angle + taken.thumb * (0.35 + 0.65 * taken.spread) + own[0, 0]
            pivot = np.array([0.125 * who.palm_width, -0.40 * who.palm_length])
            turn = np.deg2rad(angle)
            pivot = pivot + 0.165 * np.array([np.sin(turn), np.cos(turn)])
            length, half, bend = 0.315 * who.finger_length**0.6, 0.060, -0.035
        else:
            angle = _REST[i - 1] + taken.spread * _FAN[i - 1] + own[i, 0] + taken.angles[i]
            angle += taken.angles[i] * (taken.spread - 0.5)
            pivot = _PIVOTS[i - 1] * [who.palm_width, 1.0]
            length, half = _LENGTHS[i - 1] * who.finger_length, _WIDTHS[i - 1]
            bend = (0.0, -0.012, 0.0, 0.008, who.little_bend)[i]
            turn = np.deg2rad(angle)
        length *= who.finger_lengths[i] * (1 + 0.012 * own[i, 1])
        half *= who.finger_width * (1 + 0.02 * own[i, 2])
        ends = frame(np.array([pivot, pivot + length * np.array([np.sin(turn), np.cos(turn)])]))
        along = ends[1] - ends[0]
        pixels = float(np.hypot(*along))
        along = along / pixels
        across = np.array([along[1], -along[0]]) * frame.flip
        half_pixels = half * frame.unit * taken.squeeze**0.5
        profile = _profile(who, half_pixels, pixels, i == 0)
        found.append(_Finger(ends[0], along, across, pixels, half_pixels,
                             bend + taken.bends[i], profile, i == 0))  # fmt: skip
    return found


def _smooth(points: list[tuple[float, float]] | np.ndarray, n: int = 10) -> np.ndarray:
    """Catmull-Rom curve through the points, n steps between two of them."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, n, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                   + (3 * b - a - 3 * c + d) * t**3)  # fmt: skip
    return np.concatenate([curve.transpose(1, 0, 2).reshape(-1, 2), p[-2:-1]])


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _line(layer: np.ndarray, points: np.ndarray, width: float, depth: float) -> None:
    """Draw a line of any width (canvas pixels) and depth 0..1, tapered at both ends."""
    thick = max(1, round(width))
    level = 255 * min(1.0, depth * min(1.0, width / thick))
    cut = max(1, len(points) // 7)
    for part, share in ((points, 0.5), (points[cut:-cut], 1.0)):
        if len(part) > 1:
            cv2.polylines(layer, [_fixed(part)], False, level * share, thick, cv2.LINE_AA, _SHIFT)


def _fill(shape: tuple[int, int], *outlines: np.ndarray) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
    return mask


def _palm(who: Person, fingers: list[_Finger], frame: _Frame) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of palm with forearm, and of the ball of the thumb with its web; pixels."""
    w, h = who.palm_width, who.palm_length
    arm = 0.136 * (0.5 + 0.5 * w) * (0.92 + 0.08 * who.finger_width)
    little, index = _PIVOTS[3] * [w, 1], _PIVOTS[0] * [w, 1]
    edge = [
        (-arm * 1.35, -1.7), (-arm * 1.12, -0.85 * h), (-arm, -0.63 * h), (-arm * 1.12, -0.54 * h),
        (-0.178 * w, -0.40 * h), (-0.197 * w, -0.25 * h), (-0.190 * w, -0.12),
        (little[0] - 0.048, little[1] + 0.05), (little[0], little[1] + 0.09),
        (-0.094 * w, -0.005), (-0.047 * w, 0.02), (0.003, 0.022), (0.05 * w, 0.03),
        (0.098 * w, 0.018), (index[0], 0.0), (index[0] + 0.05, -0.06),
        (0.196 * w, -0.15), (0.190 * w, -0.25 * h), (0.175 * w, -0.38 * h),
        (0.135 * w, -0.50 * h), (arm * 1.08, -0.56 * h), (arm, -0.63 * h),
        (arm * 1.1, -0.85 * h), (arm * 1.32, -1.7),
    ]  # fmt: skip
    thumb = fingers[0]
    t, s = np.array([0.0, 0.25, 0.25, 0.1]), np.array([1.0, 1.0, -0.98, -1.0])
    on_thumb = thumb.place(t, s)
    root = frame(np.array([[0.120 * w, -0.545 * h], [0.172 * w, -0.43 * h]]))
    web = frame(np.array([[0.192 * w, -0.10], [0.05 * w, -0.15], [0.03 * w, -0.45 * h]]))
    crotch = 0.42 * on_thumb[2] + 0.40 * web[0] + 0.18 * web[1]
    ball = np.concatenate([
        _smooth(np.array([root[0], root[1], on_thumb[0], on_thumb[1]]), 6),
        _smooth(np.array([on_thumb[2], crotch, web[0]]), 6), web[1:],
    ])  # fmt: skip
    return frame(_smooth(edge, 6)), ball


def _relief(
    who: Person, fingers: list[_Finger], frame: _Frame, shape: tuple[int, int], dorsal: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Height (pixels), coverage 0..1, softness of the palm, and (region, t, s) of each finger."""
    palm, ball = _palm(who, fingers, frame)
    mask = _fill(shape, palm, ball)
    alpha = mask.astype(np.float32) / 255
    soft = cv2.blur(alpha, (2 * int(0.014 * frame.unit) + 1,) * 2)
    tops = np.zeros(shape, np.float32)
    local = []
    for finger in fingers:
        ends = finger.place(np.array([0.0, 0.5, 1.0]), np.zeros(3))
        low = np.floor(ends.min(axis=0) - 1.4 * finger.width).astype(int)
        high = np.ceil(ends.max(axis=0) + 1.4 * finger.width).astype(int)
        x0, y0 = np.clip(low, 0, (shape[1] - 1, shape[0] - 1))
        x1, y1 = np.clip(high, (x0 + 1, y0 + 1), (shape[1], shape[0]))
        dx = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(finger.origin[0])
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(finger.origin[1])
        t = (dx * finger.along[0] + dy * finger.along[1]).astype(np.float32) / finger.length
        v = (dx * finger.across[0] + dy * finger.across[1]).astype(np.float32)
        v -= finger.bend * finger.length * t * t
        half = finger.profile[np.clip(t * 128, 0, 128).astype(np.int16)] * finger.width
        half[(t < -0.05) | (t > 1)] = 0
        s = v / np.maximum(half, 0.5)
        cover = np.clip(half - np.abs(v) + 0.5, 0, 1) * (half > 0)
        z = half * np.sqrt(np.clip(1 - s * s, 0, 1))
        z *= np.clip((t + 0.02) / (0.3 if finger.thumb else 0.16), 0, 1)
        region = (slice(y0, y1), slice(x0, x1))
        np.maximum(tops[region], z, out=tops[region])
        np.maximum(alpha[region], cover, out=alpha[region])
        local.append((region, t, s, cover))
    inside = cv2.distanceTransform((alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    radius = 0.12 * frame.unit
    dome = 1 - np.clip(inside / radius, 0, 1)
    flat = 0.058 * frame.unit * np.sqrt(np.clip(1 - dome**2.4, 0, 1))
    flat *= np.clip(soft * 1.6 - 0.6, 0, 1)
    z = np.maximum(flat, tops)
    return cv2.GaussianBlur(z, (0, 0), 0.010 * frame.unit), alpha, soft, local


@lru_cache(maxsize=256)
def _texture(seed: int, pid: int) -> np.ndarray:
    """Mottled skin of a person, (_TILE, _TILE, 2) float32 about 0: coarse and fine."""
    draw = np.random.default_rng([seed, 131, pid])
    coarse = draw.standard_normal((_TILE // 16, _TILE // 16), dtype=np.float32)
    coarse = cv2.resize(coarse, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(draw.standard_normal((_TILE, _TILE), dtype=np.float32), (0, 0), 0.8)
    return np.ascontiguousarray(np.dstack([coarse * 0.5, fine * 0.6]))


def _bump(points: np.ndarray, radius: float, shape: tuple[int, int], layer: np.ndarray,
          amounts: np.ndarray) -> None:  # fmt: skip
    """Add soft round spots (n, 2) of one radius in pixels to a layer."""
    reach = int(2.5 * radius) + 1
    for (x, y), amount in zip(points, amounts, strict=True):
        x0, x1 = max(0, int(x) - reach), min(shape[1], int(x) + reach + 1)
        y0, y1 = max(0, int(y) - reach), min(shape[0], int(y) + reach + 1)
        if x0 < x1 and y0 < y1:
            across = np.exp(-0.5 * ((np.arange(x0, x1) - x) / radius) ** 2)
            down = np.exp(-0.5 * ((np.arange(y0, y1) - y) / radius) ** 2)
            layer[y0:y1, x0:x1] += (amount * down[:, None] * across[None]).astype(np.float32)


def _back_lines(
    who: Person, aspect: str, fingers: list[_Finger], frame: _Frame, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Layers of the back: folds, veins, ridges (tendons), hair; each 0..1."""
    folds, veins, ridges, hairs = (np.zeros(shape, np.uint8) for _ in range(4))
    unit, own = frame.unit, _hand(who, aspect, 137)
    deep = 0.25 + 0.75 * who.knuckles + (0.15 if who.age > 40 else 0)
    across = np.linspace(-1, 1, 9)
    for finger in fingers:
        joints = ((0.52, 1.0),) if finger.thumb else ((_JOINTS[0], 1.0), (_JOINTS[1], 0.7))
        for joint, strength in joints:
            for k in range(-2, 3) if strength == 1 else (-1, 0, 1):
                wave = own.normal(0, 0.003, 3)
                reach = 0.74 - 0.12 * abs(k) + own.normal(0, 0.05)
                t = joint + 0.017 * k + wave[0] + (0.016 * k + wave[1]) * (1 - across**2)
                t = t + wave[2] * np.sin(5 * across + 9 * wave[0])
                depth = deep * strength * own.uniform(0.35, 1.0)
                _line(folds, finger.place(t, across * reach), 0.0042 * unit, depth)
    start = np.random.default_rng([who.seed, 139, who.pid])  # the same for both hands
    ends = _PIVOTS * [who.palm_width, 1]
    if who.tendons > 0.15:
        for end in ends:
            path = np.array([[0.01 + 0.25 * end[0], -0.50], end + [0, -0.04]])
            _line(ridges, frame(path), 0.03 * unit, who.tendons)
    gaps = np.concatenate([ends[:1] + [0.03, 0], (ends[1:] + ends[:-1]) / 2, ends[3:] - [0.03, 0]])
    for k, end in enumerate(gaps):
        x = np.linspace(-0.09, 0.1, 5)[::-1][k] + start.normal(0, 0.03)
        knee = start.normal(0, 0.035, (3, 2)) + own.normal(0, 0.012, (3, 2))
        y = np.array([[-0.46], [-0.33], [-0.2]])
        mix = (y + 0.62) / 0.55
        middle = np.concatenate([x * (1 - mix) + end[0] * mix, y], axis=1) + knee
        path = _smooth(np.concatenate([[[x, -0.72]], middle, [end + [0, 0.03]]]), 5)
        strength = who.veins * start.uniform(0.3, 1.0)
        side = _smooth(np.array([middle[1], (middle[2] + gaps[k - 1]) / 2, gaps[k - 1]]), 5)
        if strength > 0.05:
            _line(veins, frame(path), start.uniform(0.010, 0.017) * unit, strength)
            if start.random() < 0.6:
                _line(veins, frame(side), 0.010 * unit, strength * 0.8)
    if who.hair > 0:
        n = int(900 * who.hair)
        root = np.stack([own.uniform(-0.19, 0.19, n), own.uniform(-1.1, -0.12, n)], axis=1)
        root[:, 0] *= who.palm_width
        keep = own.random(n) < np.where(root[:, 1] < -0.5, 1.0, 0.45) * (0.4 - root[:, 0] * 2)
        lean = own.normal(0, 0.007, (n, 2)) + [-0.014, 0.016]
        strokes = np.stack([root, root + 0.6 * lean, root + lean * [1.5, 1]], axis=1)[keep]
        strokes = frame(strokes.reshape(-1, 2)).reshape(-1, 3, 2)
        level = 255 * min(0.4, 0.0013 * unit)
        cv2.polylines(hairs, list(_fixed(strokes)), False, level, 1, cv2.LINE_AA, _SHIFT)
    return tuple(layer.astype(np.float32) / 255 for layer in (folds, veins, ridges, hairs))


def _front_lines(
    who: Person, aspect: str, fingers: list[_Finger], frame: _Frame, shape: tuple[int, int]
) -> np.ndarray:
    """Folds of the palm and of the fingers' inner side, 0..1."""
    folds = np.zeros(shape, np.uint8)
    unit, own = frame.unit, _hand(who, aspect, 149)
    both = np.random.default_rng([who.seed, 151, who.pid])  # the same for both hands
    w, h = who.palm_width, who.palm_length
    deep, wide = 0.35 + 0.65 * who.crease_depth, 0.0034 + 0.0030 * who.crease_depth

    def crease(points: list[tuple[float, float]], depth: float, width: float = 1.0) -> None:
        curve = _smooth(np.array(points) * [w, h] + own.normal(0, 0.003, (len(points), 2)), 7)
        _line(folds, frame(curve), width * wide * unit, depth * deep)

    def at(x: float, y: float, spread: float = 0.011) -> tuple[float, float]:
        dx, dy = both.normal(0, spread, 2) + own.normal(0, 0.006, 2)
        return x + dx, y + dy

    start = at(0.206, -0.135, 0.010)
    slope, arch = both.normal(0, 0.022), both.normal(0, 0.016)
    if who.crease_pattern == "single":
        crease([start, at(0.05, -0.15), at(-0.08, -0.155), at(-0.195, -0.17)], 1.0, 1.15)
    else:
        end = at(0.065, -0.045, 0.035)
        high = [at(-0.198, -0.135), at(-0.1, -0.128 - arch), at(-0.01, -0.105 - 0.5 * arch), end]
        crease(high, 1.0, 1.1)
        origin = start if who.crease_pattern == "joined" else (0.204, start[1] + 0.045)
        low = [at(0.09, -0.168 + arch), at(-0.03, -0.222 + arch + slope)]
        crease([origin, *low, at(-0.13, -0.285 + 2.2 * slope, 0.02)], 1.0)
    reach = both.normal(0, 0.022)
    life = [at(0.115, -0.175), at(0.045 - reach, -0.26), at(0.02 - reach, -0.37)]
    crease([start, *life, at(0.045 - 0.5 * reach, -0.49)], 1.0, 1.2)
    if who.fate_line != "none":
        top = -0.11 if who.fate_line == "long" else -0.29
        crease([at(-0.005, -0.49), at(-0.01, -0.36), at(0.0, top)], 0.6, 0.8)
    for _ in range(int(1 + 5 * who.crease_branches)):
        x, y = at(both.uniform(-0.14, 0.12), both.uniform(-0.3, -0.1), 0.01)
        turn, long = both.uniform(-1.3, 1.3), both.uniform(0.03, 0.09)
        crease([(x, y), (x + long * np.cos(turn), y + long * np.sin(turn))], 0.65, 0.75)
    for _ in range(int(4 + 26 * who.fine_lines)):
        x, y, turn = own.uniform(-0.17, 0.15), own.uniform(-0.48, -0.05), own.uniform(-1.6, 1.6)
        long = own.uniform(0.02, 0.08)
        crease([(x, y), (x + long * np.cos(turn), y + long * np.sin(turn))], 0.34, 0.6)
    for y in (-0.545, -0.58)[: 1 + int(both.random() < 0.7)]:
        crease([(-0.12, y), (0.0, y - 0.012), (0.12, y)], 0.6, 0.9)
    across = np.linspace(-1, 1, 9)
    for finger in fingers:
        roots = ((0.16, 0.7), (0.53, 0.9)) if finger.thumb else (
            (0.225, 0.9), (_JOINTS[0] - 0.01, 0.9), (_JOINTS[1], 0.7))  # fmt: skip
        for joint, strength in roots:
            double = both.random() < 0.6 and strength > 0.8
            for k in (-1, 1) if double else (0,):
                t = joint + 0.011 * k + own.normal(0, 0.003) + own.normal(0, 0.006) * across
                t = t + own.normal(0.004, 0.006) * (1 - across**2)
                depth = deep * strength * own.uniform(0.55, 0.95)
                _line(folds, finger.place(t, across * 0.9), 0.0040 * unit, depth)
    return folds.astype(np.float32) / 255


def _spots(
    who: Person, aspect: str, fingers: list[_Finger], frame: _Frame, shape: tuple[int, int]
) -> np.ndarray:
    """Moles, freckles and a scar: what they add to the optical density of folds."""
    layer, unit = np.zeros(shape, np.float32), frame.unit
    own = np.random.default_rng([who.seed, 157, who.pid, ASPECTS.index(aspect)])
    n = who.moles
    places = frame(np.stack([own.uniform(-0.17, 0.15, n) * who.palm_width,
                             own.uniform(-0.48, -0.06, n)], axis=1))  # fmt: skip
    on_finger = own.random(n) < 0.35
    for i in np.flatnonzero(on_finger):
        finger = fingers[int(own.integers(1, 5))]
        places[i] = finger.place(own.uniform(0.25, 0.7, 1), own.uniform(-0.5, 0.5, 1))[0]
    _bump(places, own.uniform(0.006, 0.009) * unit, shape, layer, own.uniform(0.8, 1.7, n))
    if aspect.startswith("dorsal"):
        n = int(45 * who.freckles)
        places = frame(np.stack([own.uniform(-0.18, 0.18, n) * who.palm_width,
                                 own.uniform(-0.7, -0.03, n)], axis=1))  # fmt: skip
        _bump(places, 0.0055 * unit, shape, layer, own.uniform(0.1, 0.5, n))
        if who.scar:
            x, y, turn = own.uniform(-0.12, 0.12), own.uniform(-0.42, -0.1), own.uniform(0, 3.1)
            step = np.array([np.cos(turn), np.sin(turn)]) * own.uniform(0.03, 0.07)
            line = np.zeros(shape, np.uint8)
            _line(line, frame(np.array([[x, y] - step, [x, y], [x, y] + step])), 0.009 * unit, 0.9)
            layer -= line.astype(np.float32) * (0.35 / 255)
    return layer


def _paint(
    who: Person, aspect: str, taken: Shot, frame: _Frame, shape: tuple[int, int]
) -> np.ndarray:
    """The picture before lens and sensor: (H, W, 3) float32 grey levels."""
    dorsal, unit = aspect.startswith("dorsal"), frame.unit
    fingers = _fingers(who, aspect, taken, frame)
    z, alpha, soft, local = _relief(who, fingers, frame, shape, dorsal)
    density = np.zeros((*shape, 3), np.float32)
    spots = _spots(who, aspect, fingers, frame, shape)
    blood = np.zeros(shape, np.float32)
    tips = np.stack([finger.place(np.array([0.9]), np.zeros(1))[0] for finger in fingers])
    roots = frame(_PIVOTS * [who.palm_width, 1])
    joints = np.concatenate([f.place(np.array(_JOINTS), np.zeros(2)) for f in fingers[1:]])
    if dorsal:
        folds, veins, ridges, hairs = _back_lines(who, aspect, fingers, frame, shape)
        veins = cv2.GaussianBlur(veins, (0, 0), 0.006 * unit)
        ridges = cv2.GaussianBlur(ridges, (0, 0), 0.012 * unit)
        z += (0.010 * unit) * veins + (0.016 * unit) * ridges
        dark = 0.25 + 0.5 * who.knuckle_pigment * (0.4 + who.melanin)
        _bump(joints[::2], 0.026 * unit, shape, spots, np.full(4, 0.75 * dark))
        _bump(joints[1::2], 0.020 * unit, shape, spots, np.full(4, 0.4 * dark))
        _bump(roots, 0.034 * unit, shape, spots, np.full(4, 0.4 * dark))
        _bump(roots, 0.04 * unit, shape, blood, np.full(4, 0.2))
        _bump(roots, 0.045 * unit, shape, z, np.full(4, 0.012 * unit * (0.5 + who.tendons)))
        spots += 1.1 * hairs
        density += veins[..., None] * (_VEIN * (1.1 - 0.6 * who.melanin))
    else:
        folds = _front_lines(who, aspect, fingers, frame, shape)
        _bump(tips, 0.045 * unit, shape, blood, np.full(5, 0.25 + 0.35 * who.palm_red))
        _bump(roots + (roots - frame(np.array([[0, -0.3]]))) * 0.1, 0.05 * unit, shape, blood,
              np.full(4, 0.25 + 0.35 * who.palm_red))  # fmt: skip
        pads = frame(np.array([[0.11, -0.36], [-0.12, -0.36]]) * [who.palm_width, who.palm_length])
        _bump(pads[:1], 0.075 * unit, shape, z, np.array([0.045 * unit]))
        _bump(pads[1:], 0.085 * unit, shape, z, np.array([0.030 * unit]))
        _bump(pads, 0.07 * unit, shape, blood, np.full(2, 0.2 + 0.4 * who.palm_red))
        _bump(frame(np.array([[0.0, -0.24]])), 0.08 * unit, shape, blood, np.array([-0.25]))
    z -= (0.022 * unit) * cv2.GaussianBlur(folds, (0, 0), 0.0055 * unit)
    matrix = np.linalg.inv(frame.matrix) * _PX
    to_tile = np.concatenate([matrix, (-matrix @ frame.offset)[:, None] + _TILE / 2], axis=1)
    skin = cv2.warpAffine(_texture(who.seed, who.pid), to_tile, shape[::-1],
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
    blood += skin[..., 0] * 0.28
    density += (folds * 1.0 + spots + 0.07 * skin[..., 1])[..., None] * _FOLD
    density += blood[..., None] * _BLOOD
    colour = _skin(who, dorsal) * np.exp(-density)
    gloss = np.zeros(shape, np.float32)
    if dorsal:
        _nails(who, taken, local, fingers, colour, z, gloss)
    colour *= _shade(z, taken, gloss)
    colour += gloss[..., None]
    _dress(who, aspect, taken, fingers, frame, local, colour, alpha)
    backdrop = _backdrop(taken, alpha, frame, shape)
    gain = np.array(taken.gain, np.float32)
    grey = colour.mean(axis=2, keepdims=True)
    colour = (grey + taken.saturation * (colour - grey)) * gain
    colour = 128 + taken.contrast * (colour - 128)
    return backdrop + alpha[..., None] * (colour - backdrop)


def _skin(who: Person, dorsal: bool) -> np.ndarray:
    """Colour of the bare skin, (3,) grey levels; the palm is paler and pinker."""
    level = who.melanin if dorsal else 0.62 * who.melanin
    base = np.array([np.interp(level, [0, 0.3, 0.6, 1], _SKIN[:, c]) for c in range(3)])
    base *= 1 + who.warmth * np.array([-0.01, 0.015, -0.05])
    if not dorsal:
        base *= [1.03, 0.965 - 0.05 * who.palm_red, 0.985 - 0.03 * who.palm_red]
    return base.astype(np.float32)


def _shade(z: np.ndarray, taken: Shot, gloss: np.ndarray) -> np.ndarray:
    """Light on the surface (H, W, 1..3), about 1 where it faces the camera."""
    gx = cv2.Sobel(z, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    gy = cv2.Sobel(z, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    turn = np.deg2rad(taken.light_angle)
    side = 0.62 * taken.light
    norm = 1 / np.sqrt(1 + gx * gx + gy * gy)
    facing = (np.sqrt(1 - side**2) - side * (gx * np.cos(turn) + gy * np.sin(turn))) * norm
    gloss += 16 * np.clip(facing, 0, 1) ** 14
    light = 0.36 + 0.32 * norm + 0.36 * np.clip(facing, 0, 1.2) / np.sqrt(1 - 0.5 * side**2)
    shade = light[..., None] * np.ones(3, np.float32)
    shade[..., 0] += 0.10 * (1 - norm)  # light that went through skin is red
    return shade


def _nails(who: Person, taken: Shot, local: list, fingers: list[_Finger], colour: np.ndarray,
           z: np.ndarray, gloss: np.ndarray) -> None:  # fmt: skip
    """Put nails, or their polish, on the finger tips."""
    polish = np.array(POLISHES[taken.polish], np.float32) if taken.polish else None
    for (region, t, s, _), finger in zip(local, fingers, strict=True):
        half = finger.width / finger.length  # of the finger, in lengths of it
        long = half * (1.45 if finger.thumb else 1.3) * who.nail_length
        end = 1 - 0.10 * half
        u = (t - (end - long)) / long  # 0 root .. 1 edge
        v = s * np.sqrt(np.clip(1 - 0.0 * u, 0, 1)) / who.nail_width
        power = 2.2 + 3 * who.nail_square
        shape = np.abs(2 * u - 1) ** power + np.abs(v) ** 3.2
        edge = 0.9 * finger.width * who.nail_width  # pixels from the middle to the rim
        cover = np.clip((1 - shape) * edge / power + 0.5, 0, 1)
        rim = np.clip(1 - np.abs(1.04 - shape) * edge / power / 1.1, 0, 1)
        here = colour[region]
        if polish is None:
            bed = here * np.array([1.07, 1.0 + 0.05 * who.nail_pale, 1.06], np.float32)
            bed = bed + (0.25 + 0.2 * who.nail_pale) * (np.array([250, 214, 206], np.float32) - bed)
            white = np.clip((u - (0.93 - 0.16 * (who.nail_length - 0.8))) * 14, 0, 1)[..., None]
            moon = np.clip(1.4 - 6 * (np.abs(u - 0.04) + 0.25 * v * v), 0, 0.5)[..., None]
            bed += (np.array([250, 240, 226], np.float32) - bed) * np.maximum(
                0.75 * white, moon * 0.7
            )
        else:
            bed = np.broadcast_to(polish, here.shape)
        here *= 1 - 0.28 * rim[..., None]
        here += cover[..., None] * (bed - here)
        shine = np.exp(-(((s - 0.28 * np.cos(np.deg2rad(taken.light_angle))) / 0.16) ** 2)) * (
            np.exp(-(((u - 0.5) / 0.3) ** 2)))  # fmt: skip
        gloss[region] += cover * shine * (60 if polish is not None else 26)
        z[region] += cover * (0.05 * finger.width)


def _metal(s: np.ndarray, tint: tuple[int, int, int]) -> np.ndarray:
    """Bands of light on a bent piece of metal, over s = -1..1 across it."""
    light = 0.62 + 0.38 * np.cos(4.2 * s + 0.6) ** 2 + 0.25 * np.exp(-(((s + 0.3) / 0.12) ** 2))
    light = light * (1 - 0.35 * s * s)
    return light[..., None] * np.array(tint, np.float32)


def _dress(who: Person, aspect: str, taken: Shot, fingers: list[_Finger], frame: _Frame,
           local: list, colour: np.ndarray, alpha: np.ndarray) -> None:  # fmt: skip
    """Rings, watch, bracelet, sleeve and marks, painted over the lit skin."""
    hand, dorsal, unit, shape = aspect[-1], aspect.startswith("dorsal"), frame.unit, alpha.shape
    own = _hand(who, aspect, 163)
    names = ("thumb", "index", "middle", "ring", "little")
    for i, name in enumerate(names):
        if not taken.worn or f"{hand}_{name}" not in who.rings:
            continue
        finger, (region, t, s, cover) = fingers[i], local[i]
        middle = 0.29 if i else 0.36
        along = (t - middle - 0.012 * (1 - s * s) * (1 if dorsal else -1)) * finger.length
        wide = (0.2 + 0.14 * own.random()) * finger.width
        band = np.clip(wide - np.abs(along) + 0.5, 0, 1) * cover
        cast = np.clip(1 - np.abs(np.abs(along) - wide) / (0.12 * finger.width), 0, 1) * cover
        colour[region] *= 1 - 0.35 * cast[..., None]
        colour[region] += band[..., None] * (_metal(s, METALS[who.metal]) - colour[region])
        if who.stone and dorsal:
            round_ = np.hypot(along / (0.5 * finger.width), s / 0.48)
            gem = np.clip((1 - round_) * 0.45 * finger.width + 0.5, 0, 1)[..., None]
            tint = own.choice([[236, 240, 248], [160, 24, 44], [36, 90, 150], [40, 130, 90]])
            light = 0.75 + 0.5 * np.clip(
                1 - 3 * np.hypot(along / finger.width + 0.15, s + 0.15), 0, 1
            )
            colour[region] += gem * (light[..., None] * tint.astype(np.float32) - colour[region])
    w, h = 0.17, who.palm_length
    if taken.worn and who.watch[:1] == hand:
        strap = STRAPS[who.watch[2:]]
        _band(colour, alpha, frame, -0.655 * h, 0.042, w, strap, metal=who.watch.endswith("steel"))
        if dorsal:
            dial = frame(np.array([[0.0, -0.655 * h]]))[0]
            tint = (30, 30, 34) if own.random() < 0.5 else (232, 232, 226)
            for radius, fill in ((0.098, METALS["silver" if own.random() < 0.6 else "gold"]),
                                 (0.080, tint)):  # fmt: skip
                _disc(colour, alpha, dial, radius * unit, fill)
            hands = np.zeros(shape, np.uint8)
            for turn, long in own.uniform([0, 0.03], [6.28, 0.06], (2, 2)):
                end = dial + long * unit * np.array([np.cos(turn), np.sin(turn)])
                _line(hands, np.array([dial, (dial + end) / 2, end]), 0.008 * unit, 1.0)
            mark = 230 - np.mean(tint) * 0.85
            colour += (hands.astype(np.float32) / 255)[..., None] * (mark - colour)
    if taken.worn and who.bracelet == hand:
        _band(colour, alpha, frame, -0.585 * h, 0.014, w, METALS[who.metal], metal=True)
    if taken.sleeve:
        _band(colour, alpha, frame, -1.72 * h, 1.03, 0.185, SLEEVES[taken.sleeve], cloth=True)
    if taken.mark:
        x, y = own.uniform(-0.08, 0.08), own.uniform(-0.32, -0.12)
        turn = np.array(
            [[np.cos(2 * x * 9), -np.sin(2 * x * 9)], [np.sin(2 * x * 9), np.cos(18 * x)]]
        )
        if taken.mark.endswith("plaster"):
            box = np.array([[-0.075, -0.026], [0.075, -0.026], [0.075, 0.026], [-0.075, 0.026]])
            patch = _fill(shape, frame(box @ turn.T + [x, y])).astype(np.float32)[..., None] / 255
            colour += patch * (np.array([222, 178, 138], np.float32) - colour)
        else:
            ink = np.zeros(shape, np.uint8)
            loop = np.linspace(0, 14, 60)
            curve = np.stack([0.010 * (loop - 7), 0.03 * np.sin(loop * 1.7)], axis=1)
            _line(ink, frame(curve @ turn.T + [x, y]), 0.010 * unit, 0.9)
            colour *= 1 - (ink.astype(np.float32) / 255)[..., None] * np.array([0.8, 0.7, 0.4],
                                                                              np.float32)  # fmt: skip


def _band(colour: np.ndarray, alpha: np.ndarray, frame: _Frame, y: float, half: float, w: float,
          tint: tuple[int, int, int], metal: bool = False, cloth: bool = False) -> None:  # fmt: skip
    """Something around the arm between y - half and y + half, a little wider than the arm."""
    x = np.linspace(-w, w, 13)
    bow = 0.018 * (1 - (x / w) ** 2)
    box = np.concatenate([np.stack([x, y - half + bow], 1), np.stack([x, y + half + bow], 1)[::-1]])
    near = cv2.dilate(
        alpha, np.ones((3, 3), np.uint8), iterations=max(1, round(0.008 * frame.unit))
    )
    if cloth:
        near = np.ones_like(alpha)
    cover = _fill(alpha.shape, frame(box)).astype(np.float32) / 255 * near
    inverse = np.linalg.inv(frame.matrix)
    columns = np.arange(alpha.shape[1], dtype=np.float32)[None] - np.float32(frame.offset[0])
    rows = np.arange(alpha.shape[0], dtype=np.float32)[:, None] - np.float32(frame.offset[1])
    s = (inverse[0, 0] * columns + inverse[0, 1] * rows).astype(np.float32) / w
    along = (inverse[1, 0] * columns + inverse[1, 1] * rows).astype(np.float32)
    if metal:
        paint = _metal(s, tint) * (0.9 + 0.2 * (np.sin(260 * s * w) > 0))[..., None]
    else:
        folds = 0.06 * np.sin(along * 60 + 3 * s) if cloth else 0.0
        light = (0.75 + 0.4 * np.sqrt(np.clip(1 - s * s, 0, 1)) + folds)[..., None]
        paint = light * np.array(tint, np.float32)
    colour *= 1 - 0.5 * cv2.blur(cover, (2 * int(0.02 * frame.unit) + 1,) * 2)[..., None]
    colour += cover[..., None] * (paint - colour)
    np.maximum(alpha, cover, out=alpha)


def _disc(colour: np.ndarray, alpha: np.ndarray, middle: np.ndarray, radius: float,
          tint: tuple[int, int, int]) -> None:  # fmt: skip
    layer = np.zeros(alpha.shape, np.uint8)
    cv2.circle(layer, _fixed(middle).tolist(), round(radius * (1 << _SHIFT)), 255, -1, cv2.LINE_AA,
               _SHIFT)  # fmt: skip
    cover = layer.astype(np.float32) / 255
    colour += cover[..., None] * (np.array(tint, np.float32) - colour)
    np.maximum(alpha, cover, out=alpha)


def _backdrop(taken: Shot, alpha: np.ndarray, frame: _Frame, shape: tuple[int, int]) -> np.ndarray:
    """White paper, darker towards the upper corners, with the soft shadow of the hand."""
    corner = np.array(taken.backdrop, np.float32).reshape(3, 4)
    shade = cv2.resize(corner, shape[::-1], interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(alpha, (shape[1] // 4, shape[0] // 4), interpolation=cv2.INTER_AREA)
    dx, dy, strength = taken.shadow
    move = np.array([[1, 0, dx * frame.unit / 4], [0, 1, dy * frame.unit / 4]], np.float32)
    cast = cv2.warpAffine(small, move, small.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    cast = cv2.GaussianBlur(cast, (0, 0), 0.045 * frame.unit / 4) * strength
    cast += cv2.GaussianBlur(small, (0, 0), 0.018 * frame.unit / 4) * (0.25 * strength + 0.06)
    shade = shade + 0.5 * cv2.resize(cast, shape[::-1], interpolation=cv2.INTER_LINEAR)
    tint = np.array(taken.tint, np.float32)
    gain = np.clip(np.array(taken.gain, np.float32) * 1.16, 0.9, 1.04)
    return 251 * gain * (1 - shade[..., None] * tint)
