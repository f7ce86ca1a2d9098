"""k-reciprocal re-ranking at the size of HD, against the dense form of the paper.

The reference is the published form: matrices (Q + G)^2 of distances and weights, and for each image
a step in Python for its sets, its weights and its Jaccard distances; in float64, as ours, and with
the same ranks, which is checked first. Beside it, without a target: the fastest dense form that we
could write, in float32; with the same matrices, of which ours has none.
"""

from collections.abc import Callable

import numpy as np

from benchmarks import common
from clipfh_lib.evaluation import reranking, search
from clipfh_lib.schema import RerankParams

DIMENSIONS, WEIGHT = 512, 0.3
TARGETS = {(20, 6): 8, (50, 15): 3.5}  # k1, k2: times faster than the published form


def hd(share: float) -> tuple[np.ndarray, search.Trial]:
    """Embeddings and a trial of HD: 251 people with a gallery image each, 1342 images of others."""
    images, people, crowd = (max(int(n * share), 4) for n in (1992, 251, 1342))
    others = people + np.arange(crowd) % max(int(213 * share), 2)
    pids = np.concatenate([np.arange(images) % people, np.arange(people), others])
    draw = np.random.default_rng(0)
    centre = draw.standard_normal((pids.max() + 1, DIMENSIONS))[pids]
    array = (centre + 2.5 * draw.standard_normal(centre.shape)).astype(np.float32)
    queries, gallery = np.split(np.arange(len(pids)), [images])
    return array, search.Trial(queries, gallery, pids[queries], pids[gallery])


def published(array: np.ndarray, queries: int, k1: int, k2: int) -> np.ndarray:
    """Final distances (Q, G) of Zhong et al., CVPR 2017, image by image; dtype of the array."""
    plain, near = _plain(array, k1, k2)
    size = len(array)

    def reciprocal(image: int, k: int) -> np.ndarray:
        named = near[image, : k + 1]
        return named[(near[named, : k + 1] == image).any(axis=1)]

    weights = np.zeros_like(plain)
    for image in range(size):
        own = reciprocal(image, k1)
        parts = [own]
        for other in own:
            theirs = reciprocal(other, round(k1 / 2))
            if 3 * np.isin(theirs, own).sum() > 2 * len(theirs):
                parts.append(theirs)
        grown = np.unique(np.concatenate(parts))
        weight = np.exp(-plain[image, grown])
        weights[image, grown] = weight / weight.sum()
    weights = np.stack([weights[some].mean(axis=0) for some in near[:, :k2]])
    holders = [np.flatnonzero(column) for column in weights.T]
    final = np.empty_like(plain[:queries])
    for image in range(queries):
        shared = np.zeros(size, plain.dtype)
        for entry in np.flatnonzero(weights[image]):
            who = holders[entry]
            shared[who] += np.minimum(weights[image, entry], weights[who, entry])
        final[image] = 1 - shared / (2 - shared)
    return ((1 - WEIGHT) * final + WEIGHT * plain[:queries])[:, queries:]


def widest(array: np.ndarray, queries: int, k1: int, k2: int) -> np.ndarray:
    """The same with sets as (Q + G)^2 truth values, and a few wide calls an image."""
    plain, near = _plain(array, k1, k2)

    def reciprocal(k: int) -> np.ndarray:
        named = np.zeros(plain.shape, bool)
        np.put_along_axis(named, near[:, : k + 1], True, axis=1)
        return named & named.T

    sets, halves = reciprocal(k1), reciprocal(round(k1 / 2))
    size, weights = halves.sum(axis=1), np.zeros_like(plain)
    for image, own in enumerate(sets):
        others = np.flatnonzero(own)
        theirs = halves[others]
        taken = 3 * theirs[:, others].sum(axis=1) > 2 * size[others]
        grown = np.flatnonzero(theirs[taken].any(axis=0) | own)
        weight = np.exp(-plain[image, grown])
        weights[image, grown] = weight / weight.sum()
    weights = np.stack([weights[some].mean(axis=0) for some in near[:, :k2]])
    gallery = np.ascontiguousarray(weights[queries:].T)
    final = WEIGHT * plain[:queries, queries:]
    for image in range(queries):
        entries = np.flatnonzero(weights[image])
        shared = np.minimum(weights[image, entries, None], gallery[entries]).sum(axis=0)
        final[image] += (1 - WEIGHT) * (1 - shared / (2 - shared))
    return final


def _plain(array: np.ndarray, k1: int, k2: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances over the largest of their row, (N, N), and the nearest images in order."""
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    plain = 2 - 2 * (unit @ unit.T)
    plain /= plain.max(axis=1, keepdims=True)
    count = min(max(k1 + 1, k2), len(plain))
    return plain, np.argpartition(plain, range(count), axis=1)[:, :count]


def rank(
    form: Callable[..., np.ndarray], array: np.ndarray, trial: search.Trial, k1: int, k2: int
) -> np.ndarray:
    """Ranks by the final distances of a form."""
    return search.from_scores(trial, [-form(array, len(trial.queries), k1, k2)]).ranks


def check(array: np.ndarray, trial: search.Trial, k1: int, k2: int) -> None:
    """All three forms give the same ranks."""
    how = RerankParams(k1=k1, k2=k2, weight=WEIGHT)
    ours = reranking.rank(array, trial, how).ranks
    for form in (published, widest):
        theirs = rank(form, array.astype(np.float64), trial, k1, k2)
        np.testing.assert_array_equal(ours, theirs)
    (plain,) = search.search(array, array, [trial])
    assert (plain.ranks != ours).mean() > 0.1  # they agree on something


def main() -> None:
    args = common.arguments(__doc__, percent=100, repeats=2)
    array, trial = hd(args.percent / 100)
    rows = []
    for (k1, k2), target in TARGETS.items():
        check(array, trial, k1, k2)
        how = RerankParams(k1=k1, k2=k2, weight=WEIGHT)
        what = f"HD, {len(trial.queries)} x {len(trial.gallery)}, k {k1}, {k2}"
        found = common.paired(
            lambda how=how: reranking.rank(array, trial, how),
            lambda k1=k1, k2=k2: rank(published, array.astype(np.float64), trial, k1, k2),
            args.repeats,
        )
        rows.append(common.faster(what, *found, "s", target))
        found = common.paired(
            lambda how=how: reranking.rank(array, trial, how),
            lambda k1=k1, k2=k2: rank(widest, array, trial, k1, k2),
            args.repeats,
        )
        widely = common.faster(f"{what}, widest", *found, "s", 0)
        rows.append(widely._replace(target="none"))
    common.report(rows, args.check)


if __name__ == "__main__":
    main()
