"""Photographs changed by degrees: what a run still recognises, and what it loses.

A photograph is brought to a canvas, changed there, and then brought to the model's size; so all
models that are compared on a data set see the same changed pixels. What is not changed goes over
the canvas too, so that a difference is the change's alone.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from clipfh_lib.data import anatomy, corruptions, images, loaders, splits
from clipfh_lib.evaluation import drops, embeddings, retrieval
from clipfh_lib.files import InputError
from clipfh_lib.runs import IDENTITY
from clipfh_lib.studies.opened import Opened
from clipfh_lib.study import RobustnessParams, Side, StudyParams

CLEAN = "clean"  # condition, kind and side of what is not changed
BLOCK = 64  # images that are changed at once
CHANGED = " changed"  # ends the names of changed images beside the plain ones
ROLES = {"query": ["query"], "gallery": ["gallery"], "both": ["query", "gallery"]}
CONDITION = ["condition", "kind", "severity", "side"]
VALUES = ["metric", "value", "sd", "low", "high"]
Change = Callable[[np.ndarray, str], np.ndarray]


class Robustness(NamedTuple):
    """Tables with the columns IDENTITY in front.

    - `drops`: CONDITION, `gallery, subset`, VALUES, LOST of `drops`, `queries, people`; a row of
      condition CLEAN and severity 0 for what nothing was done to. A negative drop is a gain.
    - `areas`: the same without severity; `value` is the area under the severity curve from 0 to
      the highest severity, as a share of its width: the mean over severities.
    - `pixels`: `condition, severity, images, sha256` of the changed pixels on the canvas, by which
      runs can tell that they saw the same ones.
    """

    drops: pd.DataFrame
    areas: pd.DataFrame
    pixels: pd.DataFrame


class Changed(Dataset):
    """Photographs on a canvas, changed and brought to the model's size when they are asked for.

    Images are made BLOCK at a time by all threads: before a CPU encodes them, which needs its cores
    itself, or while a GPU encodes those before. So memory is bounded.

    Args:
        table: `image_id` and `pid`.
        canvas: (N, S, S, 3) uint8, a row for each of the table.
        change: (S, S, 3) uint8 and image_id -> the same shape; called in several threads.
        size: what the model takes.
        pool: threads that change.
        bar: told of each batch.
        meanwhile: make the next images while the batch is encoded.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        canvas: np.ndarray,
        change: Change,
        size: images.Size,
        pool: ThreadPoolExecutor,
        bar: tqdm,
        meanwhile: bool = False,
    ):
        self.names, self.canvas, self.change = list(table["image_id"]), canvas, change
        self.pids = torch.tensor(table["pid"].to_numpy(np.int64, copy=True))
        self.size, self.pool, self.bar, self.meanwhile = size, pool, bar, meanwhile
        self.ahead: dict[int, Future] = {}
        self.digests = [b""] * len(table)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: Sequence[int]) -> loaders.Batch:
        rows = list(rows)
        last = rows[-1] + (len(rows) if self.meanwhile else 0)
        if min(last, len(self) - 1) not in self.ahead:
            for row in range(rows[0], min(max(last + 1, rows[0] + BLOCK), len(self))):
                if row not in self.ahead:
                    self.ahead[row] = self.pool.submit(self._made, row)
        if not self.meanwhile:
            wait(self.ahead.values())
        pixels = np.stack([self.ahead.pop(row).result() for row in rows])
        self.bar.update(len(rows))
        return loaders.Batch(torch.from_numpy(pixels), self.pids[rows], torch.tensor(rows))

    def _made(self, row: int) -> np.ndarray:
        changed = np.ascontiguousarray(self.change(self.canvas[row], self.names[row]))
        self.digests[row] = hashlib.sha256(changed).digest()
        return images.fit(changed, self.size)

    def sha256(self) -> str:
        """Hex SHA-256 of all changed pixels on the canvas, once all images were asked for."""
        return hashlib.sha256(b"".join(self.digests)).hexdigest()


class Bench:
    """A run's network and the photographs that are changed before it sees them; see `bench`."""

    def __init__(
        self, found: Opened, data: splits.Prepared, p: RobustnessParams, table: pd.DataFrame
    ):
        size = images.Size(p.canvas, p.canvas, p.data.resize)
        self.table = table.reset_index(drop=True)
        self.canvas = loaders.HandImages(self.table, data.root, size, p.loader.workers).pixels
        self.network, self.preprocess, self.p = found.embedder, found.preprocess, p
        self.target = embeddings.device(p.device)
        self.pool = ThreadPoolExecutor(p.loader.workers or os.cpu_count() or 1)

    def embed(self, change: Change, bar: tqdm) -> tuple[np.ndarray, str]:
        """Embeddings (N, D) of all images after a change, and the hash of the changed pixels."""
        size = self.preprocess.size(self.p.data.resize)
        gpu = self.target.type != "cpu"
        seen = Changed(self.table, self.canvas, change, size, self.pool, bar, meanwhile=gpu)
        how = self.p.embed, self.target, True
        return embeddings.encode(self.network, self.preprocess, seen, *how), seen.sha256()


@contextmanager
def bench(
    found: Opened, data: splits.Prepared, p: RobustnessParams, table: pd.DataFrame
) -> Iterator[Bench]:
    """Put the network on its device as long as it lasts, with threads that change images.

    Args:
        found: the studied run's network.
        data: where the photographs are.
        p: canvas, resize, embed, device and loader count.
        table: the photographs.
    """
    made = Bench(found, data, p, table)
    made.network.to(made.target).eval()
    try:
        yield made
    finally:
        made.network.cpu()
        made.pool.shutdown(cancel_futures=True)


def changed(
    p: RobustnessParams, condition: str, severity: int, hands: dict[str, anatomy.Hand]
) -> Change:
    """A condition at a severity, as the run draws it; severity 0 changes nothing.

    Args:
        p: draw_seed counts.
        condition: one of corruptions.CONDITIONS.
        severity: 0 to 5.
        hands: of the images whose hand was read before, by image_id; filled where one is needed.
    """

    def change(pixels: np.ndarray, name: str) -> np.ndarray:
        if severity and condition in corruptions.ON_THE_HAND and name not in hands:
            hands[name] = anatomy.read(pixels)
        if not severity:
            return pixels
        return corruptions.corrupt(pixels, condition, severity, p.draw_seed, name, hands.get(name))

    return change


def evaluate(found: Opened, data: splits.Prepared, p: RobustnessParams) -> Robustness:
    """Rank-1 and mAP under every condition and severity, and what is lost against clean images.

    Each changed set is embedded once, whichever sides it stands on. On `both` a query and a gallery
    image are changed each by its own draw.

    Args:
        found: the studied run's network.
        data: images and split.
        p: which conditions, severities, sides, aspects and galleries, and on what canvas.

    Raises:
        InputError: an aspect is not tested, or an image cannot be read.
    """
    split = tested(data.split, p)
    table = data.images[data.images["image_id"].isin(split["image_id"])]
    how = {"distance": p.evaluation.distance, "resamples": p.evaluation.resamples}
    how |= {"subsets": drops.SUBSETS}
    rows, areas, seen, hands = [], [], [], {}  # of the hands a byte a pixel of the canvas
    total = len(table) * (1 + len(p.conditions) * len(p.severities))
    with (
        bench(found, data, p, table) as on,
        tqdm(total=total, desc="robustness", unit="image") as bar,
    ):
        plain, sha256 = on.embed(changed(p, CLEAN, 0, hands), bar)
        seen.append((CLEAN, 0, len(table), sha256))
        clean = retrieval.evaluate(plain, on.table, split, found.weights, **how)
        before = drops.sums(clean.ranks)
        rows.append(_lost(clean.metrics, before, {}, p).assign(**_named(CLEAN, 0, CLEAN)))
        for condition in p.conditions:
            bar.set_postfix_str(condition)
            curves = {side: [before] for side in p.sides}
            for severity in p.severities:
                array, sha256 = on.embed(changed(p, condition, severity, hands), bar)
                seen.append((condition, severity, len(table), sha256))
                for side in p.sides:
                    results = retrieval.evaluate(
                        *beside(plain, array, on.table), renamed(split, side), found.weights, **how
                    )
                    after = drops.sums(results.ranks)
                    curves[side].append(after)
                    lost = _lost(results.metrics, before, after, p)
                    rows.append(lost.assign(**_named(condition, severity, side)))
            for side, curve in curves.items():
                under = drops.area([0, *p.severities], curve)
                value = drops.values(under, p.evaluation.resamples)
                lost = _lost(value, before, under, p)
                areas.append(lost.assign(**_named(condition, max(p.severities), side)))
    who = identity(p, found.weights)
    order = [*IDENTITY, *CONDITION, "gallery", "subset", *VALUES, *drops.LOST, "queries", "people"]
    tables = [pd.concat(part, ignore_index=True).assign(**who)[order] for part in (rows, areas)]
    tables[1] = tables[1].rename(columns={"severity": "to_severity"})
    return Robustness(
        *tables, pd.DataFrame(seen, columns=["condition", "severity", "images", "sha256"])
    )


def tested(split: pd.DataFrame, p: RobustnessParams) -> pd.DataFrame:
    """The query and gallery rows of the aspects and galleries that a run takes.

    Raises:
        InputError: an aspect that the data set does not test.
    """
    test = split[split["role"].isin(["query", "gallery"])]
    known = set(test["test_aspect"])
    for aspect in p.aspects:
        if aspect not in known and known != {"all"}:
            there = ", ".join(sorted(known)) or "none"
            raise InputError(f"aspects: {aspect} is not tested here; tested: {there}")
    if p.aspects and known != {"all"}:  # a data set without aspects is taken whole
        test = test[test["test_aspect"].isin(p.aspects)]
    own = test["gallery"].isin(["default", *p.galleries])
    return test[own | (test["role"] == "query")].reset_index(drop=True)


def beside(
    plain: np.ndarray, changed: np.ndarray, table: pd.DataFrame
) -> tuple[np.ndarray, pd.DataFrame]:
    """Embeddings of images as they are, then of the changed ones, whose names end in CHANGED."""
    others = table.assign(image_id=table["image_id"] + CHANGED)
    return np.concatenate([plain, changed]), pd.concat([table, others], ignore_index=True)


def renamed(split: pd.DataFrame, side: Side) -> pd.DataFrame:
    """The split with changed images in place of the plain ones on one side, or on both."""
    there = split["role"].isin(ROLES[side])
    return split.assign(image_id=split["image_id"].where(~there, split["image_id"] + CHANGED))


def identity(p: StudyParams, weights: str) -> dict[str, object]:
    """What names the studied run in a table; `test_aspect` is the table's own."""
    who = {"dataset": p.dataset, "method": p.of.method, "backbone": p.backbone}
    return {**who, "recipe": p.of.recipe, "seed": p.seed, "weights": weights}


def examples(
    data: splits.Prepared, p: RobustnessParams, image_id: str | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """One photograph under every condition and severity, severity 0 in front.

    Args:
        data: images and split.
        p: as of `evaluate`.
        image_id: which one; by default the first test image of the first aspect that is taken.

    Returns:
        A row for each picture: `image_id, kind, condition, severity`; (N, S, S, 3) uint8.
    """
    split = tested(data.split, p)
    name = split["image_id"].iloc[0] if image_id is None else image_id
    one = data.images[data.images["image_id"] == name]
    if one.empty:
        raise InputError(f"image_id {name!r} is no image of this data set")
    size = images.Size(p.canvas, p.canvas, p.data.resize)
    canvas = loaders.HandImages(one, data.root, size, p.loader.workers).pixels[0]
    steps = [(each, severity) for each in p.conditions for severity in (0, *p.severities)]
    made = [changed(p, *step, {})(canvas, name) for step in steps]
    rows = [(name, kind_of(condition), condition, severity) for condition, severity in steps]
    return pd.DataFrame(rows, columns=["image_id", "kind", "condition", "severity"]), np.stack(made)


def kind_of(condition: str) -> str:
    """The kind of a condition: lighting, pose, occlusion; CLEAN of none."""
    return CLEAN if condition == CLEAN else corruptions.KINDS[condition]


def _named(condition: str, severity: int, side: str) -> dict[str, object]:
    named = condition, kind_of(condition), severity, side
    return dict(zip(CONDITION, named, strict=True))


def _lost(
    metrics: pd.DataFrame, before: drops.Measured, after: drops.Measured, p: RobustnessParams
) -> pd.DataFrame:
    """Rows of `drops.METRICS` and SUBSETS with what is lost beside them."""
    lost = drops.between(before, after, p.evaluation.resamples)
    here = metrics["metric"].isin(drops.METRICS) & metrics["subset"].isin(drops.SUBSETS)
    return metrics[here].merge(lost, on=[*drops.KEY, "metric"], how="left")
