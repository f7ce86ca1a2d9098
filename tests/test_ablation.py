"""The versions of a method: what each changes, what came of it."""

import pandas as pd
import pytest
import yaml

from clipfh_lib import files, plans
from clipfh_lib.reports import ablation

NUMBERS = {("all", "rank1"): 0.5, ("all", "mAP"): 0.6, ("far", "rank1"): 0.3}


def versions(project, **of_version):
    """A plan of versions of fine_tune for two backbones; a recipe is demo's with some changes."""
    recipes = project / "params/recipes/fine_tune"
    demo = yaml.safe_load((recipes / "demo.yaml").read_text())
    for name, changes in of_version.items():
        content = {**demo, **{k: v for k, v in changes.items() if k != "fit"}}
        content["fit"] = {**demo["fit"], **changes.get("fit", {})}
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(content))
    base = {"notebook": "03_fine_tune", "dataset": "demo", "overrides": {"data.trials": 2}}
    names = [name for name in of_version if "_" not in name]
    cells = [{**base, "backbone": ["demo", "demo_untrained"], "recipe": [*names, "demo"]}]
    (project / "params/plans/mine.yaml").write_text(yaml.safe_dump({"cells": cells}))
    return plans.jobs("mine", "outputs")


def finish(job, shift=0.0):
    rows = []
    for weights, plus in (("trained", shift), ("pretrained", -0.2)):
        for (subset, metric), value in NUMBERS.items():
            one = {"dataset": "demo", "test_aspect": "all", "method": "fine_tune", "seed": 0}
            one |= {"backbone": job.cell.backbone, "recipe": job.cell.recipe, "weights": weights}
            one |= {"gallery": "same_aspect", "subset": subset, "direction": "image_image"}
            rows.append({**one, "metric": metric, "value": value + plus, "queries": 9.0})
    table = pd.DataFrame(rows)
    ends = {"sd": 0.01, "low": table["value"] - 0.05, "high": table["value"] + 0.05, "people": 5}
    files.write_csv(job.folder / "metrics.csv", table.assign(**ends))
    each = [table.assign(trial=trial, value=table["value"] + trial / 100) for trial in (0, 1)]
    files.write_csv(job.folder / "trials.csv", pd.concat(each))
    (job.folder / "params.yaml").write_text(yaml.safe_dump(job.params.model_dump(mode="json")))
    (job.folder / "manifest.json").write_text("{}")


@pytest.fixture
def jobs(project):
    """v1, v2 and v4; v2 has a file of its own for one backbone; v4 of that one was not run."""
    made = versions(
        project,
        v1={},
        v2={"fit": {"lr": 1.0e-5}},
        v2_demo_untrained={"fit": {"lr": 1.0e-4}, "loss_use_triplet": False},
        v4={"fit": {"lr": 1.0e-5, "unfreeze_blocks": 2}},
    )
    for job in made:
        if job.cell.recipe != "v4" or job.cell.backbone == "demo":
            finish(job, {"v1": 0.0, "v2": 0.1, "v4": 0.2, "demo": 0.4}[job.cell.recipe])
    return made


def test_changes_are_those_of_the_resolved_parameters_against_the_version_before(jobs):
    table = ablation.table(jobs).set_index(["backbone", "version"])["changes"]
    assert set(table.index.get_level_values("version")) == {"start", "v1", "v2", "v4"}
    assert table["demo", "v1"] == "the first"
    assert table["demo", "v2"] == "fit.lr: 0.0005 -> 1e-05"
    own = "fit.lr: 0.0005 -> 0.0001; loss_use_triplet: on -> off"
    assert table["demo_untrained", "v2"] == own
    assert table["demo", "v4"] == "against v2; fit.unfreeze_blocks: none -> 2"


def test_both_backbones_stand_side_by_side_and_what_was_not_run_is_said(jobs):
    text = ablation.to_markdown(ablation.table(jobs))
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert list(rows) == ["| version", "| ---", "| start", "| v1", "| v2", "| v4"]
    assert rows["| version"] == "| version | changes | demo | demo_untrained |"
    assert "30.0 [25.0, 35.0] / 40.0 [35.0, 45.0] / 10.0 [5.0, 15.0] |" in rows["| start"]
    cell = "60.0 [55.0, 65.0] / 70.0 [65.0, 75.0] / 40.0 [35.0, 45.0]"
    assert rows["| v2"].endswith(f"| {cell} | {cell} |")
    own = "fit.lr: 0.0005 -> 0.0001; loss_use_triplet: on -> off"
    assert f"| demo alone: fit.lr: 0.0005 -> 1e-05; demo_untrained alone: {own} |" in rows["| v2"]
    assert "| against v2; fit.unfreeze_blocks: none -> 2; demo_untrained alone: " in rows["| v4"]
    assert rows["| v4"].endswith("| not run |")
    assert "## fine_tune: demo, all, same_aspect, demo figures" in text


def test_what_is_against_another_version_before_is_not_told_as_one():
    both = {"a": "against v6; x: 1 -> 2", "b": "x: 1 -> 2; y: off -> on"}
    told = "a alone: against v6; x: 1 -> 2; b alone: x: 1 -> 2; y: off -> on"
    assert ablation._together(both) == told
    both["a"] = "x: 1 -> 2"
    assert ablation._together(both) == "x: 1 -> 2; b alone: y: off -> on"


def test_every_trial_of_a_backbone_is_in_its_table(jobs):
    assert ablation.backbones(jobs) == ["demo", "demo_untrained"]
    table = ablation.trials(jobs, "demo")
    assert table["version"].tolist() == ["v1", "v1", "v2", "v2", "v4", "v4"]
    assert table["trial"].tolist() == [0, 1] * 3
    assert table["rank1"].tolist() == pytest.approx([0.5, 0.51, 0.6, 0.61, 0.7, 0.71])
    assert table["far_rank1"].tolist() == pytest.approx([0.3, 0.31, 0.4, 0.41, 0.5, 0.51])
    assert (table["queries"] == 9).all()
    assert ablation.trials(jobs, "demo_untrained")["version"].tolist() == ["v1"] * 2 + ["v2"] * 2


def test_before_anything_was_run_the_changes_are_there_and_of_another_plan_a_line(project):
    jobs = versions(project, v1={}, v2={"loss_use_center": True})
    text = ablation.to_markdown(ablation.table(jobs))
    assert "| v2 | loss_use_center: off -> on | not run | not run |" in text
    others = [job for job in jobs if job.cell.recipe == "demo"]
    assert ablation.to_markdown(ablation.table(others)) == ablation.NOTHING
    assert ablation.backbones(others) == []
