"""Images that a text is easily taken for and that are none of its own: hard negatives."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ANCHOR_BLOCK, IMAGE_BLOCK = 1024, 8192  # float32 scores and a mask of both: 40 MB


@torch.inference_mode()
def hard(
    anchors: np.ndarray | Tensor,
    images: np.ndarray | Tensor,
    anchor_groups: np.ndarray,
    image_groups: np.ndarray,
    count: int,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The images that are most similar to each anchor and no true match of it.

    Scores exist in blocks of `ANCHOR_BLOCK` x `IMAGE_BLOCK`, so memory grows with anchors and with
    images, not with their product; the arrays may be memory maps.

    Args:
        anchors: (A, D) float, any norm: embeddings of texts, or of images.
        images: (N, D) float, any norm.
        anchor_groups: (A,) integers, see Pairs.groups: images of the same group are true matches.
        image_groups: (N,) likewise.
        count: images of each anchor.
        device: where the scores are computed.

    Returns:
        (A, count) int64 rows of `images`, the most similar first; -1 fills up where an anchor has
        fewer images of other groups.
    """
    best = torch.full((len(anchors), count), -torch.inf)
    rows = torch.full((len(anchors), count), -1)
    for first in range(0, len(images), IMAGE_BLOCK):
        right = _unit(images[first : first + IMAGE_BLOCK], device)
        theirs = torch.as_tensor(image_groups[first : first + IMAGE_BLOCK], device=device)
        for start in range(0, len(anchors), ANCHOR_BLOCK):
            these = slice(start, start + ANCHOR_BLOCK)
            mine = torch.as_tensor(anchor_groups[these], device=device)
            scores = _unit(anchors[these], device) @ right.T
            scores.masked_fill_(mine[:, None] == theirs[None, :], -torch.inf)
            near = scores.topk(min(count, len(right)), dim=1)
            value = torch.cat([best[these], near.values.cpu()], dim=1)
            place = torch.cat([rows[these], near.indices.cpu() + first], dim=1)
            best[these], kept = value.topk(count, dim=1)
            rows[these] = place.gather(1, kept)
    return rows.masked_fill(best == -torch.inf, -1).numpy()


def random(
    anchor_groups: np.ndarray, image_groups: np.ndarray, count: int, seed: int | list[int]
) -> np.ndarray:
    """Images of other groups, drawn evenly: what `hard` is compared with.

    Args:
        anchor_groups: (A,) integers, see `hard`.
        image_groups: (N,) likewise.
        count: images of each anchor, none of them twice.
        seed: what numpy's `default_rng` takes.

    Returns:
        As `hard`, in random order.
    """
    draw, order = np.random.default_rng(seed), np.argsort(image_groups, kind="stable")
    first, last = (
        np.searchsorted(image_groups[order], anchor_groups, side) for side in ("left", "right")
    )
    found = np.full((len(anchor_groups), count), -1)
    for anchor, (start, end) in enumerate(zip(first, last, strict=True)):
        others = len(order) - (end - start)
        place = draw.choice(others, min(count, others), replace=False)
        found[anchor, : len(place)] = order[place + (end - start) * (place >= start)]
    return found


def _unit(rows: np.ndarray | Tensor, device: str | torch.device) -> Tensor:
    if isinstance(rows, np.ndarray):
        rows = torch.from_numpy(np.array(rows))  # a copy: rows of a memory map are read-only
    return F.normalize(rows.to(device).float(), dim=1)
