import itertools

import networkx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipfh_lib.data import pairs
from clipfh_lib.files import InputError


def table(*ids):
    return pd.DataFrame({"image_id": list(ids), "pid": range(len(ids))})


def prompts(*rows):
    return pd.DataFrame(rows, columns=["image_id", "prompt"], dtype="str")


def said(found):
    """Every pair by its names."""
    ids = found.table["image_id"].to_numpy()
    return {(ids[i], found.texts[t]) for i, t in zip(found.images, found.ids, strict=True)}


SOME = prompts(("b", "two"), ("a", "one"), ("c", "one"), ("a", "zero"), ("a", "one"), ("x", "none"))


def test_each_text_stands_once_and_each_pair_once_in_order():
    found = pairs.make(table("c", "a", "b", "d"), SOME)
    assert found.table["image_id"].tolist() == ["c", "a", "b"], "d has none"
    assert found.table.index.tolist() == [0, 1, 2] and found.table["pid"].tolist() == [0, 1, 2]
    assert found.texts == ["one", "two", "zero"]
    assert found.images.tolist() == [0, 1, 1, 2] and found.ids.tolist() == [0, 0, 2, 1]


def test_no_image_with_a_prompt_stops():
    with pytest.raises(InputError, match="none of the images"):
        pairs.make(table("a"), prompts(("b", "text")))
    with pytest.raises(InputError, match="none of the images"):
        pairs.make(table("a"), prompts())


def test_images_of_one_text_are_one_group_near_or_far():
    rows = [("a", "1"), ("b", "1"), ("b", "2"), ("c", "2"), ("d", "3"), ("e", "4"), ("f", "3")]
    found = pairs.make(table(*"abcdef"), prompts(*rows))
    assert found.groups.tolist() == [0, 0, 0, 1, 2, 1]


names = st.sampled_from([f"i{n}" for n in range(9)])
texts = st.sampled_from(["a", "A", "é", "手", "a b", "=1", "", "z"])
some = st.lists(st.tuples(names, texts), max_size=20)


@given(some, st.permutations([f"i{n}" for n in range(9)]).map(lambda ids: ids[:6]))
def test_pairs_are_those_of_the_prompts_and_groups_their_components(rows, ids):
    expected = {row for row in rows if row[0] in ids}
    if not expected:
        with pytest.raises(InputError):
            pairs.make(table(*ids), prompts(*rows))
        return
    found = pairs.make(table(*ids), prompts(*rows))
    assert said(found) == expected and len(found.ids) == len(expected)
    assert found.texts == sorted({text for _, text in expected})
    order = list(zip(found.images, found.ids, strict=True))
    assert order == sorted(order)
    graph = networkx.Graph([(("image", i), ("text", t)) for i, t in expected])
    part = {node: number for number, nodes in enumerate(networkx.connected_components(graph))
            for node in nodes}  # fmt: skip
    kept = found.table["image_id"].tolist()
    theirs = [part["image", i] for i in kept]
    for one, other in itertools.combinations(range(len(kept)), 2):
        assert (found.groups[one] == found.groups[other]) == (theirs[one] == theirs[other])
    assert sorted(set(found.groups)) == list(range(len(set(theirs))))


@given(some, st.sets(names))
def test_a_part_of_the_images_is_what_make_makes_of_it(rows, kept):
    ids = [f"i{n}" for n in (4, 2, 8, 0, 1)]
    if not {row[0] for row in rows} & set(ids) & kept:
        return
    part = pairs.make(table(*ids), prompts(*rows)).of_images(pd.Series(sorted(kept)))
    alone = pairs.make(table(*(i for i in ids if i in kept)), prompts(*rows))
    assert part.table["image_id"].tolist() == alone.table["image_id"].tolist()
    assert part.texts == alone.texts
    np.testing.assert_array_equal(part.images, alone.images)
    np.testing.assert_array_equal(part.ids, alone.ids)


@given(some, st.integers(0, 3), st.integers(0, 3))
def test_one_of_an_images_own_texts_is_drawn(rows, seed, epoch):
    if not rows:
        return
    found = pairs.make(table(*(f"i{n}" for n in range(9))), prompts(*rows))
    drawn = found.drawn(seed, epoch)
    own = set(zip(found.images.tolist(), found.ids.tolist(), strict=True))
    assert all((row, text) in own for row, text in enumerate(drawn.tolist()))
    np.testing.assert_array_equal(drawn, found.drawn(seed, epoch))


def test_over_epochs_every_text_is_drawn_about_equally_often():
    rows = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "4")]
    found = pairs.make(table("a", "b"), prompts(*rows))
    drawn = np.array([found.drawn(0, epoch) for epoch in range(600)])
    counts = np.bincount(drawn[:, 0], minlength=4)
    assert counts[3] == 0 and (np.abs(counts[:3] - 200) < 50).all()  # 4 standard deviations
    assert (drawn[:, 1] == 3).all()
    other = np.array([found.drawn(1, epoch) for epoch in range(600)])
    assert (other[:, 0] != drawn[:, 0]).mean() > 0.5


def test_a_hundred_thousand_pairs_are_made_in_no_time():
    count = 100_000
    ids = [f"i{n}" for n in range(count)]
    rows = pd.DataFrame({"image_id": ids, "prompt": [f"text {n % 30_000}" for n in range(count)]})
    found = pairs.make(table(*ids), rows)
    assert len(found.texts) == 30_000 and found.groups.max() == 29_999
    assert (np.bincount(found.groups) >= 3).all()
