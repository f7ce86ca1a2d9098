import pandas as pd
import pytest

from clipfh_lib.data import tidying
from clipfh_lib.data import wording as words
from clipfh_lib.files import InputError
from clipfh_lib.reports import wording

PEOPLE = pd.DataFrame(
    [(1, 4, 2, False, "ring"), (2, 4, 1, True, ""), (3, 2, 2, True, ""), (4, 3, 3, False, "")],
    columns=["pid", "images", "prompts", "stable", "conflicts"],
)
ATTRIBUTES = pd.DataFrame(
    [("skin_color", 4, 0, ""), ("ring", 4, 1, "1: index, none"), ("veins", 0, 0, "")],
    columns=["attribute", "people", "conflicts", "example"],
)


def test_prompts_of_people_spread_over_the_table_are_shown():
    prompts = pd.DataFrame(
        [(f"{pid}_{n}", pid, f"{pid} {n} {k}") for pid in range(9) for n in "ab" for k in range(4)],
        columns=["image_id", "pid", "prompt"],
    )
    shown = wording.examples(prompts, images=3, each=3)
    assert shown["image_id"].unique().tolist() == ["0_a", "4_a", "8_a"]
    assert shown["prompt"].tolist()[:3] == ["0 a 0", "0 a 1", "0 a 2"]
    assert shown["more"].tolist() == [0, 0, 1] * 3  # a fourth is not shown
    assert "more" not in wording.examples(prompts, each=4)
    assert len(wording.examples(prompts, images=100, each=1)) == 9
    assert wording.examples(prompts.head(0)).empty


def test_the_cleaning_report_says_what_occurred_and_of_which_data_set():
    prompts = pd.DataFrame([("a", 1, " A hand"), ("b", 1, "")], columns=words.COLUMNS)
    _, report = tidying.clean(prompts, lambda texts: [3] * len(texts))
    shown = wording.cleaning(report, "demo")
    assert shown[["what", "count"]].values.tolist() == [
        ["prompts", 2], ["characters or white space normalised", 1], ["empty, dropped", 1],
        ["images without a prompt", 1], ["prompts left", 1], ["distinct among them", 1],
    ]  # fmt: skip
    assert shown["for example"].tolist()[1:4] == ["a: 'A hand'", "b", "b"]
    assert set(shown["remark"]) == {"demo figures"} and "remark" not in wording.cleaning(
        report, "x"
    )
    none = pd.DataFrame([("prompts that name", 0, "")], columns=tidying.REPORT)
    assert len(wording.cleaning(none)) == 1  # that there is none is worth a line


def test_those_whose_prompts_differ_most_stand_first():
    assert wording.unlike(PEOPLE)["pid"].tolist() == [4, 1]
    assert wording.unlike(PEOPLE, 1)["conflicts"].tolist() == [""]


def test_conflicts_are_shares_of_the_people_who_can_have_one():
    shown = wording.attributes(ATTRIBUTES, "demo_inshop")
    assert shown["share"].tolist() == ["0.0%", "25.0%", "–"]
    assert shown["for example"].tolist()[1] == "1: index, none"
    assert set(shown["remark"]) == {"demo figures"}


def test_the_figure_has_a_bar_for_each_number_of_prompts_and_each_attribute():
    figure = wording.consistency(PEOPLE, ATTRIBUTES, "demo")
    left, right = figure.axes
    same, other = left.containers
    tops = {bar.get_center()[0]: bar.get_height() for bar in same}
    assert tops == {1: 1, 2: 1, 3: 0} and [bar.get_height() for bar in other] == [0, 1, 1]
    assert [bar.get_width() for bar in right.containers[0]] == [0.25, 0, 0]
    assert [t.get_text() for t in right.get_yticklabels()] == ["ring", "skin color", "veins"]
    assert [t.get_text() for t in right.texts] == ["1 of 4", "0 of 4", "0 of 0"]
    assert "demo figures" in figure.get_suptitle() and left.get_title() == "2 of 4 are stable"
    assert [t.get_text() for t in figure.legends[0].texts] == [
        "the same of every image", "not the same"
    ]  # fmt: skip


def test_the_figure_stands_many_prompts_and_attributes_and_none():
    people = pd.concat([PEOPLE] * 30, ignore_index=True)
    people["prompts"] = range(1, len(people) + 1)
    many = pd.DataFrame([(f"a_{n}", 50, n, "") for n in range(40)], columns=list(ATTRIBUTES))
    left, right = wording.consistency(people, many, "x").axes
    assert sum(bar.get_height() for bars in left.containers for bar in bars) == len(people)
    assert len(right.get_yticks()) == 20 and right.get_yticklabels()[0].get_text() == "a 39"
    figure = wording.consistency(people, ATTRIBUTES.head(0), "x")
    assert "the prompts say no attribute" in [t.get_text() for t in figure.axes[1].texts]
    said = wording.consistency(PEOPLE.head(0), ATTRIBUTES.head(0), "x").axes[0].texts
    assert [t.get_text() for t in said] == ["no image has a prompt"]


def test_a_table_without_a_column_that_is_needed_is_refused():
    for call, columns in [
        (lambda table: wording.examples(table), "image_id, pid, prompt"),
        (lambda table: wording.cleaning(table), "what, count, example"),
        (lambda table: wording.attributes(table), "attribute, people, conflicts, example"),
        (lambda table: wording.unlike(table), "pid, images, prompts, stable, conflicts"),
        (lambda table: wording.consistency(table, ATTRIBUTES, "x"), "pid, images, prompts, stable"),
    ]:
        with pytest.raises(InputError, match=f"no column {columns};"):
            call(pd.DataFrame({"x": [1]}))
    with pytest.raises(InputError, match="pass dataset"):
        wording.consistency(PEOPLE, ATTRIBUTES)
