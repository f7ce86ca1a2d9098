"""Which pixels show the hand: skin and sleeve against the paper it lies on.

A photograph of 11k Hands shows a hand on white paper: the paper is brighter in the middle than in
the corners, and the hand casts a shadow on it. Shadow darkens and hardly colours, skin colours; so
colour counts fully in the distance of a pixel to the paper, and brightness by DARKER.
"""

from functools import lru_cache

import cv2
import numpy as np

SIDE = 160  # longest side in pixels at which the hand is looked for; finer finds no more
DARKER = 0.35  # of a difference in brightness counts, so that a shadow is nearer to paper than skin
WARMER = 0.5  # of what is redder or yellower counts again: pale skin in full light is hardly darker
SURE = 8.0  # this far from the paper, in CIELAB units, is a part of the hand or of its shadow
HALF = 0.45  # of the median distance of those parts: there the hand begins, halfway up its edge
LEAST, MOST = 5.5, 17.0  # bounds of that
WHITE = 60.0, 15.0  # paper is taken to be white: lightness at least, colour at most, CIELAB units
GAP = 0.012  # share of the hand; a larger hole may be paper between two fingers
DEEP = 0.6  # of the depth of the palm: so far inside there are no fingers
SMALLEST = 0.02  # share of the picture; less is a spot on the paper, not a hand


def hand(pixels: np.ndarray) -> np.ndarray:
    """Find the hand, with what is worn on it, on white or plain paper.

    The paper is a quadratic surface in CIELAB, fitted to what looks like the border of the picture
    (its bright, colourless part; where there is none, the colour that most of the border has). The
    hand is the largest piece that differs from it; holes are filled unless they lie between
    fingers. What fills the whole picture, or nearly nothing of it, is no hand: the mask is empty.

    Args:
        pixels: (N, H, W, 3) uint8, RGB.

    Returns:
        (N, H, W) bool.

    Raises:
        ValueError: other shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"(N, H, W, 3) uint8 is wanted, not {pixels.shape} {pixels.dtype}")
    found = np.zeros(pixels.shape[:3], bool)
    for image, mask in zip(pixels, found, strict=True):
        mask[:] = hand_of(image)
    return found


def hand_of(image: np.ndarray) -> np.ndarray:
    """One picture (H, W, 3) -> its mask (H, W) bool; see `hand`."""
    height, width = image.shape[:2]
    away = _from_paper(_sized(image))
    sure = away[away > SURE]
    begins = np.float32(np.clip(HALF * np.median(sure), LEAST, MOST) if len(sure) else MOST)
    kept = _largest((away > begins).astype(np.uint8))
    if not SMALLEST < kept.mean() < 0.97:
        return np.zeros((height, width), bool)
    # What was added (holes) or dropped (spots) keeps its side of the threshold at full size.
    away = np.where(kept > 0, np.maximum(away, begins + 0.5), np.minimum(away, begins - 0.5))
    return cv2.resize(away, (width, height), interpolation=cv2.INTER_LINEAR) > begins


def background(image: np.ndarray) -> np.ndarray:
    """Colour of the paper at the border of the picture, for what a change of pose lays bare.

    Args:
        image: (H, W, 3) uint8, RGB.

    Returns:
        (3,) uint8: the median of what `hand` takes for paper there.
    """
    ring = _ring(image)
    lab = cv2.cvtColor(np.float32(ring[None]) / 255, cv2.COLOR_RGB2LAB)[0]
    return np.median(ring[_paper(lab)], axis=0).astype(np.uint8)


def _sized(image: np.ndarray) -> np.ndarray:
    """SIDE pixels long: means over areas, or, from less, pixels between pixels."""
    factor = SIDE / max(image.shape[:2])
    size = [max(2, round(side * factor)) for side in image.shape[1::-1]]
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=how)


def _ring(image: np.ndarray) -> np.ndarray:
    """(n, C) pixels along the four sides."""
    wide = max(1, min(image.shape[:2]) // 32)
    sides = image[:wide], image[-wide:], image[wide:-wide, :wide], image[wide:-wide, -wide:]
    return np.concatenate([side.reshape(-1, image.shape[2]) for side in sides])


def _paper(lab: np.ndarray) -> np.ndarray:
    """Which pixels (n, 3) of a border are paper: (n,) bool, at least one."""
    light, colour = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    bright = np.percentile(light, 90)
    white = (light > max(WHITE[0], bright - 14)) & (colour < WHITE[1])
    if white.mean() >= 0.1:  # an arm and a thumb may fill most of the border
        return white
    near = np.abs(lab - np.median(lab, axis=0)).sum(axis=1)
    return near <= max(12.0, float(near.min()))


@lru_cache(maxsize=8)
def _basis(height: int, width: int) -> np.ndarray:
    """Terms of a quadratic surface over the picture: (h, w, 6) float32."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2)


def _from_paper(image: np.ndarray) -> np.ndarray:
    """Distance of each pixel (h, w, 3) to the colour that the paper has there: (h, w) float32."""
    lab = cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2LAB)
    basis = _basis(*lab.shape[:2])
    thin = slice(None, None, 1 + min(lab.shape[:2]) // 40)  # a surface needs few points
    terms, levels = basis[thin, thin], lab[thin, thin]
    ring = _ring(lab)
    surface = np.zeros((6, 3), np.float32)
    surface[0] = np.median(ring[_paper(ring)], axis=0)
    for reach in (9.0, 6.0, 5.0):  # each time the fit is better, and less passes for paper
        close = _apart(levels - terms @ surface) < reach
        known, level = terms[close], levels[close]
        if len(known) < 60:
            break
        pulled = known.T @ known + 1e-3 * len(known) * np.diag(np.float32([0, 1, 1, 4, 4, 4]))
        surface = np.linalg.solve(pulled, known.T @ level)
    return cv2.GaussianBlur(_apart(lab - basis @ surface), (0, 0), 0.6)


def _apart(away: np.ndarray) -> np.ndarray:
    """Length of differences in CIELAB (h, w, 3): brightness counts by DARKER, warmth by WARMER."""
    light, red, yellow = cv2.split(away)
    warm = np.maximum(0.6 * red + 0.8 * yellow, 0)  # what skin is, and shadow on white is not
    return np.sqrt((DARKER * light) ** 2 + red * red + yellow * yellow) + WARMER * warm


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest piece of a mask (h, w) uint8, without the holes that are no gaps of fingers."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, cross)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count < 2:
        return np.zeros_like(mask)
    mask = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    left, top, wide, high, area = stats.T
    hole = (left > 0) & (top > 0) & (left + wide < mask.shape[1]) & (top + high < mask.shape[0])
    hole[0] = False
    whole = mask | hole[labels].astype(np.uint8)
    # Fingers that touch at their tips have paper between them. A hole is filled if it is small, or
    # lies deep in the palm, where full light may have made skin as white as paper.
    filled = hole & (area < GAP * whole.sum())
    if (hole & ~filled).any():
        depth = cv2.distanceTransform(whole, cv2.DIST_L2, 5)
        for label in np.flatnonzero(hole & ~filled):
            filled[label] = depth[labels == label].mean() > DEEP * depth.max()
    return mask | filled[labels].astype(np.uint8)
