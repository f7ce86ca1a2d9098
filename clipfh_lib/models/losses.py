"""Tensors -> one scalar, in nats."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(images: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """Pull each image to its own text and push it from the others of the batch, both ways.

    van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4
    (arXiv:1807.03748); symmetric as in Radford et al., CLIP, ICML 2021, fig. 3 (arXiv:2103.00020).
    Row i of both belongs together; a text that stands twice counts as a negative of its twin.

    Args:
        images: (B, D) float, any norm; normalised here.
        texts: (B, D) likewise.
        scale: multiplies the cosine similarity: the inverse temperature, above 0.

    Returns:
        Scalar, the mean of image-to-text and text-to-image cross-entropy.

    Raises:
        ValueError: the shapes differ, or one pair alone, which has no negative.
    """
    if images.shape != texts.shape or len(images) < 2:
        raise ValueError(
            f"needs two or more pairs, got {tuple(images.shape)}, {tuple(texts.shape)}"
        )
    logits = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
