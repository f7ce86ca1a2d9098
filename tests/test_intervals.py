import tracemalloc

import numpy as np
import pytest
from scipy import stats

from clipfh_lib.evaluation import intervals


def populations(people, draws, trials=3, seed=0):
    """Rank-1 of people of unequal difficulty, many times: sums (P, T, draws), counts, true rate.

    A person's chance of a hit is Beta(1.6, 0.8), so the rate is 2/3; each has 8 to 19 queries.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(8, 20, people)
    skill = rng.beta(1.6, 0.8, (people, 1, draws))
    sums = rng.binomial(counts[:, None, None], np.broadcast_to(skill, (people, trials, draws)))
    return sums.astype(float), np.repeat(counts[:, None], trials, axis=1), 1.6 / 2.4


@pytest.mark.parametrize("people", [71, 20])
def test_interval_over_people_covers_where_that_over_images_falls_short(people):
    sums, counts, truth = populations(people, draws=400)
    low, high = intervals.interval(sums, counts, resamples=2000)
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.92 <= covered <= 0.98
    rate, images = intervals.trial_means(sums, counts)[0], counts[:, 0].sum()
    width = 1.96 * np.sqrt(rate * (1 - rate) / images)
    assert (np.abs(rate - truth) <= width).mean() < 0.80


def test_interval_resamples_exactly_the_reported_value():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 5, (6, 4))
    counts[:, 3] = [0, 0, 0, 0, 0, 2]  # a trial that most resamples leave without queries
    sums = counts * rng.random((6, 4))
    weights = intervals.person_weights(6, 500, 3)
    assert (weights.sum(axis=1) == 6).all()
    values = []
    for weight in weights:
        rates = [
            (weight @ sums[:, t]) / (weight @ counts[:, t])
            for t in range(4)
            if weight @ counts[:, t] > 0
        ]
        values.append(np.mean(rates))
    level = stats.norm.cdf(-np.sqrt(6 / 5) * stats.t.ppf(0.975, 5))
    expected = np.quantile(values, [level, 1 - level])
    found = intervals.interval(sums[:, :, None], counts, resamples=500, seed=3)
    np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-5)
    assert expected[0] < intervals.trial_means(sums[:, :, None], counts).mean() < expected[1]


def test_same_seed_same_interval_and_another_seed_nearly_the_same():
    sums, counts, _ = populations(71, draws=1)
    one, again, other = (np.ravel(intervals.interval(sums, counts, seed=s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one, other, atol=0.005)


def test_without_a_single_error_the_interval_is_the_rule_of_three_over_people():
    counts = np.full((71, 2), 13)
    sums = np.stack([counts, 0 * counts], axis=-1).astype(float)
    low, high = intervals.interval(sums, counts, resamples=100)
    assert (low[1], high[0]) == (0, 1)
    assert 1 - low[0] == pytest.approx(high[1]) == pytest.approx(3 / 71, rel=0.03)
    # a population with that error rate shows no error in about one of twenty draws of 71 people
    assert stats.binom.pmf(0, 71, high[1]) == pytest.approx(0.05)


def test_a_single_person_has_no_interval():
    found = intervals.interval(np.full((1, 2, 1), 3.0), np.full((1, 2), 5), resamples=100)
    assert np.isnan(found).all()


def test_person_sums_equal_a_loop():
    rng = np.random.default_rng(0)
    values, people, trials = rng.random((50, 2)), rng.integers(0, 4, 50), rng.integers(0, 3, 50)
    sums, counts = intervals.person_sums(values, people, trials, (4, 3))
    for person in range(4):
        for trial in range(3):
            mine = (people == person) & (trials == trial)
            np.testing.assert_allclose(sums[person, trial], values[mine].sum(axis=0))
            assert counts[person, trial] == mine.sum()


@pytest.mark.parametrize("people", [9, 40])  # all sign patterns; drawn ones
def test_paired_p_value_equals_scipy_permutation_test(people):
    rng = np.random.default_rng(2)
    counts = np.full((people, 3), 10)
    second = rng.integers(2, 8, (people, 3, 1)).astype(float)
    first = second + rng.integers(-1, 3, (people, 3, 1))
    found = intervals.compare(first, second, counts, seed=1)
    by_person = (first - second)[:, :, 0].sum(axis=1) / (3 * people * 10)
    expected = stats.permutation_test(
        (by_person,), np.sum, permutation_type="samples", n_resamples=9999, random_state=1
    )
    assert found.difference[0] == pytest.approx(expected.statistic)
    assert found.p[0] == pytest.approx(expected.pvalue, abs=1e-9 if people == 9 else 0.004)
    assert found.low[0] < found.difference[0] < found.high[0]


def test_paired_test_of_equal_methods_rejects_as_often_as_it_says():
    """Two methods of equal skill per person: about 5 % of 400 comparisons have p <= 0.05."""
    first, counts, _ = populations(20, draws=400, seed=5)
    rng = np.random.default_rng(6)
    skill = first.sum(axis=1, keepdims=True) / counts.sum(axis=1)[:, None, None]
    one, other = (rng.binomial(counts[:, :, None], skill + 0 * first) for _ in range(2))
    p = intervals.compare(one.astype(float), other.astype(float), counts, resamples=2000).p
    assert 0.025 <= (p <= 0.05).mean() <= 0.08
    better = np.minimum(other + 2, counts[:, :, None]).astype(float)
    assert intervals.compare(better, other.astype(float), counts, resamples=2000).p.max() < 0.05


def test_methods_that_never_differ_have_p_1_and_the_rule_of_three():
    sums, counts, _ = populations(30, draws=1)
    found = intervals.compare(sums, sums, counts, resamples=200)
    assert (found.difference[0], found.p[0]) == (0, 1)
    assert -found.low[0] == found.high[0] == pytest.approx(1 - 0.05 ** (1 / 30))


@pytest.mark.parametrize("people", [9, 40])
def test_a_draw_in_parts_is_the_draw_at_once(people, monkeypatch):
    sums, counts, _ = populations(people, draws=5)
    other = sums[::-1] + 1
    values, units = np.random.default_rng(3).integers(1, 30, (2, 200)) % [[99], [people]]
    whole = [
        intervals.person_weights(people, 3000, 4),
        np.array(intervals.interval(sums, counts, 3000, 4)),
        np.array(intervals.compare(sums, other, counts, 3000, 4)),
        intervals.median_interval(values, units, 3000, 4),
    ]
    monkeypatch.setattr(intervals, "CELLS", 17 * people + 1)
    parts = list(intervals.weight_parts(people, 3000, 4))
    assert max(map(len, parts)) == 17
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])
    np.testing.assert_allclose(intervals.interval(sums, counts, 3000, 4), whole[1], rtol=1e-6)
    found = intervals.compare(sums, other, counts, 3000, 4)
    np.testing.assert_allclose(found, whole[2], rtol=1e-5, atol=1e-7)
    assert intervals.median_interval(values, units, 3000, 4) == whole[3]


def test_memory_does_not_grow_with_resamples_times_people():
    counts = np.ones((12_000, 1), int)
    sums = np.random.default_rng(0).random((12_000, 1, 2))
    tracemalloc.start()
    intervals.interval(sums, counts)
    intervals.compare(sums, sums[::-1], counts)
    intervals.median_interval(sums[:, 0, 0], np.arange(12_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 600e6 < 12_000 * 10_000 * 8  # the draw of all people at once would be 960 MB


def test_the_interval_of_a_median_is_that_of_medians_of_drawn_queries():
    draw = np.random.default_rng(0)
    people = np.repeat(np.arange(15), draw.integers(1, 6, 15))
    values = draw.random(len(people))
    drawn = [np.repeat(values, n[people]) for n in intervals.person_weights(15, 800, 5).astype(int)]
    medians = [np.median(each) for each in drawn]  # of an even number the mean of two
    level = stats.norm.cdf(-np.sqrt(15 / 14) * stats.t.ppf(0.975, 14))
    expected = np.quantile(medians, [level, 1 - level])
    assert intervals.median_interval(values, people, 800, 5) == pytest.approx(tuple(expected))
    assert expected[0] < np.median(values) < expected[1]
    assert sum(len(each) % 2 == 0 for each in drawn) > 100


def test_a_change_is_the_fall_and_its_share_with_the_intervals_of_drawn_people():
    draw, people = np.random.default_rng(3), 20
    counts, others = (draw.integers(1, 4, (people, trials)) for trials in (2, 3))
    before = draw.uniform(0.5, 1, (people, 2, 1)) * counts[:, :, None]
    after = draw.uniform(0, 0.4, (people, 3, 1)) * others[:, :, None]
    found = intervals.change(before, counts, after, others, 500)

    def values(weights):
        pairs = (before, counts), (after, others)
        return [np.mean((weights @ sums[:, :, 0]) / (weights @ each)) for sums, each in pairs]

    was, left = values(np.ones(people))
    assert found.drop[0] == pytest.approx(was - left)
    assert found.relative[0] == pytest.approx(1 - left / was)
    drawn = np.array([values(weights) for weights in intervals.person_weights(people, 500, 0)])
    falls = drawn[:, :1] - drawn[:, 1:]
    ends = intervals.percentiles(falls, people)
    np.testing.assert_allclose([found.low, found.high], ends, rtol=1e-5)
    ends = intervals.percentiles(falls / drawn[:, :1], people)
    np.testing.assert_allclose([found.relative_low, found.relative_high], ends, rtol=1e-5)
    nothing = intervals.change(before, counts, 0 * after, others, 500)
    assert nothing.relative_low[0] == pytest.approx(1 - (1 - 0.05 ** (1 / people)) / was)
