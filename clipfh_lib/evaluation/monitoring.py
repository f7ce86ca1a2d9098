"""What is measured between epochs: on people that are not trained, or on kept images of those."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfh_lib.data import loaders, transforms
from clipfh_lib.data.splits import Prepared
from clipfh_lib.evaluation import embeddings, validation
from clipfh_lib.files import InputError
from clipfh_lib.learning import ClipReidEncoderParams, TrainedParams
from clipfh_lib.models import losses
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import EmbedParams


class Trained(Protocol):
    """What a method that trains an image encoder offers between epochs."""

    def embedder(self) -> nn.Module:
        """Has `encode_image`: what is compared at test time."""

    def logits(self, images: Tensor) -> Tensor | None:
        """(B, 3, H, W) -> (B, P), one for each training person; none without a head for that."""


def measure(
    method: Trained,
    preprocess: Preprocess,
    data: Prepared,
    p: TrainedParams,
    trained: pd.DataFrame | None = None,
) -> Callable[[], dict[str, float]]:
    """What validation measures after an epoch: `unseen` or `seen`, by `data.val`.

    Args:
        trained: the images that are trained on, where that is a part of `data.train`; of people who
            are not among them no image is named.

    Returns:
        What is called after an epoch. With `fit.best_by: last` what cannot be measured is left out.

    Raises:
        InputError: nobody to validate on, nobody with two images that are far enough apart, or,
            with `data.val: published`, no head that names people; but for `fit.best_by: last`.
    """
    by = p.fit.best_by
    if data.val.empty:
        if by == "last":
            return dict
        raise InputError("data.val: the split keeps nobody for validation; take fit.best_by last")
    trained = data.train if trained is None else trained
    val = data.val if p.data.val == "held_out" else _of_classes(data.val, trained)
    images = loaders.HandImages(val, data.root, preprocess.size(p.data.resize), p.loader.workers)
    if p.data.val == "held_out":
        how = p.embed, p.evaluation.distance, by
        if by in ("rank1", "mAP"):  # says now, and not after an epoch, if nobody can be searched
            validation.leave_one_out(np.ones((len(images), 1), np.float32), images.table)
        return lambda: unseen(method.embedder(), preprocess, images, *how)
    texts = p.loss_use_i2t and isinstance(p, ClipReidEncoderParams)  # elsewhere of no person
    if not (p.loss_use_id or p.loss_use_arcface or p.loss_use_cosface or texts):
        if by == "last":
            return dict
        raise InputError(
            "data.val published needs a head that names people (loss_use_id, loss_use_arcface, "
            "loss_use_cosface, in clip_reid_encoder also loss_use_i2t); or take fit.best_by last, "
            "or data.val held_out"
        )
    both = loaders.classes(pd.concat([trained, images.table]))  # all of val are in train too
    device = embeddings.device(p.device)
    return lambda: seen(method.logits, preprocess, images, both[len(trained) :], device)


def _of_classes(val: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """The images of people, and aspects, that are trained."""
    known = pd.MultiIndex.from_frame(trained[["pid", "aspect"]])
    return val[pd.MultiIndex.from_frame(val[["pid", "aspect"]]).isin(known)]


def unseen(
    encoder: nn.Module,
    preprocess: Preprocess,
    data: loaders.HandImages,
    embed: EmbedParams,
    distance: str = "cosine",
    needed: str = "mAP",
) -> dict[str, float]:
    """How well people are told apart whom nobody trained on: `data.val: held_out`.

    Args:
        encoder: has `encode_image`, (B, 3, H, W) -> (B, D); in eval mode, stays on its device.
        data: their images; `aspect` and `file_number` where known.
        needed: the measure that must not be missing; another one is NaN where nobody has two
            images for it.

    Returns:
        `rank1` and `mAP` of leave-one-out retrieval (`validation.leave_one_out`), and `loss`, the
        supervised contrastive loss among all of them, a class being a person's aspect, in nats.
    """
    device = next(encoder.parameters()).device
    array = embeddings.encode(encoder, preprocess, data, embed, device, quiet=True)
    found = {"rank1": math.nan, "mAP": math.nan, "loss": math.nan}
    try:
        found |= validation.leave_one_out(array, data.table, distance)
    except InputError:
        if needed in ("rank1", "mAP"):
            raise
    people = torch.tensor(loaders.classes(data.table))
    try:
        found["loss"] = float(losses.supervised_contrastive(torch.from_numpy(array), people))
    except ValueError as error:
        if needed == "loss":
            raise InputError(f"data.val: {error}; take more people, or fit.best_by last") from None
    return found


@torch.inference_mode()
def seen(
    logits: Callable[[Tensor], Tensor],
    preprocess: Preprocess,
    data: loaders.HandImages,
    targets: np.ndarray,
    device: torch.device,
    batch: int = embeddings.CPU_BATCH,
) -> dict[str, float]:
    """How well kept images of the training people are named: `data.val: published`.

    Says nothing of people that are new.

    Args:
        logits: (B, 3, H, W) -> (B, P).
        targets: (N,) index 0..P-1 of the person on each image.

    Returns:
        `accuracy`, a fraction, and `loss`, the cross-entropy in nats.
    """
    found = []
    for images in loaders.batches(data, loaders.InOrder(len(data), batch)):
        pixels = transforms.normalise(images.pixels, preprocess.mean, preprocess.std, device)
        found.append(logits(pixels).float().cpu())
    scores, right = torch.cat(found), torch.tensor(targets)
    accuracy = (scores.argmax(dim=1) == right).float().mean()
    return {"accuracy": float(accuracy), "loss": float(F.cross_entropy(scores, right))}
