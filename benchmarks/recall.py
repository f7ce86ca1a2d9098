"""Recall@K, mAP and NDCG@10 of many texts in many images, against their scores and a top-10 list.

The reference does what nobody can do without who lists the nearest ten: one float32 matrix product
in blocks, and a `torch.topk` of every block and then of the blocks' best. It has no ranks beyond
the tenth, which mAP needs, and settles no tie.
"""

import numpy as np
import torch

from benchmarks import common
from clipfh_lib.evaluation import metrics, search, text_image

DIMENSIONS, TOP, TIMES = 512, 10, 1.5
NOISE = 8.0  # of an image, in lengths of its text's coordinates: some texts find theirs, some not
QUERIES, IMAGES = 2048, 8192  # of a block of the reference


def drawn(texts: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts (T, D), images (N, D), and the text of each image (N,): as many of each, in any order.

    Both at unit length.
    """
    draw = np.random.default_rng(0)
    said = draw.permutation(np.arange(images) % texts)
    words = _unit(draw.standard_normal((texts, DIMENSIONS), dtype=np.float32))
    seen = np.empty((images, DIMENSIONS), np.float32)
    for start in range(0, images, IMAGES):
        here = slice(start, start + IMAGES)
        noise = draw.standard_normal(seen[here].shape, dtype=np.float32)
        seen[here] = _unit(words[said[here]] + NOISE / DIMENSIONS**0.5 * noise)
    return words, seen, said


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ours(words: np.ndarray, seen: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All metrics of every text (T, 8), and the rows that stand first (T, 10)."""
    order = np.argsort(said, kind="stable")
    right = order.reshape(len(words), -1)  # as many images of each
    every = np.arange(len(words)), np.arange(len(seen))
    (found,) = search.search(words, seen, [search.Matched(*every, right)], top=TOP)
    recalls, hits = (
        of(found.ranks, np.array(text_image.RECALLS)) for of in (metrics.recall_k, metrics.rank_k)
    )
    rest = metrics.average_precision(found.ranks), metrics.ndcg_k(found.ranks, TOP)
    return np.column_stack([recalls, hits, *rest]), found.top


def reference(words: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Rows of the nearest ten images of every text, (T, 10)."""
    nearest = []
    for start in range(0, len(words), QUERIES):
        asked, best = torch.from_numpy(words[start : start + QUERIES]), []
        for first in range(0, len(seen), IMAGES):
            scores = asked @ torch.from_numpy(seen[first : first + IMAGES]).T
            values, rows = scores.topk(min(TOP, scores.shape[1]))
            best.append((values, rows + first))
        values, rows = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))
        nearest.append(rows.gather(1, values.topk(TOP).indices).numpy())
    return np.concatenate(nearest)


def check(words: np.ndarray, seen: np.ndarray, said: np.ndarray) -> None:
    """Hits and recalls are those of the reference's lists, but for a few ties."""
    values, top = ours(words, seen, said)
    theirs = reference(words, seen)
    assert (top == theirs).mean() > 0.99
    right = said[theirs] == np.arange(len(words))[:, None]
    each = len(seen) // len(words)
    for column, k in enumerate(text_image.RECALLS):
        hits = right[:, :k].sum(axis=1)
        assert (np.abs(values[:, column] - hits / each) < 1e-9).mean() > 0.99
        assert ((values[:, column + 3] > 0) == (hits > 0)).mean() > 0.99
    assert 0.05 < values[:, 2].mean() < 0.95  # they agree on something


def main() -> None:
    args = common.arguments(__doc__, texts=10_000, each=10, repeats=2)
    words, seen, said = drawn(args.texts, args.texts * args.each)
    check(words, seen, said)
    times = common.paired(
        lambda: ours(words, seen, said), lambda: reference(words, seen), args.repeats
    )
    what = f"recall@K, {len(words)} texts x {len(seen)} images, D {DIMENSIONS}"
    common.report([common.at_most(what, *times, "s", TIMES)], args.check)


if __name__ == "__main__":
    main()
