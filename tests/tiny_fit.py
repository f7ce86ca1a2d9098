"""A fit of seconds, with all that makes a resume hard: dropout, batch norm, noise, momentum.

As a program, `python tiny_fit.py <data root> <outputs> <moment>...`, it runs the fit of `validated`
once for each moment, into `<outputs>/<moment>`, and kills it there: `step03` before its fourth
step, `write03` before its third file is moved into place. `full04`: no file may pass 4 kB.
"""

import os
import resource
import signal
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from torch import nn

from clipfh_lib import params, runs
from clipfh_lib.data import loaders
from clipfh_lib.data.images import Size
from clipfh_lib.data.transforms import normalise
from clipfh_lib.files import InputError
from clipfh_lib.methods import training
from clipfh_lib.models import optimisers
from clipfh_lib.schema import LoopParams

EPOCHS, STEPS, LR = 4, 5, 0.01
WHAT = {"fit.lr": LR, "split": "s", "code.clipfh_lib.models.losses": "1"}
RISES_AND_FALLS = [0.1, 0.5, 0.4, 0.5]  # a measure, by epoch


class TinyFit(L.LightningModule):
    """Args: `at`: step -> what is done before it; `spoil`: step -> what becomes of its loss."""

    def __init__(self, lr=LR, at=None, spoil=None, plain=False, heads=False, plateau=False):
        super().__init__()
        noisy = [nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2), *([nn.ReLU()] if plain else noisy), nn.Flatten(),
                nn.Linear(8 * 7 * 7, 8), nn.LayerNorm(8), nn.Linear(8, 4),
            ).eval()  # fmt: skip
            if heads:
                self.heads = nn.Sequential(nn.Linear(4, 4))
        self.lr, self.plain, self.plateaus = lr, plain, plateau
        self.at, self.spoil = at or {}, spoil or {}
        self.rates, self.losses, self.norms, self.epochs = [], [], [], []

    @property
    def kept(self):
        return self.encoder

    def on_train_epoch_start(self):
        self.epochs.append(self.current_epoch)

    def training_step(self, batch, number):
        step = self.current_epoch * self.trainer.num_training_batches + number
        self.at.get(step, lambda: None)()
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        pixels = normalise(batch.pixels, (0.5,) * 3, (0.3,) * 3)
        seen = pixels if self.plain else pixels + 0.1 * torch.randn_like(pixels)
        scores = getattr(self, "heads", nn.Identity())(self.encoder(seen))
        loss = nn.functional.cross_entropy(scores, batch.rows % 4)
        loss = self.spoil.get(step, lambda loss: loss)(loss)
        self.losses.append(loss.item())
        both = {"on_epoch": True, "batch_size": len(pixels)}
        self.log("train/loss", loss, on_step=True, prog_bar=True, **both)
        self.log("train/step", float(step), on_step=False, **both)
        return loss

    def on_before_zero_grad(self, optimizer):
        grads = [p.grad.flatten() for p in self.parameters() if p.grad is not None]
        if grads:
            self.norms.append(torch.cat(grads).norm().item())

    def configure_optimizers(self):
        named = [
            one | {"name": "encoder", "lr": self.lr} for one in optimisers.groups(self.encoder, 0.1)
        ]
        if hasattr(self, "heads"):
            rest = {"params": list(self.heads.parameters()), "name": "heads", "lr": 2 * self.lr}
            named.append(rest)
        if self.plain:
            return torch.optim.SGD(named, momentum=0.9)
        optimizer = torch.optim.AdamW(named)
        if self.plateaus:
            self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", 0.5, 0)
            return optimizer
        return optimisers.warmup_cosine(optimizer, EPOCHS * STEPS, warmup=0.2)


def fit(
    root, outputs, what=WHAT, seed=0, loop=None, check=None, batches=STEPS, kind=TinyFit, **how
):
    """A run, its method and its history; with the data of `drawn`, STEPS batches an epoch.

    Args:
        check: method -> Check.
        how: of the method, a TinyFit.
    """
    table = make_table(root)
    data = loaders.HandImages(table, root, Size(16, 16))

    def make(epoch):
        return loaders.batches(data, loaders.Shuffled(len(data), len(data) // batches, seed, epoch))

    p = params.load("demo_clip", "demo", "demo_untrained", "demo", seed)
    run = runs.start("00_demo_clip", p, outputs)
    method = kind(**how)
    loop = LoopParams(**{"epochs": EPOCHS} | (loop or {}))
    names = table["path"].set_axis(range(9, 9 + len(table)))  # by place, and not by its index
    asked = {"device": "cpu", "check": check and check(method), "names": names}
    try:
        history = training.fit(method, make, run, what, loop, **asked)
    finally:
        run._close_log()
        run._lock.release()
    return run, method, history


def make_table(root):
    paths = sorted(path.relative_to(root).as_posix() for path in Path(root).glob("Hands/*.jpg"))
    return pd.DataFrame({"path": paths[:53], "pid": 0})


def scripted(values, by="mAP", every=1, patience=9):
    """A check that measures what was written down for an epoch, and the sum of all weights."""

    def check(method):
        def measure():
            method.encoder.cpu().eval()
            weights = sum(float(tensor.double().sum()) for tensor in method.state_dict().values())
            return {by: np.float64(values[method.current_epoch]), "weights": weights}

        return training.Check(measure, by, every, patience)

    return check


def validated(root, outputs, **more):
    """Best in the second epoch, with heads and checkpoints of all epochs."""
    how = {"check": scripted(RISES_AND_FALLS), "heads": True, "loop": {"keep_epochs": True}}
    return fit(root, outputs, **how | more)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed(root, outputs, moment):
    """Run `validated` until a moment."""
    kind, number = moment[:-2], int(moment[-2:])
    if kind == "step":
        return validated(root, outputs, at={number: die})
    if kind == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * number, resource.RLIM_INFINITY))
        return validated(root, outputs)
    real, count = os.replace, []

    def replace(*paths):
        if "params.yaml" not in str(paths[1]):  # of the run's start
            count.append(paths)
        if len(count) == number:
            print(moment, paths[1].name, flush=True)
            die()
        real(*paths)

    os.replace = replace
    return validated(root, outputs)


if __name__ == "__main__":
    root, outputs, *moments = sys.argv[1:]
    loaders.HandImages(make_table(root), root, Size(16, 16))
    for moment in moments:
        if child := os.fork():
            status = os.waitpid(child, 0)[1]
            print(moment, "ended by", os.WTERMSIG(status), flush=True)
        else:
            try:
                killed(root, f"{outputs}/{moment}", moment)
            except InputError as error:
                print(moment, "said", error, flush=True)
            os._exit(0)
