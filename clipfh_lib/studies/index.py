"""Search in a gallery of unit-length embeddings: all of them, or beyond 100,000 by faiss.

An index lives in memory alone. One kept on disk would hold people's embeddings a second time, also
after they were removed from the gallery.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import faiss
import numpy as np

Kind = Literal["auto", "exact", "faiss"]
BIG = 100_000  # images; up to here all of them are compared
SCORES = 2**24  # held at once by the exact search: 64 MB
ADDED = 50_000  # images, handed to faiss at a time
SAMPLE = 64  # images for each list, from which faiss learns where the lists lie
ROUNDS = 8  # of k-means
SHARE = 1 / 8  # of the lists that a search looks into
RESCORED = 8  # times as many candidates as are asked for are compared exactly, at least
LEAST = 64  # candidates


class Nearest(NamedTuple):
    """Cosines (Q, T), highest first, and gallery rows (Q, T); -inf and -1 fill up."""

    similarity: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Exact:
    """Compares a query with every image of the gallery.

    Attributes:
        vectors: (N, D) float32 of length one, may be a memory map; people one after another.
        first: (P,) where the rows of each person begin.
    """

    vectors: np.ndarray
    first: np.ndarray

    def images(self, queries: np.ndarray, top: int) -> Nearest:
        """The nearest images to each query, (Q, D) float32 of length one."""
        found = [_highest(scores, top) for scores in self._scores(queries)]
        return _joined(found, top)

    def people(self, queries: np.ndarray, top: int) -> Nearest:
        """The nearest people, each by the best of the person's images, whose row is given."""
        ends, found = np.append(self.first[1:], len(self.vectors)), []
        for scores in self._scores(queries):
            best = _highest(np.maximum.reduceat(scores, self.first, axis=1), top)
            rows = np.empty_like(best.rows)
            for query, who in np.ndindex(*rows.shape):
                person = best.rows[query, who]
                here = scores[query, self.first[person] : ends[person]]
                rows[query, who] = self.first[person] + here.argmax()
            found.append(best._replace(rows=rows))
        return _joined(found, top)

    def _scores(self, queries: np.ndarray) -> Iterator[np.ndarray]:
        """Blocks of (q, N) in turn, so many queries that no more than `SCORES` are held."""
        several = max(SCORES // max(len(self.vectors), 1), 1)
        for start in range(0, len(queries), several):
            block = queries[start : start + several]
            yield np.ascontiguousarray((self.vectors @ block.T).T)


@dataclass(frozen=True)
class Approximate:
    """faiss: an inverted file with 8 bits a number, whose candidates are then compared exactly.

    Lists by k-means on a sample (IVF), vectors as their difference from the list's centre in one
    byte a number (SQ8): Jégou et al., Product Quantization for Nearest Neighbor Search, TPAMI 2011,
    section IV, for the inverted file; Douze et al., The Faiss library, 2024 (arXiv:2401.08281), for
    this kind. It holds a quarter of the embeddings' memory beside them. The same vectors and seed
    give the same index.

    Attributes:
        vectors, first: as of `Exact`.
        seed: of k-means and its sample.
    """

    vectors: np.ndarray
    first: np.ndarray
    seed: int = 0

    @cached_property
    def index(self) -> faiss.IndexIVFScalarQuantizer:
        """Built when it is first asked for."""
        count, width = self.vectors.shape
        lists = max(1, min(round(2 * math.sqrt(count)), count // 40))
        centres = faiss.IndexFlatIP(width)
        made = faiss.IndexIVFScalarQuantizer(
            centres, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        made.cp.seed, made.cp.niter, made.cp.spherical = self.seed, ROUNDS, True
        made.cp.max_points_per_centroid = SAMPLE
        sample = np.random.default_rng(self.seed).permutation(count)[: SAMPLE * lists]
        made.train(np.ascontiguousarray(self.vectors[np.sort(sample)]))
        for start in range(0, count, ADDED):
            made.add(np.ascontiguousarray(self.vectors[start : start + ADDED]))
        made.nprobe = math.ceil(lists * SHARE)
        return made

    def images(self, queries: np.ndarray, top: int) -> Nearest:
        """The nearest images to each query, but for some; cosines are exact."""
        return _joined([self._images(query, top, self.index.nprobe) for query in queries], top)

    def people(self, queries: np.ndarray, top: int) -> Nearest:
        """The nearest people, each by the best of the images that were found.

        Where the candidates are of fewer people than asked for, more are looked at.
        """
        return _joined([self._people(query, top) for query in queries], top)

    def _images(self, query: np.ndarray, top: int, probes: int) -> Nearest:
        count = min(max(RESCORED * top, LEAST), len(self.vectors))
        how = faiss.SearchParametersIVF(nprobe=probes)
        rows = self.index.search(query[None], count, params=how)[1][0]
        rows = np.sort(rows[rows >= 0])
        found = _highest((self.vectors[rows] @ query)[None], top)
        return Nearest(found.similarity, rows[found.rows])

    def _people(self, query: np.ndarray, top: int) -> Nearest:
        wanted, images, probes = min(top, len(self.first)), top, self.index.nprobe
        while True:
            similarity, rows = (part[0] for part in self._images(query, images, probes))
            who = np.searchsorted(self.first, rows, "right") - 1
            best = np.sort(np.unique(who, return_index=True)[1])[:top]  # nearest first
            whole = images >= len(self.vectors) and probes >= self.index.nlist
            if len(best) >= wanted or whole:
                return Nearest(similarity[None, best], rows[None, best])
            images = min(4 * images, len(self.vectors))
            probes = min(2 * probes, self.index.nlist)


def build(
    vectors: np.ndarray, first: np.ndarray, kind: Kind = "auto", seed: int = 0
) -> Exact | Approximate:
    """An index: `exact`, `faiss`, or by the number of images (`auto`).

    Args:
        vectors: (N, D) float32 of length one; people one after another.
        first: (P,) where the rows of each person begin.

    Returns:
        `Exact` or `Approximate`, which has learnt its lists.
    """
    if kind == "exact" or (kind == "auto" and len(vectors) <= BIG):
        return Exact(vectors, first)
    made = Approximate(vectors, first, seed)
    made.index  # noqa: B018 - here, and not at the first question
    return made


def _highest(scores: np.ndarray, top: int) -> Nearest:
    """The highest scores of each row (q, n) and their columns; of equals the first ones."""
    if scores.shape[1] > top:
        columns = np.argpartition(scores, scores.shape[1] - top, axis=1)[:, -top:]
        columns.sort(axis=1)
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    here = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-here, axis=1, kind="stable")
    return Nearest(*(np.take_along_axis(part, order, axis=1) for part in (here, columns)))


def _joined(found: list[Nearest], top: int) -> Nearest:
    """Answers one below another, filled up to `top`."""
    similarity, rows = [np.empty((0, top), np.float32)], [np.empty((0, top), np.int64)]
    for one in found:
        wide = ((0, 0), (0, top - one.rows.shape[1]))
        similarity.append(np.pad(one.similarity, wide, constant_values=-np.inf))
        rows.append(np.pad(one.rows, wide, constant_values=-1))
    return Nearest(np.concatenate(similarity), np.concatenate(rows))
