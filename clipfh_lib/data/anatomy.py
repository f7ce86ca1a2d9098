"""Where palm, wrist and fingers lie in a picture, read from the outline of the hand.

Only as exact as drawing a ring on a finger or a sleeve over a wrist needs: no landmarks, no model.
"""

from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from clipfh_lib.data import masks

SIDE = 160  # longest side in pixels of the outline that is read
FINGER = 0.26  # half the width of a finger in radii of the palm, where its neighbours touch it
ROOT = 1.15  # radii of the palm from its middle to the roots of the fingers
TIP = 1.35  # at least as far is a tip


class Finger(NamedTuple):
    """A finger seen in the picture, in pixels.

    Args:
        tip: (2,) x and y.
        along: (2,) unit vector from its root to its tip.
        length: root to tip.
        width: half of it, at the middle of the first joint.
    """

    tip: np.ndarray
    along: np.ndarray
    length: float
    width: float


class Hand(NamedTuple):
    """What is known of a hand in a picture, in pixels; x to the right, y down.

    Args:
        mask: (H, W) bool.
        palm: (2,) middle of the largest circle in the hand.
        radius: of that circle.
        along: (2,) unit vector from the arm over the palm.
        wrist: how far behind the middle of the palm the arm is narrowest, towards the arm.
        end: how far behind the middle of the palm the arm leaves the picture.
        fingers: up to five, from one side of the hand to the other.
        found: false for the hand that is assumed where none is seen.
    """

    mask: np.ndarray
    palm: np.ndarray
    radius: float
    along: np.ndarray
    wrist: float
    end: float
    fingers: tuple[Finger, ...]
    found: bool

    @property
    def across(self) -> np.ndarray:
        """(2,) unit vector, a quarter turn from `along`."""
        return np.array([-self.along[1], self.along[0]])

    def place(self, along: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Pixels along and across from the middle of the palm, (n,) each -> (n, 2) in x and y."""
        return self.palm + along[:, None] * self.along + across[:, None] * self.across


def read(image: np.ndarray) -> Hand:
    """Read palm, wrist and fingers from the outline.

    The palm is the largest circle in the mask; the arm comes from where the outline meets the
    border of the picture for longest, or, where it does not, from opposite the finger tips. Tips
    are the peaks of the outline's distance to a point in the wrist. Where no hand is found
    (`masks.hand` is empty, or no finger stands out of it), one is assumed as 11k Hands shows it: in
    the middle of the picture, arm above, fingers down, a third as wide as the picture is short.

    Args:
        image: (H, W, 3) uint8, RGB.

    Returns:
        A hand with at least one finger.
    """
    full = masks.hand_of(image)
    factor = min(1.0, SIDE / max(full.shape))
    size = [max(2, round(side * factor)) for side in full.shape[::-1]]
    mask = cv2.resize(full.astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    if not mask.any():
        return _assumed(full)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT),
                                  cv2.DIST_L2, 5)[1:-1, 1:-1]  # fmt: skip
    _, radius, _, at = cv2.minMaxLoc(depth)
    palm = np.array(at, np.float64)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)[:, 0].astype(np.float64)
    along = _direction(mask, palm, radius, outline)
    tips = _tips(outline, palm, radius, along, mask.shape)
    if not len(tips):
        return _assumed(full)
    wrist, end = _arm(mask, palm, radius, along)
    fingers = _fingers(mask, tips, palm, radius, along)
    back = 1 / factor
    return Hand(full, (palm + 0.5) * back - 0.5, radius * back, along, wrist * back, end * back,
                tuple(Finger((f.tip + 0.5) * back - 0.5, f.along, f.length * back, f.width * back)
                      for f in fingers), True)  # fmt: skip


def _assumed(mask: np.ndarray) -> Hand:
    """A hand in the middle of the picture, arm above, fingers down."""
    height, width = mask.shape
    radius = min(height, width) / 6
    palm, along = np.array([width / 2, 0.4 * height]), np.array([0.0, 1.0])
    fingers = []
    for x in (-0.78, -0.26, 0.26, 0.78):
        tip = palm + radius * np.array([x, 2.6 - abs(x) / 2])
        fingers.append(Finger(tip, along, radius * (1.45 - abs(x) / 2), FINGER * radius))
    end = float(palm[1])
    return Hand(mask, palm, radius, along, min(1.4 * radius, end), end, tuple(fingers), False)


def _direction(
    mask: np.ndarray, palm: np.ndarray, radius: float, outline: np.ndarray
) -> np.ndarray:
    """Unit vector from the arm over the palm."""
    height, width = mask.shape
    top, right, bottom, left = mask[0], mask[:, -1], mask[-1, ::-1], mask[::-1, 0]
    around = np.concatenate([top, right, bottom, left]) > 0
    if around.all() or not around.any():
        start, length = 0, 0
    else:  # the longest run of a ring: begin where there is none
        shift = int(np.argmin(around))
        edges = np.flatnonzero(np.diff(np.concatenate([[0], np.roll(around, -shift), [0]])))
        runs = edges[1::2] - edges[::2]
        start, length = int(edges[::2][runs.argmax()]) + shift, int(runs.max())
    if length > 0.6 * radius:
        x = np.concatenate([np.arange(width), np.full(height, width - 1),
                            np.arange(width)[::-1], np.zeros(height)])  # fmt: skip
        y = np.concatenate([np.zeros(width), np.arange(height), np.full(width, height - 1),
                            np.arange(height)[::-1]])  # fmt: skip
        run = np.arange(start, start + length) % len(around)
        way = palm - np.array([x[run].mean(), y[run].mean()])
        if np.hypot(*way) < 0.8 * radius:  # cut at the palm: the whole hand tells better
            way = outline.mean(axis=0) - np.array([x[run].mean(), y[run].mean()])
    else:
        far = np.hypot(*(outline - palm).T)
        way = (outline[far > 0.75 * far.max()] - palm).mean(axis=0)
    size = np.hypot(*way)
    return way / size if size > 1e-6 else np.array([0.0, 1.0])


def _tips(outline: np.ndarray, palm: np.ndarray, radius: float, along: np.ndarray,
          shape: tuple[int, int]) -> np.ndarray:  # fmt: skip
    """Ends of fingers on the outline: (k, 2), at most five, those that stand out most."""
    smooth = gaussian_filter1d(outline, max(1.0, 0.05 * radius), axis=0, mode="wrap")
    seen = smooth - palm
    far = np.hypot(*(seen + 0.6 * radius * along).T)
    start = int(far.argmin())  # so that no peak is at an end
    far, seen, smooth = (np.roll(values, -start, axis=0) for values in (far, seen, smooth))
    peaks, found = find_peaks(far, prominence=0.03 * radius, distance=max(2, int(0.3 * radius)))
    height, width = shape
    x, y = smooth[peaks].T
    inner = (x > 2) & (y > 2) & (x < width - 3) & (y < height - 3)
    ahead = seen[peaks] @ along
    good = (np.hypot(*seen[peaks].T) > TIP * radius) & (ahead > -0.2 * radius)
    good &= inner | (ahead > 1.2 * radius)  # an arm too has corners at the border
    best = np.flatnonzero(good)[np.argsort(-found["prominences"][good], kind="stable")[:5]]
    return smooth[peaks[np.sort(best)]]


def _arm(mask: np.ndarray, palm: np.ndarray, radius: float, along: np.ndarray
         ) -> tuple[float, float]:  # fmt: skip
    """How far behind the palm the arm is narrowest, and how far it reaches."""
    steps = np.arange(0, 4 * radius, 1.0)
    across = np.array([-along[1], along[0]])
    reach = np.arange(-1.3 * radius, 1.3 * radius + 1)
    at = palm - steps[:, None, None] * along + reach[None, :, None] * across  # (steps, reach, 2)
    strip = cv2.remap(mask, at.astype(np.float32), None, cv2.INTER_NEAREST)
    wide = strip.sum(axis=1)
    end = float(np.argmin(wide > 0.3 * radius)) if (wide <= 0.3 * radius).any() else steps[-1]
    first, last = int(1.1 * radius), int(min(end - 0.15 * radius, 2.0 * radius))
    if last <= first:
        return max(0.0, end - 0.25 * radius), end
    return float(first + wide[first:last].argmin()), end


def _fingers(mask: np.ndarray, tips: np.ndarray, palm: np.ndarray, radius: float,
             along: np.ndarray) -> list[Finger]:  # fmt: skip
    """Direction, length and width of the finger behind each tip.

    A finger's direction first points away from the wrist. Then each pixel of the fingers belongs
    to the nearest axis, each axis goes through the middle of its pixels, and so on: where fingers
    are apart that is the finger's own line, where they touch they share the width evenly.
    """
    origin = palm - 1.2 * radius * along
    way = tips - origin
    way /= np.hypot(*way.T)[:, None]
    y, x = np.nonzero(mask)
    points = np.stack([x, y], axis=1).astype(np.float64)
    points = points[np.hypot(*(points - palm).T) > 1.1 * radius]
    points = points[:: 1 + len(points) // 500]
    for _ in range(3):
        normal = np.stack([-way[:, 1], way[:, 0]], axis=1)
        off = points @ normal.T - (tips * normal).sum(axis=1)  # (n, k)
        down = (tips * way).sum(axis=1) - points @ way.T
        near = np.where((down > -radius) & (down < 2 * radius), np.abs(off), np.inf)
        mine = near.argmin(axis=1)
        for k in range(len(tips)):
            own = (mine == k) & (near[:, k] < 2 * FINGER * radius) & (down[:, k] > 0.15 * radius)
            if own.sum() > 8:  # least squares for a line through the tip
                lean = (off[own, k] * down[own, k]).sum() / (down[own, k] ** 2).sum()
                lean = float(np.clip(lean, -0.25, 0.25))
                way[k] = way[k] - lean * normal[k]
                way[k] /= np.hypot(*way[k])
    found = []
    for tip, direction in zip(tips, way, strict=True):
        far = np.hypot(*(tip - palm))
        length = max(0.5 * radius, far - ROOT * radius)
        found.append(Finger(tip, direction, length, FINGER * radius))
    return found
