"""Pairs that joint training takes in a second, against the bare loop over two towers.

The bare loop is the same CLIP with the same trained parameters: both towers forward and backward by
InfoNCE on one batch of pixels and tokens that lies in memory, its texts cut as short as ours are,
and a step of AdamW. Every step of the fit is followed by one of it, so that both meet the machine
at the same speed. Not in the fit's time are its start, validation, and what is written at the end
of an epoch.
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks import common
from benchmarks.training import GPU, LARGE, SMALL, Clock, Timed
from clipfh_lib import params, runs
from clipfh_lib.data import loaders, pairs, transforms, wording
from clipfh_lib.data.splits import Prepared
from clipfh_lib.evaluation import embeddings
from clipfh_lib.methods import joint, training
from clipfh_lib.models import backbones, losses, prompts, towers
from clipfh_lib.schema import ModelParams
from clipfh_lib.words import JointParams


def bare_step(encoder: nn.Module, pixels: torch.Tensor, texts: torch.Tensor) -> Callable[[], None]:
    """One step of the bare loop on these pairs."""
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        images, said = encoder.encode_image(pixels), prompts.encode(encoder, texts)
        losses.info_nce(images, said, encoder.logit_scale.exp()).backward()
        optimizer.step()

    return step


def made(p: JointParams, table: pd.DataFrame, root: Path) -> tuple:
    """Method, batches and run of a fit."""
    encoder, preprocess = backbones.load(p.model)
    split = table[["image_id", "pid", "aspect"]].assign(role="train")
    data = Prepared(root, root, table, split, pd.DataFrame(), [], "", False)
    said = pairs.make(table, wording.generate(table, data.captions, p.prompts))
    method, images, texts = joint.make(encoder, preprocess, data, said, p)
    targets, device = method.targets.numpy(), embeddings.device(p.device)
    make = loaders.training(images, targets, p.fit, p.seed, device, texts)
    return method, make, runs.start("07_joint_image_text", p, root / f"outputs_{time.time_ns()}")


def check(p: JointParams, table: pd.DataFrame, root: Path) -> None:
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
    how, terms = other.preprocess, []
    for batch in make(0):
        images = transforms.normalise(batch.pixels, how.mean, how.std, "cpu")
        texts = other.encoder.encode_text(batch.texts)  # all of them, as open_clip does
        loss = other.heads.total(
            other.heads(
                towers.levels(other.encoder, images),
                other.targets[batch.rows],
                texts,
                true=other.true(batch.rows),
                scale=other.encoder.logit_scale.exp(),
            )
        )
        optimizer.zero_grad()
        loss.backward()
        if p.fit.clip:
            nn.utils.clip_grad_norm_(other.parameters(), p.fit.clip)
        optimizer.step()
        schedule.step()
        terms.append(loss.item())
    np.testing.assert_allclose(history["train/loss"], [np.mean(terms)], rtol=1e-3)
    assert np.ptp(terms) > 0.01, "every step counts"


def measure(p: JointParams, table: pd.DataFrame, root: Path, steps: int) -> tuple[float, float]:
    """Median seconds of a step of the fit and of the bare loop."""
    method, make, run = made(p, table, root)
    device, how = embeddings.device(p.device), method.preprocess
    batch = next(iter(make(0)))
    pixels = transforms.normalise(batch.pixels, how.mean, how.std, device)
    bare = copy.deepcopy(method.encoder).to(device).train()
    towers.freeze(bare, p.fit.frozen)
    towers.lay_out(bare, training=True)  # as fast as we know how
    clock = Clock(method, bare_step(bare, pixels, batch.texts.to(device)), device.type == "cuda")
    clock.bare()
    fit = p.fit.model_copy(update={"epochs": -(-steps // (len(make(0)) - 1))})
    training.fit(method, lambda epoch: Timed(make(epoch), steps + 1, clock), run, {}, fit, p.device)
    return np.median(clock.ours), np.median(clock.theirs)


def main() -> None:
    # --large 0 leaves the large network out
    args = common.arguments(__doc__, people=8, images=16, width=400, steps=28, large=2, batch=16)
    demo = params.read("joint", "demo", "demo", "demo")
    none = {"model.weights": "none"}
    default = params.read("joint", "demo", "vit_b16", "default", 0, none)
    gpu = torch.cuda.is_available()
    rows = []
    with common.project() as root:
        table = common.photographs(root, args.people, args.images, args.width)
        table = table.assign(accessories=0, gender="female", skin_color="fair")
        weights = str(backbones.ASSETS / "demo_clip.safetensors")
        small = demo.model_copy(update={"model": ModelParams(name="demo_clip", weights=weights)})
        check(small, table, root)
        runs_of = [("demo CLIP, recipe demo", small, args.steps, GPU if gpu else SMALL)]
        if args.large:
            people = {} if gpu else {"people": args.batch // 4, "images": 4}
            fit = default.fit.model_copy(update=people)
            p = default.model_copy(update={"fit": fit})
            runs_of.append(("ViT-B/16, recipe default", p, args.large, LARGE))
        for what, p, steps, target in runs_of:
            ours, theirs = measure(p, table, root, steps)
            name = f"{what}, batches of {p.fit.people * p.fit.images}"
            rows.append(common.faster(name, ours, theirs, "s", target))
    common.report(rows, args.check)


if __name__ == "__main__":
    main()
