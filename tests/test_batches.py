"""A plan under Snakemake: what is done is skipped by content, one failure stops no other run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from clipfh_lib import runs

pytestmark = pytest.mark.notebooks
REPOSITORY = Path(__file__).resolve().parents[1]
DRAW = {"data.draw.people": 12, "data.draw.images": 4, "data.draw.size": 64, "data.trials": 2}


@pytest.fixture
def batch(project):
    """A project with the Snakefile; `snakemake(...)` gives status and output."""
    for name in ("Snakefile", "profiles"):
        (project / name).symlink_to(REPOSITORY / name)
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}

    def plan(*cells: dict) -> None:
        (project / "params/plans/tiny.yaml").write_text(yaml.safe_dump({"cells": list(cells)}))

    def call(*words: str, wait: bool = True):
        line = [sys.executable, "-m", "snakemake", "--cores", "2", *words]
        kind = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(line, env=environment, start_new_session=True, **kind)
        if not wait:
            return process
        output, _ = process.communicate()
        return process.returncode, output

    call.plan = plan
    return call


def prepare(**overrides: object) -> dict:
    return {"notebook": "01_prepare_data", "dataset": "demo", "overrides": {**DRAW, **overrides}}


def zero_shot(**overrides: object) -> dict:
    own = {**DRAW, "model.weights": "none", "evaluation.resamples": 200, **overrides}
    axes = {"dataset": "demo", "backbone": "demo", "recipe": "default"}
    return {"notebook": "02_zero_shot", **axes, "overrides": own}


def manifests(project) -> dict[str, float]:
    return {
        p.parent.name: p.stat().st_mtime_ns for p in (project / "outputs").rglob("manifest.json")
    }


def test_a_plan_runs_once_then_only_what_changed_and_goes_on_after_a_failure(batch, project):
    bad = zero_shot(**{"model.weights": "weights/missing.safetensors"})
    batch.plan(prepare(), zero_shot(), bad)
    status, output = batch("tiny")
    assert status != 0
    done = manifests(project)
    assert len(done) == 2, f"the two good runs end, the bad one and the comparison do not: {output}"
    assert "not complete: outputs/demo/02_zero_shot/" in output
    assert "missing.safetensors is no file" in output, "the reason is shown in one line"

    batch.plan(prepare(), zero_shot())
    status, output = batch("tiny")
    assert status == 0, output
    assert "rank-1" in output and "outputs/tiny/20_compare" in output, "it ends with the table"
    assert {name: done[name] for name in done}.items() <= manifests(project).items()

    for path in [*(project / "notebooks").iterdir(), *(project / "params").rglob("*.yaml")]:
        path.touch()
    for path in (project / "outputs").rglob("01_prepare_data/*/manifest.json"):
        path.touch()  # as an export writes it anew
    everything = manifests(project)
    status, output = batch("tiny")
    assert status == 0 and "Nothing to be done" in output
    assert manifests(project) == everything

    own = project / "params/plans/tiny.md"
    own.write_text("## Observations\n\nThe author's.\n")
    status, output = batch("-n", "tiny")
    assert "compare" in output and "zero_shot" not in output, "the report has the author's words"
    own.unlink()

    recipe = project / "params/recipes/zero_shot/default.yaml"
    recipe.write_text(recipe.read_text().replace("batch: 64", "batch: 32"))
    status, output = batch("-n", "tiny")
    assert status == 0 and "zero_shot" in output and "prepare_data " not in output, output
    assert "compare" in output, "what reads a run that is made again is made again by the same call"


def test_a_plan_that_is_killed_goes_on_with_the_same_command(batch, project):
    batch.plan(prepare(), prepare(**{"data.split_seed": 1}))
    process = batch("tiny", wait=False)
    limit = time.time() + 120
    while not list((project / "outputs").rglob("log.txt")) and time.time() < limit:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(manifests(project)) < 3
    status, output = batch("-n", "tiny")
    assert status == 0 and "compare" in output and "LockException" not in output
    status, output = batch("tiny", "--until", "prepare_data")
    assert status == 0, output
    assert len(manifests(project)) == 2
    assert not list(project.rglob(".writing-*.json"))


def test_data_that_is_not_there_is_listed_and_the_rest_runs(batch, project):
    absent = {"notebook": "01_prepare_data", "dataset": "11k_dorsal_r"}
    batch.plan(prepare(), absent)
    status, output = batch("tiny", "--until", "prepare_data", "no_data")
    assert status == 1
    assert output.count("no data: 11k_dorsal_r: ") == 1
    assert "HandInfo.csv" in output
    assert list(manifests(project)) == [runs_name(project)]


def runs_name(project) -> str:
    (folder,) = (project / "outputs/demo/01_prepare_data").iterdir()
    assert runs.is_complete(folder)
    return folder.name


@pytest.mark.parametrize(
    "words, said",
    [
        (["notebook=02_zero_shot", "dataset=dmo", "backbone=demo", "recipe=default"],
         "nearest: demo"),
        (["notebook=02_zeroshot", "dataset=demo"], "nearest: 02_zero_shot"),
        (["notebok=02_zero_shot", "dataset=demo"], "notebook="),
        (["notebook=01_prepare_data", "dataset=demo", "overrides={data.trails: 1}"],
         "nearest: data.trials"),
    ],
)  # fmt: skip
def test_a_mistake_in_one_cell_s_call_is_one_line_without_a_traceback(batch, words, said):
    status, output = batch("-n", "run", "--config", *words)
    assert status != 0
    assert said in output.splitlines()[-1] and "Traceback" not in output


def test_a_damaged_run_that_gives_weights_is_one_line(batch, project):
    (project / "outputs/trained").mkdir(parents=True)
    (project / "outputs/trained/manifest.json").write_text("{}")
    axes = ["notebook=02_zero_shot", "dataset=demo", "backbone=demo", "recipe=default"]
    status, output = batch(
        "-n", "run", "--config", *axes, "overrides={model.weights: outputs/trained}"
    )
    assert status != 0 and "Traceback" not in output
    assert "outputs/trained/manifest.json is damaged" in output


def test_one_cell_is_planned_from_its_axes(batch):
    words = ["notebook=02_zero_shot", "dataset=demo", "backbone=demo", "recipe=default", "seed=3"]
    status, output = batch("-n", "run", "--config", *words, "overrides={data.trials: 2}")
    assert status == 0, output
    assert "zero_shot" in output


def test_a_second_stage_by_itself_counts_what_decides_the_prompts_that_it_makes(batch, project):
    words = ["notebook=05_clip_reid_encoder", "dataset=demo", "backbone=demo", "recipe=demo"]

    def keys() -> set[str]:
        status, output = batch("-n", "run", "--config", *words)
        assert status == 0 and "clip_reid_encoder" in output, output
        return {path.read_text() for path in (project / "outputs/.cache/keys").iterdir()}

    before = keys()
    assert keys() == before and len(before) == 1
    first = project / "params/recipes/clip_reid_prompts/demo.yaml"
    first.write_text(first.read_text().replace("epochs: 12", "epochs: 11"))
    assert not keys() & before
    words.append("overrides={prompts.run: outputs/nowhere}")
    status, output = batch("-n", "run", "--config", *words)
    assert status != 0 and "outputs/nowhere: no complete run" in output.splitlines()[-1]
