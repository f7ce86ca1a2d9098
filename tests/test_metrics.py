import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, det_curve, ndcg_score, roc_curve
from torchmetrics import retrieval as theirs

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


@st.composite
def answers(draw):
    """Few-valued scores, so that many tie, and several right answers of each of 4 queries."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    scores = rng.integers(0, draw(st.integers(2, 40)), (4, 25)).astype(float)
    right = rng.random((4, 25)) < draw(st.sampled_from([0.04, 0.2, 0.6]))
    right[np.arange(4), rng.integers(0, 25, 4)] = True
    return scores, right


def ranks_of(scores, right):
    """Ranks of the right answers, and scores without ties in that order: of equal ones wrong first.

    The references settle ties in other ways, so they get what we take a tie for.
    """
    order = np.lexsort((right, -scores), axis=1)
    place = np.argsort(order, axis=1)
    ranks = np.zeros(right.shape, int)
    for row, (where, own) in enumerate(zip(place, right, strict=True)):
        ranks[row, : own.sum()] = np.sort(where[own]) + 1
    return ranks, 25.0 - place  # torchmetrics takes scores of 0 and less for not found


@given(answers())
def test_metrics_of_several_answers_equal_torchmetrics_and_scikit_learn(problem):
    scores, right = problem
    ranks, settled = ranks_of(scores, right)
    rows = torch.arange(4).repeat_interleave(25)
    flat = torch.tensor(settled).ravel(), torch.tensor(right).ravel()
    for k in (1, 5, 10):
        ours = {
            theirs.RetrievalRecall(top_k=k): metrics.recall_k(ranks, k),
            theirs.RetrievalHitRate(top_k=k): metrics.rank_k(ranks, k),
            theirs.RetrievalNormalizedDCG(top_k=k): metrics.ndcg_k(ranks, k),
        }
        for reference, values in ours.items():
            assert values.mean() == pytest.approx(float(reference(*flat, rows)), abs=1e-5)
        assert metrics.ndcg_k(ranks, k).mean() == pytest.approx(ndcg_score(right, settled, k=k))
    found = metrics.average_precision(ranks)
    assert found.mean() == pytest.approx(float(theirs.RetrievalMAP()(*flat, rows)), abs=1e-5)
    each = [average_precision_score(r, s) for r, s in zip(right, settled, strict=True)]
    np.testing.assert_allclose(found, each, atol=1e-12)


@given(answers())
def test_where_nothing_ties_the_scores_themselves_give_the_same(problem):
    scores, right = problem
    scores = scores + np.random.default_rng(0).permuted(np.arange(100)).reshape(4, 25) / 1000
    ranks, _ = ranks_of(scores, right)
    assert metrics.ndcg_k(ranks, 5).mean() == pytest.approx(ndcg_score(right, scores, k=5))


def test_recall_and_ndcg_worked_by_hand():
    ranks = np.array([[1, 4, 7], [2, 0, 0], [0, 0, 0]])
    expected = [[1 / 3, 2 / 3, 1], [0, 1, 1], [np.nan] * 3]
    np.testing.assert_allclose(metrics.recall_k(ranks, np.array([1, 5, 10])), expected)
    np.testing.assert_allclose(metrics.recall_k(ranks, 5), np.array(expected)[:, 1])
    one, two, three, four, seven = 1 / np.log2(np.array([2, 3, 4, 5, 8]))
    ideal = one + two + three
    gains = [(one + four + seven) / ideal, two / one, np.nan]
    np.testing.assert_allclose(metrics.ndcg_k(ranks, 10), gains)
    np.testing.assert_allclose(metrics.ndcg_k(ranks, 2), [one / (one + two), two, np.nan])
