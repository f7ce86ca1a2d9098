import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfh_lib.evaluation import search


def naive_ranks(queries, gallery, trial, distance="cosine"):
    """Ranks of the right images by sorting, a wrong image first where two tie."""
    out = []
    for row, pid in zip(trial.queries, trial.query_pids, strict=True):
        q, g = queries[row].astype(float), gallery[trial.gallery].astype(float)
        if distance == "cosine":
            scores = g @ q / np.linalg.norm(g, axis=1) / np.linalg.norm(q)
        else:
            scores = -np.linalg.norm(g - q, axis=1)
        right = trial.gallery_pids == pid
        order = sorted(range(len(g)), key=lambda i: (-round(scores[i], 6), right[i]))
        out.append([place + 1 for place, i in enumerate(order) if right[i]])
    return out


def ragged(ranks):
    return [[int(rank) for rank in row if rank] for row in ranks]


@st.composite
def problems(draw):
    """Few-valued embeddings, so that many scores tie; people with none to several images."""
    size, width = draw(st.integers(3, 25)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    array = rng.integers(-2, 3, (size, width)).astype(np.float32)
    array[~array.any(axis=1)] = 1
    pids = rng.integers(0, draw(st.integers(1, 6)), size)
    order = rng.permutation(size)
    cut = draw(st.integers(1, size - 1))
    queries, gallery = order[:cut], order[cut:]
    return array, search.Trial(queries, gallery, pids[queries], pids[gallery])


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@given(problems())
def test_ranks_equal_those_of_sorting_with_ties_counted_as_wrong(distance, problem):
    array, trial = problem
    (found,) = search.search(array, array, [trial], distance)
    assert ragged(found.ranks) == naive_ranks(array, array, trial, distance)


@given(problems())
def test_the_nearest_images_are_in_order_and_right_ones_stand_at_their_ranks(problem):
    array, trial = problem
    (found,) = search.search(array, array, [trial], top=4)
    for row, ranks, top in zip(trial.queries, found.ranks, found.top, strict=True):
        there = top[top >= 0]
        assert len(there) == min(4, len(trial.gallery))
        assert len(set(there)) == len(there)
        scores = search.similarity(array[[row]], array[trial.gallery], "cosine")[0]
        expected = np.sort(scores)[::-1][: len(there)]
        np.testing.assert_allclose(
            search.similarity(array[[row]], array[there], "cosine")[0], expected, atol=1e-6
        )
        pid = trial.query_pids[trial.queries == row][0]
        right = np.isin(there, trial.gallery[trial.gallery_pids == pid])
        np.testing.assert_array_equal(np.flatnonzero(right) + 1, ranks[(ranks > 0) & (ranks <= 4)])


@given(problems(), st.integers(1, 7), st.integers(1, 7))
def test_block_sizes_change_nothing(problem, query_block, gallery_block):
    array, trial = problem
    part = search.Trial(*(field[::2] for field in trial))
    whole = search.search(array, array, [trial, part], top=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "QUERY_BLOCK", query_block)
        patch.setattr(search, "GALLERY_BLOCK", gallery_block)
        patch.setattr(search, "OWN_BLOCK", 2)
        blocks = search.search(array, array, [trial, part], top=3)
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_array_equal(one.ranks, other.ranks)
        np.testing.assert_array_equal(one.top >= 0, other.top >= 0)


@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_changes_no_rank(problem, random):
    array, trial = problem
    order = np.array(random.sample(range(len(trial.gallery)), len(trial.gallery)))
    turned = trial._replace(gallery=trial.gallery[order], gallery_pids=trial.gallery_pids[order])
    (one,), (other,) = (search.search(array, array, [each]) for each in (trial, turned))
    np.testing.assert_array_equal(one.ranks, other.ranks)


@given(problems())
def test_a_distractor_never_improves_a_rank(problem):
    array, trial = problem
    fewer = trial._replace(gallery=trial.gallery[1:], gallery_pids=trial.gallery_pids[1:])
    fewer_pids = fewer._replace(query_pids=trial.query_pids)
    more = trial._replace(gallery_pids=np.r_[-1, trial.gallery_pids[1:]])  # nobody's image
    if len(fewer.gallery):
        (before,), (after,) = (search.search(array, array, [t]) for t in (fewer_pids, more))
        assert (after.ranks >= before.ranks).all()


def test_equal_embeddings_put_every_right_image_last():
    array = np.tile(np.random.default_rng(0).random(512, dtype=np.float32), (400, 1))
    pids = np.arange(400) % 200
    trial = search.Trial(np.arange(200), np.arange(200, 400), pids[:200], pids[200:])
    (found,) = search.search(array, array, [trial])
    assert (found.ranks == 200).all()


def test_a_wrong_copy_of_the_right_image_stands_before_it_wherever_it_is():
    """Equal columns of a float32 product differ by their place, so this needs the margin."""
    draw = np.random.default_rng(0)
    array = draw.standard_normal((971, 512), dtype=np.float32)
    copies = np.repeat(array[:1], 293, axis=0)
    trial = search.Trial(np.arange(971), np.arange(293), np.zeros(971), np.r_[0, np.ones(292)])
    (found,) = search.search(array, copies, [trial])
    assert (found.ranks == 293).all()


def test_euclidean_tells_small_distances_far_from_the_origin():
    array = (1000 + np.array([[0.0], [0.02], [0.01], [0.5]])).astype(np.float32)
    trial = search.Trial(np.array([0]), np.array([1, 2, 3]), np.array([7]), np.array([1, 7, 2]))
    (found,) = search.search(array, array, [trial], "euclidean", top=3)
    assert found.ranks.tolist() == [[1]]
    assert found.top.tolist() == [[2, 1, 3]]


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_ten_trials_equal_ten_searches(seed):
    draw = np.random.default_rng(seed)
    array = draw.standard_normal((120, 8)).astype(np.float32)
    pids = np.arange(120) % 12
    trials = []
    for _ in range(10):
        gallery = np.array([draw.choice(np.flatnonzero(pids == pid)) for pid in range(12)])
        queries = np.setdiff1d(np.arange(60), gallery)
        trials.append(search.Trial(queries, gallery, pids[queries], pids[gallery]))
    for found, trial in zip(search.search(array, array, trials), trials, strict=True):
        assert ragged(found.ranks) == naive_ranks(array, array, trial)
        assert 1 < found.ranks.mean() < 12


def test_memory_does_not_grow_with_queries_times_gallery():
    draw = np.random.default_rng(0)
    queries = draw.standard_normal((2500, 8), dtype=np.float32)
    gallery = draw.standard_normal((40_000, 8), dtype=np.float32)
    pids = np.arange(40_000)
    trial = search.Trial(np.arange(2500), pids, pids[:2500], pids)
    tracemalloc.start()
    (found,) = search.search(queries, gallery, [trial], top=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6 < 2500 * 40_000 * 4  # all scores would be 400 MB
    assert (
        found.ranks[7].tolist()
        == naive_ranks(
            queries, gallery, trial._replace(queries=trial.queries[7:8], query_pids=pids[7:8])
        )[0]
    )


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="cosine or euclidean, not 'manhattan'"):
        search.similarity(np.ones((1, 2)), np.ones((1, 2)), "manhattan")


@given(problems(), st.integers(1, 5))
def test_scores_from_elsewhere_are_ranked_as_our_own(problem, block):
    array, trial = problem
    (whole,) = search.search(array, array, [trial], top=4)
    scores = search.similarity(array[trial.queries], array[trial.gallery], "cosine")
    parts = (scores[start : start + block] for start in range(0, len(scores), block))
    found = search.from_scores(trial, parts, top=4)
    np.testing.assert_array_equal(found.ranks, whole.ranks)
    order = np.argsort(trial.gallery)
    for row, own, other in zip(scores[:, order], found.top, whole.top, strict=True):
        place = np.searchsorted(trial.gallery[order], [own[own >= 0], other[other >= 0]])
        np.testing.assert_allclose(*row[place], atol=1e-6)  # equally near ones may change places


def test_scores_from_elsewhere_that_nearly_tie_count_as_wrong_and_are_not_changed():
    trial = search.Trial(np.array([4]), np.array([3, 1]), np.array([7]), np.array([7, 8]))
    for above, rank in ((2e-6, 2), (0, 2), (-4e-7, 2), (-2e-6, 1)):
        scores = np.array([[-0.5, -0.5 + above]])
        before = scores.copy()
        assert search.from_scores(trial, [scores]).ranks.tolist() == [[rank]]
        np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (2, 3)], [(3, 2)]])
def test_scores_that_are_not_those_of_the_trial_are_refused(shapes):
    trial = search.Trial(np.arange(3), np.arange(3, 6), np.arange(3), np.arange(3))
    with pytest.raises(ValueError, match="scores"):
        search.from_scores(trial, [np.zeros(shape) for shape in shapes])


def matched(trial):
    """The same search, its right answers named row by row, with room for more."""
    right = [np.flatnonzero(trial.gallery_pids == pid) for pid in trial.query_pids]
    room = np.full((len(right), 1 + max(map(len, right))), -1)
    for row, own in zip(room, right, strict=True):
        row[: len(own)] = trial.gallery[own]
    return search.Matched(trial.queries, trial.gallery, room)


@pytest.mark.parametrize("many", [0, 3, 100])  # all sorted, some, none
@given(problems(), st.integers(1, 7))
def test_right_answers_named_row_by_row_are_ranked_as_by_pid(many, problem, block):
    array, trial = problem
    (whole,) = search.search(array, array, [trial], top=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "MANY", many)
        patch.setattr(search, "GALLERY_BLOCK", block)
        patch.setattr(search, "OWN_ROWS", 2)
        named = matched(trial)
        (found,) = search.search(array, array, [named], top=4)
        part = search.Matched(named.queries[::3], named.gallery, named.right[::3])
        few = search.search(array, array, [named, part])
    assert ragged(found.ranks) == ragged(whole.ranks) == ragged(few[0].ranks)
    assert ragged(few[1].ranks) == ragged(whole.ranks[::3])


@given(problems(), st.integers(1, 3), st.integers(1, 9))
def test_the_nearest_are_the_same_however_the_gallery_comes(problem, piece, block):
    array, trial = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PIECE", piece)
        patch.setattr(search, "GALLERY_BLOCK", block)
        (found,) = search.search(array, array, [trial], top=4)
    for row, top in zip(trial.queries, found.top, strict=True):
        there = top[top >= 0]
        assert len(set(there)) == len(there) == min(4, len(trial.gallery))
        scores = search.similarity(array[[row]], array[trial.gallery], "cosine")[0]
        own = search.similarity(array[[row]], array[there], "cosine")[0]
        np.testing.assert_allclose(own, np.sort(scores)[::-1][: len(there)], atol=1e-6)


def test_very_many_right_answers_are_ranked_right_and_take_little_memory():
    draw = np.random.default_rng(0)
    texts = draw.standard_normal((6, 16), dtype=np.float32)
    said = np.arange(20_000) % 6
    images = 0.3 * texts[said] + draw.standard_normal((20_000, 16), dtype=np.float32)
    right = np.stack([np.flatnonzero(said == text)[:3000] for text in range(6)])
    right = np.where(np.arange(right.shape[1]) < 2000, right, -1)
    tracemalloc.start()
    one = search.Matched(np.arange(6), np.arange(20_000), right)
    (found,) = search.search(texts, images, [one])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    for text in (0, 5):
        scores = search.similarity(texts[[text]], images, "cosine")[0]
        order = np.argsort(-scores)
        expected = np.flatnonzero(np.isin(order, right[text, :2000])) + 1
        assert np.abs(found.ranks[text, :2000] - expected).max() <= 3  # nearly equal scores
        assert (found.ranks[text, :2000] == expected).mean() > 0.95
        assert not found.ranks[text, 2000:].any()
