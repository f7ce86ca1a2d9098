"""Embeddings to scores, and scores to ranks by counting; numpy alone, in blocks."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

Distance = Literal["cosine", "euclidean"]

# Equal pictures get scores that differ by up to 2.4e-7, by where they stand in a float32 matrix
# product (measured with OpenBLAS, D 64 to 2048). Scores nearer than this are a tie.
TIE = 5e-7
QUERY_BLOCK = 2048  # times GALLERY_BLOCK float32 scores: 64 MB
GALLERY_BLOCK = 8192
OWN_BLOCK = 256  # queries scored at once against the gallery images that are right for them
OWN_ROWS = 32_768  # of these images at most
MANY = 5  # right images; with more, scores are sorted instead of compared with each of them
PIECE = 512  # gallery rows whose nearest are found first, where the gallery has several blocks


class Trial(NamedTuple):
    """One search: which rows of the embeddings are queries and gallery, and whose they are.

    `queries` (Q,) and `gallery` (G,) are row numbers; `query_pids` (Q,) and `gallery_pids` (G,)
    person ids. The gallery names a row once.
    """

    queries: np.ndarray
    gallery: np.ndarray
    query_pids: np.ndarray
    gallery_pids: np.ndarray


class Matched(NamedTuple):
    """A search whose right answers are named row by row, as of texts that are true of many images.

    `queries` (Q,) and `gallery` (G,) as of `Trial`; `right` (Q, K) gallery rows, each once in a
    row, -1 fills up. Memory grows with Q x K, so queries with very many right answers are better
    asked in a search of their own; `search` takes several at the cost of one.
    """

    queries: np.ndarray
    gallery: np.ndarray
    right: np.ndarray


class Found(NamedTuple):
    """Answer to a trial.

    `ranks` (Q, K) int32: ranks from 1 of all right gallery images, ascending; 0 fills up rows of
    queries that have fewer than K. `top` (Q, T) int64: gallery rows, nearest first; -1 fills up.
    """

    ranks: np.ndarray
    top: np.ndarray


def similarity(queries: np.ndarray, gallery: np.ndarray, distance: Distance) -> np.ndarray:
    """Score every query against every gallery image; larger is closer.

    Args:
        queries: (Q, D) float, any norm. A row of zeros has cosine 0 to everything.
        gallery: (G, D) float, any norm.
        distance: `cosine` gives the cosine, -1..1, in float32; `euclidean` gives minus the
            distance, computed in float64 since float32 loses all digits of small distances.

    Returns:
        (Q, G) float32.

    Raises:
        ValueError: if the distance is neither of the two.
    """
    return _scores(prepared(queries, distance), prepared(gallery, distance), distance)


def search(
    queries: np.ndarray,
    gallery: np.ndarray,
    trials: Sequence[Trial | Matched],
    distance: Distance = "cosine",
    top: int = 0,
) -> list[Found]:
    """Rank the right gallery images of every query, for many trials over the same images.

    Every pair of images is scored once, whatever the number of trials. A right image's rank is one
    more than the number of images before it, so no more than `MANY` of them need no sort. Ties
    count as wrong: a wrong image as near as the right one stands before it. Scores exist in blocks
    of `QUERY_BLOCK` x `GALLERY_BLOCK`, so memory does not grow with queries x gallery; the arrays
    may be memory maps.

    Args:
        queries: (N, D) float embeddings that `Trial.queries` counts in.
        gallery: (M, D) float embeddings that `Trial.gallery` counts in; may be the same array.
        trials: the searches.
        distance: `cosine` or `euclidean`.
        top: how many nearest gallery rows to keep per query.

    Returns:
        One `Found` per trial, rows in the order of `Trial.queries`.
    """
    query_rows = np.unique(np.concatenate([trial.queries for trial in trials]))
    gallery_rows = np.unique(np.concatenate([trial.gallery for trial in trials]))
    right = [right_images(trial) for trial in trials]
    found = [
        Found(np.zeros(own.shape, np.int32), np.full((len(own), top), -1, np.int64))
        for own in right
    ]
    for start in range(0, len(query_rows), QUERY_BLOCK):
        block = query_rows[start : start + QUERY_BLOCK]
        left = prepared(queries[block], distance)
        hunts = []
        for trial, own in zip(trials, right, strict=True):
            mine = np.flatnonzero(np.isin(trial.queries, block))
            place = np.searchsorted(block, trial.queries[mine])
            hunts.append(_Hunt(mine, place, len(block), trial.gallery, own[mine], top))
        for hunt in hunts:
            hunt.measure(left, gallery, distance)
        for first in range(0, len(gallery_rows), GALLERY_BLOCK):
            columns = gallery_rows[first : first + GALLERY_BLOCK]
            scores = _scores(prepared(gallery[columns], distance), left, distance)  # (G, B)
            for hunt in hunts:
                hunt.see(columns, scores, hunt is hunts[-1])
        for hunt, into in zip(hunts, found, strict=True):
            into.ranks[hunt.mine], into.top[hunt.mine] = hunt.answer()
    return found


def from_scores(trial: Trial | Matched, blocks: Iterable[np.ndarray], top: int = 0) -> Found:
    """Rank as `search` does, by scores that somebody else computes.

    Args:
        trial: the search.
        blocks: scores of the queries in turn, (b, G) each, larger is closer; columns in the order
            of `Trial.gallery`. Scores nearer than `TIE` are a tie.
        top: how many nearest gallery rows to keep per query.

    Raises:
        ValueError: if the blocks do not score all queries, and no more, against the gallery.
    """
    order = np.argsort(trial.gallery)
    rows, right = trial.gallery[order], right_images(trial)
    column = order[np.minimum(np.searchsorted(rows, right), len(rows) - 1)]
    found = Found(np.zeros(right.shape, np.int32), np.full((len(right), top), -1, np.int64))
    done = 0
    for scores in blocks:
        here = np.arange(len(scores))
        mine = done + here
        done += len(scores)
        if done > len(right) or scores.shape[1] != len(rows):
            raise ValueError(f"scores {scores.shape} do not fit {len(right)} x {len(rows)} images")
        hunt = _Hunt(mine, here, len(scores), rows, right[mine], top)
        hunt.expect(np.take_along_axis(scores, column[mine], axis=1), TIE)
        hunt.count(rows, scores[:, order].T)
        found.ranks[mine], found.top[mine] = hunt.answer()
    if done < len(right):
        raise ValueError(f"scores of {done} queries, but there are {len(right)}")
    return found


def right_images(trial: Trial | Matched) -> np.ndarray:
    """Gallery rows of each query's own person, or that are named: (Q, K), -1 fills up."""
    if isinstance(trial, Matched):
        return trial.right
    order = np.argsort(trial.gallery_pids, kind="stable")
    pids = trial.gallery_pids[order]
    first = np.searchsorted(pids, trial.query_pids, "left")
    count = np.searchsorted(pids, trial.query_pids, "right") - first
    nth = np.arange(max(count.max(initial=0), 1))
    place = np.minimum(first[:, None] + nth, len(pids) - 1)
    return np.where(nth < count[:, None], trial.gallery[order][place], -1)


def prepared(
    embeddings: np.ndarray, distance: Distance, precision: type = np.float32
) -> np.ndarray:
    """Rows as they are compared: (N, D), of length one, or for `euclidean` as they are in float64.

    Raises:
        ValueError: if the distance is neither of the two.
    """
    if distance == "euclidean":
        return np.asarray(embeddings, np.float64)
    if distance != "cosine":
        raise ValueError(f"distance must be cosine or euclidean, not {distance!r}")
    rows = np.asarray(embeddings, precision)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norm, np.finfo(np.float32).tiny)


def _scores(a: np.ndarray, b: np.ndarray, distance: Distance) -> np.ndarray:
    if distance == "cosine":
        return a @ b.T
    size = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("nd,nd->n", b, b)
    squared = size - 2 * (a @ b.T)
    squared[squared < 1e-12 * size] = 0  # rounding of equal pictures
    return -np.sqrt(squared).astype(np.float32)


class _Hunt:
    """One trial's queries among a block of queries, while the gallery passes by in blocks.

    Letters: b queries of the block, n of them in the trial, K right images, g gallery rows. Where
    n is less than half of b, the hunt looks at its own columns of the scores alone.

    Args:
        mine: (n,) positions in the trial.
        place: (n,) positions in the block.
        width: b.
        gallery: (G,) gallery rows of the trial.
        right: (n, K) gallery rows of the right images, -1 fills up.
        top: how many nearest rows to keep.
    """

    def __init__(
        self,
        mine: np.ndarray,
        place: np.ndarray,
        width: int,
        gallery: np.ndarray,
        right: np.ndarray,
        top: int,
    ):
        self.mine, self.right, self.top = mine, right, top
        self.asked = place
        self.few = 2 * len(place) < width
        self.place, self.width = (np.arange(len(place)), len(place)) if self.few else (place, width)
        self.gallery = np.sort(gallery)
        nothing = np.empty((0, self.width))
        self.best = (nothing, nothing.astype(int))  # scores and rows, (up to top, b)
        self.seen = 0  # gallery rows

    def measure(self, left: np.ndarray, gallery: np.ndarray, distance: Distance) -> None:
        """Score the right images, and so set the bar for wrong ones to stand before them."""
        own, images = np.empty(self.right.shape, np.float32), self.right.shape[1]
        several = min(OWN_BLOCK, max(OWN_ROWS // images, 1))
        for start in range(0, len(own), several):
            queries = left[self.asked[start : start + several]]
            for first in range(0, images, OWN_ROWS):
                here = slice(start, start + several), slice(first, first + OWN_ROWS)
                rows, column = np.unique(self.right[here], return_inverse=True)
                scores = _scores(queries, prepared(gallery[rows], distance), distance)
                column = column.reshape(self.right[here].shape)  # a -1 is scored, dropped below
                own[here] = np.take_along_axis(scores, column, axis=1)
        self.expect(own, TIE if distance == "cosine" else TIE * np.abs(own))

    def expect(self, own: np.ndarray, margin: float | np.ndarray) -> None:
        """Set the bar for wrong images: the scores of the right ones (n, K), less a margin.

        Scores of right images that fill up may be anything.
        """
        own = np.where(self.right >= 0, own, -np.inf)
        nearest_first = np.argsort(-own, axis=1)
        self.right = np.take_along_axis(self.right, nearest_first, axis=1)
        own = np.take_along_axis(own - margin, nearest_first, axis=1)
        self.bar = np.full((own.shape[1], self.width), np.inf, own.dtype)  # (K, b)
        self.bar[:, self.place] = np.where(self.right >= 0, own, np.inf).T
        self.before = np.zeros(self.bar.shape, np.int32)

    def see(self, columns: np.ndarray, scores: np.ndarray, last: bool) -> None:
        """Count the wrong images at or above the bar; scores (g, b) belong to rows `columns`.

        The `last` to see them may change them.
        """
        ends = np.searchsorted(self.gallery, [columns[0], columns[-1] + 1])
        rows = self.gallery[slice(*ends)]
        if not len(rows) or not len(self.mine):
            return
        at = np.searchsorted(columns, rows)
        if self.few:
            scores = scores[np.ix_(at, self.asked)]
        elif not last or len(at) < len(scores):
            scores = scores[at]
        self.count(rows, scores)

    def count(self, rows: np.ndarray, wrong: np.ndarray) -> None:
        """The same for scores (g, b) of gallery rows of the trial, ascending; they are changed."""
        at = np.minimum(np.searchsorted(rows, self.right), len(rows) - 1)
        query, k = np.nonzero(rows[at] == self.right)
        wrong[at[query, k], self.place[query]] = -np.inf
        if len(self.bar) > MANY:
            self._count_sorted(wrong)
        else:
            above = np.empty(wrong.shape, bool)
            for bar, before in zip(self.bar, self.before, strict=True):
                np.greater_equal(wrong, bar, out=above)
                before += np.add.reduce(above, axis=0, dtype=np.int32)
        if self.top:
            self._keep(rows, wrong)

    def _count_sorted(self, wrong: np.ndarray) -> None:
        """One pass whatever K: sort a query's scores, and look up its bars in them."""
        number = np.zeros(self.width, int)
        number[self.place] = (self.right >= 0).sum(axis=1)
        for start in range(0, self.width, OWN_BLOCK):
            part = wrong[:, start : start + OWN_BLOCK]
            ascending = np.empty(part.shape[::-1], part.dtype)
            for row in range(0, len(part), 16):  # a column at a time would miss the cache
                ascending[:, row : row + 16] = part[row : row + 16].T
            ascending.sort(axis=1)
            for column, scores in enumerate(ascending, start):
                bars = self.bar[: number[column], column]
                above = len(scores) - np.searchsorted(scores, bars)
                self.before[: len(bars), column] += above.astype(np.int32)

    def _keep(self, rows: np.ndarray, wrong: np.ndarray) -> None:
        """Keep the nearest of what was seen so far; only scores above the last kept are sorted."""
        start = 0
        while start < len(rows):
            # at first pieces that grow, so that nearly all of them lies below the last kept
            piece = len(rows) if len(self.gallery) <= GALLERY_BLOCK else max(self.seen, PIECE)
            here = slice(start, start + piece)
            self._keep_piece(rows[here], wrong[here])
            self.seen += len(rows[here])
            start += piece

    def _keep_piece(self, rows: np.ndarray, wrong: np.ndarray) -> None:
        better, which = wrong, np.broadcast_to(rows[:, None], wrong.shape)
        if len(self.best[0]) == self.top:
            row, column = np.divmod(np.flatnonzero(wrong > self.best[0][-1]), wrong.shape[1])
            order = np.argsort(column, kind="stable")
            row, column = row[order], column[order]
            nth = np.arange(len(row)) - np.searchsorted(column, column)
            shape = (nth.max(initial=-1) + 1, wrong.shape[1])
            better, which = np.full(shape, -np.inf, wrong.dtype), np.zeros(shape, rows.dtype)
            better[nth, column], which[nth, column] = wrong[row, column], rows[row]
        if len(self.best[0]):
            both = zip(self.best, (better, which), strict=True)
            better, which = (np.concatenate(parts) for parts in both)
        self.best = _highest(better, which, self.top)

    def answer(self) -> Found:
        """Ranks, and the nearest rows with the right images at their ranks."""
        nth = np.arange(1, len(self.bar) + 1)
        ranks = np.where(self.right >= 0, self.before[:, self.place].T + nth, 0)
        if not self.top:
            return Found(ranks, np.empty((len(ranks), 0), np.int64))
        scores, rows = self.best
        wrong = np.where(scores > -np.inf, rows, -1)[:, self.place].T
        return Found(ranks, _insert(wrong, self.right, ranks, self.top))


def _highest(scores: np.ndarray, rows: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The top scores of each column (g, b), highest first, with their rows: (up to top, b)."""
    if len(scores) > top:
        keep = np.argpartition(scores, len(scores) - top, axis=0)[-top:]
        scores, rows = (np.take_along_axis(each, keep, axis=0) for each in (scores, rows))
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.take_along_axis(scores, order, axis=0), np.take_along_axis(rows, order, axis=0)


def _insert(wrong: np.ndarray, right: np.ndarray, ranks: np.ndarray, top: int) -> np.ndarray:
    """Nearest wrong rows (n, up to top) with the right ones put at their ranks: (n, top)."""
    out = np.full((len(wrong), top), -1, np.int64)
    query, k = np.nonzero((ranks > 0) & (ranks <= top))
    place = ranks[query, k] - 1
    taken = np.zeros(out.shape, bool)
    taken[query, place] = True
    nth = np.cumsum(~taken, axis=1) - 1  # which wrong one stands here
    there = ~taken & (nth < wrong.shape[1])
    out[there] = np.take_along_axis(wrong, np.where(there, nth, 0), axis=1)[there]
    out[query, place] = right[query, k]
    return out
