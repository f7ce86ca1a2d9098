"""Images and the texts that are true of them: one text may be said of many, an image have many."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from clipfh_lib import files
from clipfh_lib.files import InputError


@dataclass(frozen=True)
class Pairs:
    """Which text is said of which image.

    Attributes:
        table: images, a row each, in order, with index 0..N-1.
        texts: the T texts, each once, in alphabetical order.
        images: (M,) row of the image of each pair, ascending.
        ids: (M,) text of each pair, ascending among those of an image.
    """

    table: pd.DataFrame
    texts: list[str]
    images: np.ndarray
    ids: np.ndarray

    @cached_property
    def links(self) -> csr_array:
        """Whether a text is said of an image: (N, T) bool, sparse."""
        shape = len(self.table), len(self.texts)
        return csr_array((np.ones(len(self.ids), bool), (self.images, self.ids)), shape)

    @cached_property
    def groups(self) -> np.ndarray:
        """Images that are true of the same text, near or far, have one number: (N,), 0..groups-1.

        Nothing of one group is ever a wrong answer for another part of it.
        """
        count, size = len(self.table), len(self.table) + len(self.texts)
        links = (np.ones(len(self.ids), bool), (self.images, count + self.ids))
        _, found = connected_components(coo_array(links, shape=(size, size)), directed=False)
        return np.unique(found[:count], return_inverse=True)[1]

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of which text is said of which image: what training on them depends on."""
        names = self.table["image_id"].tolist()
        links = zip(self.images.tolist(), self.ids.tolist(), strict=True)
        return files.digest([(names[row], self.texts[text]) for row, text in links])

    def drawn(self, seed: int, epoch: int) -> np.ndarray:
        """One text of each image, (N,), which (seed, epoch) decide."""
        first = np.searchsorted(self.images, np.arange(len(self.table)))
        count = np.bincount(self.images, minlength=len(self.table))
        draw = np.random.default_rng([seed, epoch, 7]).random(len(self.table))
        return self.ids[first + np.minimum((draw * count).astype(int), count - 1)]

    def of_images(self, kept: pd.Series) -> "Pairs":
        """Those of some images alone, by image_id, in the order of the table."""
        table = self.table[self.table["image_id"].isin(kept)]
        mine = np.isin(self.images, table.index)
        names = self.table["image_id"].to_numpy()[self.images[mine]]
        said = np.array(self.texts, dtype=object)[self.ids[mine]]
        return make(table, pd.DataFrame({"image_id": names, "prompt": said}))


def make(table: pd.DataFrame, prompts: pd.DataFrame) -> Pairs:
    """Put images and prompts together; images without a prompt are left out.

    Args:
        table: `image_id` and others, an image each.
        prompts: `image_id, prompt`, several rows of an image where it has several prompts; rows of
            other images are passed over.

    Raises:
        InputError: no image has a prompt.
    """
    prompts = prompts[["image_id", "prompt"]].drop_duplicates()
    prompts = prompts[prompts["image_id"].isin(table["image_id"])]
    if prompts.empty:
        raise InputError("prompts: none of the images has one")
    table = table[table["image_id"].isin(prompts["image_id"])].reset_index(drop=True)
    texts = sorted(set(prompts["prompt"]))
    rows = pd.Index(table["image_id"]).get_indexer(prompts["image_id"])
    ids = pd.Index(texts).get_indexer(prompts["prompt"])
    order = np.lexsort((ids, rows))
    return Pairs(table, texts, rows[order], ids[order])
