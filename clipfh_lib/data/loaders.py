"""A table of images -> batches of uint8 pixels, read from the decode cache."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clipfh_lib.data import images, transforms
from clipfh_lib.files import InputError
from clipfh_lib.learning import FitParams
from clipfh_lib.schema import AugmentParams


class Batch(NamedTuple):
    """What a model gets: (B, H, W, 3) uint8 pixels, (B,) pids, (B,) rows of the table, texts."""

    pixels: Tensor
    pids: Tensor
    rows: Tensor
    texts: Tensor | None = None


class HandImages(Dataset):
    """Images of a table, fetched a batch at a time, in the order of the rows asked for.

    Args:
        table: columns `path` (relative to `root`) and `pid`.
        root: folder the paths start from.
        size: how pixels are brought to the model's size.
        workers: threads that decode what is not in the cache; 0 means one per core.

    Raises:
        InputError: an image cannot be read; names the first one and why.
    """

    def __init__(self, table: pd.DataFrame, root: Path, size: images.Size, workers: int = 0):
        self.table = table.reset_index(drop=True)
        decoded = images.decode(root, list(self.table["path"]), size, workers)
        broken = decoded.table[decoded.table["reason"] != ""]
        if len(broken):
            first = broken.iloc[0]
            raise InputError(
                f"{len(broken)} of {len(table)} images cannot be read, first: {first['path']} "
                f"({first['reason']}); notebook 01_prepare_data sets such images aside"
            )
        self.pixels = decoded.pixels
        self.pids = torch.tensor(self.table["pid"].to_numpy(np.int64, copy=True))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        rows = list(rows)
        return Batch(torch.from_numpy(self.pixels[rows]), self.pids[rows], torch.tensor(rows))


class Captioned(Dataset):
    """Images with words: `texts` (N, L) token ids, one row an image.

    Args:
        turned: (N, L) what is true of each image's mirror image; none: the same.
    """

    def __init__(self, data: HandImages, texts: Tensor, turned: Tensor | None = None):
        self.data, self.texts = data, texts
        self.turned = texts if turned is None else turned

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        rows = list(rows)
        return self.data[rows]._replace(texts=self.texts[rows])


class Augmented(Dataset):
    """Images of one epoch, each changed as (seed, epoch, row) decide; see transforms.augment.

    Args:
        data: where it has `turned`, as `Captioned` has, mirrored images have those words.
        device: where the pixels are changed, and stay: a GPU does it in a fraction of the time.
    """

    def __init__(
        self,
        data: HandImages | Captioned,
        how: AugmentParams,
        seed: int,
        epoch: int,
        device: str | torch.device = "cpu",
    ):
        self.data, self.how, self.draw, self.device = data, how, (seed, epoch), device

    def __len__(self) -> int:
        return len(self.data)

    @torch.no_grad()
    def __getitem__(self, rows: Sequence[int]) -> Batch:
        rows = list(rows)
        batch = self.data[rows]
        pixels = batch.pixels.to(self.device)
        drawn = transforms.draws(*self.draw, rows)
        turned = getattr(self.data, "turned", None)
        if turned is not None:  # what is said of left and right shall stay true
            mirrored = torch.from_numpy(transforms.mirrored(self.how, drawn))[:, None]
            texts = torch.where(mirrored, turned[rows], batch.texts)
            batch = batch._replace(texts=texts)
        return batch._replace(pixels=transforms.augment(pixels, self.how, drawn))


class Shuffled(Sampler[list[int]]):
    """Batches of rows in an order that (seed, epoch) decides; what does not fill one is left out.

    Raises:
        InputError: fewer images than one batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, epoch: int):
        if count < batch_size:
            raise InputError(f"fit.batch_size is {batch_size}, there are {count} training images")
        self.count, self.batch_size, self.draw = count, batch_size, [seed, epoch]

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng(self.draw).permutation(self.count)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size].tolist()


class PeopleImages(Sampler[list[int]]):
    """P x K: batches of `people` with `images` of each; (seed, epoch) decide which.

    Those that were taken least often in the epoch come first, chance decides among equals: neither
    two people nor two images of a person differ by more than one turn. Who has fewer than `images`
    gives all, and some again. An epoch has as many batches as hold each
    image once on average, rounded down, and at least one; each batch is full.

    Args:
        targets: class of each row, e.g. of `classes`; a person, or a person's aspect.

    Raises:
        InputError: fewer classes than `people`.
    """

    def __init__(self, targets: Sequence[int], people: int, images: int, seed: int, epoch: int):
        known, place = np.unique(np.asarray(targets), return_inverse=True)
        if len(known) < people:
            raise InputError(
                f"fit.people is {people}, there are {len(known)} people (or aspects of people) "
                "to train on"
            )
        self.rows = [np.flatnonzero(place == number) for number in range(len(known))]
        self.people, self.images, self.draw = people, images, [seed, epoch]
        self.count = max(1, len(place) // (people * images))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        draw = np.random.default_rng(self.draw)
        turns, taken = np.zeros(len(self.rows)), [np.zeros(len(rows)) for rows in self.rows]
        for _ in range(self.count):
            batch = []
            for person in np.lexsort((draw.random(len(turns)), turns))[: self.people]:
                turns[person] += 1
                rows, seen = self.rows[person], taken[person]
                chosen = np.lexsort((draw.random(len(rows)), seen))
                chosen = np.resize(chosen, self.images)  # begins again where there are too few
                np.add.at(seen, chosen, 1)
                batch += rows[chosen].tolist()
            yield batch


class WithNegatives(Sampler[list[int]]):
    """Batches of anchors, each followed by its negatives; (seed, epoch) and what is mined decide.

    An epoch has as many batches as hold each image once, as `Shuffled` has, so that fits with and
    without negatives cost the same. Anchors go round over the epochs, in an order of each round's
    own. No row stands twice in a batch: what an anchor is easily taken for and is there already is
    a negative of it anyway, and the next one is taken. Where there are no more images of other
    groups a batch is shorter.

    Args:
        groups: (N,) see Pairs.groups; images of the anchor's own are no negatives of it.
        batch_size: rows of a batch at the most; `batch_size // (1 + count)` are anchors.
        count: negatives of each anchor.
        mine: (A,) anchors, number -> (A, number) rows, the best first, -1 fills up; see
            evaluation.mining. Called when the first batch is asked for, so that what it reads, such
            as weights, is that of the epoch's start.

    Raises:
        InputError: fewer images than one batch.
    """

    def __init__(
        self,
        groups: np.ndarray,
        batch_size: int,
        count: int,
        seed: int,
        epoch: int,
        mine: Callable[[np.ndarray, int], np.ndarray],
    ):
        self.steps = len(Shuffled(len(groups), batch_size, seed, epoch))
        self.groups, self.batch_size, self.count = groups, batch_size, count
        self.draw, self.mine = (seed, epoch), mine

    def __len__(self) -> int:
        return self.steps

    def anchors(self) -> np.ndarray:
        """Rows of the epoch's anchors: (batches, anchors of a batch)."""
        each = self.batch_size // (1 + self.count)
        a_round = len(self.groups) // each  # batches; what does not fill one is left out of it
        (seed, epoch), found = self.draw, []
        for number in range(epoch * self.steps, (epoch + 1) * self.steps):
            turn, place = divmod(number, a_round)
            if not found or not place:
                order = np.random.default_rng([seed, turn, 13]).permutation(len(self.groups))
            found.append(order[place * each : (place + 1) * each])
        return np.stack(found)

    def __iter__(self) -> Iterator[list[int]]:
        anchors = self.anchors()
        # as many as a batch has: so many may stand in it already
        mined = self.mine(anchors.ravel(), self.batch_size).reshape(*anchors.shape, -1)
        for mine, near in zip(anchors, mined, strict=True):
            batch, taken = [], set(mine.tolist())
            for anchor, rows in zip(mine.tolist(), near, strict=True):
                other = (rows >= 0) & (self.groups[rows] != self.groups[anchor])
                free = [row for row in rows[other].tolist() if row not in taken][: self.count]
                taken.update(free)
                batch += [anchor, *free]
            yield batch


def training(
    data: HandImages,
    targets: np.ndarray,
    fit: FitParams,
    seed: int,
    device: str | torch.device = "cpu",
    texts: Callable[[int], tuple[Tensor, Tensor]] | None = None,
) -> Callable[[int], DataLoader]:
    """Epoch -> loader of changed images, P x K or shuffled, as a recipe has it.

    Args:
        targets: (N,) class of each row, of `classes`.
        device: where the images are changed.
        texts: epoch -> (N, L) token ids, one row an image, and those of the mirror images; none:
            images alone.

    Raises:
        InputError: too few images or people for a batch; when a loader is made.
    """

    def make(epoch: int) -> DataLoader:
        if fit.sampler == "pk":
            order = PeopleImages(targets, fit.people, fit.images, seed, epoch)
        else:
            order = Shuffled(len(data), fit.batch_size, seed, epoch)
        whole = data if texts is None else Captioned(data, *texts(epoch))
        return batches(Augmented(whole, fit.augment, seed, epoch, device), order)

    return make


def examples(
    data: HandImages, fit: FitParams, seed: int, images: int = 3, epochs: int = 8
) -> tuple[pd.DataFrame, np.ndarray]:
    """What training makes of some images, in one epoch after the other.

    Returns:
        A row for each picture, with `pid` and `epoch`, and (images x epochs, H, W, 3) uint8.
    """
    rows = np.linspace(0, len(data) - 1, images).round().astype(int).tolist()
    shown = [(row, epoch) for row in rows for epoch in range(epochs)]
    pixels = [Augmented(data, fit.augment, seed, epoch)[[row]].pixels[0] for row, epoch in shown]
    table = data.table.iloc[[row for row, _ in shown]].reset_index(drop=True)
    return table.assign(epoch=[epoch for _, epoch in shown]), torch.stack(pixels).numpy()


def said(targets: np.ndarray, fit: FitParams) -> str:
    """What there is to train on, and who has too few images for the sampler, in one line."""
    counts = np.bincount(targets)
    line = f"{len(targets)} images of {len(counts)} classes (a person, or a person's aspect)"
    if fit.sampler == "shuffle":
        return f"{line}; batches of {fit.batch_size}, shuffled"
    short = int((counts < fit.images).sum())
    line += f"; batches of {fit.people} x {fit.images}"
    return f"{line}; {short} have fewer than {fit.images} images and show some again"


def classes(table: pd.DataFrame) -> np.ndarray:
    """Class of each row, 0..P-1, by pid; (N,) int64.

    Where there are several aspects a person's four hand sides are four classes.
    """
    columns = ["pid", "aspect"] if table.get("aspect", pd.Series()).nunique() > 1 else ["pid"]
    return table.groupby(columns, dropna=False).ngroup().to_numpy(np.int64)


class InOrder(Sampler[list[int]]):
    """Batches of all rows, first to last; the last one is shorter."""

    def __init__(self, count: int, batch_size: int):
        self.count, self.batch_size = count, batch_size

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.count, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.count)))


def batches(dataset: HandImages | Captioned | Augmented, order: Sampler[list[int]]) -> DataLoader:
    """A loader that takes whole batches; the pixels are a memory map, so no workers are needed."""
    return DataLoader(dataset, sampler=order, batch_size=None)
