import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from clipfh_lib.evaluation import mining


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(mining, "ANCHOR_BLOCK", 3)
    monkeypatch.setattr(mining, "IMAGE_BLOCK", 5)


def drawn(anchors, images, groups, seed=0):
    draw = np.random.default_rng(seed)
    return (
        draw.standard_normal((anchors, 6)).astype(np.float32),
        draw.standard_normal((images, 6)).astype(np.float32) * draw.uniform(0.1, 9, (images, 1)),
        draw.integers(0, groups, anchors),
        draw.integers(0, groups, images),
    )


@settings(max_examples=25, deadline=None)
@given(
    anchors=st.integers(1, 8),
    images=st.integers(1, 23),
    groups=st.integers(1, 5),
    count=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_the_hardest_are_those_that_scikit_learn_finds_among_the_others(
    anchors, images, groups, count, seed
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "ANCHOR_BLOCK", 3)
        patch.setattr(mining, "IMAGE_BLOCK", 5)
        batch = drawn(anchors, images, groups, seed)
        found = mining.hard(*batch, count)
    assert found.shape == (anchors, count)
    texts, pictures, mine, theirs = batch
    for row, text, group in zip(found, texts, mine, strict=True):
        (others,) = np.nonzero(theirs != group)
        there = min(count, len(others))
        assert row[there:].tolist() == [-1] * (count - there)
        if there:
            near = NearestNeighbors(n_neighbors=there, metric="cosine").fit(pictures[others])
            assert row[:there].tolist() == others[near.kneighbors(text[None])[1][0]].tolist()


def test_a_true_match_is_never_mined_however_similar_it_is(small_blocks):
    texts = np.eye(4, dtype=np.float32)
    groups = np.array([0, 1, 2, 2])
    found = mining.hard(texts, texts, groups, groups, 3)
    assert [set(row) for row in found] == [{1, 2, 3}, {0, 2, 3}, {0, 1, -1}, {0, 1, -1}]
    free = mining.hard(texts, texts, np.arange(4), np.arange(4) + 9, 1)
    assert free[:, 0].tolist() == [0, 1, 2, 3], "the control: it would be the first"


def test_a_memory_map_and_a_tensor_give_what_an_array_gives(tmp_path):
    texts, pictures, mine, theirs = drawn(7, 40, 9)
    np.save(tmp_path / "images.npy", pictures)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = mining.hard(texts, pictures, mine, theirs, 4)
    np.testing.assert_array_equal(mining.hard(texts, mapped, mine, theirs, 4), expected)
    tensors = torch.from_numpy(texts), torch.from_numpy(pictures)
    np.testing.assert_array_equal(mining.hard(*tensors, mine, theirs, 4), expected)
    assert len(np.unique(expected)) > 4


@settings(max_examples=25, deadline=None)
@given(
    anchors=st.integers(1, 8),
    images=st.integers(1, 23),
    groups=st.integers(1, 5),
    count=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_random_negatives_are_others_each_once_and_as_many_as_there_are(
    anchors, images, groups, count, seed
):
    _, _, mine, theirs = drawn(anchors, images, groups, seed)
    found = mining.random(mine, theirs, count, seed)
    np.testing.assert_array_equal(found, mining.random(mine, theirs, count, seed))
    for row, group in zip(found, mine, strict=True):
        others = set(np.flatnonzero(theirs != group).tolist())
        taken = row[row >= 0].tolist()
        assert len(set(taken)) == len(taken) == min(count, len(others)) and set(taken) <= others
        assert (row[len(taken) :] == -1).all()


def test_random_negatives_are_drawn_evenly_and_by_the_seed():
    theirs = np.array([3, 1, 3, 0, 2, 1])
    found = mining.random(np.full(6000, 3), theirs, 2, 0)
    counts = np.bincount(found.ravel(), minlength=6)
    assert counts[[0, 2]].tolist() == [0, 0]
    assert counts[[1, 3, 4, 5]] == pytest.approx(3000, abs=150)  # five standard deviations
    assert (found != mining.random(np.full(6000, 3), theirs, 2, 1)).any()
