"""k-reciprocal re-ranking of one trial, sparse: neighbours of neighbours that name each other."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse

from clipfh_lib.evaluation import search
from clipfh_lib.schema import RerankParams

BLOCK = 256  # images whose distances to WIDE others exist at once: 8 MB
WIDE = 4000  # no less than BLOCK; a power of 2 would be slow to turn
SCORES = 1 << 18  # final distances that are given out at once: 2 MB
PAIRS = 1 << 16  # pairs of entries that are compared at once, unless one query has more
STEPS = 2.0**30  # to the largest distance there can be; what falls on the same step is equally near
NAMES = 2.0**22  # images that fit into a key below the steps: 52 bits, whole numbers of a float64


class _Sides(NamedTuple):
    """All N = Q + G images of a trial, queries first, twice: (N, D + 2) float64 each.

    The product of a row of `left` and one of `right` is the squared distance of the two images. In
    float64, so that equal images have equal distances, wherever they stand in a product.
    """

    left: np.ndarray
    right: np.ndarray


def rank(
    array: np.ndarray,
    trial: search.Trial,
    how: RerankParams,
    distance: search.Distance = "cosine",
    top: int = 0,
) -> search.Found:
    """Rank the right gallery images of every query by `distances`, with the rules of `search`.

    Ties count as wrong; final distances, 0 to 1, that are nearer than `search.TIE` are a tie.
    """
    scores = (np.negative(block, out=block) for block in distances(array, trial, how, distance))
    return search.from_scores(trial, scores, top)


def distances(
    array: np.ndarray,
    trial: search.Trial,
    how: RerankParams,
    distance: search.Distance = "cosine",
) -> Iterator[np.ndarray]:
    """Final distances of a trial after re-ranking, in blocks of queries.

    Zhong, Zheng, Cao, Li, Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR
    2017 (arXiv:1701.08398), eqs. 2 to 4, 7 and 10 to 12. An image is described by its reciprocal
    neighbours, each among the k1 nearest of the other, and by theirs; two images are near if their
    descriptions share much.

    It is transductive: neighbours are sought among all queries and gallery images of the trial, so
    a query's answer depends on what else is asked. Nobody has that who searches for one hand. It
    needs several images of a person: with one gallery image and few queries of each it lowers the
    scores, and where it raises them there, a person's other queries did it.

    Where the authors' program departs from the paper or settles what it leaves open, the program
    decides, since published numbers come from it: neighbours are images of the whole trial, an
    image itself and k1 more; those of a neighbour are taken in if *more* than two thirds of them
    are shared; the plain distance is squared and divided by the largest in its row; an image's
    weights sum to 1. It leaves open which of two equally near images comes first: here, after the
    image itself, that of the lower row, queries before the gallery.

    Memory holds the embeddings twice in float64, and N x k1 to N x k1 x k2 entries of descriptions;
    neither N x N nor Q x G distances ever exist.

    Args:
        array: (M, D) float embeddings that the trial counts in, any norm.
        how: k1 and k2 may be larger than the trial. `weight` is that of the plain distance (lambda
            in the paper): 1 gives the plain ranking.
        distance: `cosine`: squared distance of unit embeddings, 2 - 2 cos; `euclidean`: squared.

    Yields:
        (b, G) float64, 0..1: queries and gallery in the order of the trial.
    """
    sides = _sides(array[np.concatenate([trial.queries, trial.gallery])], distance)
    near, far = _neighbours(sides, max(how.k1 + 1, how.k2))
    codes = _codes(sides, _grown(near, how.k1), near[:, : how.k2], far)
    first, gallery = len(trial.queries), len(trial.gallery)
    holders = codes[first:].T.tocsr()  # (N, G): whose code in the gallery an image is in
    step = max(1, SCORES // gallery)
    for start in range(0, first, step):
        here = slice(start, min(start + step, first))
        final = sides.left[here] @ sides.right[first:].T
        final *= how.weight / far[here, None]
        shared = _shared(codes[here], holders)
        shared /= 2 - shared  # eq. 10: a code sums to 1
        shared *= 1 - how.weight
        final += 1 - how.weight
        final -= shared
        yield final


def _sides(array: np.ndarray, distance: search.Distance) -> _Sides:
    rows = search.prepared(array, distance, np.float64)
    one = np.ones((len(rows), 1))
    if distance == "cosine":
        size = one  # also of a row of zeros: cosine 0 to everything
    else:
        rows = rows - rows.mean(axis=0)  # moves no distance, and keeps the digits of small ones
        size = np.einsum("nd,nd->n", rows, rows)[:, None]
    return _Sides(np.hstack([-2 * rows, size, one]), np.hstack([rows, one, size]))


def _neighbours(sides: _Sides, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest images of each, itself first: (N, count); largest squared distance: (N,).

    A key holds the distance in whole steps and below it the row, so that equally near images have
    an order; each pair of blocks is scored once for both sides.
    """
    n = len(sides.left)
    scale = STEPS / (4 * sides.right[:, -1].max() or 1)
    keys, far = np.full((n, min(count, n)), np.inf), np.zeros(n)
    row = np.arange(n, dtype=np.float64)
    for start in range(0, n, BLOCK):
        these = slice(start, min(start + BLOCK, n))
        left = sides.left[these] * scale
        for other in range(start, n, WIDE):
            those = slice(other, min(other + WIDE, n))
            steps = left @ sides.right[those].T
            np.maximum(far[these], steps.max(axis=1), out=far[these])
            np.maximum(far[those], steps.max(axis=0), out=far[those])
            np.rint(steps, out=steps)
            if other == start:
                np.fill_diagonal(steps, -1)
            steps *= NAMES
            keys[these] = _lowest(keys[these], steps + row[those])
            after = slice(max(other, these.stop), those.stop)  # not yet scored for the other side
            turned = steps[:, after.start - other :].T + row[these]
            keys[after] = _lowest(keys[after], turned)
    keys.sort(axis=1)
    near = keys.astype(np.int64) & (int(NAMES) - 1)
    return near.astype(np.int32), np.where(far > 0.5, far / scale, 1)  # 1: all are equal


def _lowest(keys: np.ndarray, more: np.ndarray) -> np.ndarray:
    """The lowest of both in each row, as many as there are columns of keys, in any order."""
    count = keys.shape[1]
    if more.shape[1] > count:
        more.partition(count - 1, axis=1)
    both = np.concatenate([keys, more[:, :count]], axis=1)
    both.partition(count - 1, axis=1)
    return both[:, :count]


def _reciprocal(near: np.ndarray, k: int) -> sparse.csr_array:
    """Pairs of images that name each other among k neighbours, eq. 3: (N, N) of ones."""
    named = _rows(near[:, : k + 1], np.float32(1))
    return named.multiply(named.T).tocsr()


def _grown(near: np.ndarray, k1: int) -> sparse.csr_array:
    """Reciprocal sets with those of half the size that they mostly contain, eq. 4: (N, N)."""
    sets, halves = _reciprocal(near, k1), _reciprocal(near, round(k1 / 2))
    size, grown = halves.sum(axis=1), []
    for start in range(0, len(near), BLOCK):
        part = sets[start : start + BLOCK]
        common = (part @ halves).multiply(part).tocsr()  # halves is symmetric
        common.data = (3 * common.data > 2 * size[common.indices]).astype(np.float32)
        common.eliminate_zeros()
        grown.append(part + common @ halves)
    return sparse.vstack(grown, "csr")


def _codes(
    sides: _Sides, sets: sparse.csr_array, near: np.ndarray, far: np.ndarray
) -> sparse.csr_array:
    """Sets to weights by distance, eq. 7, averaged over the neighbours near, eq. 11: (N, N)."""
    squared = np.empty(sets.nnz)
    for left, (first, last) in zip(sides.left, pairwise(sets.indptr.tolist()), strict=True):
        squared[first:last] = sides.right.take(sets.indices[first:last], axis=0) @ left
    of = np.repeat(np.arange(len(near)), np.diff(sets.indptr))
    weight = np.exp(-squared / far[of])
    weight /= np.bincount(of, weight)[of]
    codes = sparse.csr_array((weight, sets.indices, sets.indptr), sets.shape)
    return (_rows(near, 1 / near.shape[1]) @ codes).tocsr()


def _rows(columns: np.ndarray, value: float) -> sparse.csr_array:
    """One value in the given columns (N, k) of each row: (N, N)."""
    n, k = columns.shape
    starts = np.arange(0, n * k + 1, k, dtype=columns.dtype)
    filled = sparse.csr_array((np.full(n * k, value), columns.flatten(), starts), (n, n))
    filled.sort_indices()  # of a copy: `near` itself is in order of distance
    return filled


def _shared(codes: sparse.csr_array, holders: sparse.csr_array) -> np.ndarray:
    """Sum of the smaller weights of each query and gallery image: (b, N) and (N, G) to (b, G)."""
    gallery, held = holders.shape[1], np.diff(holders.indptr)
    pairs = np.concatenate([[0], np.cumsum(held[codes.indices])])[codes.indptr]  # before a query
    shared = np.empty((codes.shape[0], gallery))
    first = 0
    while first < len(shared):
        last = max(int(np.searchsorted(pairs, pairs[first] + PAIRS, "right")) - 1, first + 1)
        entries = slice(codes.indptr[first], codes.indptr[last])
        theirs = holders[codes.indices[entries]]
        ours = np.repeat(codes.data[entries], np.diff(theirs.indptr))
        start = np.arange(0, (last - first) * gallery, gallery, dtype=theirs.indices.dtype)
        place = np.repeat(start, np.diff(pairs[first : last + 1])) + theirs.indices
        smaller = sparse.csr_array(
            (np.minimum(ours, theirs.data), place, theirs.indptr),
            (theirs.shape[0], len(start) * gallery),
        )
        shared[first:last] = smaller.sum(axis=0).reshape(-1, gallery)
        first = last
    return shared
