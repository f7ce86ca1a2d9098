import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, det_curve, roc_curve

from clipfh_lib.evaluation import metrics


@st.composite
def rankings(draw):
    """Relevance of 30 ranked images, at least one of them right."""
    right = draw(st.sets(st.integers(1, 30), min_size=1, max_size=8))
    return np.array([sorted(right)])


@given(rankings())
def test_average_precision_equals_scikit_learn(ranks):
    relevant = np.isin(np.arange(1, 31), ranks)
    expected = average_precision_score(relevant, -np.arange(30))
    assert metrics.average_precision(ranks)[0] == pytest.approx(expected, abs=1e-12)


@given(rankings())
def test_trapezoid_average_precision_is_the_mean_of_precision_before_and_at_each_match(ranks):
    """As the hand papers' code walks the ranking: old and new precision at every hit."""
    total, hits, old = 0.0, 0, 1.0
    for place in range(1, 31):
        hits += place in ranks
        new = hits / place
        if place in ranks:
            total += (old + new) / 2
        old = new
    expected = total / ranks.size
    assert metrics.average_precision_trapezoid(ranks)[0] == pytest.approx(expected, abs=1e-12)


def test_with_one_right_image_the_trapezoid_is_the_mean_of_rank_1_and_map():
    ranks = np.random.default_rng(0).integers(1, 12, (500, 1))
    rank1, ap = metrics.rank_k(ranks, 1), metrics.average_precision(ranks)
    np.testing.assert_allclose(metrics.average_precision_trapezoid(ranks), (rank1 + ap) / 2)
    assert 0.05 < rank1.mean() < ap.mean() < 0.9


def test_worked_example_with_ranks_2_and_5():
    ranks = np.array([[2, 5], [1, 0]])  # the second query has one right image, at rank 1
    np.testing.assert_allclose(metrics.average_precision(ranks), [(1 / 2 + 2 / 5) / 2, 1])
    trapezoid = ((0 + 1 / 2) / 2 + (1 / 4 + 2 / 5) / 2) / 2
    np.testing.assert_allclose(metrics.average_precision_trapezoid(ranks), [trapezoid, 1])
    np.testing.assert_allclose(metrics.inverse_negative_penalty(ranks), [2 / 5, 1])
    np.testing.assert_array_equal(metrics.rank_k(ranks, np.array([1, 2, 4])), [[0, 1, 1], [1] * 3])


def test_a_query_without_right_image_has_no_value():
    ranks = np.array([[0, 0], [1, 2]])
    for values in (
        metrics.rank_k(ranks, 5),
        metrics.average_precision(ranks),
        metrics.average_precision_trapezoid(ranks),
        metrics.inverse_negative_penalty(ranks),
    ):
        np.testing.assert_array_equal(values, [np.nan, 1.0])


@pytest.mark.parametrize("decimals", [1, 6])  # with and without ties
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_equal_error_rate_and_tar_at_far_equal_scikit_learn_curves(decimals, shift):
    draw = np.random.default_rng(1)
    genuine = draw.normal(shift, 1, 60).round(decimals).astype(np.float32)
    impostor = draw.normal(0, 1, 900).round(decimals).astype(np.float32)
    right = np.r_[np.ones(60), np.zeros(900)]
    far, frr, _ = det_curve(right, np.r_[genuine, impostor])
    far, frr = np.r_[1.0, far, 0.0], np.r_[0.0, frr, 1.0]  # det_curve cuts the ends off
    after = np.argmax(frr >= far)
    crossing = [
        np.interp(0, (frr - far)[after - 1 : after + 1], x[after - 1 : after + 1])
        for x in (far, frr)
    ]
    assert crossing[0] == pytest.approx(crossing[1])
    assert metrics.equal_error_rate(genuine, impostor) == pytest.approx(crossing[0], abs=1e-6)
    fpr, tpr, _ = roc_curve(right, np.r_[genuine, impostor], drop_intermediate=False)
    for level in (0.3, 0.1, 0.01):
        ours = (genuine >= metrics.threshold_at(impostor, level)).mean()
        assert ours == pytest.approx(tpr[fpr <= level].max())


def test_equal_error_rate_of_simple_cases():
    assert metrics.equal_error_rate(np.array([3.0, 4]), np.array([1.0, 2])) == 0
    assert metrics.equal_error_rate(np.array([1.0, 2]), np.array([3.0, 4])) == 1
    assert metrics.equal_error_rate(np.ones(5), np.ones(9)) == pytest.approx(0.5)
    # one of four genuine scores below one of four impostors: both rates are 1/4
    assert metrics.equal_error_rate(np.array([2.0, 5, 6, 7]), np.array([0.0, 1, 1, 3])) == 0.25
    assert np.isnan(metrics.equal_error_rate(np.empty(0), np.ones(3)))


def test_threshold_lets_no_more_impostors_in_than_allowed_when_they_tie():
    impostor = np.array([0.1] * 6 + [0.9] * 4, np.float32)
    assert metrics.threshold_at(impostor, 0.3) > 0.9  # all four tie: none may pass
    assert 0.1 < metrics.threshold_at(impostor, 0.4) < 0.9
    assert metrics.threshold_at(impostor, 1.0) == -np.inf
