"""Images and texts with several true matches -> one scalar: equal ids never push each other away.

All take (B, D) images, (B, D) texts and (B,) integer ids: row i of both is a pair, and rows of one
id are true matches of each other. Any function of these three can take their place in a fit.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clipfh_lib.words import TextToImageParams

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def info_nce(images: Tensor, texts: Tensor, ids: Tensor, temperature: float = 0.07) -> Tensor:
    """Tell each true match from the negatives, image to text and text to image.

    van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4
    (arXiv:1807.03748), both ways as in Radford et al., CLIP, ICML 2021, fig. 3 (arXiv:2103.00020).
    The mean over anchors a, and over the matches p of a, of
    -ln(exp(s(a, p) / t) / (exp(s(a, p) / t) + sum over negatives n of exp(s(a, n) / t))): other
    matches stand in no denominator, so none is pushed away. With distinct ids it is
    `losses.info_nce`. A batch of one id has no negative and gives 0.

    Args:
        images: (B, D) float, any norm; normalised here.
        texts: (B, D) likewise.
        ids: (B,) integers; equal ones are true matches.
        temperature: divides the cosine; dimensionless, above 0.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: the shapes differ.
    """
    logits, same = _compared(images, texts, ids)
    return (_told(logits / temperature, same) + _told(logits.T / temperature, same)) / 2


def triplet(
    images: Tensor, texts: Tensor, ids: Tensor, margin: float = 0.5, negatives: str = "hardest"
) -> Tensor:
    """Bring each image nearer to its own text than to a negative one, and each text likewise.

    The mean over pairs of [margin - s(i, t) + s(i, t')]+ + [margin - s(i, t) + s(i', t)]+, with
    the negatives t', i' of the batch: `hardest`, the most similar ones (Faghri et al., VSE++, BMVC
    2018, eq. 6, arXiv:1707.05612), or `semi_hard`, the most similar of those that are less similar
    than the own one (Schroff et al., FaceNet, CVPR 2015, section 3.2, arXiv:1503.03832); where all
    are more similar, the least similar. Beyond the margin a negative costs nothing. An anchor
    without a negative gives 0.

    Args:
        images: (B, D) float, any norm; normalised here.
        texts: (B, D) likewise.
        ids: (B,) integers; equal ones are true matches.
        margin: of the cosine, 0 or above.
        negatives: `hardest` or `semi_hard`.

    Returns:
        Scalar, a cosine.

    Raises:
        ValueError: the shapes differ, or other negatives.
    """
    if negatives not in ("hardest", "semi_hard"):
        raise ValueError(f"negatives are hardest or semi_hard, not {negatives!r}")
    cosines, same = _compared(images, texts, ids)
    own = cosines.diagonal()
    total = own.new_zeros(())
    for each in (cosines, cosines.T):
        worst = each.masked_fill(same, float("-inf")).amax(dim=1)
        if negatives == "semi_hard":
            beyond = ~same & (each < own[:, None])
            nearest = each.masked_fill(~beyond, float("-inf")).amax(dim=1)
            least = each.masked_fill(same, float("inf")).amin(dim=1)
            worst = torch.where(beyond.any(dim=1), nearest, least)
        hinge = F.relu(margin - own + worst)
        total = total + hinge.masked_fill(same.all(dim=1), 0.0).mean()
    return total


def contrastive(
    images: Tensor,
    texts: Tensor,
    ids: Tensor,
    temperature: float = 0.07,
    margin: float = 0.5,
    count: int = 3,
) -> Tensor:
    """`info_nce`, and a margin to the negatives that are most easily taken for the own one.

    The second term is the mean over anchors, images and texts alike, of the mean of
    [margin - s(a, p) + s(a, n)]+ over the `count` negatives n of the batch that are most similar to
    a (hinges as in `triplet`); p is the anchor's own. Where there are fewer, over those that there
    are; an anchor without any gives 0.

    Args:
        images: (B, D) float, any norm; normalised here.
        texts: (B, D) likewise.
        ids: (B,) integers; equal ones are true matches.
        temperature: of `info_nce`.
        margin: of the cosine, 0 or above.
        count: negatives of an anchor, 1 or more.

    Returns:
        Scalar, nats and a cosine added up.

    Raises:
        ValueError: the shapes differ.
    """
    cosines, same = _compared(images, texts, ids)
    own, total = cosines.diagonal(), info_nce(images, texts, ids, temperature)
    there = (~same).sum(dim=1, keepdim=True).clamp(max=count)  # (B, 1)
    for each in (cosines, cosines.T):
        near = each.masked_fill(same, float("-inf")).topk(min(count, len(each)), dim=1).values
        used = torch.arange(near.shape[1], device=near.device) < there
        hinges = F.relu(margin - own[:, None] + near).masked_fill(~used, 0.0)
        total = total + (hinges.sum(dim=1) / there.clamp(min=1)[:, 0]).mean() / 2
    return total


def of(p: TextToImageParams) -> Loss:
    """The loss of a recipe, a function of images, texts and ids."""
    if p.loss == "info_nce":
        return lambda *batch: info_nce(*batch, p.temperature)
    if p.loss == "triplet":
        return lambda *batch: triplet(*batch, p.margin, p.triplets)
    return lambda *batch: contrastive(*batch, p.temperature, p.margin, p.negatives.count)


def _compared(images: Tensor, texts: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, B) cosines, also under autocast in float32 or better, and which of them are matches."""
    if images.shape != texts.shape or images.ndim != 2 or ids.shape != images.shape[:1]:
        shapes = ", ".join(str(tuple(each.shape)) for each in (images, texts, ids))
        raise ValueError(f"needs an image, a text and an id in each row, got {shapes}")
    with torch.autocast(images.device.type, enabled=False):
        wide = torch.promote_types(images.dtype, torch.float32)
        left, right = (F.normalize(each.to(wide), dim=1) for each in (images, texts))
        return left @ right.T, ids[:, None] == ids[None, :]


def _told(logits: Tensor, same: Tensor) -> Tensor:
    """Mean over rows of the mean over their matches of -ln of its share among the negatives."""
    against = logits.masked_fill(same, float("-inf")).logsumexp(dim=1)
    lost = F.softplus(against[:, None] - logits).masked_fill(~same, 0.0)  # (B, B)
    return (lost.sum(dim=1) / same.sum(dim=1)).mean()
