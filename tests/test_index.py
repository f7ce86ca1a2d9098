"""The exact search is a plain sort; faiss finds nearly the same; both name each person once."""

import numpy as np
import pytest

from clipfh_lib.studies import index


def unit(array):
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def crowd(people=40, images=6, width=24, noise=0.5, queries=9, seed=0):
    """A gallery of people with one to so many images, where each begins, and queries."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, images + 1, people)
    own = draw.standard_normal((people, width))
    rows = np.repeat(own, counts, axis=0) + noise * draw.standard_normal((counts.sum(), width))
    asked = own[draw.integers(people, size=queries)]
    asked = asked + noise * draw.standard_normal(asked.shape)
    return unit(rows), np.r_[0, counts.cumsum()[:-1]], unit(asked)


def by_hand(vectors, first, query, top):
    """Rows of the nearest images and of the nearest people's best image, by plain sorts."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    order = list(np.argsort(-scores, kind="stable"))
    who = np.searchsorted(first, order, "right") - 1
    best = [row for place, row in enumerate(order) if who[place] not in who[:place]]
    return scores, order[:top], best[:top]


@pytest.mark.parametrize("held", [2**24, 300])  # scores: of all queries, of one at a time
@pytest.mark.parametrize("top", [1, 5, 39])
def test_the_exact_search_gives_what_a_plain_sort_gives(top, held, monkeypatch):
    monkeypatch.setattr(index, "SCORES", held)
    vectors, first, queries = crowd()
    exact = index.build(vectors, first)
    images, people = exact.images(queries, top), exact.people(queries, top)
    assert images.rows.shape == people.rows.shape == (9, top)
    for row, query in enumerate(queries):
        scores, nearest, best = by_hand(vectors, first, query, top)
        assert images.rows[row].tolist() == nearest
        assert people.rows[row].tolist() == best
        np.testing.assert_allclose(images.similarity[row], scores[nearest], atol=1e-6)
        np.testing.assert_allclose(people.similarity[row], scores[best], atol=1e-6)
    assert top == 1 or (images.rows != people.rows).any()


@pytest.mark.parametrize("kind", ["exact", "faiss"])
def test_more_than_there_are_is_filled_up(kind):
    vectors, first, queries = crowd(people=3, images=2)
    made = index.build(vectors, first, kind)
    people, images = made.people(queries, 5), made.images(queries, 9)
    assert (people.rows[:, :3] >= 0).all() and (people.rows[:, 3:] == -1).all()
    assert np.isneginf(people.similarity[:, 3:]).all()
    there = (images.rows >= 0).sum(axis=1)
    assert (there == len(vectors)).all()


def test_nobody_enrolled_gives_empty_answers():
    _, _, queries = crowd()
    made = index.build(np.empty((0, 24), np.float32), np.empty(0, int))
    assert (made.people(queries, 3).rows == -1).all()
    assert (made.images(queries, 3).rows == -1).all()


def test_faiss_finds_nearly_all_and_its_cosines_are_exact():
    vectors, first, queries = crowd(people=1000, images=12, width=64, queries=60)
    exact, near = index.build(vectors, first, "exact"), index.build(vectors, first, "faiss")
    right, found = exact.images(queries, 10), near.images(queries, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(right.rows, found.rows, strict=True)]
    assert np.mean(shared) / 10 > 0.9
    scores = np.einsum("qd,qtd->qt", queries, vectors[found.rows])
    np.testing.assert_allclose(found.similarity, scores, atol=1e-6)
    assert (np.diff(found.similarity, axis=1) <= 0).all()
    assert near.index.nprobe < near.index.nlist  # it did not look at all of them
    first_people = exact.people(queries, 1).rows == near.people(queries, 1).rows
    assert first_people.mean() > 0.9


def test_faiss_goes_on_until_it_has_as_many_people_as_were_asked_for():
    draw = np.random.default_rng(0)
    mine = np.ones((900, 16)) + 0.01 * draw.standard_normal((900, 16))  # of one person
    others = np.ones((4, 16)) + 2 * draw.standard_normal((4, 16))
    vectors = unit(np.concatenate([mine, others]))
    first = np.array([0, 900, 901, 902, 903])
    near = index.build(vectors, first, "faiss").people(unit(np.ones((1, 16))), 4)
    exact = index.build(vectors, first, "exact").people(unit(np.ones((1, 16))), 4)
    assert near.rows.tolist() == exact.rows.tolist()
    assert near.rows[0, 0] < 900 and (near.rows[0, 1:] >= 900).all()


def test_the_number_of_images_decides_and_the_same_seed_gives_the_same_index(monkeypatch):
    vectors, first, queries = crowd(people=400, images=5)
    assert isinstance(index.build(vectors, first), index.Exact)
    monkeypatch.setattr(index, "BIG", len(vectors) - 1)
    monkeypatch.setattr(index, "SAMPLE", 39)  # k-means sees all images but some
    one, two = index.build(vectors, first), index.build(vectors, first)
    assert isinstance(one, index.Approximate)
    assert isinstance(index.build(vectors, first, "exact"), index.Exact)
    centres = [made.index.quantizer.reconstruct_n(0, made.index.nlist) for made in (one, two)]
    np.testing.assert_array_equal(*centres)
    other = index.build(vectors, first, "faiss", seed=1)
    assert (other.index.quantizer.reconstruct_n(0, other.index.nlist) != centres[0]).any()
    np.testing.assert_array_equal(one.images(queries, 5).rows, two.images(queries, 5).rows)
