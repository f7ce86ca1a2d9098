import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfh_lib import params
from clipfh_lib.evaluation import metrics, reranking, search
from clipfh_lib.schema import RerankParams


def dense(array, queries, k1, k2, weight, distance="cosine"):
    """Final distances (Q, G) by the equations of the paper, one matrix (Q + G)^2 for each."""
    x = array.astype(np.float64)
    if distance == "cosine":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    squared = ((x[:, None] - x) ** 2).sum(axis=2).round(12)  # equal pictures at 0
    plain = squared / squared.max(axis=1, keepdims=True)
    steps = squared.round(8)  # and equally far from others
    np.fill_diagonal(steps, -1)
    place = steps.argsort(axis=1, kind="stable").argsort(axis=1)  # 0: the image itself
    wide, half = ((place <= k) & (place.T <= k) for k in (k1, round(k1 / 2)))
    common = wide.astype(int) @ half  # half is symmetric
    grown = wide | ((wide & (3 * common > 2 * half.sum(axis=1))).astype(int) @ half > 0)
    weights = np.exp(-plain) * grown
    weights /= weights.sum(axis=1, keepdims=True)
    weights = (place < k2) @ weights / min(k2, len(x))
    one, other = weights[:queries, None], weights[queries:]
    jaccard = 1 - np.minimum(one, other).sum(axis=2) / np.maximum(one, other).sum(axis=2)
    return (1 - weight) * jaccard + weight * plain[:queries, queries:]


def ranks_of(final, trial):
    """Ranks of each query's right images; a wrong one stands before a right one that it ties."""
    right = trial.gallery_pids == trial.query_pids[:, None]
    found = []
    for distances, mine in zip(final, right, strict=True):
        own = np.sort(distances[mine])
        before = (distances[~mine] <= own[:, None] + search.TIE).sum(axis=1)
        found.append((before + np.arange(1, len(own) + 1)).tolist())
    return found


def ragged(ranks):
    return [[int(rank) for rank in row if rank] for row in ranks]


def drawn(queries, gallery, people, width=16, noise=1.0, seed=0):
    """Embeddings of some people and a trial; each has about as many images as any other."""
    draw = np.random.default_rng(seed)
    pids = np.concatenate([np.arange(queries) % people, np.arange(gallery) % people])
    array = draw.standard_normal((people, width))[pids]
    array = (array + noise * draw.standard_normal(array.shape)).astype(np.float32)
    rows = draw.permutation(len(array))
    array[rows] = array.copy()
    trial = search.Trial(rows[:queries], rows[queries:], pids[:queries], pids[queries:])
    return array, trial


def in_order(array, trial):
    return array[np.concatenate([trial.queries, trial.gallery])]


def final_distances(array, trial, how, distance="cosine"):
    return np.concatenate(list(reranking.distances(array, trial, how, distance)))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "queries, gallery, people, k1, k2, weight",
    [
        (120, 20, 20, 20, 6, 0.3),  # one gallery image of each person
        (60, 120, 15, 20, 6, 0.3),  # eight
        (150, 60, 20, 50, 15, 0.3),
        (80, 30, 10, 20, 1, 0.3),  # no averaging
        (80, 30, 10, 7, 12, 0.3),  # averaged over more than are sought
        (80, 30, 10, 20, 6, 0.0),
        (80, 30, 10, 20, 6, 1.0),
        (80, 30, 10, 3, 2, 0.5),
        (8, 6, 3, 1, 1, 0.3),
        (9, 5, 4, 20, 6, 0.3),  # all are neighbours
        (1, 2, 2, 50, 15, 0.3),
        (1, 1, 1, 1, 1, 0.3),
    ],
)
def test_distances_and_ranks_equal_the_equations_written_with_whole_matrices(
    queries, gallery, people, k1, k2, weight, distance
):
    array, trial = drawn(queries, gallery, people)
    how = RerankParams(k1=k1, k2=k2, weight=weight)
    expected = dense(in_order(array, trial), queries, k1, k2, weight, distance)
    final = final_distances(array, trial, how, distance)
    np.testing.assert_allclose(final, expected, atol=1e-9)
    found = reranking.rank(array, trial, how, distance, top=5)
    assert ragged(found.ranks) == ranks_of(expected, trial)
    nearest = trial.gallery[np.argsort(expected, axis=1)[:, :5]]
    if weight:  # without, many are at distance 1
        np.testing.assert_array_equal(found.top[:, : nearest.shape[1]], nearest)
    plain = dense(in_order(array, trial), queries, k1, k2, 1.0, distance)
    if queries > 10 and weight < 1:  # the numbers that agree are not those of plain ranking
        assert ranks_of(plain, trial) != ranks_of(expected, trial)


@st.composite
def crowded(draw):
    """Few-valued embeddings: many equal pictures, and many equal distances."""
    size, width = draw(st.integers(2, 40)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    array = rng.integers(-2, 3, (size, width)).astype(np.float32)
    array[~array.any(axis=1)] = 1
    pids, rows = rng.integers(0, draw(st.integers(1, 6)), size), rng.permutation(size)
    queries, gallery = np.split(rows, [draw(st.integers(1, size - 1))])
    how = RerankParams(
        k1=draw(st.integers(1, 25)), k2=draw(st.integers(1, 8)), weight=draw(st.floats(0, 1))
    )
    return array, search.Trial(queries, gallery, pids[queries], pids[gallery]), how


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@given(crowded())
def test_equal_pictures_are_neighbours_in_the_order_of_their_rows(distance, problem):
    array, trial, how = problem
    here = in_order(array, trial)
    if distance == "euclidean" and (here == here[0]).all():
        return  # the equations divide by the largest distance
    count = len(trial.queries)
    with np.errstate(invalid="ignore"):  # all in one direction: 0 / 0
        expected = dense(here, count, how.k1, how.k2, how.weight, distance)
    if np.isfinite(expected).all():
        final = final_distances(array, trial, how, distance)
        np.testing.assert_allclose(final, expected, atol=1e-9)
        found = reranking.rank(array, trial, how, distance)
        assert ragged(found.ranks) == ranks_of(expected, trial)


@settings(max_examples=50)
@given(crowded(), st.integers(1, 9), st.integers(1, 60), st.integers(1, 60))
def test_block_sizes_change_nothing(problem, block, scores, pairs):
    array, trial, how = problem
    whole = final_distances(array, trial, how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reranking, "BLOCK", block)
        patch.setattr(reranking, "SCORES", scores)
        patch.setattr(reranking, "PAIRS", pairs)
        parts = list(reranking.distances(array, trial, how))
    assert max(part.size for part in parts) <= max(scores, len(trial.gallery))
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-12)


def test_three_gallery_images_on_a_line_worked_by_hand():
    """The query at 0 and the image at 1 name each other; 3 names 1, 10 names 3, in vain."""
    array = np.array([[0.0], [1.0], [3.0], [10.0]], np.float32)
    trial = search.Trial(np.array([0]), np.array([1, 2, 3]), np.array([7]), np.array([1, 7, 2]))
    how = RerankParams(k1=1, k2=1, weight=0.3)
    shared = 1 / (1 + np.exp(1 / 100)) + 1 / (1 + np.exp(1 / 81))  # 100, 81: largest of their rows
    jaccard = np.array([1 - shared / (2 - shared), 1, 1])
    expected = 0.7 * jaccard + 0.3 * np.array([1, 9, 100]) / 100
    final = final_distances(array, trial, how, "euclidean")
    np.testing.assert_allclose(final, [expected], atol=1e-12)
    assert reranking.rank(array, trial, how, "euclidean").ranks.tolist() == [[2]]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_with_all_weight_on_the_plain_distance_the_ranking_is_the_plain_one(distance):
    array, trial = drawn(200, 90, 18, noise=2)
    array[trial.gallery[18:40]] = array[trial.gallery[40:62]]  # the same pictures of other people
    (plain,) = search.search(array, array, [trial], distance, top=10)
    found = reranking.rank(array, trial, RerankParams(weight=1), distance, top=10)
    np.testing.assert_array_equal(found.ranks, plain.ranks)
    np.testing.assert_array_equal(found.top >= 0, plain.top >= 0)
    assert found.ranks.shape == (200, 5)
    assert found.ranks.mean() > 10


def test_a_row_of_zeros_has_cosine_0_to_everything():
    array, trial = drawn(30, 12, 6)
    array[trial.gallery[3]] = 0
    (plain,) = search.search(array, array, [trial])
    found = reranking.rank(array, trial, RerankParams(weight=1))
    np.testing.assert_array_equal(found.ranks, plain.ranks)
    assert np.isfinite(final_distances(array, trial, RerankParams())).all()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equal_embeddings_put_every_right_image_last(distance):
    array = np.tile(np.random.default_rng(0).random(64, dtype=np.float32), (200, 1))
    if distance == "cosine":
        array *= np.arange(1, 201, dtype=np.float32)[:, None]  # equal but for rounding
    pids = np.arange(200) % 100
    trial = search.Trial(np.arange(100), np.arange(100, 200), pids[:100], pids[100:])
    found = reranking.rank(array, trial, RerankParams(), distance)
    assert (found.ranks == 100).all()
    final = final_distances(array, trial, RerankParams(weight=1), distance)
    np.testing.assert_allclose(final, 0, atol=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_the_order_of_queries_and_gallery_changes_no_rank(seed):
    array, trial = drawn(50, 40, 10, seed=seed)
    draw = np.random.default_rng(seed)
    queries, gallery = draw.permutation(50), draw.permutation(40)
    turned = search.Trial(
        trial.queries[queries],
        trial.gallery[gallery],
        trial.query_pids[queries],
        trial.gallery_pids[gallery],
    )
    one, other = (reranking.rank(array, each, RerankParams(), top=6) for each in (trial, turned))
    np.testing.assert_array_equal(one.ranks[queries], other.ranks)
    np.testing.assert_array_equal(one.top[queries], other.top)


@pytest.mark.parametrize(
    "queries, gallery, gains",
    [(100, 1000, True), (100, 100, False), (1000, 100, True)],  # 100 people
)
def test_it_needs_several_images_of_a_person_in_the_gallery_or_among_the_queries(
    queries, gallery, gains
):
    """Why it is off unless asked for, and what gains on one gallery image each are made of."""
    array, trial = drawn(queries, gallery, people=100, noise=0.7)
    (plain,) = search.search(array, array, [trial])
    after = reranking.rank(array, trial, RerankParams())
    before, now = (metrics.average_precision(each.ranks).mean() for each in (plain, after))
    gained = now - before  # over six seeds 0.11 to 0.13, -0.13 to -0.09, 0.07 to 0.10
    assert (gained > 0.04) == gains
    assert abs(gained) > 0.04


def test_a_query_answers_otherwise_when_others_are_asked():
    """Transductive, as the docstring and the recipes say."""
    array, trial = drawn(60, 40, 10)
    fewer = trial._replace(queries=trial.queries[:30], query_pids=trial.query_pids[:30])
    all_of_them = final_distances(array, trial, RerankParams())[:30]
    assert np.abs(all_of_them - final_distances(array, fewer, RerankParams())).max() > 0.05


def test_memory_does_not_grow_with_the_square_of_the_images():
    array, trial = drawn(3000, 3000, 300, width=32)
    tracemalloc.start()
    found = reranking.rank(array, trial, RerankParams())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * 3000 * 8 < 6000 * 6000 * 8  # neither Q x G nor (Q + G)^2
    assert found.ranks.shape == (3000, 10)


def test_an_unknown_distance_is_refused():
    array, trial = drawn(5, 4, 2)
    with pytest.raises(ValueError, match="cosine or euclidean, not 'manhattan'"):
        reranking.rank(array, trial, RerankParams(), "manhattan")


@pytest.mark.parametrize("recipe, k1, k2", [("rerank", 20, 6), ("rerank_clip_reid", 50, 15)])
def test_the_recipes_are_the_default_with_known_parameters(recipe, k1, k2):
    plain, ours = (params.load("zero_shot", "demo", "demo", name) for name in ("default", recipe))
    how = ours.evaluation.rerank
    assert (how.k1, how.k2, how.weight) == (k1, k2, 0.3)
    same = {"recipe": "default", "evaluation": ours.evaluation.model_copy(update={"rerank": None})}
    assert ours.model_copy(update=same) == plain
