"""Joint training: both encoders of a CLIP, images of a person and their prompts together."""

import math
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipfh_lib import files, plans, runs
from clipfh_lib.data import loaders
from clipfh_lib.data.loaders import Batch
from clipfh_lib.data.pairs import Pairs
from clipfh_lib.data.splits import Prepared
from clipfh_lib.data.transforms import normalise
from clipfh_lib.files import InputError
from clipfh_lib.models import objective, optimisers, prompts, spoken, towers
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.words import JointParams


class Joint(L.LightningModule):
    """Both encoders under the losses that a recipe switches on, over images and their prompts.

    The losses with text hold an image against the prompts of the batch: those of its person are
    right (`supcon`), or those that are true of it (`infonce`). A prompt that is true of another
    person's image too is no error for that image; see `losses.image_to_text`.

    Args:
        encoder: a CLIP of `backbones.load`; trained in place.
        preprocess: mean and std of its pixels.
        p: the recipe.
        targets: (N,) index of the person on each training image, by row of the table.
        pairs: the training images, in the same order, and what is said of them.
        steps: batches of an epoch.

    Raises:
        InputError: a level that the backbone has not, more blocks to free than there are.
    """

    def __init__(
        self,
        encoder: nn.Module,
        preprocess: Preprocess,
        p: JointParams,
        targets: np.ndarray,
        pairs: Pairs,
        steps: int,
    ):
        super().__init__()
        self.encoder, self.preprocess, self.p, self.steps = encoder, preprocess, p, steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(p.seed)
            people = int(targets.max()) + 1
            self.heads = objective.Objective(p, towers.widths(encoder), people)
        self.targets, self.pairs = torch.tensor(targets), pairs
        self.said = pairs.drawn(p.seed, 0)  # text of each image in this epoch
        self.bound()
        self.free(0)

    @property
    def kept(self) -> nn.Module:
        """Whose weights are kept: both encoders and the scale."""
        return self.encoder

    def free(self, epoch: int) -> None:
        """Freeze what the recipe freezes in an epoch; the scale learns unless it has one."""
        towers.free(self.encoder, self.p.fit, epoch)
        self.encoder.logit_scale.requires_grad_(self.p.loss_text_temperature is None)

    @torch.no_grad()
    def bound(self) -> None:
        """Keep the inverse temperature at `scale_max` at the most, as in CLIP."""
        self.encoder.logit_scale.clamp_(max=math.log(self.p.fit.scale_max))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, F), what is compared at test time."""
        return self.heads.feature(towers.levels(self.encoder, images))

    def embedder(self) -> nn.Module:
        """Has `encode_image`: what is compared at test time."""
        return objective.embedder(self.encoder, self.heads)

    def logits(self, images: Tensor) -> Tensor | None:
        """(B, 3, H, W) -> (B, P), one for each training person; none without a head for that."""
        return self.heads.logits(towers.levels(self.encoder, images))

    def on_fit_start(self) -> None:
        """Convolutions run faster in another order of memory."""
        towers.lay_out(self.encoder, training=True)

    def on_fit_end(self) -> None:
        """Back to the usual order, which embeddings are made in."""
        towers.lay_out(self.encoder, training=False)

    def on_train_epoch_start(self) -> None:
        """Free the blocks of this epoch, hold frozen batch norms, draw what `spoken` draws too."""
        self.free(self.current_epoch)
        self.said = self.pairs.drawn(self.p.seed, self.current_epoch)

    def on_train_batch_end(self, *_: object) -> None:
        """The scale may have gone beyond its bound."""
        self.bound()

    def true(self, rows: Tensor) -> Tensor:
        """Whether what is said of the j-th of some rows is true of the i-th image: (B, B)."""
        rows = rows.cpu().numpy()
        return torch.from_numpy(self.pairs.links[rows][:, self.said[rows]].toarray())

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch; logs its terms, the scale, how often a right prompt is the nearest."""
        how = self.preprocess
        images = normalise(batch.pixels, how.mean, how.std, self.device)
        levels = towers.levels(self.encoder, images)
        said, which = batch.texts.unique(dim=0, return_inverse=True)  # each text once
        texts = prompts.encode(self.encoder, said)[which]
        targets = self.targets[batch.rows.cpu()].to(self.device)
        true = self.true(batch.rows).to(self.device)
        scale = self.encoder.logit_scale.exp()
        warm = {} if self.p.loss_text_temperature is not None else {"scale": scale}
        terms = self.heads(levels, targets, texts, true=true, **warm)
        loss = self.heads.total(terms)
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **size)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, **size)
        if warm:
            self.log("train/logit_scale", scale, **size)
        with torch.no_grad():
            nearest = (levels["projected"] @ normalize(texts, dim=1).T).argmax(dim=1)
            right = true[torch.arange(len(true)), nearest] | (targets[nearest] == targets)
            self.log("train/accuracy", right.float().mean(), **size)
        return loss

    def configure_optimizers(self) -> dict:
        """Groups, optimiser and schedule of the recipe."""
        fit = self.p.fit
        self.free(fit.epochs)  # what is freed at some time stands in its group from the start
        named = optimisers.of_fit(self.encoder, self.heads, fit)
        self.free(self.current_epoch)
        optimizer = optimisers.make(named, fit)
        if fit.schedule == "plateau":
            self.plateau = optimisers.plateau(optimizer, fit, fit.best_by)
        return optimisers.scheduled(optimizer, fit, -(-self.steps // fit.accumulate))


def warmed(p: JointParams, outputs: str | Path) -> JointParams:
    """The parameters with the weights that the recipe begins with; see `plans.warmed`.

    Raises:
        InputError: the run that should have them is not complete.
    """
    found = plans.warmed(p, outputs)
    if found.model.weights != p.model.weights:
        folder = files.resolve(found.model.weights)
        if not runs.is_complete(folder):
            raise InputError(
                f"warm_start {p.warm_start}: {found.model.weights} is no complete run; run "
                f"03_fine_tune with recipe {p.warm_start} and the same data set, backbone and seed "
                "first, or set warm_start to null"
            )
    return found


Epochs = Callable[[int], tuple[Tensor, Tensor]]


def make(
    encoder: nn.Module, preprocess: Preprocess, data: Prepared, pairs: Pairs, p: JointParams
) -> tuple[Joint, loaders.HandImages, Epochs]:
    """The method for the training images that have prompts, those images, and their prompts.

    Args:
        data: the split; its root and folder count.
        pairs: training images and their prompts.

    Returns:
        The method, the images in the order of `pairs.table`, and the prompts of each epoch, for
        `loaders.training`.

    Raises:
        InputError: the backbone reads no text, nobody to train on, fewer people or images than a
            batch, and what `Joint` raises.
    """
    if not prompts.reads_text(encoder):
        raise InputError(f"model.name: {p.model.name} reads no text; joint training needs a CLIP")
    size = preprocess.size(p.data.resize)
    images = loaders.HandImages(pairs.table, data.root, size, p.loader.workers)
    targets = loaders.classes(images.table)
    steps = len(loaders.training(images, targets, p.fit, p.seed)(0))
    texts = spoken.of_epochs(pairs, p.vary, p.seed, encoder.context_length)
    return Joint(encoder, preprocess, p, targets, pairs, steps), images, texts
