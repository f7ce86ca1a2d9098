"""Ranks and metrics of ten trials, against one matrix product and one pass of comparisons.

The limit is what nobody can do without: every pair of images scored once, and in each trial and
gallery every score compared once with that of the right image.
"""

import numpy as np

from benchmarks import common
from clipfh_lib.evaluation import retrieval, search

DIMENSIONS, TRIALS, TIMES = 512, 10, 2


def drawn(pids: np.ndarray, seed: int) -> np.ndarray:
    """Embeddings (N, D) of people who can be told apart, more or less."""
    draw = np.random.default_rng(seed)
    centre = draw.standard_normal((pids.max() + 1, DIMENSIONS))[pids]
    return (centre + 3 * draw.standard_normal(centre.shape)).astype(np.float32)


def one_each(pids: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A row of each person."""
    order = draw.permutation(len(pids))
    return np.sort(order[np.unique(pids[order], return_index=True)[1]])


def hands_11k(share: float) -> tuple[np.ndarray, int, list[search.Trial]]:
    """Embeddings of four aspects, images of the first, and its trials against 71 and 290."""
    sizes = (1042, 71), (1061, 73), (988, 71), (1023, 75)  # images, people of the test halves
    parts = [np.arange(int(n * share)) % max(int(p * share), 2) for n, p in sizes]
    start = np.cumsum([0, *(part.max() + 1 for part in parts)])
    pids = np.concatenate([part + first for part, first in zip(parts, start, strict=False)])
    own, draw, trials = np.arange(len(parts[0])), np.random.default_rng(1), []
    for _ in range(TRIALS):
        whole = one_each(pids, draw)
        for gallery in (whole[whole < len(own)], whole):
            queries = np.setdiff1d(own, gallery)
            trials.append(search.Trial(queries, gallery, pids[queries], pids[gallery]))
    return drawn(pids, 0), len(own), trials


def hd(share: float) -> tuple[np.ndarray, int, list[search.Trial]]:
    """Embeddings of 251 people and 1342 distractor images, images of the people, trials."""
    images, people, crowd = (max(int(n * share), 4) for n in (2243, 251, 1342))
    pids = np.concatenate([np.arange(images) % people, people + np.arange(crowd)])
    own, draw, trials = np.arange(images), np.random.default_rng(1), []
    for _ in range(TRIALS):
        gallery = one_each(pids, draw)
        queries = np.setdiff1d(own, gallery)
        trials.append(search.Trial(queries, gallery, pids[queries], pids[gallery]))
    return drawn(pids, 0), images, trials


def ours(array: np.ndarray, trials: list[search.Trial]) -> list[np.ndarray]:
    """All metrics of every query: (Q, 6) for each trial."""
    found = search.search(array, array, trials)
    return [retrieval.query_values(one.ranks) for one in found]


def limit(queries: np.ndarray, gallery: np.ndarray, trials: list[search.Trial]) -> None:
    """One matrix product, and one pass over the comparisons of all trials."""
    scores = queries @ gallery.T
    for trial in trials:
        some = scores[: len(trial.queries), : len(trial.gallery)]
        np.add.reduce(some >= scores[: len(some), :1], axis=1, dtype=np.int32)


def check(array: np.ndarray, trials: list[search.Trial]) -> None:
    """Rank-1 and mAP of one right image are those of its place by scores in float64."""
    unit = array / np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
    for trial, values in zip(trials, ours(array, trials), strict=True):
        scores = unit[trial.queries] @ unit[trial.gallery].T
        right = trial.gallery_pids == trial.query_pids[:, None]
        bar = scores[right][:, None]
        ends = [1 + (~right & (scores > bar + far)).sum(axis=1) for far in (1e-6, -1e-6)]
        rank = 1 / values[:, 3]
        assert ((ends[0] - 1e-9 <= rank) & (rank <= ends[1] + 1e-9)).all()
        assert (ends[1] - ends[0]).mean() < 0.1  # hardly any so near that both are right
        np.testing.assert_array_equal(values[:, 0], rank < 1.5)
        assert 0.1 < values[:, 0].mean() < 0.99  # they agree on something


def main() -> None:
    args = common.arguments(__doc__, percent=100, repeats=7)
    rows = []
    for what, (array, images, trials) in {
        "11k": hands_11k(args.percent / 100),
        "HD": hd(args.percent / 100),
    }.items():
        check(array, trials)
        times = common.paired(
            lambda a=array, t=trials: ours(a, t),
            lambda a=array, n=images, t=trials: limit(a[:n], a, t),
            args.repeats,
        )
        name = f"{what}, {images} x {len(array)}, {TRIALS} trials"
        rows.append(common.at_most(name, *times, "s", TIMES))
    queries, gallery = array[trials[0].queries], array[trials[0].gallery]
    array = np.concatenate([queries, gallery])
    numbers = np.split(np.arange(len(array)), [len(queries)])
    one = search.Trial(*numbers, trials[0].query_pids, trials[0].gallery_pids)
    times = common.paired(
        lambda: ours(array, [one]), lambda: limit(queries, gallery, [one]), args.repeats
    )
    name = f"HD, {len(queries)} x {len(gallery)}, one trial"
    rows.append(common.at_most(name, *times, "s", TIMES))
    common.report(rows, args.check)


if __name__ == "__main__":
    main()
