"""What hides a part of a hand: rings, a bracelet, a sleeve, blocks, and fingertips that are gone.

Each takes a picture, the hand in it (`anatomy.read`), a severity 1..5 and a generator, and returns
a new picture. A higher severity of the same draw hides all that a lower one hides, and more.
"""

from collections.abc import Callable

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from clipfh_lib.data import masks
from clipfh_lib.data.anatomy import Finger, Hand

METALS = (226, 184, 92), (208, 210, 214), (214, 160, 130)  # gold, silver, rose gold
STONES = (238, 242, 250), (150, 24, 44), (34, 84, 150), (30, 120, 84)
STRAPS = (34, 32, 34), (98, 62, 38), (150, 30, 40), (36, 54, 96)
CLOTHS = (30, 30, 36), (120, 122, 128), (46, 68, 124), (160, 34, 56), (58, 96, 74), (196, 180, 150)
SHIFT = 4  # fractional bits of the coordinates that cv2 draws with
RINGS = 1, 1, 2, 2, 3  # at each severity, where so many fingers are seen
BLOCKS = 2  # more at each severity


def missing_fingertips(
    image: np.ndarray, hand: Hand, severity: int, draw: np.random.Generator
) -> np.ndarray:
    """Take the ends off the fingers: about a tenth of each at every severity, paper instead.

    Fingers whose tips the outline does not show (held together, bent) keep them.
    """
    height, width = image.shape[:2]
    gone = np.zeros((height, width), bool)
    shares = draw.uniform(0.08, 0.12, 5)
    for number, finger in enumerate(hand.fingers):
        cut = shares[number] * severity * (finger.length + 0.5 * hand.radius)
        region = _around(image, finger.tip[None], cut + 3 * finger.width)
        y, x = np.mgrid[region].astype(np.float32)
        off, down = zip(*(_from_tip(f, x, y) for f in hand.fingers), strict=True)
        mine = (np.abs(off[number]) < 2 * finger.width) & (down[number] > -2 * finger.width)
        for other in range(len(hand.fingers)):
            if other != number:  # where fingers touch, each ends for itself
                mine &= (np.abs(off[number]) <= np.abs(off[other])) | (down[other] < -finger.width)
        gone[region] |= mine & (down[number] < cut)
    rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
    out = image.copy()
    if not len(rows):
        return out
    ends = np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]])
    region = _around(image, ends, 0.5 * hand.radius)
    here, cut = out[region], gone[region]
    if hand.found:  # with a rim, so that no outline stays behind
        rim = 2 * max(1, round(0.06 * hand.radius)) + 1
        skin = cv2.dilate(hand.mask[region].astype(np.uint8), np.ones((rim, rim), np.uint8)) > 0
        cut = cut & skin
        paper = _paper_under(here, skin, masks.background(image), 0.5 * hand.radius)
    else:
        skin, paper = cut, masks.background(image).astype(np.float32)
    # A clean cut through the finger; on the paper its shadow fades out, and no shape of it is left.
    whole = cut.astype(np.float32)
    faded = np.minimum(2 * cv2.GaussianBlur(whole, (0, 0), max(0.7, 0.12 * hand.radius)), 1)
    cover = np.maximum(np.where(skin, whole, faded), cv2.GaussianBlur(whole, (0, 0), 0.7))
    _blend(here, cover[..., None], paper)
    return out


def _paper_under(
    image: np.ndarray, skin: np.ndarray, border: np.ndarray, reach: float
) -> np.ndarray:
    """What the paper looks like under the hand, from the paper near by: (H, W, 3) float32.

    Worked out at an eighth of the size: paper is smooth. Beyond `reach` pixels from any paper it
    has the colour of the border.
    """
    height, width = skin.shape
    few = max(2, width // 8), max(2, height // 8)
    seen = (~skin).astype(np.float32)[..., None]
    seen = cv2.resize(np.concatenate([image * seen, seen], axis=2), few,
                      interpolation=cv2.INTER_AREA)  # fmt: skip
    seen = cv2.GaussianBlur(seen, (0, 0), reach / 16)
    seen += 0.02 * np.append(border, 1).astype(np.float32)
    return cv2.resize(seen[..., :3] / seen[..., 3:], (width, height))


def ring(image: np.ndarray, hand: Hand, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Draw rings across first joints: one to three, each broader at every severity."""
    out = image.copy()
    order = draw.permutation(5)
    places = draw.uniform(0.24, 0.34, 5)
    tints = np.array(METALS, np.float32)[draw.integers(len(METALS), size=5)]
    stones = np.array(STONES, np.float32)[draw.integers(len(STONES), size=5)]
    stoned = draw.random(5) < 0.5
    # Longest fingers first to choose from: a thumb that is seen from the side is the shortest.
    fingers = sorted(hand.fingers, key=lambda finger: -finger.length)[:4]
    chosen = [fingers[k] for k in order if k < len(fingers)]
    for number, finger in enumerate(chosen[: RINGS[severity - 1]]):
        middle = finger.tip - (1 - places[number]) * finger.length * finger.along
        across = np.array([-finger.along[1], finger.along[0]])
        left, right = _sides(hand, middle, across, 1.25 * finger.width, finger.width)
        middle, half = middle + 0.5 * (right - left) * across, 0.5 * (left + right)
        thick = (0.13 + 0.07 * severity) * finger.width
        tint = tints[number]

        def metal(along: np.ndarray, s: np.ndarray, tint=tint, thick=thick) -> np.ndarray:
            round_it = 1 - 0.35 * (along / thick) ** 2
            return ((_gleam(s) * round_it)[..., None] * tint).astype(np.float32)

        _shade(out, _band(middle, finger.along, across, half, 1.3 * thick), 0.75)
        _lay(out, middle, finger.along, across, half, thick, metal)
        if stoned[number]:
            _stone(out, middle, 1.1 * thick, stones[number])
    return out


def bracelet(image: np.ndarray, hand: Hand, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Draw a bracelet or strap across the wrist, broader at every severity.

    Where the picture ends before the wrist does, it lies at the border.
    """
    out, radius = image.copy(), hand.radius
    is_metal, links = draw.random() < 0.5, draw.uniform(9, 16)
    tint = np.array(METALS[draw.integers(len(METALS))], np.float32)
    strap = np.array(STRAPS[draw.integers(len(STRAPS))], np.float32)
    tilt = draw.uniform(-0.08, 0.08)
    level = max(0.0, min(hand.wrist, hand.end - 0.3 * radius))
    along = hand.along + tilt * hand.across
    along /= np.hypot(*along)
    across = np.array([-along[1], along[0]])
    middle = hand.palm - level * hand.along
    left, right = (float(side[0]) for side in _extent(hand, np.array([level]), 1.25 * radius))
    middle, half = middle + 0.5 * (right - left) * across, 0.5 * (left + right) + 0.03 * radius
    thick = (0.05 + 0.035 * severity) * radius

    def surface(down: np.ndarray, s: np.ndarray) -> np.ndarray:
        if is_metal:
            light = _gleam(s) * (1 - 0.3 * (down / thick) ** 2)
            light = light * np.where(np.sin(links * 3 * s) > -0.8, 1.0, 0.55)
            return light[..., None] * tint
        light = 0.7 + 0.45 * np.sqrt(np.clip(1 - s * s, 0, 1))
        light = light * np.where(np.abs(down) > 0.8 * thick, 0.8, 1.0)
        return light[..., None] * strap

    _shade(out, _band(middle, along, across, half, 1.35 * thick), 0.75)
    _lay(out, middle, along, across, half, thick, surface)
    return out


def sleeve(image: np.ndarray, hand: Hand, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Draw a sleeve from the border of the picture over the wrist, towards the fingers."""
    out, radius = image.copy(), hand.radius
    tint = np.array(CLOTHS[draw.integers(len(CLOTHS))], np.float32)
    folds, phase, loose = draw.uniform(5, 9), draw.uniform(0, 6.28), draw.uniform(0.06, 0.16)
    front = min(1.2 * radius, hand.end - 0.2 * radius) - 0.28 * radius * (severity - 1)
    back = max(hand.end, front) + 0.3 * radius
    levels = np.linspace(front, back, 24)
    left, right = _extent(hand, levels, 2.1 * radius)
    x = np.linspace(-1, 1, 9)
    hem = -0.06 * radius * (1 - x**2)  # bowed round the arm
    behind = np.concatenate([hem + front, levels, np.full(2, back), levels[::-1]])
    aside = np.concatenate([np.interp(x, [-1, 1], [-left[0], right[0]]) * (1 + loose),
                            right * (1 + loose), [right[-1], -left[-1]],
                            -left[::-1] * (1 + loose)])  # fmt: skip
    cloth = hand.place(-behind, aside)
    _shade(out, cloth + 0.07 * radius * hand.along, 0.7)
    region = _around(image, cloth, 1)
    if region is None:
        return out
    y, x = np.mgrid[region].astype(np.float32)
    down = -(x - hand.palm[0]) * hand.along[0] - (y - hand.palm[1]) * hand.along[1]
    side = (x - hand.palm[0]) * hand.across[0] + (y - hand.palm[1]) * hand.across[1]
    wide = max(float(np.maximum(left, right).max()), 1.0) * (1 + loose)
    s = np.clip(side / wide, -1, 1)
    light = 0.72 + 0.38 * np.sqrt(1 - s * s)
    light += 0.07 * np.sin(folds * down / radius + 2.5 * s + phase)
    hem_from = down - front + 0.06 * radius * (1 - s * s)
    light *= np.where(np.abs(hem_from - 0.12 * radius) < 0.015 * radius + 0.35, 0.78, 1.0)
    _blend(out[region], _cover(image, region, cloth), np.clip(light[..., None] * tint, 0, 255))
    return out


def blocks(image: np.ndarray, hand: Hand, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Put squares of plain colour onto the hand, BLOCKS more at every severity.

    Without a hand they fall anywhere in the picture.
    """
    out = image.copy()
    places = draw.random(5 * BLOCKS)
    sides = np.maximum(2, np.round(draw.uniform(0.4, 0.7, 5 * BLOCKS) * hand.radius)).astype(int)
    colours = draw.integers(0, 256, (5 * BLOCKS, 3))
    inside = np.flatnonzero(hand.mask) if hand.found else np.arange(hand.mask.size)
    for at, side, colour in list(zip(places, sides, colours, strict=True))[: BLOCKS * severity]:
        y, x = np.divmod(inside[int(at * len(inside))], image.shape[1])
        top, left = max(0, y - side // 2), max(0, x - side // 2)
        out[top : top + side, left : left + side] = colour
    return out


# --- how they are drawn --------------------------------------------------------------------------


def _around(image: np.ndarray, points: np.ndarray, margin: float) -> tuple[slice, slice] | None:
    """The part of a picture round points (n, 2), or None where they lie outside of it."""
    x0, y0 = np.floor(points.min(axis=0) - margin).astype(int)
    x1, y1 = np.ceil(points.max(axis=0) + margin).astype(int) + 1
    height, width = image.shape[:2]
    region = slice(max(0, y0), min(height, y1)), slice(max(0, x0), min(width, x1))
    return region if all(part.start < part.stop for part in region) else None


def _from_tip(finger: Finger, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far pixels are beside a finger's axis, and how far behind its tip."""
    dx, dy = x - np.float32(finger.tip[0]), y - np.float32(finger.tip[1])
    ax, ay = np.float32(finger.along)
    return dy * ax - dx * ay, -(dx * ax + dy * ay)


def _sides(hand: Hand, middle: np.ndarray, across: np.ndarray, most: float, usual: float
           ) -> tuple[float, float]:  # fmt: skip
    """How far the hand reaches to both sides of a point; `usual` where it goes on beyond `most`."""
    if not hand.found:
        return usual, usual
    steps = np.arange(0, most + 1, 0.5)
    found = []
    for sign in (-1, 1):
        at = np.rint(middle + sign * steps[:, None] * across).astype(int)
        within = ((at >= 0) & (at < hand.mask.shape[::-1])).all(axis=1)
        skin = np.zeros(len(at), bool)
        skin[within] = hand.mask[at[within, 1], at[within, 0]]
        first = int(np.argmin(skin)) if not skin.all() else -1
        found.append(usual if first < 0 or steps[first] > most else float(steps[first]))
    left, right = (max(side, 0.5 * usual) for side in found)
    return left, right


def _extent(hand: Hand, levels: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """How far the hand reaches to both sides at levels behind the palm: smooth, (n,) each."""
    side = np.arange(0, most, 1.0)
    least = 0.6 * hand.radius
    found = []
    for sign in (-1, 1):
        at = hand.palm - levels[:, None, None] * hand.along
        at = at + sign * side[None, :, None] * hand.across
        skin = cv2.remap(hand.mask.astype(np.uint8), at.astype(np.float32), None, cv2.INTER_NEAREST)
        reach = np.max(skin * side, axis=1)
        reach = maximum_filter1d(np.maximum(reach, least), 5, mode="nearest")
        found.append(gaussian_filter1d(reach, 2.0, mode="nearest"))
    return found[0], found[1]


def _band(
    middle: np.ndarray, along: np.ndarray, across: np.ndarray, half: float, thick: float
) -> np.ndarray:
    """Outline of a band round something round, `thick` to both sides, `half` wide: (n, 2)."""
    s = np.linspace(-1, 1, 9)
    bow = 0.12 * half * (1 - s * s)
    low = middle + (s * half)[:, None] * across + (bow - thick)[:, None] * along
    high = middle + (s * half)[:, None] * across + (bow + thick)[:, None] * along
    return np.concatenate([low, high[::-1]])


def _cover(image: np.ndarray, region: tuple[slice, slice], outline: np.ndarray) -> np.ndarray:
    """How much of each pixel of a region an outline covers: (h, w, 1) float32, 0..1."""
    shape = region[0].stop - region[0].start, region[1].stop - region[1].start
    layer = np.zeros(shape, np.uint8)
    points = np.round((outline - [region[1].start, region[0].start]) * (1 << SHIFT))
    cv2.fillPoly(layer, [points.astype(np.int32)], 255, cv2.LINE_AA, SHIFT)
    return (layer.astype(np.float32) / 255)[..., None]


def _blend(here: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Paint a colour over a part of a picture, as far as it is covered."""
    here[:] = np.rint(here + cover * (colour - here))


def _shade(image: np.ndarray, outline: np.ndarray, light: float) -> None:
    """Darken what an outline covers to `light` of its brightness."""
    region = _around(image, outline, 1)
    if region is not None:
        cover = _cover(image, region, outline)
        image[region] = np.rint(image[region] * (1 - (1 - light) * cover))


def _lay(image: np.ndarray, middle: np.ndarray, along: np.ndarray, across: np.ndarray, half: float,
         thick: float, surface: Callable) -> None:  # fmt: skip
    """Paint a band; `surface` gives its colour along (pixels) and across (-1..1)."""
    outline = _band(middle, along, across, half, thick)
    region = _around(image, outline, 1)
    if region is None:
        return
    y, x = np.mgrid[region].astype(np.float32)
    dx, dy = x - np.float32(middle[0]), y - np.float32(middle[1])
    s = np.clip((dx * across[0] + dy * across[1]) / half, -1, 1)
    down = dx * along[0] + dy * along[1] - 0.12 * half * (1 - s * s)
    paint = np.clip(surface(np.clip(down, -thick, thick), s), 0, 255)
    _blend(image[region], _cover(image, region, outline), paint)


def _gleam(s: np.ndarray) -> np.ndarray:
    """Light on a polished band over s = -1..1 across it."""
    shine = 0.78 + 0.3 * np.cos(3.6 * s + 0.7) ** 2 + 0.3 * np.exp(-(((s + 0.35) / 0.14) ** 2))
    return shine * (1 - 0.3 * s * s)


def _stone(image: np.ndarray, middle: np.ndarray, radius: float, tint: np.ndarray) -> None:
    """A round stone with a light on it."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for size, shift, gain in ((1.0, 0.0, 0.75), (0.82, 0.0, 1.0), (0.3, 0.3, 1.6)):
        outline = middle - shift * radius + size * radius * circle
        region = _around(image, outline, 1)
        if region is not None:
            cover = _cover(image, region, outline)
            _blend(image[region], cover, np.clip(gain * tint, 0, 255))
