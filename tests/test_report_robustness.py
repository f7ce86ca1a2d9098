"""Figures and printed tables of 10_robustness, and the notebook itself."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_notebooks import DRAW, executed, found

from clipfh_lib.reports import robustness, style
from clipfh_lib.studies import groups, real_conditions

WHO = {"dataset": "demo", "method": "zero_shot", "backbone": "demo", "recipe": "default"}
WHO |= {"seed": 0, "weights": "pretrained"}


def lost(value, low, high):
    ends = ("drop", "drop_low", "drop_high")
    points = dict(zip(ends, (value, low, high), strict=True))
    return points | {f"relative_{name}": x / 0.6 for name, x in points.items()}


@pytest.fixture
def graded():
    """Two conditions at two severities on two sides, clean 60 %."""
    rows = [{"condition": "clean", "kind": "clean", "severity": 0, "side": "clean", "value": 0.6}]
    for side, less in (("query", 0), ("both", 0.01)):
        for condition, kind in (("darker", "lighting"), ("blur", "blur")):
            for severity in (1, 5):
                much = 0.05 * severity * (condition == "darker") + less
                one = {"condition": condition, "kind": kind, "severity": severity, "side": side}
                rows.append({**one, "value": 0.6 - much, **lost(much, much - 0.02, much + 0.02)})
    frame = pd.DataFrame(rows).assign(**WHO, metric="rank1", subset="all", gallery="same_aspect")
    frame = frame.assign(low=frame["value"] - 0.05, high=frame["value"] + 0.05)
    aspects = [frame.assign(test_aspect="all"), frame.assign(test_aspect="dorsal_r", value=0.1)]
    return pd.concat(aspects, ignore_index=True)


def areas(graded):
    under = graded[(graded["severity"] == 5)].rename(columns={"severity": "to_severity"})
    return under.assign(value=0.5, low=0.45, high=0.55)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_heat_map_has_a_cell_for_each_condition_and_severity(graded):
    figure = robustness.heat(graded)
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in panels]
    assert titles == ["queries changed", "queries and gallery images changed"]
    cells = np.asarray(panels[0].images[0].get_array())
    np.testing.assert_allclose(cells, [[0.05, 0.25], [0, 0]], atol=1e-12)
    assert texts(panels[0]) == ["5.0\n[3, 7]", "25.0\n[23, 27]", "(0.0)\n[-2, 2]", "(0.0)\n[-2, 2]"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["darker", "blur"]
    said = " ".join(figure.get_suptitle().split())
    assert "demo figures" in said and "clean: 60.0 %" in said
    assert "of 8 intervals about 0.4 would miss 0 by chance alone" in said
    assert "of 255 intervals about 13 would" in robustness.by_chance(17 * 5 * 3)
    small = {text.get_fontsize() for axes in panels for text in axes.texts}
    assert min(small) >= style.SMALL


def test_the_summary_has_each_severity_and_the_share_that_is_lost(graded):
    table = robustness.summary(graded, areas(graded))
    assert list(table.columns[3:]) == [
        "severity 1", "severity 5", "mean rank-1 over severities", "of clean lost",
    ]  # fmt: skip
    row = table[(table["condition"] == "darker") & (table["side"] == "query")].iloc[0]
    assert row["severity 5"] == "35.0 [30.0, 40.0]" and row["of clean lost"].startswith("41.7 [")
    assert "60.0" in table.columns.name


def test_each_kind_has_a_sheet_with_the_untouched_photograph_in_front():
    rows = [("lighting", "colour_cast", s) for s in (0, 3)] + [
        ("noise", "noise", s) for s in (0, 3)
    ]
    table = pd.DataFrame(rows, columns=["kind", "condition", "severity"])
    shades = np.arange(4)[:, None, None, None] * np.ones((1, 8, 8, 3))
    sheets = robustness.sheets(table, shades.astype(np.uint8), "demo")
    assert list(sheets) == ["lighting", "sharpness"]
    shown = [axes for axes in sheets["sharpness"].axes if axes.images]
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in shown] == [2, 3]
    said = [text for axes in sheets["lighting"].axes for text in texts(axes)]
    assert {"as it is", "severity 3", "colour\ncast"} <= set(said)
    assert "demo figures" in sheets["lighting"].get_suptitle()


def real():
    rows = []
    for aspect in ("dorsal_r", "palmar_l", "all"):
        numbers = {"value": 0.3 if aspect == "all" else 0.9, "low": 0.2, "high": 0.95}
        numbers |= {"before": 0.5, "people": 12, "compared": 11, **lost(0.2, 0.1, 0.3)}
        about = {"condition": "accessories", "detail": "queries with accessories"}
        rows.append({**about, "test_aspect": aspect, "gallery": "same_aspect", **numbers})
    turned = {"condition": "mirrored", "detail": "mirrored", "test_aspect": "dorsal_l"}
    rows.append({**rows[0], **turned, "gallery": "dorsal_r", "value": 0.7})
    frame = pd.DataFrame(rows).assign(metric="rank1", subset="all", note="")
    none = {"condition": "include", "detail": "by data.include", "note": "takes all images"}
    frame = pd.concat([frame, pd.DataFrame([none])], ignore_index=True).assign(**WHO)
    return frame.reindex(columns=real_conditions.COLUMNS)


def test_real_conditions_stand_beside_the_same_people_without_them():
    figure = robustness.real(real())
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["queries with accessories", "dorsal left, mirrored, among dorsal right"]
    np.testing.assert_allclose(axes.collections[-1].get_offsets()[:, 0], 0.5)
    assert list(axes.lines[0].get_xdata()) == [0.3, 0.7]
    table = robustness.real_printed(real())
    assert table["lost"].iloc[0] == "20.0 [10.0, 30.0]" and table["people"].iloc[0] == "12"
    assert table.iloc[-1][["condition", "note"]].tolist() == ["by data.include", "takes all images"]
    assert table.iloc[-1]["rank-1, %"] == ""
    empty = robustness.real(real().iloc[-1:])
    assert "no such photographs" in empty.axes[0].texts[0].get_text()


def by_group():
    rows = []
    for attribute, group, people in [
        ("everybody", "everybody", 40), ("gender", "female", 34), ("gender", "male", 0),
    ]:  # fmt: skip
        for place, metric in enumerate(groups.METRICS):
            value = 0.1 * (place + 1) if people else np.nan
            ends = {"low": value - 0.05, "high": value + 0.05}
            size = {"people": people or pd.NA, "images": 8 * people or pd.NA}
            one = {"attribute": attribute, "group": group, "metric": metric, "value": value}
            rows.append({**one, **ends, **size, "remark": "" if people else groups.TOO_SMALL})
    more = {"fmr_of_everybody": 0.01, "chosen_on": "5000 pairs of val people"}
    frame = pd.DataFrame(rows).assign(**WHO, **more)
    return frame.astype({"people": "Int64", "images": "Int64"})


@pytest.mark.parametrize("kept", [False, True], ids=["as measured", "read from the file"])
def test_groups_too_small_have_a_name_and_no_dot(tmp_path, kept):
    table = by_group()
    if kept:
        table.to_csv(tmp_path / "groups.csv", index=False)
        table = pd.read_csv(tmp_path / "groups.csv")
    figure = robustness.groups(table)
    assert [axes.get_title() for axes in figure.axes] == ["rank-1", "EER", "FMR", "FNMR"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["everybody (40 people)", "gender: female (34 people)", "gender: male"]
    for place, axes in enumerate(figure.axes):
        dots = axes.lines[0].get_xdata()
        np.testing.assert_allclose(dots[:2], 0.1 * (place + 1))
        assert np.isnan(dots[2]) and texts(axes) == ["too small"]
    assert "1 % false matches of 5000 pairs of val people" in figure.get_suptitle()
    printed = robustness.groups_printed(table)
    few = f"fewer than {groups.SMALLEST} people"
    male = printed[printed["group"] == "male"].iloc[0]
    assert male.tolist() == ["gender", "male", few, "", *["too small"] * 4]
    female = printed[printed["group"] == "female"].iloc[0]
    assert (str(female["people"]), female["EER"]) == ("34", "20.0 [15.0, 25.0]")


def test_the_rates_that_are_shown_are_those_that_are_measured():
    assert tuple(robustness.RATES) == groups.METRICS


def test_without_a_condition_the_figure_says_so(graded):
    figure = robustness.heat(graded[graded["condition"] == "clean"])
    assert isinstance(figure, Figure)
    assert "no condition was measured" in figure.axes[0].texts[0].get_text()


@pytest.mark.notebooks
def test_10_robustness_writes_what_is_lost_and_the_groups(project):
    own = {**DRAW, "model.weights": "none", "evaluation.resamples": 50, "canvas": 64}
    own |= {"conditions": ["darker", "ring"], "severities": [1, 5], "sides": ["query", "both"]}
    cells = executed(project, "10_robustness", {"overrides": own})
    assert len(cells) <= 14
    (folder,) = (project / "outputs/demo/10_robustness").iterdir()
    made = found(folder)
    names = ["robustness", "robustness_areas", "robustness_pixels", "real_conditions", "groups"]
    assert {f"{name}.csv" for name in names} <= set(made["files"])
    figures = ["robustness_heat", "robustness_curves", "robustness_curves_both", "real_conditions"]
    figures += ["conditions_lighting", "conditions_occlusion", "groups"]
    assert {f"figures/{name}.png" for name in figures} <= set(made["files"])
    frame = pd.read_csv(folder / "robustness.csv")
    assert set(frame["weights"]) == {"untrained"} and set(frame["method"]) == {"zero_shot"}
    assert len(frame.drop_duplicates(["condition", "severity", "side"])) == 1 + 2 * 2 * 2
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    assert json.loads((folder / "manifest.json").read_text())["split_sha256"]
    assert pd.read_csv(folder / "groups.csv")["value"].isna().any(), "6 people test"
