"""Runs against one of them: Holm's correction, the families, seeds together, what stands."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_differences import ZERO_SHOT, folder, ranks, trained

from clipfh_lib.evaluation import retrieval
from clipfh_lib.reports import against, holm

CHANCES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_holm_is_as_worked_by_hand():
    """Sorted 0.005 0.01 0.03 0.04: times 4, 3, 2, 1, none below the one before."""
    assert holm.adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm.adjusted([0.5, 0.9, 0.6]) == pytest.approx([1, 1, 1])
    assert holm.adjusted([]).size == 0


@given(CHANCES)
def test_what_holm_lets_stand_is_what_its_steps_let_stand(p):
    """The paper's own words: while the smallest is at most the level over those left, go on."""
    stands, left = set(), sorted(range(len(p)), key=p.__getitem__)
    while left and p[left[0]] * len(left) <= holm.LEVEL:
        stands.add(left.pop(0))
    assert set(np.flatnonzero(holm.adjusted(p) <= holm.LEVEL)) == stands


@given(CHANCES, st.randoms(use_true_random=False))
def test_holm_lies_between_the_plain_p_and_bonferroni_in_any_order(p, random):
    found = holm.adjusted(p)
    assert (found >= np.array(p)).all() and (found <= np.minimum(np.array(p) * len(p), 1)).all()
    order = list(range(len(p)))
    random.shuffle(order)
    assert holm.adjusted(np.array(p)[order]) == pytest.approx(found[order])


def test_a_test_that_could_not_be_made_is_not_counted_and_a_p_above_one_is_none():
    assert holm.adjusted([0.02, np.nan, 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm.adjusted([0.2, 1.2])


def test_a_difference_stands_only_if_both_holm_and_its_interval_say_so():
    table = pd.DataFrame(
        {"dataset": "a", "p": [0.01, 0.02, 0.02], "low": [0.1, -0.1, 0.1], "high": 0.3}
    ).assign(people=50)
    alone = against.corrected(table.assign(dataset=["a", "b", "c"]), ["dataset"])
    assert alone["stands"].tolist() == [True, False, True]
    together = against.corrected(table, ["dataset"])
    assert together["p_holm"].tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert together["stands"].tolist() == [True, False, True]
    many = pd.concat([table.assign(p=1.0)] * 5 + [table], ignore_index=True)
    assert not against.corrected(many, ["dataset"])["stands"].any(), "18 were asked"


@pytest.fixture
def folders(tmp_path):
    good = ranks("pretrained", 0.5, 1)
    return [
        folder(tmp_path, "02_zero_shot/demo-default-seed0", "s", good, **ZERO_SHOT),
        folder(
            tmp_path, "03_fine_tune/demo-demo-seed0", "s", ranks("trained", 0.95, 2), **trained()
        ),
        folder(
            tmp_path,
            "03_fine_tune/demo-demo-seed1",
            "s",
            ranks("trained", 0.9, 3),
            **trained(seed=1),
        ),
        folder(
            tmp_path,
            "06_prompt_sg/demo-demo-seed0",
            "s",
            ranks("trained", 0.5, 4),
            **trained("prompt_sg"),
        ),
    ]


def test_seeds_are_one_comparison_and_zero_shot_is_what_they_are_tested_against(folders):
    table = against.of_runs(folders)
    assert set(table["reference"]) == {"02_zero_shot/demo-default-seed0 pretrained"}
    assert table.drop_duplicates("method")["seeds"].tolist() == ["0 1", "0"]
    assert (table["comparisons"] == 8).all(), "two runs, all and far, rank-1 and mAP"
    row = table[(table["method"] == "fine_tune") & (table["subset"] == "all")].iloc[0]
    each = [ranks("trained", 0.95, 2), ranks("trained", 0.9, 3)]
    zero = (ranks("pretrained", 0.5, 1)["rank"] == 1).mean()
    both = np.mean([(one["rank"] == 1).mean() for one in each]) - zero
    assert row["metric"] == "rank1" and row["difference"] == pytest.approx(both)
    plain = retrieval.compare(each, ranks("pretrained", 0.5, 1), subsets=("all",))
    assert row["p"] == plain.loc[plain["metric"] == "rank1", "p"].item()
    assert table[table["method"] == "fine_tune"]["stands"].all()
    assert not table[table["method"] == "prompt_sg"]["stands"].any()


def test_a_chosen_run_takes_the_place_of_zero_shot_where_it_ranked_something(folders, tmp_path):
    other = folder(tmp_path, "x/02_zero_shot/a", "t", ranks("pretrained", 0.5, 1), **ZERO_SHOT)
    more = folder(tmp_path, "x/03_fine_tune/b", "t", ranks("trained", 0.9, 2), **trained())
    table = against.of_runs([*folders, other, more], folders[3])
    assert set(table["reference"]) == {
        "06_prompt_sg/demo-demo-seed0 trained",
        "02_zero_shot/a pretrained",
    }
    here = table[table["reference"] == "06_prompt_sg/demo-demo-seed0 trained"]
    assert list(here["method"].unique()) == ["zero_shot", "fine_tune"], "never against itself"


def test_sentences_name_the_direction_the_interval_and_the_people(folders):
    table = against.of_runs(folders)
    said = against.sentences(table)
    assert len(said["stand"]) == len(said["open"]) == 1, "a line for each run"
    rows = table[table["method"] == "fine_tune"]
    (line,) = said["stand"]
    assert line.startswith("demo: fine_tune, 2 seeds against zero_shot/demo-default-seed0 pre")
    assert "20 people" in line and line.count("p = ") + line.count("p < ") == len(rows) == 4
    row = rows[rows["subset"] == "far"].iloc[0]
    value, low, high = (f"{100 * row[name]:+.1f}" for name in ("difference", "low", "high"))
    assert f"far rank-1 {value} [{low}, {high}]" in line and value.startswith("+")
    turned = table.assign(difference=-table["difference"], low=-table["high"], high=-table["low"])
    (line,) = against.sentences(turned)["stand"]
    assert f"far rank-1 -{value[1:]} [-{high[1:]}, -{low[1:]}]" in line
    mixed = against.sentences(table.assign(stands=table["metric"] == "mAP"))
    assert all("rank-1" not in line for line in mixed["stand"]), "one may stand, another not"
    assert all("mAP" not in line for line in mixed["open"])


def test_print_shows_points_p_and_a_star_and_an_empty_plan_a_line(folders):
    shown = against.printed(against.of_runs(folders))
    assert list(shown["run"]) == ["fine_tune, 2 seeds", "prompt_sg"]
    assert shown["rank-1, points"].str.endswith(" *").tolist() == [True, False]
    assert (shown["remark"] == "demo figures").all()
    assert against.printed(against.of_runs([])).iloc[0, 0] == against.NOTHING


@pytest.mark.parametrize("people", [1, 4, 6, 13, 14, 15])
def test_no_difference_has_a_smaller_p_than_the_least(people):
    """Everybody's queries are missed by one run and found by the other: nothing is clearer."""
    frame = ranks("x", 0, 1)
    frame = frame[frame["pid"] < people]
    right = frame.assign(rank=1, ranks="1")
    found = retrieval.compare([right], frame, against.FLIPS, subsets=("all",))
    found = found[found["metric"] == "rank1"]
    assert found["people"].tolist() == [people]
    if people > 13:  # drawn patterns may meet the observed one by chance
        assert found["p"].item() >= against.least_p(people) == 1 / 10_001
    else:
        assert found["p"].item() == pytest.approx(against.least_p(people))


def test_what_so_few_people_can_never_decide_is_told_from_what_does_not_stand():
    """Six people have 64 patterns: 2/64 alone is below 0.05, and twice that is not."""
    row = {"dataset": "a", "p": 2 / 64, "low": 0.1, "high": 0.3, "people": 6}
    alone = against.corrected(pd.DataFrame([row]), ["dataset"])
    assert alone[["stands", "decidable"]].all(axis=None)
    two = against.corrected(pd.DataFrame([row, row]), ["dataset"])
    assert not two["stands"].any() and not two["decidable"].any()
    beside = against.corrected(pd.DataFrame([row, {**row, "people": 50, "p": 0.9}]), ["dataset"])
    assert beside["decidable"].all(), "the other might have gone first; then one is left"
    many = against.corrected(pd.DataFrame([{**row, "people": 50}] * 501), ["dataset"])
    assert not many["decidable"].any(), "10,000 flips are too few for 501 comparisons"
    many = against.corrected(pd.DataFrame([{**row, "people": 50}] * 500), ["dataset"])
    assert many["decidable"].all()


def test_sentences_and_print_name_what_cannot_be_decided(folders):
    table = against.of_runs(folders)
    assert table["decidable"].all() and against.sentences(table)["few"] == []
    few = table.assign(decidable=table["metric"] != "mAP", stands=table["metric"] != "mAP")
    said = against.sentences(few)
    assert said["few"] and all("rank-1" not in line for line in said["few"])
    assert not any("mAP" in line for line in said["stand"] + said["open"])
    shown = against.printed(few)
    assert shown["mAP, points"].str.endswith(" †").all()
    assert not shown["rank-1, points"].str.contains("†").any()
