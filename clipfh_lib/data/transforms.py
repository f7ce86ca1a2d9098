"""What stands between uint8 pixels and a model: scaling and the model's own normalisation."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
