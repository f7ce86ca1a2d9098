import itertools
import json

import numpy as np
import pandas as pd
import pytest

from clipfh_lib import params, runs
from clipfh_lib.evaluation import retrieval
from clipfh_lib.files import InputError
from clipfh_lib.reports import exchanged, prompts

SIDES = ("palmar_l", "dorsal_r")


def square(people, value):
    pairs = itertools.product(range(len(people)), repeat=2)
    rows = [(*people[i], *people[j], value[i, j]) for i, j in pairs]
    return pd.DataFrame(rows, columns=["pid", "aspect", "other_pid", "other_aspect", "value"])


@pytest.mark.parametrize("count", [3, 30])  # with a number for each person, and without
def test_the_square_of_similarities_keeps_each_pair_in_its_place(count):
    people = [(pid, side) for pid in range(count) for side in SIDES]  # not in the figure's order
    draw = np.random.default_rng(0)
    value = draw.uniform(-0.5, 0.9, (len(people),) * 2)
    value = (value + value.T) / 2
    np.fill_diagonal(value, 1)
    figure = prompts.similarity(square(people, value), "demo")
    shown = np.asarray(figure.axes[0].images[0].get_array())
    order = sorted(range(len(people)), key=lambda row: people[row][::-1])
    assert np.allclose(shown, value[np.ix_(order, order)]) and np.allclose(np.diag(shown), 1)
    assert [line.get_ydata()[0] for line in figure.axes[0].lines[::2]] == [count - 0.5]
    said = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    if count == 3:
        assert said == ["0", "1", "2"] * 2
    else:
        assert said == ["dorsal right", "palmar left"]
    apart = value[~np.eye(len(people), dtype=bool)].mean()
    assert f"{apart:.2f} on average" in figure.axes[0].get_title()
    assert "demo figures" in figure.get_suptitle()


def points(people, kinds=("text", "images")):
    rows = [(*who, kind, n + m / 10, -n) for n, who in enumerate(people)
            for m, kind in enumerate(kinds)]  # fmt: skip
    return pd.DataFrame(rows, columns=["pid", "aspect", "kind", "x", "y"])


def test_the_layout_joins_each_text_with_the_images_of_its_person():
    people = [(7, "dorsal_r"), (7, "palmar_l"), (9, "dorsal_r")]
    table = points(people).sample(frac=1, random_state=1)
    axes = prompts.layout(table, "demo").axes[0]
    ends = sorted(tuple(np.round(line.get_xdata(), 6)) for line in axes.lines)
    assert ends == [(0.0, 0.1), (1.0, 1.1), (2.0, 2.1)]
    labels = [each.get_label() for each in axes.collections]
    assert labels == [
        "text of a person, dorsal right", "mean of the person's images, dorsal right",
        "text of a person, palmar left", "mean of the person's images, palmar left",
    ]  # fmt: skip
    assert [len(each.get_offsets()) for each in axes.collections] == [2, 2, 1, 1]
    assert sorted(text.get_text() for text in axes.texts) == ["7", "7", "9"]


def test_nothing_to_lay_out_is_said():
    figure = prompts.layout(points([]), "demo")
    assert "fewer than three people" in figure.axes[0].texts[0].get_text()


def test_words_stand_in_a_row_for_each_person_and_aspect():
    rows = [(pid, side, token, f"w{pid}{side[0]}{token}", 0.5 * token, 1.0)
            for pid in (3, 5) for side in SIDES for token in (1, 2, 11)]  # fmt: skip
    names = ["pid", "aspect", "token", "word", "distance", "length"]
    shown = prompts.words(pd.DataFrame(rows, columns=names), people=3)
    assert list(shown) == ["pid", "aspect", "X1", "X2", "X11"] and len(shown) == 3
    row = shown[(shown["pid"] == 3) & (shown["aspect"] == "palmar_l")].iloc[0]
    assert row["X1"] == "w3p1 (0.50)" and row["X11"] == "w3p11 (5.50)"


def test_figures_of_demo_people_say_so_in_tables_too():
    row = {"aspect": "all", "people": 5, "images": 20, "rank1": 0.25, "rank5": 1.0, "chance": 0.2}
    shown = prompts.own_text(pd.DataFrame([row]), "demo")
    assert shown.loc[0, "rank-1"] == "25.0%" and shown.loc[0, "remark"] == "demo figures"
    assert "remark" not in prompts.own_text(pd.DataFrame([row]), "hd")


# --- the same with prompts exchanged ------------------------------------------------------------


def load(own=None):
    return params.read(
        "clip_reid_encoder", "demo", "demo", "demo", 0, {"evaluation.resamples": 200, **(own or {})}
    )


def ranks(right, weights="trained"):
    """Ranks of six people's queries, of which the first `right` find theirs at once."""
    people = np.repeat(np.arange(6), 4)
    first = np.where(np.arange(len(people)) % 6 < right, 1, 3)
    return pd.DataFrame(
        {"weights": weights, "direction": "image_image", "test_aspect": "dorsal_r", "trial": 0,
         "gallery": "same_aspect", "query": [f"q{n}" for n in range(len(people))], "pid": people,
         "rank": first, "ranks": first.astype(str), "gap": 20, "top_1": "g"}
    )  # fmt: skip


def complete(p, table, split="split"):
    folder = runs.folder(exchanged.SECOND, p, "outputs")
    run = runs.start(exchanged.SECOND, p, "outputs")
    run.save_table("ranks", table)
    run.record(split_sha256=split)
    run.finish()
    return folder


@pytest.mark.parametrize("mine, theirs", [(None, True), (True, None), (False, True)])
def test_the_twin_is_the_same_run_with_prompts_the_other_way_round(mine, theirs):
    one, other = (
        load({"fit.lr": 1e-3, **({} if value is None else {"prompts.shuffle": value})})
        for value in (mine, theirs)
    )
    overrides, folder = exchanged.twin(one, "outputs")
    assert overrides == other.overrides
    assert folder == runs.folder(exchanged.SECOND, other, "outputs")
    assert other.prompts.shuffle != one.prompts.shuffle


def test_without_a_twin_the_notebook_says_how_to_make_it():
    p = load()
    found = exchanged.compare(p, ranks(5), "split", "outputs")
    assert found.empty
    said = exchanged.printed(found, p, "outputs").iloc[0, 0]
    assert "not run yet" in said and "'prompts.shuffle': True" in said
    assert json.loads(said.split("= ")[1].replace("'", '"').replace("True", "true"))


@pytest.mark.parametrize("control", [False, True])
def test_own_prompts_come_first_whichever_of_the_two_asks(control):
    own, other = ranks(5), ranks(2)
    there = pd.concat([own if control else other, ranks(1, "pretrained")])
    mine, theirs = (
        load({"prompts.shuffle": control}),
        load({} if control else {"prompts.shuffle": True}),
    )
    complete(theirs, there)
    found = exchanged.compare(mine, other if control else own, "split", "outputs")
    row = found[(found["metric"] == "rank1") & (found["subset"] == "all")].iloc[0]
    share = {right: (ranks(right)["rank"] == 1).mean() for right in (2, 5)}
    assert row["own"] == pytest.approx(share[5]) and row["exchanged"] == pytest.approx(share[2])
    assert row["difference"] == pytest.approx(share[5] - share[2])
    expected = retrieval.compare(own, other, 200)
    expected = expected[(expected["metric"] == "rank1") & (expected["subset"] == "all")].iloc[0]
    assert (row["low"], row["high"]) == (expected["low"], expected["high"])
    shown = exchanged.printed(found, mine, "outputs")
    first = shown[shown["subset"] == "all"].iloc[0]
    assert first["rank-1 own, %"] == f"{share[5] * 100:.1f}"
    assert first["rank-1 exchanged, %"] == f"{share[2] * 100:.1f}"
    assert first["rank-1 points"].startswith(f"{(share[5] - share[2]) * 100:+.1f} [")
    assert list(shown).index("rank-1 own, %") + 1 == list(shown).index("rank-1 exchanged, %")


def test_a_twin_of_another_split_is_refused():
    complete(load({"prompts.shuffle": True}), ranks(2), split="other")
    with pytest.raises(InputError, match="of another split"):
        exchanged.compare(load(), ranks(5), "split", "outputs")
