"""Photographs made worse on purpose, in graded steps: light, pose, what hides the hand, sharpness.

After Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019 (arXiv:1903.12261): one kind of change at a time, at five severities. The
conditions are those of hand photographs. What is random about a change (the side the light comes
from, the finger that wears the ring) is drawn from seed, condition and image alone: the same at
every severity, on every machine and for every method that is compared.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool

import cv2
import numpy as np

from clipfh_lib.data import anatomy, masks, occlusions
from clipfh_lib.files import InputError

SEVERITIES = 1, 2, 3, 4, 5
GREY = 0.299, 0.587, 0.114  # of red, green, blue (ITU-R BT.601)
GAMMA = 2.2  # between the values of a picture and the light they stand for
QUALITY = 40, 25, 16, 10, 6  # of the JPEG


def corrupt(
    image: np.ndarray,
    condition: str,
    severity: int,
    seed: int,
    image_id: str,
    hand: anatomy.Hand | None = None,
) -> np.ndarray:
    """Make one photograph worse.

    Args:
        image: (H, W, 3) uint8, RGB; left as it is.
        condition: a name in CONDITIONS.
        severity: 1 (slight) to 5 (strong); 0 leaves the picture as it is.
        seed: of the draw, 0 or more.
        image_id: of the draw; two images with one id are changed in the same way.
        hand: what `anatomy.read` says of this image, for those in ON_THE_HAND, if it is known;
            read here if not. Where no hand is found one is assumed in the middle of the picture.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        InputError: unknown condition, or a severity out of range.
        ValueError: other shape or type.
    """
    if condition not in CONDITIONS:
        raise InputError(f"condition {condition!r}: choose {', '.join(CONDITIONS)}")
    if severity not in (0, *SEVERITIES):
        raise InputError(f"severity {severity!r} of {condition}: choose 0 (unchanged) to 5")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"(H, W, 3) uint8 is wanted, not {image.shape} {image.dtype}")
    if severity == 0:
        return image.copy()
    image = np.ascontiguousarray(image)
    digest = hashlib.sha256(f"{seed}\n{condition}\n{image_id}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    if condition in ON_THE_HAND:
        hand = hand or anatomy.read(image)
        return ON_THE_HAND[condition](image, hand, severity, draw)
    return CONDITIONS[condition](image, severity, draw)


def batch(
    pixels: np.ndarray,
    condition: str,
    severity: int,
    seed: int,
    image_ids: Sequence[str],
    workers: int = 0,
    hands: Sequence[anatomy.Hand] | None = None,
) -> np.ndarray:
    """Make many photographs worse, each as `corrupt` does it alone.

    Args:
        pixels: (N, H, W, 3) uint8, RGB, e.g. rows of `images.decode`.
        condition: as for `corrupt`, likewise severity and seed.
        image_ids: one for each image.
        workers: threads; 0 for one per core.
        hands: of `hands` for the same pixels, worth it where several conditions or severities
            follow each other.

    Returns:
        (N, H, W, 3) uint8.
    """
    image_ids = list(image_ids)
    known = [None] * len(image_ids) if hands is None else list(hands)
    if not len(pixels) == len(image_ids) == len(known):
        raise ValueError(f"{len(pixels)} images, {len(image_ids)} ids, {len(known)} hands")
    found = np.empty(pixels.shape, np.uint8)

    def one(row: int) -> None:
        found[row] = corrupt(pixels[row], condition, severity, seed, image_ids[row], known[row])

    _each(one, len(pixels), workers)
    return found


def hands(pixels: np.ndarray, workers: int = 0) -> list[anatomy.Hand]:
    """Read the hand in each picture (N, H, W, 3) once, for `batch`; a byte of memory a pixel."""
    found: list[anatomy.Hand] = [None] * len(pixels)

    def one(row: int) -> None:
        found[row] = anatomy.read(pixels[row])

    _each(one, len(pixels), workers)
    return found


def _each(work: Callable[[int], None], count: int, workers: int) -> None:
    """Work on rows in threads: OpenCV and large arrays run beside each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, min(workers or cores or 1, count // 4))
    if threads == 1:
        for row in range(count):
            work(row)
    else:
        with ThreadPool(threads) as pool:
            pool.map(work, range(count), chunksize=max(1, count // (8 * threads)))


# --- light -------------------------------------------------------------------------------------


def _gain(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Each channel (3,) times its gain, by a table of the 256 values."""
    table = np.clip(np.rint(np.arange(256)[:, None] * gains), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])


def _exposed(stops: float, image: np.ndarray, severity: int, draw: np.random.Generator
             ) -> np.ndarray:  # fmt: skip
    """Another exposure, by `stops` at each severity (about: +- 10 %)."""
    return _gain(image, np.full(3, 2 ** (stops * severity * draw.uniform(0.9, 1.1) / GAMMA)))


def _colour_cast(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Coloured light of any hue; the channel that it has most of stays as it is."""
    turn = draw.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
    gains = np.exp(0.05 * severity * np.cos(turn))
    return _gain(image, gains / gains.max())


def _uneven_light(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Light from one side: full there, less and less towards the other."""
    turn = draw.uniform(0, 2 * np.pi)
    height, width = image.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] * np.float32(np.cos(turn))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(np.sin(turn))
    far = (x + y) / (abs(np.cos(turn)) + abs(np.sin(turn))) / 2 + 0.5  # 0 near the lamp .. 1
    light = np.exp(np.float32(-0.3 * severity) * far.astype(np.float32))
    return cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U)


# --- pose: what is laid bare has the colour of the paper at the border -------------------------


def _moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The picture under a map of pixel places, (2, 3) or (3, 3), from old to new."""
    warp = cv2.warpAffine if len(matrix) == 2 else cv2.warpPerspective
    paper = masks.background(image).tolist()
    return warp(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT, borderValue=paper)  # fmt: skip


def _middle(image: np.ndarray) -> tuple[float, float]:
    return (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2


def _sign(draw: np.random.Generator) -> float:
    return 1.0 if draw.random() < 0.5 else -1.0


def _rotation(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Turned in the plane to either side by about 8 degrees at each severity."""
    angle = _sign(draw) * 8 * severity * draw.uniform(0.9, 1.1)
    return _moved(image, cv2.getRotationMatrix2D(_middle(image), angle, 1.0))


def _perspective(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """The paper tilted by about 10 degrees at each severity, round any line through its middle.

    Seen from twice the longer side away.
    """
    turn, tilt = draw.uniform(0, 2 * np.pi), np.deg2rad(10 * severity * draw.uniform(0.9, 1.1))
    distance = 2.0 * max(image.shape[:2])
    rotate, _ = cv2.Rodrigues(tilt * np.array([np.cos(turn), np.sin(turn), 0]))
    x, y = _middle(image)
    centre = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    plane = np.column_stack([rotate[:, :2], [0, 0, distance]])  # the paper in front of the camera
    camera = np.array([[distance, 0, x], [0, distance, y], [0, 0, 1]])
    return _moved(image, camera @ plane @ centre)


def _scale(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Nearer or farther by about a tenth at each severity."""
    factor = np.exp(_sign(draw) * 0.1 * severity * draw.uniform(0.9, 1.1))
    return _moved(image, cv2.getRotationMatrix2D(_middle(image), 0, factor))


def _translation(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Moved in any direction by about a twentieth of the shorter side at each severity."""
    turn = draw.uniform(0, 2 * np.pi)
    far = 0.055 * severity * draw.uniform(0.9, 1.1) * min(image.shape[:2])
    return _moved(image, np.array([[1, 0, far * np.cos(turn)], [0, 1, far * np.sin(turn)]]))


# --- sharpness ---------------------------------------------------------------------------------


def _blur(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Gaussian, its sigma about 1/200 of the shorter side at each severity."""
    sigma = severity * draw.uniform(0.9, 1.1) * min(image.shape[:2]) / 200
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def _noise(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Gaussian, of a standard deviation of 9 grey levels more at each severity."""
    grain = draw.standard_normal(image.shape, dtype=np.float32)
    return cv2.add(image, grain * np.float32(9 * severity), dtype=cv2.CV_8U)


def _jpeg(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Compressed to a QUALITY; where its blocks of 8 x 8 (colour: 16 x 16) begin is drawn."""
    top, left = draw.integers(0, 16, 2).tolist()
    wider = cv2.copyMakeBorder(image, top, 0, left, 0, cv2.BORDER_REPLICATE)
    how = [cv2.IMWRITE_JPEG_QUALITY, QUALITY[severity - 1]]
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(wider, cv2.COLOR_RGB2BGR), how)
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)[top:, left:].copy()


def _low_resolution(image: np.ndarray, severity: int, draw: np.random.Generator) -> np.ndarray:
    """Fewer pixels, about 1.45 times fewer a side at each severity, and enlarged again."""
    factor = (1.45 * draw.uniform(0.95, 1.05)) ** severity
    height, width = image.shape[:2]
    few = max(2, round(width / factor)), max(2, round(height / factor))
    coarse = cv2.resize(image, few, interpolation=cv2.INTER_AREA)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


# Condition -> what does it; in the order of tables and figures, kind by kind.
ON_THE_HAND = {
    name: getattr(occlusions, name)
    for name in ("missing_fingertips", "ring", "bracelet", "sleeve", "blocks")
}
CONDITIONS: dict[str, Callable] = {
    "darker": partial(_exposed, -0.75),
    "brighter": partial(_exposed, 0.22),
    "colour_cast": _colour_cast,
    "uneven_light": _uneven_light,
    "rotation": _rotation,
    "perspective": _perspective,
    "scale": _scale,
    "translation": _translation,
    **ON_THE_HAND,
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "low_resolution": _low_resolution,
}
KINDS: dict[str, str] = {
    **dict.fromkeys(("darker", "brighter", "colour_cast", "uneven_light"), "lighting"),
    **dict.fromkeys(("rotation", "perspective", "scale", "translation"), "pose"),
    "missing_fingertips": "pose",
    **dict.fromkeys(("ring", "bracelet", "sleeve", "blocks"), "occlusion"),
    **{name: name.replace("_", " ") for name in ("blur", "noise", "jpeg", "low_resolution")},
}
