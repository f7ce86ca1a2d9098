"""One drawn hand -> pixels: a height field under a lamp, with skin that absorbs light."""

import cv2
import numpy as np

from clipfh_lib.data.demo_people import (
    ASPECTS,
    FINGERS,
    METALS,
    SLEEVES,
    STONES,
    STRAPS,
    Person,
    Shot,
)
from clipfh_lib.data.demo_shapes import (
    JOINTS,
    PIVOTS,
    SHIFT,
    Finger,
    Frame,
    add_spots,
    draw_line,
    fill,
    fingers_of,
    fixed,
    frame_of,
    hand_rng,
    relief,
)
from clipfh_lib.data.demo_skin import (
    TILE,
    TILE_UNIT,
    back_lines,
    front_lines,
    paint_nails,
    skin_color_of,
    spots_of,
    texture,
)

# Optical density a unit of each layer adds to red, green and blue.
_FOLD = np.array([0.38, 0.66, 0.70], np.float32)
_BLOOD = np.array([0.02, 0.25, 0.20], np.float32)
_VEIN = np.array([0.34, 0.16, 0.10], np.float32)


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
    frame = frame_of(who, aspect, taken, shape[0])
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


def _paint(
    who: Person, aspect: str, taken: Shot, frame: Frame, shape: tuple[int, int]
) -> np.ndarray:
    """The picture before lens and sensor: (H, W, 3) float32 grey levels."""
    dorsal, unit = aspect.startswith("dorsal"), frame.unit
    fingers = fingers_of(who, aspect, taken, frame)
    z, alpha, local = relief(who, fingers, frame, shape)
    density = np.zeros((*shape, 3), np.float32)
    spots = spots_of(who, aspect, fingers, frame, shape)
    blood = np.zeros(shape, np.float32)
    tips = np.stack([finger.place(np.array([0.9]), np.zeros(1))[0] for finger in fingers])
    roots = frame(PIVOTS * [who.palm_width, 1])
    joints = np.concatenate([f.place(np.array(JOINTS), np.zeros(2)) for f in fingers[1:]])
    if dorsal:
        folds, veins, ridges, hairs = back_lines(who, aspect, fingers, frame, shape)
        veins = cv2.GaussianBlur(veins, (0, 0), 0.006 * unit)
        ridges = cv2.GaussianBlur(ridges, (0, 0), 0.012 * unit)
        z += (0.010 * unit) * veins + (0.016 * unit) * ridges
        dark = 0.25 + 0.5 * who.knuckle_pigment * (0.4 + who.melanin)
        add_spots(spots, joints[::2], 0.026 * unit, np.full(4, 0.75 * dark))
        add_spots(spots, joints[1::2], 0.020 * unit, np.full(4, 0.4 * dark))
        add_spots(spots, roots, 0.034 * unit, np.full(4, 0.4 * dark))
        add_spots(blood, roots, 0.04 * unit, np.full(4, 0.2))
        add_spots(z, roots, 0.045 * unit, np.full(4, 0.012 * unit * (0.5 + who.tendons)))
        spots += 1.1 * hairs
        density += veins[..., None] * (_VEIN * (1.1 - 0.6 * who.melanin))
    else:
        folds = front_lines(who, aspect, fingers, frame, shape)
        add_spots(blood, tips, 0.045 * unit, np.full(5, 0.25 + 0.35 * who.palm_red))
        below = roots + 0.1 * (roots - frame(np.array([[0.0, -0.3]])))
        add_spots(blood, below, 0.05 * unit, np.full(4, 0.25 + 0.35 * who.palm_red))
        pads = frame(np.array([[0.11, -0.36], [-0.12, -0.36]]) * [who.palm_width, who.palm_length])
        add_spots(z, pads[:1], 0.075 * unit, np.array([0.045 * unit]))
        add_spots(z, pads[1:], 0.085 * unit, np.array([0.030 * unit]))
        add_spots(blood, pads, 0.07 * unit, np.full(2, 0.2 + 0.4 * who.palm_red))
        add_spots(blood, frame(np.array([[0.0, -0.24]])), 0.08 * unit, np.array([-0.25]))
    z -= (0.022 * unit) * cv2.GaussianBlur(folds, (0, 0), 0.0055 * unit)
    matrix = np.linalg.inv(frame.matrix) * TILE_UNIT
    to_tile = np.concatenate([matrix, (-matrix @ frame.offset)[:, None] + TILE / 2], axis=1)
    skin = cv2.warpAffine(texture(who.seed, who.pid), to_tile, shape[::-1],
                          flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                          borderMode=cv2.BORDER_REFLECT_101)  # fmt: skip
    blood += skin[..., 0] * 0.28
    density += (folds + spots + 0.07 * skin[..., 1])[..., None] * _FOLD
    density += blood[..., None] * _BLOOD
    colour = skin_color_of(who, dorsal) * np.exp(-density)
    gloss = np.zeros(shape, np.float32)
    if dorsal:
        paint_nails(who, taken, local, fingers, colour, z, gloss)
    colour *= _shade(z, taken, gloss)
    colour += gloss[..., None]
    _dress(who, aspect, taken, fingers, frame, local, colour, alpha)
    backdrop = _backdrop(taken, alpha, frame, shape)
    gain = np.array(taken.gain, np.float32)
    grey = colour.mean(axis=2, keepdims=True)
    colour = (grey + taken.saturation * (colour - grey)) * gain
    colour = 128 + taken.contrast * (colour - 128)
    return backdrop + alpha[..., None] * (colour - backdrop)


def _shade(z: np.ndarray, taken: Shot, gloss: np.ndarray) -> np.ndarray:
    """Light on the surface (H, W, 3), about 1 where it faces the camera."""
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


def _dress(who: Person, aspect: str, taken: Shot, fingers: list[Finger], frame: Frame,
           local: list, colour: np.ndarray, alpha: np.ndarray) -> None:  # fmt: skip
    """Rings, watch, bracelet, sleeve and marks, painted over the lit skin."""
    own = hand_rng(who, aspect, 163)
    if taken.worn:
        for name, finger, place in zip(FINGERS, fingers, local, strict=True):
            if f"{aspect[-1]}_{name}" in who.rings:
                _ring(who, aspect.startswith("dorsal"), finger, place, own, colour)
        _wrist(who, aspect, frame, own, colour, alpha)
    if taken.sleeve:
        top = -1.72 * who.palm_length
        _band(colour, alpha, frame, top, 1.03, 0.185, SLEEVES[taken.sleeve], cloth=True)
    if taken.mark:
        _mark(taken.mark[2:], frame, hand_rng(who, aspect, 181), colour)


def _ring(who: Person, dorsal: bool, finger: Finger, place: tuple, own: np.random.Generator,
          colour: np.ndarray) -> None:  # fmt: skip
    """A ring on the first joint of a finger, its stone on the back."""
    region, t, s, cover = place
    here = colour[region]
    middle = 0.36 if finger.thumb else 0.29
    along = (t - middle - 0.012 * (1 - s * s) * (1 if dorsal else -1)) * finger.length
    wide = (0.2 + 0.14 * own.random()) * finger.width
    tint = own.choice(STONES).astype(np.float32)
    band = np.clip(wide - np.abs(along) + 0.5, 0, 1) * cover
    cast = np.clip(1 - np.abs(np.abs(along) - wide) / (0.12 * finger.width), 0, 1) * cover
    here *= 1 - 0.35 * cast[..., None]
    here += band[..., None] * (_metal(s, METALS[who.metal]) - here)
    if who.stone and dorsal:
        away = np.hypot(along / (0.5 * finger.width), s / 0.48)
        gem = np.clip((1 - away) * 0.45 * finger.width + 0.5, 0, 1)[..., None]
        spark = np.clip(1 - 3 * np.hypot(along / finger.width + 0.15, s + 0.15), 0, 1)
        here += gem * ((0.75 + 0.5 * spark)[..., None] * tint - here)


def _wrist(who: Person, aspect: str, frame: Frame, own: np.random.Generator, colour: np.ndarray,
           alpha: np.ndarray) -> None:  # fmt: skip
    """Watch and bracelet of this hand, if any."""
    hand, unit, width = aspect[-1], frame.unit, 0.17
    y = -0.655 * who.palm_length
    if who.watch[:1] == hand:
        strap = who.watch[2:]
        _band(colour, alpha, frame, y, 0.042, width, STRAPS[strap], metal=strap == "steel")
    if who.watch[:1] == hand and aspect.startswith("dorsal"):
        dial = frame(np.array([[0.0, y + 0.018]]))[0]
        rim = METALS["silver" if own.random() < 0.6 else "gold"]
        face = (30, 30, 34) if own.random() < 0.5 else (232, 232, 226)
        _disc(colour, alpha, dial, 0.098 * unit, rim)
        _disc(colour, alpha, dial, 0.080 * unit, face)
        hands = np.zeros(alpha.shape, np.uint8)
        for turn, long in own.uniform([0, 0.03], [6.28, 0.06], (2, 2)):
            end = dial + long * unit * np.array([np.cos(turn), np.sin(turn)])
            draw_line(hands, np.array([dial, (dial + end) / 2, end]), 0.008 * unit, 1.0)
        shown = 230 - np.float32(0.85 * np.mean(face))
        colour += (hands.astype(np.float32) / 255)[..., None] * (shown - colour)
    if who.bracelet == hand:
        y = -0.585 * who.palm_length
        _band(colour, alpha, frame, y, 0.014, width, METALS[who.metal], metal=True)


def _mark(kind: str, frame: Frame, own: np.random.Generator, colour: np.ndarray) -> None:
    """A plaster, or a scribble in ink, somewhere on the hand."""
    middle, turn = own.uniform([-0.08, -0.32], [0.08, -0.12]), own.uniform(-1.5, 1.5)
    rotate = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    layer = np.zeros(colour.shape[:2], np.uint8)
    if kind == "plaster":
        box = np.array([[-0.08, -0.026], [0.08, -0.026], [0.08, 0.026], [-0.08, 0.026]])
        for part, tint in ((1.0, (206, 152, 96)), (0.4, (244, 232, 212))):  # strip, then its pad
            cover = fill(layer.shape, frame((box * [part, 1]) @ rotate + middle)) / np.float32(255)
            colour += cover[..., None] * (np.array(tint, np.float32) - colour)
    else:
        loop = np.linspace(0, 14, 60)
        curve = np.stack([0.010 * (loop - 7), 0.03 * np.sin(loop * 1.7)], axis=1)
        draw_line(layer, frame(curve @ rotate + middle), 0.010 * frame.unit, 0.9)
        cover = (layer.astype(np.float32) / 255)[..., None]
        colour *= 1 - cover * np.array([0.8, 0.7, 0.4], np.float32)


def _metal(s: np.ndarray, tint: tuple[int, int, int]) -> np.ndarray:
    """Bands of light on a bent piece of metal, over s = -1..1 across it."""
    light = 0.62 + 0.38 * np.cos(4.2 * s + 0.6) ** 2 + 0.25 * np.exp(-(((s + 0.3) / 0.12) ** 2))
    light = light * (1 - 0.35 * s * s)
    return light[..., None] * np.array(tint, np.float32)


def _band(colour: np.ndarray, alpha: np.ndarray, frame: Frame, y: float, half: float, w: float,
          tint: tuple[int, ...], metal: bool = False, cloth: bool = False) -> None:  # fmt: skip
    """Something around the arm between y - half and y + half, a little wider than the arm."""
    x = np.linspace(-w, w, 13)
    bow = 0.018 * (1 - (x / w) ** 2)
    box = np.concatenate([np.stack([x, y - half + bow], 1), np.stack([x, y + half + bow], 1)[::-1]])
    cover = fill(alpha.shape, frame(box)).astype(np.float32) / 255
    if not cloth:  # a sleeve is wide, all else lies close to the arm
        steps = max(1, round(0.008 * frame.unit))
        cover *= cv2.dilate(alpha, np.ones((3, 3), np.uint8), iterations=steps)
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
    cv2.circle(layer, fixed(middle).tolist(), round(radius * (1 << SHIFT)), 255, -1, cv2.LINE_AA,
               SHIFT)  # fmt: skip
    cover = layer.astype(np.float32) / 255
    colour += cover[..., None] * (np.array(tint, np.float32) - colour)
    np.maximum(alpha, cover, out=alpha)


def _backdrop(taken: Shot, alpha: np.ndarray, frame: Frame, shape: tuple[int, int]) -> np.ndarray:
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
