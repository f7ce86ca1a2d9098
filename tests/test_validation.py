"""Leave-one-out retrieval among validation people."""

import numpy as np
import pandas as pd
import pytest

from clipfh_lib.evaluation.validation import leave_one_out
from clipfh_lib.files import InputError


def drawn(images=120, people=9, seed=0, spread=1.0):
    """Embeddings that cluster by person, and a table with gaps in what is known."""
    draw = np.random.default_rng(seed)
    pids = draw.integers(0, people, images)
    array = draw.normal(size=(people, 8))[pids] + spread * draw.normal(size=(images, 8))
    numbers = draw.integers(1, 60, images).astype(float)
    numbers[::7] = np.nan
    table = pd.DataFrame(
        {
            "pid": pids * 10,
            "aspect": draw.choice(["dorsal_r", "palmar_l"], images),
            "file_number": pd.array(numbers, "Int64"),
        },
        index=draw.permutation(images) + 5,
    )
    return array.astype(np.float32), table


def by_hand(array, table, distance="cosine", gap=10):
    """The same, one query and one gallery image at a time."""
    rows = table.assign(v=list(array.astype(np.float64))).to_dict("records")
    first, precision = [], []
    for query in rows:
        gallery = []
        for other in rows:
            mine = query["pid"] == other["pid"]
            numbers = [query.get("file_number", pd.NA), other.get("file_number", pd.NA)]
            close = not pd.isna(numbers).any() and abs(numbers[0] - numbers[1]) <= gap
            if other is query or query.get("aspect") != other.get("aspect") or (mine and close):
                continue
            a, b = query["v"], other["v"]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            score = cosine if distance == "cosine" else -np.linalg.norm(a - b)
            gallery.append((-score if np.isfinite(score) else np.inf, mine))
        right = [mine for _, mine in sorted(gallery)]  # ties count as wrong
        if any(right):
            first.append(right[0])
            at = np.flatnonzero(right) + 1
            precision.append(np.mean(np.arange(1, len(at) + 1) / at))
    return {"rank1": np.mean(first), "mAP": np.mean(precision)}, len(first)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("gap", [0, 10])
def test_every_image_is_searched_among_all_others_of_its_aspect(distance, gap):
    array, table = drawn()
    expected, queries = by_hand(array, table, distance, gap)
    assert leave_one_out(array, table, distance, gap) == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected["mAP"] < 0.9 and queries <= len(table)


@pytest.mark.parametrize("missing", ["aspect", "file_number"])
def test_what_is_not_known_of_the_images_parts_nothing(missing):
    array, table = drawn()
    less = table.drop(columns=missing)
    found = leave_one_out(array, less)
    assert found == pytest.approx(by_hand(array, less)[0], abs=1e-9)
    assert found != pytest.approx(leave_one_out(array, table), abs=1e-3)


def test_pictures_taken_right_after_each_other_are_neither_found_nor_in_the_way():
    # person 1: a pair shot in a row, and one of a later session that looks like person 2
    array = np.array([[1, 0], [1, 0.01], [0, 1], [0.01, 1], [0.3, 1]], np.float32)
    table = pd.DataFrame({"pid": [1, 1, 1, 2, 2], "file_number": [5, 6, 40, 80, 95]})
    found = leave_one_out(array, table)
    assert found == pytest.approx(by_hand(array, table)[0], abs=1e-9)
    assert found["rank1"] < leave_one_out(array, table, gap=0)["rank1"]


def test_a_person_with_one_image_is_in_the_gallery_and_no_query():
    array, table = drawn(images=40, people=4)
    lone = (
        np.vstack([array, array[:1] + 0.1]),
        pd.concat([table, table.iloc[:1].assign(pid=999)], ignore_index=True),
    )
    found, (expected, queries) = leave_one_out(*lone), by_hand(*lone)
    assert found == pytest.approx(expected, abs=1e-6) and queries == by_hand(array, table)[1]
    assert found["mAP"] < leave_one_out(array, table)["mAP"]


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0])
def test_embeddings_that_say_nothing_find_nobody(broken):
    array, table = drawn()
    found = leave_one_out(np.full_like(array, broken), table)
    assert found["rank1"] == 0 and found["mAP"] < 0.25


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_an_embedding_that_is_not_finite_is_the_furthest_of_all(distance):
    array, table = drawn()
    array[3] = np.nan
    expected, _ = by_hand(array, table, distance)
    assert leave_one_out(array, table, distance) == pytest.approx(expected, abs=1e-9)
    others = np.delete(array, 3, axis=0), table.drop(table.index[3])
    assert expected["rank1"] < leave_one_out(*others, distance)["rank1"]  # it is searched in vain


def test_nobody_to_be_searched_is_told_with_the_parameter():
    array, table = drawn()
    with pytest.raises(InputError, match="^data.val: no validation person has two images"):
        leave_one_out(array, table.assign(file_number=1))
    with pytest.raises(ValueError, match="rows"):
        leave_one_out(array[1:], table)
