"""Tensors -> one scalar; what has no parameters of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    images: Tensor, texts: Tensor, scale: Tensor | float, true: Tensor | None = None
) -> Tensor:
    """Pull each image to its own text and push it from the others of the batch, both ways.

    van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4
    (arXiv:1807.03748); symmetric as in Radford et al., CLIP, ICML 2021, fig. 3 (arXiv:2103.00020).
    Row i of both belongs together; a text that stands twice counts as a negative of its twin,
    unless `true` says which text is true of which image: then the mean over all that are.

    Args:
        images: (B, D) float, any norm; normalised here.
        texts: (B, D) likewise.
        scale: multiplies the cosine similarity: the inverse temperature, above 0.
        true: (B, B) bool, rows are images; holds the diagonal.

    Returns:
        Scalar, the mean of image-to-text and text-to-image cross-entropy.

    Raises:
        ValueError: the shapes differ, or one pair alone, which has no negative.
    """
    if images.shape != texts.shape or len(images) < 2:
        raise ValueError(
            f"needs two or more pairs, got {tuple(images.shape)}, {tuple(texts.shape)}"
        )
    images, texts = F.normalize(_wide(images), dim=1), F.normalize(_wide(texts), dim=1)
    logits = scale * _products(images, texts)  # (B, B)
    if true is not None:
        return (_to_positives(logits, true) + _to_positives(logits.T, true.T)) / 2
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def supervised_contrastive(embeddings: Tensor, pids: Tensor, temperature: float = 0.07) -> Tensor:
    """Pull images of one person together and push all others away.

    Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, eq. 2 (arXiv:2004.11362).
    Anchors without a positive in the batch are left out of the mean.

    Args:
        embeddings: (B, D) float, any norm; normalised here.
        pids: (B,) integer person ids.
        temperature: divides the cosine similarity; dimensionless, above 0.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: if no person appears twice, so that nothing can be pulled together.
    """
    z = F.normalize(_wide(embeddings), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (pids[:, None] == pids[None, :]) & ~itself  # (B, B)
    if not positive.any():
        raise ValueError("no positive pair in the batch: every person appears once")
    similarity = (_products(z, z) / temperature).masked_fill(itself, float("-inf"))  # (B, B)
    log_prob = similarity.log_softmax(dim=1).masked_fill(~positive, 0.0)
    count = positive.sum(dim=1)  # (B,)
    return -(log_prob.sum(dim=1)[count > 0] / count[count > 0]).mean()


def batch_hard_triplet(embeddings: Tensor, pids: Tensor, margin: float | None = 0.3) -> Tensor:
    """Bring each image nearer to its farthest positive than to its nearest negative.

    Hermans et al., In Defense of the Triplet Loss, 2017, L_BH (arXiv:1703.07737): the mean over
    anchors of [margin + d(hardest positive) - d(hardest negative)]+, or of
    ln(1 + exp(d(hardest positive) - d(hardest negative))) as the soft margin. Anchors without a
    positive or without a negative are left out of the mean. Images at distance 0 pull with
    gradient 0; equally hard ones share theirs.

    Args:
        embeddings: (B, D) float; not normalised here, the distance is Euclidean, not squared.
        pids: (B,) integer person ids.
        margin: in units of the distance, 0 or above; None for the soft margin.

    Returns:
        Scalar: a distance, or with the soft margin nats.

    Raises:
        ValueError: no anchor has both a positive and a negative.
    """
    wide = _wide(embeddings)
    # Without the shortcut over x*x - 2*x*y + y*y, which loses small distances to cancellation.
    distance = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    same = pids[:, None] == pids[None, :]
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    usable = positive.any(dim=1) & ~same.all(dim=1)  # (B,)
    if not usable.any():
        raise ValueError("no triplet in the batch: needs a person with two images, and another one")
    farthest = distance.masked_fill(~positive, float("-inf"))[usable].amax(dim=1)
    nearest = distance.masked_fill(same, float("inf"))[usable].amin(dim=1)
    apart = farthest - nearest
    return (F.softplus(apart) if margin is None else F.relu(apart + margin)).mean()


def image_to_text(
    images: Tensor,
    texts: Tensor,
    pids: Tensor,
    temperature: float | Tensor = 1.0,
    true: Tensor | None = None,
) -> Tensor:
    """Tell each image's own text from all texts of the batch.

    Li et al., CLIP-ReID, AAAI 2023, first stage, L_i2t (arXiv:2211.13977), y_i the person of i:
    mean over i of -ln(exp(V_i T_y_i) / sum over a of exp(V_i T_y_a)), where a runs over the images
    of the batch. A person's text so stands in the sum once for each of its images: the least value
    is ln K with K images of each. If texts of one person differ, the mean over them; if not, the
    mean of this and `text_to_image` is `info_nce`, but for the norms. Unlike
    `supervised_contrastive` no pair of images is compared and the own text is a positive; a lone
    image counts.

    Args:
        images: (B, D) float; not normalised here, the norm counts, as in the paper.
        texts: (B, D) likewise; row i is the text of the person on image i.
        pids: (B,) integer person ids.
        temperature: divides the dot products, above 0; for unit vectors it is needed.
        true: (B, B) bool, whether text j is true of image i, where people may share one: another
            person's image is then no error for the text, and is left out of the sum.

    Returns:
        Scalar, in nats; a batch of one person has nothing to tell apart and gives ln B.

    Raises:
        ValueError: the shapes differ.
    """
    return _to_own_person(images, texts, pids, temperature, true)


def text_to_image(
    images: Tensor,
    texts: Tensor,
    pids: Tensor,
    temperature: float | Tensor = 1.0,
    true: Tensor | None = None,
) -> Tensor:
    """Tell all images of each text's person from the other images of the batch.

    Li et al., CLIP-ReID, AAAI 2023, first stage, L_t2i (arXiv:2211.13977), P(y) the images of
    person y: mean over the batch's texts y_i, and over p in P(y_i), of
    -ln(exp(V_p T_y_i) / sum over a of exp(V_a T_y_i)), where a runs over the images of the batch.
    The other positives stand in the sum. Unlike `supervised_contrastive` no pair of images is
    compared and the own image is a positive; a lone image counts.

    Args:
        images: (B, D) float; not normalised here, the norm counts, as in the paper.
        texts: (B, D) likewise; row i is the text of the person on image i.
        pids: (B,) integer person ids.
        temperature: divides the dot products, above 0; for unit vectors it is needed.
        true: (B, B) as in `image_to_text`, rows are images.

    Returns:
        Scalar, in nats; at least the mean over images of ln(images of that person).

    Raises:
        ValueError: the shapes differ.
    """
    return _to_own_person(texts, images, pids, temperature, None if true is None else true.T)


def image_to_people(
    images: Tensor,
    texts: Tensor,
    targets: Tensor,
    smoothing: float = 0.1,
    temperature: float = 1.0,
) -> Tensor:
    """Tell each image's own text from the texts of all people of the training set.

    Li et al., CLIP-ReID, AAAI 2023, second stage, L_i2tce (arXiv:2211.13977): cross-entropy of the
    softmax over the P dot products against 1 - smoothing on the own text plus smoothing / P on
    every one. Gradients reach both sides: `texts` that shall stay come detached.

    Args:
        images: (B, D) float; not normalised here, the norm counts, as in the paper.
        texts: (P, D) likewise, one for each person.
        targets: (B,) rows of `texts`, 0..P-1.
        smoothing: 0..1, dimensionless.
        temperature: divides the dot products, above 0; for unit vectors it is needed.

    Returns:
        Scalar, in nats.
    """
    logits = _products(images, texts) / temperature  # (B, P)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def _to_own_person(
    anchors: Tensor,
    others: Tensor,
    pids: Tensor,
    temperature: float | Tensor,
    true: Tensor | None,
) -> Tensor:
    """Mean over anchors of the mean over `others` of the same person of -ln softmax."""
    if anchors.shape != others.shape or pids.shape != anchors.shape[:1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (anchors, others, pids))
        raise ValueError(f"needs an image, a text and a pid in each row, got {shapes}")
    positive = pids[:, None] == pids[None, :]  # (B, B), with the diagonal
    logits = _products(anchors, others) / temperature
    if true is not None:
        logits = logits.masked_fill(true & ~positive, float("-inf"))
    return _to_positives(logits, positive)


def _to_positives(logits: Tensor, positive: Tensor) -> Tensor:
    """Mean over rows of the mean over their positives of -ln softmax; every row has one."""
    log_prob = logits.log_softmax(dim=1).masked_fill(~positive, 0.0)
    return -(log_prob.sum(dim=1) / positive.sum(dim=1)).mean()


def _products(left: Tensor, right: Tensor) -> Tensor:
    """(A, D), (B, D) -> (A, B) dot products.

    In float32 or better under autocast too: a product of 100 would be off by up to 0.25 in bf16.
    """
    with torch.autocast(left.device.type, enabled=False):
        return _wide(left) @ _wide(right).T


def _wide(values: Tensor) -> Tensor:
    """In float32 or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
