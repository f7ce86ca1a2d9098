"""What is on the skin of a drawn hand: folds, creases, veins, hair, moles and nails.

Each kind is drawn into a layer of its own, which absorbs light and shapes the surface.
"""

from functools import lru_cache

import cv2
import numpy as np

from clipfh_lib.data.demo_people import ASPECTS, POLISHES, Person, Shot
from clipfh_lib.data.demo_shapes import (
    JOINTS,
    PIVOTS,
    SHIFT,
    Finger,
    Frame,
    add_spots,
    draw_line,
    fixed,
    hand_rng,
    smooth,
)

TILE = 256  # side of the tile of skin texture
TILE_UNIT = 200.0  # pixels of the tile in a hand length
_NAIL_BED = np.array([250, 214, 206], np.float32)
_NAIL_EDGE = np.array([250, 240, 226], np.float32)
# Skin colours (grey levels of red, green, blue) at melanin 0, 0.3, 0.6, 1; back of the hand.
_SKIN = np.array([[240, 206, 188], [222, 174, 146], [186, 134, 104], [112, 74, 56]], np.float64)


@lru_cache(maxsize=32)
def texture(seed: int, pid: int) -> np.ndarray:
    """Mottled skin of a person, (TILE, TILE, 2) float32 about 0: coarse and fine."""
    draw = np.random.default_rng([seed, 131, pid])
    coarse = draw.standard_normal((TILE // 16, TILE // 16), dtype=np.float32)
    coarse = cv2.resize(coarse, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(draw.standard_normal((TILE, TILE), dtype=np.float32), (0, 0), 0.8)
    return np.ascontiguousarray(np.dstack([coarse * 0.5, fine * 0.6]))


def skin_color_of(who: Person, dorsal: bool) -> np.ndarray:
    """Colour of the bare skin, (3,) grey levels; the palm is paler and pinker."""
    level = who.melanin if dorsal else 0.62 * who.melanin
    base = np.array([np.interp(level, [0, 0.3, 0.6, 1], _SKIN[:, c]) for c in range(3)])
    base *= 1 + who.warmth * np.array([-0.01, 0.015, -0.05])
    if not dorsal:
        base *= [1.0, 0.985 - 0.05 * who.palm_red, 0.965 - 0.03 * who.palm_red]
    return base.astype(np.float32)


def back_lines(
    who: Person, aspect: str, fingers: list[Finger], frame: Frame, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Layers of the back: folds, veins, ridges (tendons), hair; each 0..1."""
    folds, veins, ridges, hairs = (np.zeros(shape, np.uint8) for _ in range(4))
    unit, own = frame.unit, hand_rng(who, aspect, 137)
    deep = 0.25 + 0.75 * who.knuckles + (0.15 if who.age > 40 else 0)
    across = np.linspace(-1, 1, 9)
    for finger in fingers:
        joints = ((0.52, 1.0),) if finger.thumb else ((JOINTS[0], 1.0), (JOINTS[1], 0.7))
        for joint, strength in joints:
            for k in range(-2, 3) if strength == 1 else (-1, 0, 1):
                wave = own.normal(0, 0.003, 3)
                reach = 0.74 - 0.12 * abs(k) + own.normal(0, 0.05)
                t = joint + 0.017 * k + wave[0] + (0.016 * k + wave[1]) * (1 - across**2)
                t = t + wave[2] * np.sin(5 * across + 9 * wave[0])
                depth = deep * strength * own.uniform(0.35, 1.0)
                draw_line(folds, finger.place(t, across * reach), 0.0042 * unit, depth)
    start = np.random.default_rng([who.seed, 139, who.pid])  # the same for both hands
    ends = PIVOTS * [who.palm_width, 1]
    if who.tendons > 0.15:
        for end in ends:
            path = np.array([[0.01 + 0.25 * end[0], -0.50], end + [0, -0.04]])
            draw_line(ridges, frame(path), 0.03 * unit, who.tendons)
    gaps = np.concatenate([ends[:1] + [0.03, 0], (ends[1:] + ends[:-1]) / 2, ends[3:] - [0.03, 0]])
    for k, end in enumerate(gaps):
        x = np.linspace(-0.09, 0.1, 5)[::-1][k] + start.normal(0, 0.03)
        knee = start.normal(0, 0.035, (3, 2)) + own.normal(0, 0.012, (3, 2))
        y = np.array([[-0.46], [-0.33], [-0.2]])
        mix = (y + 0.62) / 0.55
        middle = np.concatenate([x * (1 - mix) + end[0] * mix, y], axis=1) + knee
        path = smooth(np.concatenate([[[x, -0.72]], middle, [end + [0, 0.03]]]), 5)
        strength = who.veins * start.uniform(0.3, 1.0)
        side = smooth(np.array([middle[1], (middle[2] + gaps[k - 1]) / 2, gaps[k - 1]]), 5)
        if strength > 0.05:
            draw_line(veins, frame(path), start.uniform(0.010, 0.017) * unit, strength)
            if start.random() < 0.6:
                draw_line(veins, frame(side), 0.010 * unit, strength * 0.8)
    if who.hair > 0:
        n = int(900 * who.hair)
        root = np.stack([own.uniform(-0.19, 0.19, n), own.uniform(-1.1, -0.12, n)], axis=1)
        root[:, 0] *= who.palm_width
        keep = own.random(n) < np.where(root[:, 1] < -0.5, 1.0, 0.45) * (0.4 - root[:, 0] * 2)
        lean = own.normal(0, 0.005, (n, 2)) + [-0.010, 0.012]
        strokes = np.stack([root, root + 0.6 * lean, root + lean * [1.5, 1]], axis=1)[keep]
        strokes = frame(strokes.reshape(-1, 2)).reshape(-1, 3, 2)
        level = 255 * min(0.35, 0.001 * unit)
        cv2.polylines(hairs, list(fixed(strokes)), False, level, 1, cv2.LINE_AA, SHIFT)
    return tuple(layer.astype(np.float32) / 255 for layer in (folds, veins, ridges, hairs))


def front_lines(
    who: Person, aspect: str, fingers: list[Finger], frame: Frame, shape: tuple[int, int]
) -> np.ndarray:
    """Folds of the palm and of the fingers' inner side, 0..1."""
    folds = np.zeros(shape, np.uint8)
    unit, own = frame.unit, hand_rng(who, aspect, 149)
    both = np.random.default_rng([who.seed, 151, who.pid])  # the same for both hands
    w, h = who.palm_width, who.palm_length
    deep, wide = 0.35 + 0.65 * who.crease_depth, 0.0034 + 0.0030 * who.crease_depth

    def crease(points: list[tuple[float, float]], depth: float, width: float = 1.0) -> None:
        curve = smooth(np.array(points) * [w, h] + own.normal(0, 0.003, (len(points), 2)), 7)
        draw_line(folds, frame(curve), width * wide * unit, depth * deep)

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
            (0.225, 0.9), (JOINTS[0] - 0.01, 0.9), (JOINTS[1], 0.7))  # fmt: skip
        for joint, strength in roots:
            double = both.random() < 0.6 and strength > 0.8
            for k in (-1, 1) if double else (0,):
                t = joint + 0.011 * k + own.normal(0, 0.003) + own.normal(0, 0.006) * across
                t = t + own.normal(0.004, 0.006) * (1 - across**2)
                depth = deep * strength * own.uniform(0.55, 0.95)
                draw_line(folds, finger.place(t, across * 0.9), 0.0040 * unit, depth)
    return folds.astype(np.float32) / 255


def spots_of(
    who: Person, aspect: str, fingers: list[Finger], frame: Frame, shape: tuple[int, int]
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
    add_spots(layer, places, own.uniform(0.006, 0.009) * unit, own.uniform(0.8, 1.7, n))
    if aspect.startswith("dorsal"):
        n = int(45 * who.freckles)
        places = frame(np.stack([own.uniform(-0.18, 0.18, n) * who.palm_width,
                                 own.uniform(-0.7, -0.03, n)], axis=1))  # fmt: skip
        add_spots(layer, places, 0.0055 * unit, own.uniform(0.1, 0.5, n))
        if who.scar:
            x, y, turn = own.uniform(-0.12, 0.12), own.uniform(-0.42, -0.1), own.uniform(0, 3.1)
            step = np.array([np.cos(turn), np.sin(turn)]) * own.uniform(0.03, 0.07)
            line = np.zeros(shape, np.uint8)
            ends = np.array([[x, y] - step, [x, y], [x, y] + step])
            draw_line(line, frame(ends), 0.009 * unit, 0.9)
            layer -= line.astype(np.float32) * (0.35 / 255)
    return layer


def paint_nails(
    who: Person, taken: Shot, local: list, fingers: list[Finger],
    colour: np.ndarray, z: np.ndarray, gloss: np.ndarray,
) -> None:  # fmt: skip
    """Put nails, or their polish, on the finger tips."""
    polish = np.array(POLISHES[taken.polish], np.float32) if taken.polish else None
    for (region, t, s, _), finger in zip(local, fingers, strict=True):
        half = finger.width / finger.length  # of the finger, in lengths of it
        long = half * (1.45 if finger.thumb else 1.3) * who.nail_length
        end = 1 - 0.10 * half
        u = (t - (end - long)) / long  # 0 root .. 1 edge
        v = s / who.nail_width
        power = 2.2 + 3 * who.nail_square
        shape = np.abs(2 * u - 1) ** power + np.abs(v) ** 3.2
        edge = 0.9 * finger.width * who.nail_width  # pixels from the middle to the rim
        cover = np.clip((1 - shape) * edge / power + 0.5, 0, 1)
        rim = np.clip(1 - np.abs(1.04 - shape) * edge / power / 1.1, 0, 1)
        here = colour[region]
        if polish is None:
            bed = here * np.array([1.07, 1.0 + 0.05 * who.nail_pale, 1.06], np.float32)
            bed += (0.25 + 0.2 * who.nail_pale) * (_NAIL_BED - bed)
            white = np.clip((u - (0.93 - 0.16 * (who.nail_length - 0.8))) * 14, 0, 1)[..., None]
            moon = np.clip(1.4 - 6 * (np.abs(u - 0.04) + 0.25 * v * v), 0, 0.5)[..., None]
            bed += (_NAIL_EDGE - bed) * np.maximum(0.75 * white, 0.7 * moon)
        else:
            bed = np.broadcast_to(polish, here.shape)
        here *= 1 - 0.28 * rim[..., None]
        here += cover[..., None] * (bed - here)
        lit = 0.28 * np.cos(np.deg2rad(taken.light_angle))
        shine = np.exp(-(((s - lit) / 0.16) ** 2) - ((u - 0.5) / 0.3) ** 2)
        gloss[region] += cover * shine * (60 if polish is not None else 26)
        z[region] += cover * (0.05 * finger.width)
