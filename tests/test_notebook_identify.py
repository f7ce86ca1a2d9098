"""Notebook 12 runs from parameters to manifest, for the test people and for a folder of people."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import tiny_gallery
import yaml

from clipfh_lib import files, runs
from clipfh_lib.studies import gallery

pytestmark = pytest.mark.notebooks
DRAW = {"data.draw.people": 20, "data.draw.images": 4, "data.draw.size": 64, "data.trials": 2}
SMALL = {**DRAW, "evaluation.resamples": 200, "embed.batch": 16, "far": 0.2}


def papermill(parameters):
    """The notebook run by papermill in a process of its own."""
    words = [
        *(sys.executable, "-m", "papermill", "notebooks/12_identify.ipynb", "out.ipynb"),
        *("-y", yaml.safe_dump(parameters), "--no-progress-bar"),
    ]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(words, capture_output=True, text=True, env=environment)


def executed(project, parameters):
    """The folder of a run by papermill, and all that its cells printed."""
    done = papermill(parameters)
    assert done.returncode == 0, done.stderr[-4000:]
    folder = max((project / "outputs/demo/12_identify").iterdir(), key=os.path.getmtime)
    cells = json.loads((project / "out.ipynb").read_text())["cells"]
    return folder, json.dumps([cell.get("outputs") for cell in cells])


def test_12_identify_enrols_the_test_people_or_those_of_a_folder(project):
    folder, said = executed(project, {"overrides": SMALL})
    made = runs.manifest(folder)
    for name, sha in made["files"].items():
        assert files.sha256(folder / name) == sha, name
    tables = {"identified.csv", "rates.csv", "threshold.csv", "set_aside.csv", "trained_on.csv"}
    kept = {"gallery.safetensors", "encoder.pt", "encoder.json", "figures/answers.pdf"}
    assert tables | kept <= set(made["files"])
    found = gallery.read(folder / "gallery.safetensors")
    assert len(found.people) == 8 and len(found.table) == 8 * 4  # two of ten are strangers
    rates = pd.read_csv(folder / "rates.csv").set_index("metric")
    assert rates.loc["rank1", "value"] > 0.4 and rates.loc["fpir", "value"] < 0.8
    assert rates.loc["fpir", "searches"] == 2 * 4 * 3
    identified = pd.read_csv(folder / "identified.csv", dtype={"person": str})
    one = identified[identified["rank"] == 1]
    named = one["answer"] != "nobody here"
    assert (named == (one["similarity"] >= found.bar)).all() and 0 < named.mean() < 1
    assert "left of the newcomer in the file: nothing" in said
    assert "FileUpload" in said
    assert not found.changed and not (folder / "rehearsal").exists()

    tiny_gallery.people(project / "mine")
    (project / "mine/1051/broken.jpg").write_bytes(b"no picture")
    own = {**SMALL, "enrol.folder": "mine", "export": "none"}
    folder, said = executed(project, {"overrides": own})
    found = gallery.read(folder / "gallery.safetensors")
    assert found.people == sorted(tiny_gallery.NAMES)
    assert pd.read_csv(folder / "set_aside.csv")["path"].tolist() == ["1051/broken.jpg"]
    assert pd.read_csv(folder / "rates.csv")["metric"].tolist() == ["fpir"]
    assert not (folder / "encoder.pt").exists()


def test_12_identify_needs_no_strangers_and_keeps_a_gallery_that_was_changed(project):
    few = {**SMALL, "data.draw.images": 2, "data.aspects": ["dorsal_r"], "export": "none"}
    asked = {"overrides": {**few, "enrol.strangers": 0}}
    folder, said = executed(project, asked)
    assert "no stranger has two images: nobody is added and removed" in said
    assert "fpir" not in pd.read_csv(folder / "rates.csv")["metric"].tolist()
    path = folder / "gallery.safetensors"
    gone = gallery.read(path).people[0]
    gallery.remove(path, gone)
    before = path.read_bytes()
    done = papermill(asked)
    assert done.returncode and "gallery.safetensors is kept: people were added" in done.stderr
    assert path.read_bytes() == before and runs.is_complete(folder)
