"""A fit of seconds, with all that makes a resume hard: dropout, batch norm, noise, momentum.

As a program, `python tiny_fit.py <data root> <outputs> <step>`, it kills itself before that step.
"""

import os
import signal
import sys
from pathlib import Path

import lightning as L
import torch
from torch import nn

from clipfh_lib import params, runs
from clipfh_lib.data import loaders
from clipfh_lib.data.images import Size
from clipfh_lib.data.transforms import normalise
from clipfh_lib.methods import training
from clipfh_lib.models import optimisers
from clipfh_lib.schema import LoopParams

EPOCHS, STEPS, LR = 4, 5, 0.01


class TinyFit(L.LightningModule):
    def __init__(self, lr=LR, stop=None, how="kill"):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
                nn.Linear(8 * 7 * 7, 8), nn.LayerNorm(8), nn.Linear(8, 4),
            ).eval()  # fmt: skip
        self.lr, self.stop, self.how = lr, stop, how
        self.rates, self.losses = [], []

    @property
    def kept(self):
        return self.encoder

    def training_step(self, batch, _):
        step = self.trainer.global_step
        if step == self.stop:
            if self.how == "interrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGKILL)
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        pixels = normalise(batch.pixels, (0.5,) * 3, (0.3,) * 3)
        noisy = pixels + 0.1 * torch.randn_like(pixels)
        loss = nn.functional.cross_entropy(self.encoder(noisy), batch.rows % 4)
        self.losses.append(loss.item())
        both = {"on_epoch": True, "batch_size": len(pixels)}
        self.log("train/loss", loss, on_step=True, prog_bar=True, **both)
        self.log("train/step", float(step), on_step=False, **both)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(optimisers.groups(self.encoder, 0.1), lr=self.lr)
        return optimisers.warmup_cosine(optimizer, EPOCHS * STEPS, warmup=0.2)


WHAT = {"fit.lr": LR, "split": "s", "code.clipfh_lib.models.losses": "1"}


def fit(root, outputs, what=WHAT, seed=0, loop=None, **how):
    """A run, its method and its history; with the data of `drawn`, STEPS batches an epoch."""
    table = make_table(root)
    data = loaders.HandImages(table, root, Size(16, 16))

    def make(epoch):
        return loaders.batches(data, loaders.Shuffled(len(data), len(data) // STEPS, seed, epoch))

    p = params.load("demo_clip", "demo", "demo_untrained", "demo", seed)
    run = runs.start("00_demo_clip", p, outputs)
    method = TinyFit(**how)
    try:
        loop = LoopParams(**{"epochs": EPOCHS} | (loop or {}))
        history = training.fit(method, make, run, what, loop, device="cpu")
    finally:
        run._close_log()
        run._lock.release()
    return run, method, history


def make_table(root):
    import pandas as pd

    paths = sorted(path.relative_to(root).as_posix() for path in Path(root).glob("Hands/*.jpg"))
    return pd.DataFrame({"path": paths[:53], "pid": 0})


if __name__ == "__main__":
    fit(sys.argv[1], sys.argv[2], stop=int(sys.argv[3]))
