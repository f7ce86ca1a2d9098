"""Shape of a drawn hand: where its fingers and palm lie in the picture, and how high they rise.

A hand is described in hand lengths: x towards the thumb, y towards the finger tips, the origin
between the roots of the fingers. Fingers are tapered capsules with coordinates of their own
(t along, s across, -1..1); the palm is an outline rounded by its distance to the edge.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from clipfh_lib.data.demo_people import Person, Shot

SHIFT = 4  # fractional bits of the coordinates that cv2 draws
PIVOTS = np.array([[0.142, -0.095], [0.050, -0.078], [-0.047, -0.088], [-0.138, -0.125]])
_LENGTHS = np.array([0.520, 0.570, 0.530, 0.430])  # pivot to tip, index to little
_WIDTHS = np.array([0.0530, 0.0535, 0.0500, 0.0445])  # half widths at the middle joint
_FAN = np.array([9.0, 1.5, -7.0, -17.0])  # degrees at full spread
_REST = np.array([1.5, 0.0, -1.5, -4.0])  # degrees with the fingers together
JOINTS = (0.47, 0.755)  # along a finger from its pivot; the thumb has one


@dataclass(frozen=True)
class Finger:
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
class Frame:
    """Where the hand lies in the canvas: hand lengths -> pixels."""

    matrix: np.ndarray  # (2, 2)
    offset: np.ndarray  # (2,)
    unit: float  # pixels in a hand length
    flip: float  # 1 where the thumb is on the right of the picture, else -1

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) hand lengths -> (n, 2) pixels."""
        return np.asarray(points) @ self.matrix.T + self.offset


def frame_of(who: Person, aspect: str, taken: Shot, height: float) -> Frame:
    """Lay the hand into a canvas of this height (pixels), the middle tip at taken.tip."""
    flip = 1.0 if aspect in ("dorsal_r", "palmar_l") else -1.0
    unit = taken.scale * height
    turn = np.deg2rad(taken.rotation)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = unit * rotate @ np.diag([flip * taken.squeeze, 1.0])
    tip = np.array([0.05, -0.078 + _LENGTHS[1] * who.finger_length * who.finger_lengths[2]])
    middle = matrix @ np.array([0.0, -0.1])
    offset = np.array([taken.x * height * 4 / 3, taken.tip * height])
    offset -= np.array([middle[0], (matrix @ tip)[1]])
    return Frame(matrix, offset, unit, flip)


def wrist_in_frame(who: Person, aspect: str, taken: Shot) -> bool:
    """Whether the wrist, where watches and sleeves are, is inside the picture."""
    wrist = frame_of(who, aspect, taken, 120)(np.array([[0.0, -0.62 * who.palm_length]]))
    return bool(wrist[0, 1] > 4)


def hand_rng(who: Person, aspect: str, stream: int) -> np.random.Generator:
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
        knots = [0, 0.3, JOINTS[0], 0.61, JOINTS[1], 0.86, 1]
        values = [1.1, 1.0 - 0.3 * j, 1.0 + 0.5 * j, 0.95 - 0.6 * j - 0.3 * thin,
                  0.93 - 0.6 * thin, 0.91 - 0.75 * thin, 0.88 - 0.9 * thin]  # fmt: skip
    half = cv2.GaussianBlur(np.interp(t, knots, values)[None], (0, 0), 4)[0]
    start = 1 - 1.15 * half_width * half[-1] / length
    cap = np.clip((t - start) / (1 - start), 0, 1)
    return (half * np.sqrt(1 - cap**2.2)).astype(np.float32)


def fingers_of(who: Person, aspect: str, taken: Shot, frame: Frame) -> list[Finger]:
    """Thumb first, then index to little."""
    own = hand_rng(who, aspect, 127).normal(0, 1, (5, 3))
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
            pivot = PIVOTS[i - 1] * [who.palm_width, 1.0]
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
        found.append(Finger(ends[0], along, across, pixels, half_pixels,
                             bend + taken.bends[i], profile, i == 0))  # fmt: skip
    return found


def smooth(points: list[tuple[float, float]] | np.ndarray, n: int = 10) -> np.ndarray:
    """Catmull-Rom curve through the points, n steps between two of them."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = np.linspace(0, 1, n, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                   + (3 * b - a - 3 * c + d) * t**3)  # fmt: skip
    return np.concatenate([curve.transpose(1, 0, 2).reshape(-1, 2), p[-2:-1]])


def fixed(points: np.ndarray) -> np.ndarray:
    """Pixels -> the fixed-point numbers that cv2 draws with."""
    return np.round(points * (1 << SHIFT)).astype(np.int32)


def draw_line(layer: np.ndarray, points: np.ndarray, width: float, depth: float) -> None:
    """Draw a line of any width (canvas pixels) and depth 0..1, tapered at both ends."""
    thick = max(1, round(width))
    level = 255 * min(1.0, depth * min(1.0, width / thick))
    cut = max(1, len(points) // 7)
    for part, share in ((points, 0.5), (points[cut:-cut], 1.0)):
        if len(part) > 1:
            cv2.polylines(layer, [fixed(part)], False, level * share, thick, cv2.LINE_AA, SHIFT)


def fill(shape: tuple[int, int], *outlines: np.ndarray) -> np.ndarray:
    """Union of filled outlines (n, 2), uint8 0..255 with soft edges."""
    mask = np.zeros(shape, np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [fixed(outline)], 255, cv2.LINE_AA, SHIFT)
    return mask


def add_spots(layer: np.ndarray, points: np.ndarray, radius: float, amounts: np.ndarray) -> None:
    """Add soft round spots (n, 2) of one radius in pixels to a layer."""
    shape, reach = layer.shape, int(2.5 * radius) + 1
    for (x, y), amount in zip(points, amounts, strict=True):
        x0, x1 = max(0, int(x) - reach), min(shape[1], int(x) + reach + 1)
        y0, y1 = max(0, int(y) - reach), min(shape[0], int(y) + reach + 1)
        if x0 < x1 and y0 < y1:
            across = np.exp(-0.5 * ((np.arange(x0, x1) - x) / radius) ** 2)
            down = np.exp(-0.5 * ((np.arange(y0, y1) - y) / radius) ** 2)
            layer[y0:y1, x0:x1] += (amount * down[:, None] * across[None]).astype(np.float32)


def _palm(who: Person, fingers: list[Finger], frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of palm with forearm, and of the ball of the thumb with its web; pixels."""
    w, h = who.palm_width, who.palm_length
    arm = 0.136 * (0.5 + 0.5 * w) * (0.92 + 0.08 * who.finger_width)
    little, index = PIVOTS[3] * [w, 1], PIVOTS[0] * [w, 1]
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
        smooth(np.array([root[0], root[1], on_thumb[0], on_thumb[1]]), 6),
        smooth(np.array([on_thumb[2], crotch, web[0]]), 6), web[1:],
    ])  # fmt: skip
    return frame(smooth(edge, 6)), ball


def relief(
    who: Person, fingers: list[Finger], frame: Frame, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, list]:
    """Height (pixels), coverage 0..1, and for each finger (region, t, s, its coverage)."""
    palm, ball = _palm(who, fingers, frame)
    mask = fill(shape, palm, ball)
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
    return cv2.GaussianBlur(z, (0, 0), 0.010 * frame.unit), alpha, local
