"""10,000 resamples of 71 people, ten trials, all metrics, with and without the draw of people."""

import numpy as np

from benchmarks import common
from clipfh_lib.evaluation import intervals, retrieval

TRIALS, LIMIT = 10, 0.1


def simulated(people: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums (P, T, M) and counts (P, T) of people of unequal difficulty, 8 to 19 queries each."""
    draw = np.random.default_rng(0)
    counts = np.repeat(draw.integers(8, 20, people)[:, None], TRIALS, axis=1)
    skill = draw.beta(1.6, 0.8, (people, 1, len(retrieval.METRICS)))
    values = draw.binomial(counts[:, :, None], np.repeat(skill, TRIALS, axis=1))
    return values.astype(float), counts


def reference(sums: np.ndarray, counts: np.ndarray, resamples: int) -> np.ndarray:
    """Ends (2, M) by the definition: draw people, add up, divide, average, and once more."""
    draw, values = np.random.default_rng(1), []
    for _ in range(resamples):
        drawn = draw.integers(len(sums), size=len(sums))
        rates = sums[drawn].sum(axis=0) / counts[drawn].sum(axis=0)[:, None]
        values.append(rates.mean(axis=0))
    return np.quantile(values, [0.025, 0.975], axis=0)


def main() -> None:
    args = common.arguments(__doc__, people=71, resamples=10_000, repeats=10)
    sums, counts = simulated(args.people)

    def warm() -> intervals.Interval:
        return intervals.interval(sums, counts, args.resamples)

    def cold() -> intervals.Interval:
        intervals.person_weights.cache_clear()
        return warm()

    near = 1 / np.sqrt(args.resamples)  # of ends that lie some 0.1 apart
    np.testing.assert_allclose(cold(), reference(sums, counts, args.resamples), atol=near)
    times = common.paired(cold, warm, args.repeats)
    common.report(
        [
            common.at_most("as the first of a run", times[0], LIMIT, "s"),
            common.at_most("people drawn before", times[1], LIMIT, "s"),
        ],
        args.check,
    )


if __name__ == "__main__":
    main()
