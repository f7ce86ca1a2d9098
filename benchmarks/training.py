"""Images that a fit trains on in a second, against the bare model: forward, backward, step.

The bare model is the same network with the same trained parameters, AdamW and a cross-entropy of
its features with themselves, on one batch of tensors that lies in memory. Every step of the fit is
followed by one of it, so that both meet the machine at the same speed. Not in the fit's time are
its start, validation, and what is written at the end of an epoch.
"""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import common
from clipfh_lib import params, runs
from clipfh_lib.data import loaders, transforms
from clipfh_lib.data.splits import Prepared
from clipfh_lib.evaluation import embeddings
from clipfh_lib.learning import FineTuneParams
from clipfh_lib.methods import fine_tuning, training
from clipfh_lib.models import backbones, towers
from clipfh_lib.schema import ModelParams

SMALL, LARGE = 0.75, 0.9  # of the bare model's speed
GPU, WAIT = 0.9, 0.05  # likewise; share of a step that waits for data
LARGE_NAMES = {"rn50": "RN50-quickgelu", "vit_b16": "ViT-B-16-quickgelu"}


class Clock:
    """Times of a fit's steps and of the bare model's, one after the other."""

    def __init__(self, method: fine_tuning.FineTuning, bare: Callable[[], None], gpu: bool):
        self.bare, self.gpu = bare, gpu
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.waits: list[float] = []
        self.since: float | None = None
        self.begins = method.on_train_epoch_start
        method.on_train_epoch_start, method.on_train_batch_end = self.epoch, self.step

    def now(self) -> float:
        """Processor seconds; on a GPU those that passed, once it has done all it was told."""
        if self.gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def epoch(self) -> None:
        """What comes between two epochs is left out, and so is the first step."""
        self.since = None
        self.begins()

    def step(self, *_: object) -> None:
        """A step of the fit has ended: one of the bare model."""
        end = self.now()
        self.bare()
        after = self.now()
        if self.since is not None:
            self.ours.append(end - self.since)
            self.theirs.append(after - end)
        self.since = self.now()


class Timed:
    """The first batches of a loader; how long each took to come is kept."""

    def __init__(self, loader: DataLoader, count: int, clock: Clock):
        self.loader, self.count, self.clock = loader, min(count, len(loader)), clock

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[loaders.Batch]:
        found = iter(self.loader)
        for number in range(self.count):
            start = self.clock.now()
            batch = next(found)
            if number:
                self.clock.waits.append(self.clock.now() - start)
            yield batch


def bare_step(encoder: nn.Module, pixels: torch.Tensor) -> Callable[[], None]:
    """One step of the bare model on these pixels."""
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    targets = torch.arange(len(pixels), device=pixels.device)

    def step() -> None:
        optimizer.zero_grad()
        features = encoder.encode_image(pixels)
        nn.functional.cross_entropy(features @ features.detach().T, targets).backward()
        optimizer.step()

    return step


def made(p: FineTuneParams, table: pd.DataFrame, root: Path) -> tuple:
    """Method, batches and run of a fit."""
    encoder, preprocess = backbones.load(p.model)
    split = table[["image_id", "pid", "aspect"]].assign(role="train")
    data = Prepared(root, root, table, split, pd.DataFrame(), [], "", False)
    method, images = fine_tuning.make(encoder, preprocess, data, p)
    device = embeddings.device(p.device)
    make = loaders.training(images, loaders.classes(images.table), p.fit, p.seed, device)
    return method, make, runs.start("03_fine_tune", p, root / f"outputs_{time.time_ns()}")


def check(p: FineTuneParams, table: pd.DataFrame, root: Path) -> None:
    """The losses of a fit of one epoch are those of a plain loop over the same batches."""
    short = p.fit.model_copy(update={"epochs": 1, "people": 4, "images": 2, "sampler": "pk"})
    p = p.model_copy(update={"fit": short, "device": "cpu"})
    method, make, run = made(p, table, root)
    other = copy.deepcopy(method)
    history = training.fit(method, make, run, {}, p.fit, "cpu")
    other.train()
    found = other.configure_optimizers()
    optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
    other.free(0)
    how, losses = other.preprocess, []
    for batch in make(0):
        images = transforms.normalise(batch.pixels, how.mean, how.std, "cpu")
        terms = other.heads(towers.levels(other.encoder, images), other.targets[batch.rows])
        loss = other.heads.total(terms)
        optimizer.zero_grad()
        loss.backward()
        if p.fit.clip:
            nn.utils.clip_grad_norm_(other.parameters(), p.fit.clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    np.testing.assert_allclose(history["train/loss"], [np.mean(losses)], rtol=1e-4)
    assert np.ptp(losses) > 0.1, "every step counts"


def measure(p: FineTuneParams, table: pd.DataFrame, root: Path, steps: int) -> tuple:
    """Median seconds of a step of the fit and of the bare model; share that waits for data."""
    method, make, run = made(p, table, root)
    device = embeddings.device(p.device)
    how = method.preprocess
    pixels = transforms.normalise(next(iter(make(0))).pixels, how.mean, how.std, device)
    bare = copy.deepcopy(method.encoder).to(device).train()
    towers.freeze(bare, p.fit.frozen)
    towers.lay_out(bare, training=True)  # as fast as we know how
    clock = Clock(method, bare_step(bare, pixels), device.type == "cuda")
    clock.bare()
    fit = p.fit.model_copy(update={"epochs": -(-steps // (len(make(0)) - 1))})
    training.fit(method, lambda epoch: Timed(make(epoch), steps + 1, clock), run, {}, fit, p.device)
    ours, theirs, wait = map(np.median, (clock.ours, clock.theirs, clock.waits))
    return ours, theirs, wait / ours


def main() -> None:
    # --large 0 leaves the large network out
    args = common.arguments(__doc__, people=8, images=16, width=400, steps=28, large=3, batch=16)
    demo = params.read("fine_tune", "demo", "demo", "demo")
    default = params.read("fine_tune", "demo", "rn50", "default", 0, {"model.weights": "none"})
    gpu = torch.cuda.is_available()
    rows = []
    with common.project() as root:
        table = common.photographs(root, args.people, args.images, args.width)
        weights = str(backbones.ASSETS / "demo_clip.safetensors")
        small = demo.model_copy(update={"model": ModelParams(name="demo_clip", weights=weights)})
        check(small, table, root)
        runs_of = [("demo CLIP, recipe demo", small, args.steps, GPU if gpu else SMALL)]
        for name in () if not args.large else ("rn50", "vit_b16") if gpu else ("rn50",):
            model = default.model.model_copy(update={"name": LARGE_NAMES[name]})
            people = args.batch // 4
            fit = default.fit.model_copy(update={} if gpu else {"people": people, "images": 4})
            p = default.model_copy(update={"model": model, "fit": fit})
            runs_of.append((f"{name}, recipe default", p, args.large, GPU if gpu else LARGE))
        for what, p, steps, target in runs_of:
            ours, theirs, wait = measure(p, table, root, steps)
            batch = p.fit.people * p.fit.images
            row = common.faster(f"{what}, batches of {batch}", ours, theirs, "s", target)
            rows.append(row)
            name = f"share of its step that waits for data, {batch / ours:.3g} images/s"
            rows.append(common.at_most(name, wait, WAIT if gpu else 1, ""))
    common.report(rows, args.check)


if __name__ == "__main__":
    main()
