"""Run folders: one name for the same parameters, complete when the manifest is there."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from matplotlib.figure import Figure

import clipfh_lib
from clipfh_lib import files, params, plans, runs
from clipfh_lib.files import InputError

ZERO = {"method": "zero_shot", "dataset": "demo", "backbone": "demo", "recipe": "default"}


@pytest.fixture
def p():
    return params.load(**ZERO)


def test_a_folder_is_named_by_its_axes_and_a_hash_of_sorted_overrides(tmp_path, p):
    assert (
        runs.folder("02_zero_shot", p, tmp_path)
        == tmp_path / "demo/02_zero_shot/demo-default-seed0"
    )
    one = params.load(**ZERO, overrides={"data.trials": 2, "embed.batch": 8})
    two = params.load(**ZERO, overrides={"embed.batch": 8, "data.trials": 2})
    name = runs.folder("02_zero_shot", one, tmp_path).name
    assert name == runs.folder("02_zero_shot", two, tmp_path).name
    assert len(name) == len("demo-default-seed0-") + 8
    assert runs.folder("20_compare", "demo", tmp_path) == tmp_path / "demo/20_compare"


def test_the_prepared_folder_is_named_by_data_overrides_alone(tmp_path, p):
    plain = runs.folder("01_prepare_data", p, tmp_path)
    batch = params.load(**ZERO, overrides={"embed.batch": 8})
    trials = params.load(**ZERO, overrides={"embed.batch": 8, "data.trials": 2})
    alone = params.load("prepare_data", "demo", overrides={"data.trials": 2})
    assert plain == tmp_path / "demo/01_prepare_data/seed0"
    assert runs.folder("01_prepare_data", batch, tmp_path) == plain
    assert runs.folder("01_prepare_data", trials, tmp_path) != plain
    assert runs.folder("01_prepare_data", trials, tmp_path) == runs.folder(
        "01_prepare_data", alone, tmp_path
    )


def test_a_finished_run_says_what_made_it_and_hashes_every_file(tmp_path, p):
    run = runs.start("02_zero_shot", p, tmp_path)
    assert not runs.is_complete(run.folder)
    shown = run.save_figure("line", Figure())
    assert isinstance(shown, Figure)
    run.save_table("history", pd.DataFrame({"epoch": [0]}))
    run.record(split_sha256="abc", device="cpu")
    (run.folder / "notebook.ipynb").write_text("{}")
    (run.folder / "notebook.ipynb.txt").write_text("what papermill prints, still growing")
    run.finish()
    made = runs.manifest(run.folder)
    assert set(made["files"]) == {
        "params.yaml",
        "log.txt",
        "history.csv",
        "figures/line.pdf",
        "figures/line.png",
    }
    for name, sha in made["files"].items():
        assert files.sha256(run.folder / name) == sha, name
    assert made["version"] == clipfh_lib.__version__
    assert made["params"]["data"]["trials"] == 10
    assert (made["split_sha256"], made["device"]) == ("abc", "cpu")
    assert made["seconds"] >= 0 and made["peak_memory_mb"] > 10 and made["threads"] >= 1
    assert made["versions"]["numpy"] and len(made["code_sha256"]) == 64
    assert "seconds" not in (run.folder / "params.yaml").read_text()


def test_a_run_that_starts_again_is_not_complete_until_it_ends(tmp_path, p):
    runs.start("02_zero_shot", p, tmp_path).finish()
    folder = runs.folder("02_zero_shot", p, tmp_path)
    assert runs.is_complete(folder)
    runs.start("02_zero_shot", p, tmp_path)
    assert not runs.is_complete(folder)
    with pytest.raises(InputError, match="no complete run"):
        runs.manifest(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        runs.manifest(folder)


def test_a_file_of_a_run_is_given_only_as_the_run_left_it(tmp_path, p):
    run = runs.start("02_zero_shot", p, tmp_path)
    run.save_table("history", pd.DataFrame({"epoch": [0]}))
    with pytest.raises(InputError, match="no complete run"):
        runs.kept(run.folder, "history.csv")
    run.finish()
    path = run.folder / "history.csv"
    assert runs.kept(run.folder, "history.csv") == path
    with pytest.raises(InputError, match="the run kept no other.csv, or it is gone; run it again"):
        runs.kept(run.folder, "other.csv")
    path.write_text("epoch\n1\n")
    with pytest.raises(InputError, match=r"/history.csv is not what its manifest says; run it ag"):
        runs.kept(run.folder, "history.csv")
    path.unlink()
    with pytest.raises(InputError, match="or it is gone"):
        runs.kept(run.folder, "history.csv")


def test_a_manifest_that_was_changed_by_a_blank_is_refused(tmp_path, p):
    runs.start("02_zero_shot", p, tmp_path).finish()
    path = runs.folder("02_zero_shot", p, tmp_path) / "manifest.json"
    assert json.loads(path.read_text())["notebook"] == "02_zero_shot"  # plain JSON for others
    path.write_text(path.read_text().replace("\n", " \n", 1))
    with pytest.raises(InputError, match=r"manifest.json is damaged \(not as its run wrote it\)"):
        runs.manifest(path.parent)


def test_a_start_that_was_run_twice_lets_go_at_the_end(tmp_path, p):
    runs.start("02_zero_shot", p, tmp_path)
    run = runs.start("02_zero_shot", p, tmp_path)
    (run.folder / "figures").mkdir()
    (run.folder / "figures" / "of_older_code.png").write_text("x")
    run = runs.start("02_zero_shot", p, tmp_path)
    run.finish()
    assert "figures/of_older_code.png" not in runs.manifest(run.folder)["files"]
    code = (
        "from clipfh_lib import params, runs\n"
        f"runs.start('02_zero_shot', params.load(**{ZERO!r}), {str(tmp_path)!r})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_another_process_may_not_write_the_same_folder(tmp_path, p):
    run = runs.start("02_zero_shot", p, tmp_path)
    code = (
        "from clipfh_lib import params, runs\n"
        f"runs.start('02_zero_shot', params.load(**{ZERO!r}), {str(tmp_path)!r})"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "being written by another process" in answer.stderr
    run.finish()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_the_log_grows_and_a_second_start_in_one_kernel_writes_each_line_once(tmp_path, p):
    runs.start("02_zero_shot", p, tmp_path)
    run = runs.start("02_zero_shot", p, tmp_path)
    run.logger.info("a line")
    text = (run.folder / "log.txt").read_text()
    assert text.count("a line") == 1 and text.count("started") == 2
    run.finish()


def test_results_get_the_run_s_name_and_the_columns_in_their_order(tmp_path, p):
    class Results:
        ranks = pd.DataFrame({"weights": ["pixels"], "rank": [1]})
        trials = pd.DataFrame(
            {
                "test_aspect": ["all"], "weights": ["pixels"], "gallery": ["default"],
                "subset": ["all"], "direction": ["image_image"], "metric": ["rank1"],
                "value": [0.5], "trial": [0], "queries": [4], "people": [2],
            }
        )  # fmt: skip
        metrics = trials.drop(columns="trial").assign(sd=0.1, low=0.4, high=0.6)

    run = runs.start("02_zero_shot", p, tmp_path)
    shown = run.save_results([Results, Results])
    run.finish()
    header = ",".join(runs.LONG)
    lines = (run.folder / "metrics.csv").read_text().splitlines()
    assert lines[0] == f"{header},sd,low,high,queries,people"
    assert (
        lines[1] == "demo,all,zero_shot,demo,default,0,pixels,default,all,image_image,rank1,"
        "0.5,0.1,0.4,0.6,4,2"
    )
    assert (run.folder / "trials.csv").read_text().startswith(f"{header},trial,queries,people\n")
    assert len(shown) == 2 and len(pd.read_csv(run.folder / "ranks.csv")) == 2


# --- what decides a run's content ----------------------------------------------------------------


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """A project with one notebook that imports one module of ours."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (tmp_path / "params").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)

    def write(source: str):
        cells = [
            {"cell_type": "code", "source": [source]},
            {"cell_type": "markdown", "source": ["x"]},
        ]
        (notebooks / "n.ipynb").write_text(json.dumps({"cells": cells}))
        return runs.code_digest("n")

    return write


def test_code_counts_through_all_modules_and_comments_do_not(small_project, monkeypatch):
    first = small_project("%matplotlib inline\nfrom clipfh_lib import plans\nx = 1")
    assert first == small_project("from clipfh_lib import plans\n# a remark\nx   =   1")
    assert first != small_project("from clipfh_lib import plans\nx = 2")
    real = runs._source

    def changed(module):
        path = real(module)
        if module != "clipfh_lib.files":  # plans imports params, and params imports files
            return path
        other = files.project() / "files.py"
        other.write_text(path.read_text() + "\nchanged = 1\n")
        return other

    monkeypatch.setattr(runs, "_source", changed)
    assert first != small_project("from clipfh_lib import plans\nx = 1")


def test_the_key_follows_parameters_data_and_weights_and_not_the_name_of_overrides(p, tmp_path):
    key = runs.key("02_zero_shot", p, "data")
    assert key == runs.key("02_zero_shot", params.load(**ZERO), "data")
    assert key == runs.key(
        "02_zero_shot", params.load(**ZERO, overrides={"data.trials": 10}), "data"
    ), "an override that changes nothing changes no content"
    printed = params.load(**ZERO, overrides={"data.photographs": True})
    assert key == runs.key("02_zero_shot", printed, "data"), "what may be printed changes no run"
    assert key != runs.key("02_zero_shot", p, "other data")
    assert key != runs.key(
        "02_zero_shot", params.load(**ZERO, overrides={"data.trials": 2}), "data"
    )
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"1")
    local = params.load(**ZERO, overrides={"model.weights": str(weights)})
    before = runs.key("02_zero_shot", local, "data")
    weights.write_bytes(b"2")
    assert before != runs.key("02_zero_shot", local, "data")


@pytest.mark.parametrize("notebook", ["07_joint_image_text", "08_text_to_image"])
def test_the_key_follows_what_stands_in_the_file_of_prompts_and_not_its_time(tmp_path, notebook):
    def key(name):
        named = {"prompts.file": str(name)}
        p = params.load(notebook[3:].replace("_image_text", ""), *["demo"] * 3, overrides=named)
        return runs.key(notebook, p, "data")

    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "prompts.csv"
    absent = key(path), key(path.parent)
    path.write_text("image_id,prompt\na,b\n")
    before = key(path), key(path.parent)
    os.utime(path, (1, 1))
    (path.parent / "other.csv").write_text("x")
    assert (key(path), key(path.parent)) == before
    path.write_text("image_id,prompt\na,c\n")
    after = key(path), key(path.parent)
    assert len({*absent, *before, *after}) == 6


def test_the_key_of_a_run_does_not_change_when_the_run_that_trains_its_weights_is_done(tmp_path):
    def keys(weights=None):
        p = params.load(**ZERO, overrides={"model.weights": str(trained)})
        return runs.key("02_zero_shot", p, "data", weights)

    source = params.load("demo_clip", "demo_clip", "demo_untrained", "demo")
    trained = runs.folder("00_demo_clip", source, tmp_path)
    before, alone = keys("its key"), keys()
    run = runs.start("00_demo_clip", source, tmp_path)
    run.record(weights_sha256="1")
    run.finish()
    assert runs.is_complete(trained)
    assert keys("its key") == before != keys("another key")
    assert keys() not in (alone, before), "without a plan, what was trained counts"


# --- plans ---------------------------------------------------------------------------------------


def plan(tmp_path, monkeypatch, text):
    root = files.project()
    for name in ("datasets", "backbones", "recipes"):
        (tmp_path / "params").mkdir(exist_ok=True)
        (tmp_path / "params" / name).symlink_to(root / "params" / name)
    (tmp_path / "params" / "plans").mkdir()
    (tmp_path / "params" / "plans" / "mine.yaml").write_text(text)
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return plans.jobs("mine", "outputs")


def test_lists_of_a_plan_multiply_and_needs_find_their_runs(tmp_path, monkeypatch):
    jobs = plan(
        tmp_path,
        monkeypatch,
        """
cells:
  - {notebook: 01_prepare_data, dataset: [demo, demo_hd]}
  - {notebook: 02_zero_shot, dataset: [demo, demo_hd], backbone: [demo, vit_b16], recipe: default,
     seed: [0, 1], needs: [01_prepare_data]}
""",
    )
    assert len(jobs) == 2 + 8
    assert len({job.folder for job in jobs}) == 10
    for job in jobs[2:]:
        assert [need.parts[-3:] for need in job.needs] == [
            (job.cell.dataset, "01_prepare_data", "seed0")
        ]


@pytest.mark.parametrize(
    "cell, said",
    [
        ("{notebook: 02_zero_shoot, dataset: demo}", "nearest: 02_zero_shot"),
        ("{notebook: 01_prepare_data, dataset: dmeo}", "nearest: demo"),
        ("{notebook: 01_prepare_data, datset: demo}", "cells"),
        ("{notebook: 01_prepare_data, dataset: demo, backbone: demo}", "takes no backbone"),
        ("{notebook: 02_zero_shot, dataset: demo, backbone: demo}", "needs a recipe"),
        ("{notebook: 02_zero_shot, dataset: demo, backbone: demo, recipe: default,"
         " needs: [01_prepare_data]}",
         "needs 01_prepare_data"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_plan_is_one_line(tmp_path, monkeypatch, cell, said):
    with pytest.raises(InputError, match=said) as error:
        plan(tmp_path, monkeypatch, f"cells: [{cell}]")
    assert "\n" not in str(error.value)


def test_every_plan_of_ours_can_be_read_and_the_demo_plan_is_small():
    for name in params.names("plans"):
        assert plans.jobs(name, "outputs")
    assert len(plans.jobs("demo", "outputs")) + 1 <= 26  # with the comparison


def trained(split="s", seed=0, **overrides):
    """What decides the weights of a fine-tuned encoder, by a module and all it imports."""
    from clipfh_lib.methods import contrastive

    axes = ("fine_tune", "demo", "demo", "demo", seed)
    return runs.fit_content(params.load(*axes, overrides=overrides), split, contrastive, more="m")


def test_what_decides_trained_weights_is_flat_and_plain():
    content = trained(**{"fit.unfreeze_blocks": {0: 2, 10: 4}})
    assert all(isinstance(v, str | int | float | bool | list | None) for v in content.values())
    assert json.loads(json.dumps(content)) == content
    assert content["fit.lr"] > 0 and content["fit.augment.rotation"] >= 0
    assert (content["fit.unfreeze_blocks.0"], content["fit.unfreeze_blocks.10"]) == (2, 4)
    assert (content["more"], content["split"], content["seed"]) == ("m", "s", 0)
    assert content["start"] == "demo" or len(content["start"]) == 64
    assert {"code.clipfh_lib.methods.contrastive", "code.clipfh_lib.models.losses"} <= set(content)
    assert len({files.digest(content), files.digest(trained())}) == 2


@pytest.mark.parametrize(
    "overrides, counts",
    [
        ({"fit.lr": 0.5}, True),
        ({"fit.epochs": 9}, True),
        ({"data.resize": "squash"}, True),
        ({"loss_weight_triplet": 3}, True),
        ({"model.freeze_bn": True}, True),
        ({"seed": 1}, True),
        ({"split": "t"}, True),
        ({"fit.best_by": "loss"}, True),
        ({"evaluation.distance": "euclidean"}, True),  # validation compares by it
        ({"evaluation.distance": "euclidean", "fit.best_by": "last"}, "as last"),
        ({"evaluation.resamples": 10}, False),
        ({"embed.batch": 2}, False),
        ({"loader.workers": 2}, False),
        ({"device": "cpu"}, False),
        ({"data.trials": 2}, False),  # what it changes, the split's hash has
        ({"fit.keep_epochs": True}, False),
        ({"fit.resume_from": "x.ckpt"}, False),
    ],
)
def test_trained_weights_are_keyed_by_what_decides_them_and_nothing_else(overrides, counts):
    axes = {name: overrides.pop(name) for name in ("seed", "split") if name in overrides}
    other = trained(**axes, **overrides)
    if counts == "as last":
        assert other == trained(**{"fit.best_by": "last"})
    else:
        assert (other != trained()) == counts
    assert (files.digest(other) != files.digest(trained())) == bool(counts)


def test_weights_count_by_their_content_and_not_by_their_name(tmp_path):
    for name, content in (("a.pt", b"1"), ("b.pt", b"1"), ("c.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (
        trained(**{"model.weights": str(tmp_path / name)}) for name in ("a.pt", "b.pt", "c.pt")
    )
    assert one == same != other
    assert {key for key in one if one[key] != other[key]} == {"start"}


def test_code_of_figures_does_not_count_and_a_changed_module_is_named(monkeypatch):
    before, real = trained(), runs._read_module

    def changed(path, time):
        code, imported = real(path, time)
        return code + ("changed" if path.name == where else ""), imported

    monkeypatch.setattr(runs, "_read_module", changed)
    where = "figures.py"
    assert trained() == before
    where = "losses.py"
    assert {name for name in before if trained()[name] != before[name]} == {
        "code.clipfh_lib.models.losses"
    }
