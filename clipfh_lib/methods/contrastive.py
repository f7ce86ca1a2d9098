"""Both encoders of a CLIP trained on images with captions: how the demo CLIP is made."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from clipfh_lib.data import captions, loaders
from clipfh_lib.data.images import Size
from clipfh_lib.data.loaders import Batch
from clipfh_lib.data.transforms import normalise
from clipfh_lib.models import losses, optimisers, prompts
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import ContrastiveFit, DemoClipParams

SCALE = 100.0  # the largest inverse temperature, as in CLIP (Radford et al. 2021, section 2.5)


class Contrastive(L.LightningModule):
    """InfoNCE between images and their captions (Radford et al., CLIP, ICML 2021).

    Args:
        encoder: an open_clip CLIP; both towers and the logit scale are trained.
        preprocess: mean and std of its pixels.
        fit: epochs, rates.
        steps: batches of the whole fit, for the schedule.
    """

    def __init__(
        self, encoder: torch.nn.Module, preprocess: Preprocess, fit: ContrastiveFit, steps: int
    ):
        super().__init__()
        self.encoder = encoder
        self.preprocess, self.hyper, self.steps = preprocess, fit, steps

    @property
    def kept(self) -> torch.nn.Module:
        """Whose weights are kept."""
        return self.encoder

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D) embeddings, any norm."""
        return self.encoder.encode_image(images)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch of pairs, in nats; logs it and how often the own caption wins."""
        how = self.preprocess
        images = self(normalise(batch.pixels, how.mean, how.std, self.device))
        texts = prompts.encode(self.encoder, batch.texts)
        scale = self.encoder.logit_scale.exp().clamp(max=SCALE)
        loss = losses.info_nce(images, texts, scale)
        with torch.no_grad():
            chosen = (normalize(images, dim=1) @ normalize(texts, dim=1).T).argmax(dim=1)
            right = chosen == torch.arange(len(chosen), device=chosen.device)
        size = {"on_step": False, "on_epoch": True, "batch_size": len(images)}
        self.log("train/info_nce", loss, prog_bar=True, **size)
        self.log("train/accuracy", right.float().mean(), **size)
        self.log("train/logit_scale", scale, **size)
        return loss

    def configure_optimizers(self) -> dict:
        """AdamW as in CLIP, linear warm-up, cosine."""
        spared = ("token_embedding.weight",)
        groups = optimisers.groups(self.encoder, self.hyper.weight_decay, spared)
        optimizer = torch.optim.AdamW(groups, lr=self.hyper.lr, betas=(0.9, 0.98), eps=1e-6)
        return optimisers.warmup_cosine(optimizer, self.steps, self.hyper.warmup)


def loader(
    table: pd.DataFrame, root: Path, preprocess: Preprocess, p: DemoClipParams
) -> Callable[[int], DataLoader]:
    """Epoch -> loader of shuffled images, with captions drawn for that epoch from (seed, epoch)."""
    size = Size(preprocess.height, preprocess.width, p.data.resize, preprocess.interpolation)
    data = loaders.HandImages(table, root, size, p.loader.workers)

    def make(epoch: int) -> DataLoader:
        texts = prompts.tokens(captions.varied(data.table, p.seed, epoch))
        order = loaders.Shuffled(len(data), p.fit.batch_size, p.seed, epoch)
        return loaders.batches(loaders.Captioned(data, texts), order)

    return make
