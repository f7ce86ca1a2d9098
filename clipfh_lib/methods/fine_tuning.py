"""Single-stage fine-tuning: the image encoder by the losses of a recipe, text frozen."""

from collections.abc import Sequence

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from clipfh_lib.data import captions, loaders
from clipfh_lib.data.loaders import Batch
from clipfh_lib.data.splits import Prepared
from clipfh_lib.data.transforms import normalise
from clipfh_lib.files import InputError
from clipfh_lib.learning import FineTuneParams
from clipfh_lib.models import objective, optimisers, prompts, towers
from clipfh_lib.models.backbones import Preprocess


class FineTuning(L.LightningModule):
    """An image encoder under the losses that a recipe switches on.

    Args:
        encoder: of `backbones.load`; trained in place.
        preprocess: mean and std of its pixels.
        p: the recipe.
        targets: (N,) index of the person on each training image, by row of the table.
        steps: batches of an epoch.
        texts: (T, L) token ids of all captions, for losses with text.
        text_ids: (N,) caption of each training image.

    Raises:
        InputError: more blocks to free than there are, a level that the backbone has not, a loss
            with text for a backbone that reads none.
    """

    def __init__(
        self,
        encoder: nn.Module,
        preprocess: Preprocess,
        p: FineTuneParams,
        targets: np.ndarray,
        steps: int,
        texts: Tensor | None = None,
        text_ids: np.ndarray | None = None,
    ):
        super().__init__()
        self.encoder, self.preprocess, self.p, self.steps = encoder, preprocess, p, steps
        people = int(targets.max()) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(p.seed)
            self.heads = objective.Objective(p, towers.widths(encoder), people)
        self.targets, self.texts = torch.tensor(targets), texts
        self.text_ids = None if text_ids is None else torch.tensor(text_ids)
        self.features: Tensor | None = None  # of the captions, where the text encoder is frozen
        self.free(0)

    @property
    def kept(self) -> nn.Module:
        """Whose weights are kept."""
        return self.encoder

    def free(self, epoch: int) -> None:
        """Freeze what the recipe freezes in an epoch."""
        towers.free(self.encoder, self.p.fit, epoch)

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
        """Free the blocks of this epoch; hold the statistics of frozen batch norms."""
        self.free(self.current_epoch)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch; logs every term and the share of images that are named right."""
        how = self.preprocess
        images = normalise(batch.pixels, how.mean, how.std, self.device)
        levels = towers.levels(self.encoder, images)
        targets = self.targets[batch.rows.cpu()].to(self.device)
        texts, ids = self._captions(batch.rows)
        terms = self.heads(levels, targets, texts, ids)
        loss = self.heads.total(terms)
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/loss", loss, prog_bar=True, **size)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, **size)
        with torch.no_grad():
            if (logits := self.heads.logits(levels)) is not None:
                right = logits.argmax(dim=1) == targets
                self.log("train/accuracy", right.float().mean(), **size)
        return loss

    def _captions(self, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.texts is None:
            return None, None
        if "text" not in self.p.fit.frozen:
            found = prompts.encode(self.encoder, self.texts.to(self.device))
        elif self.features is None:
            with torch.no_grad():
                found = self.features = prompts.encode(self.encoder, self.texts.to(self.device))
        else:
            found = self.features
        return found, self.text_ids[rows.cpu()].to(self.device)

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


def texts_of(table: pd.DataFrame, templates: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The captions that a table's rows have, each once, and which one each row has, (N,).

    Raises:
        InputError: the data set knows no aspects.
    """
    if not {"aspect", "accessories"} <= set(table) or (table["aspect"] == "all").any():
        raise InputError("captions.templates: this data set knows no aspect of its images")
    said = [
        " ".join(t.format(**captions.words(r["aspect"], r["accessories"])) for t in templates)
        for r in table.to_dict("records")
    ]
    found = sorted(set(said))
    return found, np.array([found.index(one) for one in said])


def make(
    encoder: nn.Module, preprocess: Preprocess, data: Prepared, p: FineTuneParams
) -> tuple[FineTuning, loaders.HandImages]:
    """The method for a split, and its training images.

    Raises:
        InputError: nobody to train on, fewer people or images than a batch, and what `FineTuning`
            raises.
    """
    size = preprocess.size(p.data.resize)
    images = loaders.HandImages(data.train, data.root, size, p.loader.workers)
    targets = loaders.classes(images.table)
    steps = len(loaders.training(images, targets, p.fit, p.seed)(0))
    texts = ids = None
    if p.loss_use_supcon or p.loss_use_i2t or p.loss_use_infonce:
        if not prompts.reads_text(encoder):
            raise InputError(
                f"loss_use_supcon, loss_use_i2t, loss_use_infonce: {p.model.name} reads no text"
            )
        said, ids = texts_of(images.table, p.captions.templates)
        texts = prompts.tokens(said, encoder.context_length)
    return FineTuning(encoder, preprocess, p, targets, steps, texts, ids), images
