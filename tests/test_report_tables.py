"""Tables of a report: what is best, cost, people, traps, robustness, groups."""

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_runs import finish, finished, plan, ranks
from safetensors.numpy import save_file

from clipfh_lib import files
from clipfh_lib.evaluation import retrieval
from clipfh_lib.files import InputError
from clipfh_lib.reports import (
    best,
    cost,
    findings,
    html,
    pictured,
    provenance,
    report,
    results,
    studied_runs,
    tables,
    thesis,
)

VALUES = pd.Series({"a": 0.5, "b": 0.7, "c": np.nan, "d": 0.6})


@pytest.mark.parametrize("low, label", [(0.01, "b"), (0.0, None), (-0.01, None), (np.nan, None)])
def test_the_best_is_marked_only_if_its_interval_over_the_runner_up_leaves_zero_out(low, label):
    asked = []

    def lower(first, second):
        asked.append((first, second))
        return low

    assert best.clear_best(VALUES, lower) == label
    assert asked == [("b", "d")], "the runner-up alone is asked about"


def test_nothing_is_best_alone_or_among_equals():
    assert best.clear_best(VALUES[["a", "c"]], lambda *_: 1.0) is None
    assert best.clear_best(pd.Series({"a": 0.5, "b": 0.5, "c": 0.1}), lambda *_: 1.0) is None
    assert best.clear_best(VALUES[:0], lambda *_: 1.0) is None


@pytest.mark.parametrize("hits, marked", [(0.9, True), (0.42, False)])
def test_marks_come_from_a_paired_test_of_the_two_runs(project, hits, marked):
    jobs = finished(project)
    good, start = ranks("trained", hits, 2), ranks("pretrained", 0.4, 1)
    finish(jobs[2], good, start)
    low = retrieval.compare(good, start).set_index(["subset", "metric"])["low"]
    assert (low["all", "rank1"] > 0) == marked
    shown = findings.of_plan(jobs)["comparison"]
    of_trained = shown.shown["run"] == "fine_tune"
    assert shown.marks.loc[of_trained, "rank-1, %"].item() == marked
    assert not shown.marks[~of_trained].any().any()
    far = findings.of_plan(jobs)["far"]
    assert far.marks["far rank-1, %"].sum() == (low["far", "rank1"] > 0)


def test_runs_of_another_split_are_not_the_best_of_the_same_queries(project):
    jobs = finished(project)
    finish(jobs[2], ranks("trained", 0.9, 2), made={"split_sha256": "other"})
    assert not findings.of_plan(jobs)["comparison"].marks.any().any()


def test_cells_have_mean_spread_and_interval_and_only_what_is_known():
    assert results.cell(0.6447, 0.0123, 0.608, 0.682) == "64.5 ± 1.2 [60.8, 68.2]"
    assert results.cell(0.5, np.nan, 0.4, 0.6) == "50.0 [40.0, 60.0]"
    assert results.cell(0.5, 0.1, np.nan, np.nan) == "50.0 ± 10.0"
    assert results.cell(np.nan, 0.1, 0.1, 0.2) == ""


def test_spread_is_the_standard_deviation_over_trials_of_that_very_row(project):
    jobs = finished(project)
    metrics = tables.read_runs(results.measured([job.folder for job in jobs]))
    table = results.with_spread(tables.comparison(metrics), metrics)
    hits = ranks("trained", 0.9, 2).assign(hit=lambda rows: rows["rank"] == 1)
    row = table[table["weights"] == "trained"].iloc[0]
    each = hits.groupby("trial")["hit"].mean()
    assert row["rank1"] == pytest.approx(each.mean())
    assert row["rank1_sd"] == pytest.approx(each.std()) and each.std() > 0
    far = hits[hits["gap"] > 10].groupby("trial")["hit"].mean()
    assert row["far_rank1_sd"] == pytest.approx(far.std())


def test_studies_of_a_run_are_no_runs_of_a_method():
    names = ["02_zero_shot", "09_mba_net", "10_robustness", "12_identify"]
    assert [f.parent.name for f in results.measured(f"o/demo/{n}/a" for n in names)] == names[:2]


# --- cost ----------------------------------------------------------------------------------------


def test_parameters_are_those_said_or_listed_or_counted_in_the_saved_weights(project):
    jobs = finished(project)
    path = jobs[2].folder / "checkpoints/best.safetensors"
    path.parent.mkdir()
    save_file({"a": np.zeros((3, 4), "f"), "b": np.zeros(5, "f"), "c": np.zeros((), "f")}, path)
    assert cost.counted(path) == 3 * 4 + 5 + 1
    folders = [job.folder for job in jobs]
    assert cost.of_runs(folders)["parameters"].tolist()[2] == 18
    finish(jobs[1], ranks("pretrained", 0.4, 1), made={"parameters": 7_000_000})
    parts = pd.DataFrame({"part": ["x", "y"], "parameters": [10, 30], "trained": [4, 0]})
    finish(jobs[2], ranks("trained", 0.4, 1), made={"fit_seconds": 75.0}, parts=parts)
    table = cost.of_runs(folders)
    assert table["parameters"].tolist()[1:] == [7_000_000, 40]
    assert table["trained"].tolist()[1:] == [0, 4] and np.isnan(table["trained"][0])
    shown = cost.printed(table)
    assert shown["parameters, millions"].tolist() == ["", "7.00", "0.00"]
    assert shown["of it training"].tolist() == ["", "", "1 min 15 s"]
    assert shown["time"].tolist()[1] == "1 min 01 s"
    assert shown["peak memory, GB"].tolist()[1] == "1.5"
    (jobs[1].folder / "manifest.json").unlink()
    assert len(cost.of_runs(folders)) == 2


# --- provenance ----------------------------------------------------------------------------------


def test_the_rule_of_three_is_three_over_the_fewest_people(project):
    jobs = finished(project)
    metrics = tables.read_runs(results.measured([job.folder for job in jobs]))
    metrics.loc[metrics["weights"] == "trained", "people"] = 12
    shown = provenance.people_table(metrics)
    assert shown[["data set", "people", "rule of three, %"]].values.tolist() == [
        ["demo", 12, "25.0"]
    ]


def test_notes_on_few_errors_and_people_who_trained_are_told(project):
    jobs = finished(project)
    notes = pd.DataFrame(
        {"metric": ["tar@1e-4"] * 2 + ["eer"], "reason": ["9 pairs; the rule of 30", "8", "7"]}
    )
    columns = ["train_notebook", "train_run", "test_people", "seen"]
    rows = [["03_fine_tune", "a", 20, 3], ["03_fine_tune", "b", 20, -1], ["00", "c", 20, 0]]
    more = {"verification_notes": notes, "trained_on": pd.DataFrame(rows, columns=columns)}
    finish(jobs[1], ranks("pretrained", 0.4, 1), **more)
    folders = [job.folder for job in jobs]
    few = provenance.too_few(folders)
    assert few[["metric", "numbers"]].values.tolist() == [["tar@1e-4", 2], ["eer", 1]]
    said = provenance.seen(folders)
    assert ["3 of 20" in said[0], "nobody can tell how many of 20" in said[1]] == [True, True]
    assert len(said) == 2, "nobody of a test trained in 00"


def test_commands_name_every_run_and_read_back_as_its_parameters(project):
    cell = {"notebook": "03_fine_tune", "dataset": "demo", "backbone": "demo", "recipe": "demo"}
    jobs = plan(project, {**cell, "seed": [0, 1], "overrides": {"fit.epochs": 1}})
    first, second, *lines = provenance.commands("tiny", jobs, "outputs")
    assert second == "snakemake --cores all tiny" and first.startswith("pip")
    assert len(lines) == 2
    for seed, line in enumerate(lines):
        given = yaml.safe_load(line.split(" -y ")[1].strip("'"))
        assert line.startswith("papermill notebooks/03_fine_tune.ipynb ")
        assert given == {
            "dataset": "demo", "backbone": "demo", "recipe": "demo", "seed": seed,
            "overrides": {"fit.epochs": 1},
        }  # fmt: skip
    assert "outputs: /x" in provenance.commands("tiny", jobs, "/x")[2]


# --- robustness and groups -----------------------------------------------------------------------


def study(project, name, **csv):
    """A complete run folder of 10_robustness."""
    folder = project / f"outputs/demo/10_robustness/{name}"
    for each, table in csv.items():
        files.write_csv(folder / f"{each}.csv", table)
    params = {"dataset": "demo", "method": "robustness", "data": {}}
    files.write_text(folder / "params.yaml", yaml.safe_dump(params))
    files.write_sealed(folder / "manifest.json", {"files": {}})
    return folder


def who(method, **more):
    axes = {"dataset": "demo", "test_aspect": "all", "method": method, "backbone": "demo"}
    return (
        axes | {"recipe": "demo", "seed": 0, "weights": "trained", "gallery": "same_aspect"} | more
    )


COMMON = {"threshold": 0.6123, "fmr_of_everybody": 0.01}
COMMON |= {"chosen_on": "test people, since val people have 90 pairs"}


def drops(method, lost):
    """rank-1 of 0.8 that loses `lost` at severity 1 and twice as much at 5."""
    rows = [
        ("clean", "clean", 0, 0.0),
        ("noise", "noise", 1, lost),
        ("noise", "noise", 5, 2 * lost),
    ]
    frame = pd.DataFrame(rows, columns=["condition", "kind", "severity", "drop"])
    frame = frame.assign(value=0.8 - frame["drop"], relative_drop=frame["drop"] / 0.8)
    for name in ("value", "drop", "relative_drop"):
        front = "" if name == "value" else f"{name}_"
        frame[f"{front}low"], frame[f"{front}high"] = frame[name] - 0.05, frame[name] + 0.05
    side = frame["kind"].map({"clean": "clean", "noise": "query"})
    return frame.assign(side=side, subset="all", metric="rank1", **who(method))


def test_robustness_stands_by_run_condition_and_severity_with_what_is_lost(project):
    area = drops("fine_tune", 0.1).iloc[1:2].drop(columns=["severity"]).assign(value=0.65)
    pixels = pd.DataFrame({"condition": ["noise"], "severity": [5], "sha256": ["x"]})
    folders = [
        study(project, "a", robustness=drops("fine_tune", 0.1), robustness_areas=area,
              robustness_pixels=pixels),
        study(project, "b", robustness=drops("zero_shot", 0.2),
              robustness_pixels=pixels.assign(sha256="y")),
    ]  # fmt: skip
    found = studied_runs.robustness(folders)
    shown = studied_runs.printed_robustness(found, studied_runs.areas(folders))
    shown = shown.set_index(["run", "condition"])
    row = shown.loc[("fine_tune", "noise")]
    assert row["severity 1"] == "70.0 [65.0, 75.0]" and row["severity 5"] == "60.0 [55.0, 65.0]"
    assert row["lost, points"] == "20.0 [15.0, 25.0]" and row["lost, % of it"].startswith("25.0 [")
    assert row["area, %"].startswith("65.0") and row["severity 0"] == ""
    assert shown.loc[("fine_tune", "clean"), "severity 0"] == "80.0 [75.0, 85.0]"
    assert shown.loc[("fine_tune", "clean"), "lost, points"] == ""
    assert shown.loc[("zero_shot", "noise"), "lost, points"].startswith("40.0")
    assert (shown["remark"] == "demo figures").all()
    assert studied_runs.other_pixels(folders) == [
        "demo: runs of 10_robustness saw other pixels under noise"
    ]
    assert studied_runs.other_pixels(folders[:1]) == []
    assert studied_runs.robustness([project / "outputs/demo/02_zero_shot/x"]).empty


def test_groups_of_too_few_people_carry_no_number(project):
    rows = pd.DataFrame(
        {
            "attribute": "gender", "group": ["a", "b"] * 2, "metric": ["rank1"] * 2 + ["fmr"] * 2,
            "value": [0.5, np.nan, 0.01, np.nan], "low": [0.4, np.nan, 0.0, np.nan],
            "high": [0.6, np.nan, 0.02, np.nan], "images": [80, np.nan, 80, np.nan],
            "people": [12, np.nan, 12, np.nan], "remark": ["", "too small"] * 2,
        }
    ).assign(**who("fine_tune"), **COMMON)  # fmt: skip
    shown = studied_runs.printed_groups(studied_runs.groups([study(project, "a", groups=rows)]))
    shown = shown.set_index("group")
    assert shown.loc["a", ["people", "rank-1, %"]].tolist() == ["12", "50.0 [40.0, 60.0]"]
    few = shown.loc["b"]
    named = ["data set", "run", "gallery", "attribute", "remark"]
    whose = ["threshold", "FMR of everybody, %", "chosen on"]
    assert few.drop([*named, *whose]).tolist() == ["", "", studied_runs.FEW, studied_runs.FEW]


def test_groups_say_on_whom_their_threshold_was_chosen_and_few_people_only_where_it_is_so(project):
    rows = pd.DataFrame({"attribute": "gender", "group": "a", "metric": ["rank1", "eer"]})
    rows = rows.assign(value=[0.5, np.nan], low=[0.4, np.nan], high=[0.6, np.nan], images=80)
    rows = rows.assign(people=12, remark=np.nan, **who("fine_tune"), **COMMON)
    others = rows.assign(method="zero_shot", chosen_on="900 pairs of val people", threshold=0.75)
    found = studied_runs.groups(
        [study(project, "a", groups=rows), study(project, "b", groups=others)]
    )
    shown = studied_runs.printed_groups(found).set_index("run")
    assert shown.loc["fine_tune", "chosen on"] == COMMON["chosen_on"]
    assert shown.loc["zero_shot", "chosen on"] == "900 pairs of val people"
    assert shown["FMR of everybody, %"].tolist() == ["1", "1"]
    assert shown["threshold"].tolist() == ["0.6123", "0.7500"]
    assert (shown["EER, %"] == "").all(), "12 people are not too few: it was not measured"


def test_studied_runs_that_differ_in_overrides_alone_both_stand(project):
    """Their studies have the same axes and no overrides; the folder alone tells them apart."""
    names = [f"03_fine_tune-demo-demo-seed0{end}" for end in ("", "-0a1b2c3d")]
    rows = pd.DataFrame({"attribute": "all", "group": "all", "metric": ["rank1"], "people": 12})
    rows = rows.assign(low=0.1, high=0.9, images=80, remark="", **who("fine_tune"), **COMMON)
    folders = [
        study(project, name, robustness=drops("fine_tune", lost), groups=rows.assign(value=value),
              robustness_areas=drops("fine_tune", lost).iloc[1:2].drop(columns=["severity"]))
        for name, lost, value in zip(names, (0.1, 0.3), (0.5, 0.7), strict=True)
    ]  # fmt: skip
    table, under = studied_runs.robustness(folders), studied_runs.areas(folders)
    shown = studied_runs.printed_robustness(table, under)
    assert list(shown["run"].unique()) == [f"fine_tune ({name})" for name in names]
    noise = shown[shown["condition"] == "noise"]
    assert [cell[:4] for cell in noise["severity 1"]] == ["70.0", "50.0"]
    assert [cell[:4] for cell in noise["area, %"]] == ["70.0", "50.0"]
    shown = studied_runs.printed_groups(studied_runs.groups(folders))
    assert [cell[:4] for cell in shown["rank-1, %"]] == ["50.0", "70.0"]
    assert shown["run"].nunique() == 2
    with pytest.raises(InputError, match="two numbers for demo, 03_fine_tune-demo-demo-seed0, "):
        studied_runs.printed_robustness(pd.concat([table, table.iloc[:1]]), under)


# --- maps ----------------------------------------------------------------------------------------


def looked_into(project, job, says, value):
    """A run of 11_attention with checks of one map, its verdict and its energy."""
    more = {"pairs": 9, "people": 8, "flat": 0, "difference_low": -0.1, "difference_high": 0.1}
    one = {"map": "grad_cam", "low": 0.2, "high": 0.6, "difference": 0.0, **more}
    axes = {name: each for name, each in who("zero_shot").items() if name != "test_aspect"}
    axes.pop("gallery")
    checks = [{**one, "check": check, "value": value} for check in ("deletion", "other_gallery")]
    shares = [{**one, "share": value, "area": 0.3, "images": 18}]
    return finish(
        job,
        figures=["right_matches", "removal"],
        faithfulness=pd.DataFrame(checks).assign(**axes),
        verdicts=pd.DataFrame({"map": ["grad_cam"], "says": [says]}),
        energy=pd.DataFrame(shares).assign(**axes),
    )


def test_maps_stand_with_their_verdict_and_their_captions_lead_there(project):
    cell = {"dataset": "demo", "backbone": "demo", "recipe": "default"}
    study = {**cell, "notebook": "11_attention"}
    jobs = plan(project, {**cell, "notebook": "02_zero_shot"}, study, {**study, "recipe": "demo"})
    finish(jobs[0], ranks("pretrained", 0.4, 1))
    looked_into(project, jobs[1], "ignores its target: no explanation of a similarity", 0.41)
    looked_into(project, jobs[2], "passes all checks", 0.52)
    found = findings.of_plan(jobs)
    shown = found["attention"].shown
    assert shown["the checks say"].tolist() == [
        "ignores its target: no explanation of a similarity", "passes all checks",
    ]  # fmt: skip
    assert [cell[:4] for cell in shown["deletion, area"]] == ["0.41", "0.52"]
    assert shown["run"].nunique() == 2 and (shown["remark"] == "demo figures").all()
    assert [cell[:4] for cell in found["energy"].shown["on the hand, %"]] == ["41.0", "52.0"]
    said = report.of_plan("tiny", jobs, found, project / "none")
    (studies,) = [section for section in said.sections if section.name == "studies"]
    assert {"attention", "energy"} <= {table.name for table in studies.tables}
    pictures = [one for section in said.sections for one in section.pictures]
    captions = {one.png.stem: one.caption for one in pictures if "11_attention" in str(one.png)}
    assert f"table “{found['attention'].title}”" in captions["right_matches"]
    assert "table" not in captions["removal"]
    assert "ignores its target" in html.page(said)
    main = thesis.write(project / "thesis", said)
    assert "ignores its target" in (main.parent / "tables/attention.tex").read_text()
    (jobs[1].folder / "verdicts.csv").unlink()
    (unchecked, _) = pictured.of_plan([jobs[1].folder], project / "none")
    assert any("Nobody checked" in one.caption for one in unchecked)
