"""What stands between uint8 pixels and a model: training's changes, scaling, normalisation.

`augment` changes a batch at once, each image by its own draws. Its steps are sums and products of
single pixels, and what is fine-grained is summed as integers: an image comes out bit for bit the
same alone or in any batch, which a matrix product or `addcmul` does not promise.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from clipfh_lib.files import InputError
from clipfh_lib.schema import AugmentParams

# What is drawn for an image, in this order, whether it is used or not: switching one change on
# leaves the draws of the others alone.
DRAWN = (
    "flip flip_vertical angle area left top shift_x shift_y brightness contrast saturation sigma "
    "erase erased_area erased_ratio erased_left erased_top red green blue"
).split()
GREY = (0.2989, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601), as torchvision has them
ERASED_AREA = 0.02, 1 / 3  # share of the picture (Zhong et al., AAAI 2020, and timm)
ERASED_RATIO = 0.3, 1 / 0.3  # height : width, drawn evenly on a logarithmic scale


def normalise(
    pixels: np.ndarray | Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device = "cpu",
) -> Tensor:
    """Pixels -> the model's input, as `ToTensor` and `Normalize` of its own preprocessing make it.

    uint8 goes to the device first: it is a quarter of the bytes, and the arithmetic is done there.

    Args:
        pixels: (B, H, W, 3) uint8, RGB, e.g. rows of `images.decode`.
        mean: of each channel, of values 0..1.
        std: likewise.
        device: where the result shall be.

    Returns:
        (B, 3, H, W) float32.

    Raises:
        ValueError: other shape or type; floats may already be scaled, and would be scaled again.
    """
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.array(pixels))  # a copy: rows of a memory map are read-only
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"(B, H, W, 3) uint8 is wanted, not {tuple(pixels.shape)} {pixels.dtype}")
    scaled = pixels.to(device).permute(0, 3, 1, 2).contiguous().float().div_(255)
    middle, spread = (torch.tensor(v, device=device).view(3, 1, 1) for v in (mean, std))
    return scaled.sub_(middle).div_(spread)


def draws(seed: int, epoch: int, rows: Sequence[int]) -> np.ndarray:
    """Numbers that decide how images are changed, from seed, epoch and row alone.

    A row that stands twice among `rows` gets other numbers for its second copy: a sampler repeats
    the images of people who have few, and equal copies would teach nothing.

    Returns:
        (B, len(DRAWN)) float64 in [0, 1).
    """
    copies, found = Counter(), []
    for row in rows:
        row = int(row)
        # + 1: numpy takes [seed, epoch, 0, 0] for [seed, epoch], from which samplers draw
        found.append(np.random.default_rng([seed, epoch, row + 1, copies[row]]).random(len(DRAWN)))
        copies[row] += 1
    return np.array(found).reshape(-1, len(DRAWN))


def mirrored(how: AugmentParams, drawn: np.ndarray) -> np.ndarray:
    """Which images `augment` makes mirror images of, so that a right hand is a left one: (B,)."""
    by = dict(zip(DRAWN, drawn.T, strict=True))
    return (by["flip"] < how.flip) ^ (by["flip_vertical"] < how.flip_vertical)


def augment(pixels: Tensor, how: AugmentParams, drawn: np.ndarray) -> Tensor:
    """Training images, each changed by its own draws; the work is done where `pixels` are.

    In this order: crop, rotation, flips and shift in one bilinear step, white beyond the picture;
    brightness, contrast, saturation as in torchvision; Gaussian blur; a rectangle of one random
    colour (Zhong et al., Random Erasing Data Augmentation, AAAI 2020, with ERASED_AREA and
    ERASED_RATIO). A crop keeps the ratio of the sides, since that of a hand tells people apart.

    Args:
        pixels: (B, H, W, 3) uint8; left as they are.
        how: what is switched on, and by how much.
        drawn: (B, len(DRAWN)) of `draws`.

    Returns:
        (B, H, W, 3) uint8; `pixels` themselves when nothing is switched on.

    Raises:
        ValueError: other shape or type.
        InputError: pad or blur that the picture is too small for.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"(B, H, W, 3) uint8 is wanted, not {tuple(pixels.shape)} {pixels.dtype}")
    if how == AugmentParams():
        return pixels
    side = min(pixels.shape[1:3])
    if how.pad >= side or 3 * how.blur > side - 1:
        name, value, most = (
            ("pad", how.pad, side - 1) if how.pad >= side else ("blur", how.blur, (side - 1) / 3)
        )
        raise InputError(f"augment.{name} is {value}, at {side} pixels {most:.3g} is the most")
    by = dict(zip(DRAWN, drawn.T, strict=True))
    images = pixels.permute(0, 3, 1, 2).float()  # (B, 3, H, W), 0..255
    if how.crop < 1 or how.rotation or how.pad or how.flip or how.flip_vertical:
        images = _moved(images, how, by)
    for name in ("brightness", "contrast", "saturation"):
        if spread := getattr(how, name):
            images = _blended(images, name, _column(1 + spread * (2 * by[name] - 1), images))
    if how.blur:
        images = _blurred(images, how.blur, by["sigma"])
    if how.erase:
        images = _erased(images, how.erase, by)
    return images.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    """A number an image, worked out in float64, as (B, 1, 1, 1)."""
    return torch.from_numpy(values.astype(np.float32)).to(like.device).view(-1, 1, 1, 1)


def _moved(images: Tensor, how: AugmentParams, by: dict[str, np.ndarray]) -> Tensor:
    """Each pixel of the result looks up where it comes from; pixels count from the centre."""
    height, width = images.shape[2:]
    kept = np.sqrt(1 - (1 - how.crop) * by["area"])  # of both sides
    turn = np.deg2rad(how.rotation * (2 * by["angle"] - 1))
    spans = 2 * how.pad + 1
    place = []
    for size, flip, shift in ((width, "flip", "shift_x"), (height, "flip_vertical", "shift_y")):
        line = torch.arange(size, device=images.device) - (size - 1) / 2
        line = line - _column(np.floor(spans * by[shift]) - how.pad, images)
        place.append(line * _column(np.where(by[flip] < getattr(how, flip), -1, 1), images))
    x, y = place[0], place[1].transpose(2, 3)  # (B, 1, 1, W), (B, 1, H, 1)
    cos, sin = _column(kept * np.cos(turn), images), _column(kept * np.sin(turn), images)
    off_x = _column((by["left"] - 0.5) * (1 - kept) * width, images)
    off_y = _column((by["top"] - 0.5) * (1 - kept) * height, images)
    from_x = (x * cos - y * sin + off_x) * (2 / width)
    from_y = (x * sin + y * cos + off_y) * (2 / height)
    grid = torch.stack([from_x[:, 0], from_y[:, 0]], dim=-1)  # (B, H, W, 2), -1..1
    dark = images.neg_().add_(255)  # grid_sample fills with 0, which shall be white
    return grid_sample(dark, grid, align_corners=False).neg_().add_(255).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (red * GREY[0] + green * GREY[1] + blue * GREY[2])[:, None]


def _blended(images: Tensor, name: str, factor: Tensor) -> Tensor:
    """Away from black, from the mean grey of the picture, or from the grey of each pixel."""
    if name == "brightness":
        return images.mul_(factor).clamp_(0, 255)
    base = _grey(images)
    if name == "contrast":
        whole = base.round_().int().sum((1, 2, 3), keepdim=True)  # integers: in any order the same
        base = whole.float() / base[0].numel()
    return images.sub_(base).mul_(factor).add_(base).clamp_(0, 255)


def _blurred(images: Tensor, largest: float, drawn: np.ndarray) -> Tensor:
    """Rows, then columns; what lies beyond the edge is mirrored."""
    reach = int(np.ceil(3 * largest))
    sigma = np.maximum(largest * drawn, 1e-3)[:, None]  # so small a one changes nothing
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights /= weights[:, :1] + 2 * weights[:, 1:].sum(1, keepdims=True)
    weights = [_column(weight, images) for weight in weights.T]
    for axis, ring in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        size = images.shape[axis]
        wide, both = pad(images, ring, "reflect"), torch.empty_like(images)
        images.mul_(weights[0])
        for step in range(1, reach + 1):
            ends = (wide.narrow(axis, reach + way, size) for way in (-step, step))
            images.add_(torch.add(*ends, out=both).mul_(weights[step]))
    return images.clamp_(0, 255)


def _erased(images: Tensor, probability: float, by: dict[str, np.ndarray]) -> Tensor:
    height, width = images.shape[2:]
    low, high = ERASED_AREA
    area = (low + (high - low) * by["erased_area"]) * height * width
    low, high = np.log(ERASED_RATIO)
    ratio = np.exp(low + (high - low) * by["erased_ratio"])
    inside = []
    for size, wanted, start in (
        (width, np.sqrt(area / ratio), "erased_left"),
        (height, np.sqrt(area * ratio), "erased_top"),
    ):
        length = np.clip(np.round(wanted), 1, size)
        first = np.floor(by[start] * (size - length + 1))
        line = torch.arange(size, device=images.device)
        inside.append((line >= _column(first, images)) & (line < _column(first + length, images)))
    mask = inside[0] & inside[1].transpose(2, 3)
    mask &= _column(by["erase"], images) < probability
    colour = torch.cat([_column(255 * by[name], images) for name in ("red", "green", "blue")], 1)
    return torch.where(mask, colour, images)
