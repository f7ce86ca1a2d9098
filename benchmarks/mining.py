"""Hard negatives among 100,000 captions: seconds for 1,000 anchors, memory beyond the embeddings.

Each caption is of an image of its own; every fifth has a true match among the others, which must
not be mined. Seconds are processor time over the two threads that work. Memory as in big_gallery.
"""

import sys

import numpy as np
import torch

from benchmarks import common
from benchmarks.big_gallery import DIMENSIONS, STATUS, peak_megabytes
from clipfh_lib.evaluation import mining

THREADS, SECONDS, MEGABYTES, NEGATIVES = 2, 2, 500, 32  # a batch of 32 may hold as many already


def check(texts: np.ndarray, images: np.ndarray, groups: np.ndarray, found: np.ndarray) -> None:
    """Negatives of some anchors are the highest of their scores in float64 but for true matches."""
    some = np.linspace(0, len(found) - 1, 20).astype(int)
    left, right = (
        part / np.linalg.norm(part, axis=1, keepdims=True)
        for part in (texts[some].astype(np.float64), images.astype(np.float64))
    )
    scores = left @ right.T
    scores[groups[some, None] == groups[None]] = -np.inf
    mine = np.take_along_axis(scores, found[some], axis=1)
    best = -np.sort(-scores, axis=1)[:, : found.shape[1]]
    np.testing.assert_allclose(mine, best, atol=1e-5)
    assert (found[some] >= 0).all() and len(np.unique(found)) > 1  # they agree on something


def main() -> None:
    args = common.arguments(__doc__, captions=100_000, anchors=1_000, repeats=3)
    if not STATUS.is_file():
        sys.exit("RssAnon is known on Linux alone")
    torch.set_num_threads(THREADS)
    draw = np.random.default_rng(0)
    images = draw.standard_normal((args.captions, DIMENSIONS), np.float32)
    noise = draw.standard_normal((args.anchors, DIMENSIONS), np.float32)
    texts = images[: args.anchors] + 3 * noise
    groups = np.arange(args.captions) // 5 * 5 + np.arange(args.captions) % 5 % 4
    anchors = groups[: args.anchors]

    def mine() -> np.ndarray:
        return mining.hard(texts, images, anchors, groups, NEGATIVES)

    check(texts, images, groups, mine())
    peak = peak_megabytes(mine)
    seconds, _ = common.paired(mine, lambda: None, args.repeats)
    seconds *= 1_000 / args.anchors / THREADS
    what = f"{args.anchors:,} anchors among {args.captions:,} captions"
    rows = [
        common.at_most(f"{what}, for 1,000", seconds, SECONDS, "s"),
        common.at_most(f"{what}, memory", peak, MEGABYTES, "MB"),
    ]
    common.report(rows, args.check)


if __name__ == "__main__":
    main()
