"""Square tables and their figures: what trained where, tested where; aspects against each other."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from test_tables import metrics

from clipfh_lib.data import origin
from clipfh_lib.reports import matrices

ASPECTS = ["dorsal_r", "palmar_l"]


def finished(outputs, dataset, name, frame, trained=None, **params):
    """A run folder that 20_compare would read."""
    folder = outputs / dataset / name
    folder.mkdir(parents=True)
    frame.to_csv(folder / "metrics.csv", index=False)
    content = {"dataset": dataset, "data": {"limit": None, "aspects": [], **params.pop("data", {})}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content | params))
    if trained is not None:
        rows = pd.DataFrame(trained, columns=origin.COLUMNS)
        rows.to_csv(folder / "trained_on.csv", index=False)
    (folder / "manifest.json").write_text(json.dumps({}))
    return folder


@pytest.fixture
def folders(tmp_path):
    plain = metrics()
    tuned = metrics(weights=("pretrained", "pixels"), shift=0.1).replace("pretrained", "trained")
    own = metrics(weights=("pretrained",), shift=0.2).replace("pretrained", "trained")
    there = [("03_fine_tune", "rn50-plain-seed1", "other", "dorsal_r", "plain", 1, 20, 3, 0)]
    return [
        finished(tmp_path, "demo", "02_zero_shot/demo-default-seed0", plain, []),
        finished(tmp_path, "demo", "02_zero_shot/demo-default-seed0-0123abcd", tuned, there),
        finished(
            tmp_path, "demo", "03_fine_tune/demo-plain-seed0", own,
            fit={}, recipe="plain", seed=0, data={"aspects": ["dorsal_r"]},
        ),
        tmp_path / "demo" / "02_zero_shot" / "never",
    ]  # fmt: skip


def test_each_run_stands_with_what_trained_its_weights(folders):
    table = matrices.train_by_test(folders).set_index("run")
    assert set(table["weights"]) == {"pretrained", "trained"} and len(table) == 3
    crossed = table.loc["demo-default-seed0-0123abcd"]
    assert crossed["train_dataset"] == "other" and crossed["seen"] == 3
    assert crossed["rank1"] == pytest.approx(0.823) and crossed["far_rank1"] == pytest.approx(0.623)
    assert pd.isna(table.loc["demo-default-seed0", "train_dataset"])
    own = table.loc["demo-plain-seed0"]
    assert (own["train_dataset"], own["train_aspect"], own["seen"]) == ("demo", "dorsal_r", 0)


def test_the_matrix_says_who_trained_and_marks_people_seen_before(folders):
    matrix = matrices.printed(matrices.train_by_test(folders))
    who = matrix[["weights", "trained on", "aspect", "by", "of seed"]].to_numpy().tolist()
    assert who == [
        ["pretrained", "", "", "", ""],
        ["trained", "other", "dorsal_r", "fine_tune plain", "1"],
        ["trained", "demo", "dorsal_r", "fine_tune plain", "0"],
    ]
    cells = matrix["demo, dorsal_r, same_aspect"].tolist()
    assert cells == ["72.3 [65.1, 79.0]", "82.3 [75.1, 89.0]*", "92.3 [85.1, 99.0]"]


def test_where_nobody_can_tell_who_trained_a_question_mark_stands(tmp_path):
    tuned = metrics(weights=("pretrained",)).replace("pretrained", "trained")
    there = [("03_fine_tune", "rn50-plain-seed1", "other", "all", "plain", 1, 20, -1, -1)]
    folder = finished(tmp_path, "demo", "02_zero_shot/demo-default-seed0-0123abcd", tuned, there)
    matrix = matrices.printed(matrices.train_by_test([folder]))
    assert matrix["demo, dorsal_r, same_aspect"].tolist() == ["72.3 [65.1, 79.0]?"]


@pytest.mark.parametrize("apart", ["the test", "the fit"])
def test_runs_that_differ_in_overrides_alone_keep_a_row_each(tmp_path, apart):
    found = []
    for number, tail in enumerate(("0123abcd", "89abcdef")):
        tuned = metrics(weights=("pretrained",), shift=0.1 * number)
        fit = f"rn50-plain-seed1-{tail if apart == 'the fit' else '0' * 8}"
        there = [("03_fine_tune", fit, "other", "all", "plain", 1, 20, 0, 0)]
        frame = tuned.replace("pretrained", "trained")
        found.append(
            finished(tmp_path, "demo", f"02_zero_shot/demo-default-seed0-{tail}", frame, there)
        )
    matrix = matrices.printed(matrices.train_by_test(found))
    assert matrix["demo, dorsal_r, same_aspect"].str[:4].tolist() == ["72.3", "82.3"]
    assert matrix["fit"].nunique() == (2 if apart == "the fit" else 1)
    assert ("overrides" in matrix) == (apart == "the test")


@pytest.mark.parametrize("zero_shot", [True, False])
def test_where_training_began_is_one_row_whatever_trained_from_there(tmp_path, zero_shot):
    found = []
    if zero_shot:
        start = metrics(weights=("pretrained",))
        found.append(finished(tmp_path, "demo", "02_zero_shot/demo-default-seed0", start))
    for number, name in enumerate(("03_fine_tune", "05_clip_reid_encoder")):
        start = metrics(weights=("pretrained",), shift=0.01 * number)
        both = pd.concat([start.replace("pretrained", "trained"), start])
        fit = {"fit": {"epochs": 1}, "recipe": f"recipe{number}", "seed": 0}
        found.append(finished(tmp_path, "demo", f"{name}/demo-demo-seed0", both, **fit))
    matrix = matrices.printed(matrices.train_by_test(found))
    assert matrix["weights"].tolist().count("pretrained") == 1
    assert matrix["weights"].tolist().count("trained") == 2


def test_a_plan_that_trains_nothing_has_a_row_of_pretrained_weights(folders):
    matrix = matrices.printed(matrices.train_by_test(folders[:1]))
    assert list(matrix["weights"]) == ["pretrained"]


def across(names=ASPECTS, weights=("pretrained", "pixels")):
    rows = [
        {"weights": one, "test_aspect": query, "gallery": searched, "subset": "all"}
        | {
            "direction": "image_image",
            "metric": "rank1",
            "value": 0.9 if query == searched else 0.2,
        }
        | {"low": 0.1, "high": 0.95, "queries": 9, "people": 3}
        for one in weights
        for query in names
        for searched in names
    ]
    pooled = [{**row, "test_aspect": "all"} for row in rows if row["test_aspect"] == names[0]]
    return pd.DataFrame(rows + pooled)


def test_aspects_stand_query_by_gallery_in_a_panel_for_each_weights():
    figure = matrices.across_aspects(across(), "demo")
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["pretrained", "pixels"]
    values = np.asarray(shown[0].images[0].get_array())
    assert values.tolist() == [[0.9, 0.2], [0.2, 0.9]]
    assert [text.get_text() for text in shown[0].texts][:2] == ["90.0\n[10, 95]", "20.0\n[10, 95]"]
    assert "demo figures" in figure.get_suptitle()
    assert shown[0].get_xlabel() == "gallery" and "query" in shown[0].get_ylabel()


def test_a_data_set_of_one_aspect_gets_a_figure_that_says_so():
    figure = matrices.across_aspects(across().iloc[:0], "demo_hd")
    assert "fewer than two aspects" in figure.axes[0].texts[0].get_text()
