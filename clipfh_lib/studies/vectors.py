"""Image files to embeddings of length one, past all caches: no trace of a picture stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from clipfh_lib import files
from clipfh_lib.data import images, loaders, splits
from clipfh_lib.evaluation import embeddings, search
from clipfh_lib.models import backbones
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import EmbedParams
from clipfh_lib.studies import opened
from clipfh_lib.study import StudyParams


class Seen(NamedTuple):
    """Embeddings (n, D) float32 of length one of those files that could be read.

    `rows` (n,): which of the paths they are. `aside`: `path, reason` of the others.
    """

    array: np.ndarray
    rows: np.ndarray
    aside: pd.DataFrame


@dataclass(frozen=True)
class Model:
    """What turns a photograph into an embedding, as a run does it.

    Attributes:
        network: has `encode_image`; in eval mode on `device`.
    """

    network: nn.Module
    preprocess: Preprocess
    embed: EmbedParams
    resize: str
    device: torch.device

    @cached_property
    def made_by(self) -> dict[str, object]:
        """What its embeddings depend on: the weights' hash, and how pixels are brought to it."""
        return {
            "weights": backbones.sha256(self.network),
            "preprocess": [*self.preprocess[:3], *map(list, self.preprocess[3:])],
            "resize": self.resize,
            "flip": self.embed.flip,
            "precision": self.embed.precision,
        }

    @cached_property
    def sha256(self) -> str:
        """Hash of `made_by`: embeddings of equal ones can be compared."""
        return files.digest(self.made_by)

    def see(self, root: str | Path, paths: list[str]) -> Seen:
        """Embed image files; one that cannot be read is named and left out.

        Args:
            root: folder the paths start from.
            paths: relative to it; one that leaves it is not read.
        """
        decoded = images.uncached(root, paths, self.preprocess.size(self.resize))
        broken = decoded.table["reason"].ne("").to_numpy()
        array = self.of_pixels(decoded.pixels[~broken])
        finite = np.isfinite(array).all(axis=1)
        reasons = decoded.table["reason"].to_numpy(object, copy=True)
        reasons[np.flatnonzero(~broken)[~finite]] = "its embedding is not finite"
        aside = pd.DataFrame({"path": paths, "reason": reasons})
        aside = aside[aside["reason"] != ""].reset_index(drop=True)
        return Seen(array[finite], np.flatnonzero(~broken)[finite], aside)

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """(N, D) float32 of length one, of (N, H, W, 3) uint8 pixels."""
        if not len(pixels):  # one black picture says how wide the embedding is
            return self.of_pixels(np.zeros((1, *pixels.shape[1:]), np.uint8))[:0]
        few = self.embed.model_copy(update={"batch": min(self.embed.batch, len(pixels))})
        data = _Pixels(pixels)
        found = embeddings.encode(
            self.network, self.preprocess, data, few, self.device, quiet=len(pixels) < 100
        )
        return search.prepared(found, "cosine")


def pictures(root: str | Path, paths: Sequence[str], height: int = 96) -> np.ndarray:
    """(N, height, 4/3 height, 3) uint8: whole frames as `images.thumbnails`, past the cache."""
    frame = images.Size(height, round(height * 4 / 3), "letterbox")
    return images.uncached(root, list(paths), frame).pixels


class _Pixels(Dataset):
    """Pixels in memory, a batch at a time, as `loaders.HandImages` has them."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: list[int]) -> loaders.Batch:
        nobody = torch.full((len(rows),), -1)
        return loaders.Batch(torch.from_numpy(self.pixels[rows]), nobody, torch.tensor(rows))


def load(p: StudyParams, data: splits.Prepared | None = None) -> Model:
    """The studied run's model, on the device of the parameters.

    Raises:
        InputError: as `opened.open`.
    """
    return of(opened.open(p, data), p)


def of(found: opened.Opened, p: StudyParams) -> Model:
    """The same of a run that is open already."""
    device = embeddings.device(p.device)
    network = found.embedder.to(device).eval()
    return Model(network, found.preprocess, p.embed, p.data.resize, device)
