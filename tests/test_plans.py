"""A cell may take the weights that another cell of its plan trains."""

import json

import pytest

from clipfh_lib import files, plans, runs
from clipfh_lib.files import InputError

TRAIN = {"notebook": "00_demo_clip", "dataset": "demo_clip", "backbone": "demo_untrained"}
TRAIN |= {"recipe": "demo", "name": "small", "overrides": {"fit": {"epochs": 1}}}
TEST = {"notebook": "02_zero_shot", "dataset": ["demo", "demo_hd"], "backbone": "demo"}
TEST |= {"recipe": "default", "overrides": {"model.weights": "{small}"}}


def jobs(project, *cells, outputs="outputs"):
    text = json.dumps({"cells": cells})  # YAML as well, and without its aliases
    (project / "params/plans/mine.yaml").write_text(text)
    return plans.jobs("mine", outputs)


def test_weights_of_a_named_cell_are_its_folder_which_goes_first(project):
    made = jobs(project, TRAIN, TEST, {**TEST, "overrides": {}})
    train, *tests = made
    assert train.folder.name.startswith("demo_untrained-demo-seed0-"), "overrides are in its name"
    for job in tests[:2]:
        assert job.needs == [train.folder]
        assert job.params.model.weights == train.folder.relative_to(project).as_posix()
        assert plans.arguments(job, "outputs")["overrides"] == job.params.overrides
    assert [job.needs for job in tests[2:]] == [[], []]
    assert len({job.folder for job in made}) == 5


def test_weights_follow_the_outputs_of_the_plan(project, tmp_path):
    train, test, _ = jobs(project, TRAIN, TEST, outputs=tmp_path / "elsewhere")
    assert train.folder.is_relative_to(tmp_path / "elsewhere")
    assert files.resolve(test.params.model.weights) == train.folder


@pytest.mark.parametrize(
    "cells, said",
    [
        ((TEST, TRAIN), "{small} names no cell above it (named: none)"),
        (({**TRAIN, "name": "smal"}, TEST), "(named: smal)"),
        (({**TRAIN, "seed": [0, 1]}, TEST), "name small must be that of one run"),
        ((TRAIN, {**TRAIN, "seed": 1}, TEST), "name small must be that of one run"),
    ],
)
def test_a_name_that_is_wrong_is_one_line(project, cells, said):
    with pytest.raises(InputError) as error:
        jobs(project, *cells)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert "params/plans/mine.yaml" in str(error.value)


def test_the_demo_plan_is_at_most_ten_cells_and_tests_what_it_trains():
    made = plans.jobs("demo", "outputs")
    assert len(made) + 1 <= 10
    trained = [job.folder for job in made if job.cell.name]
    tested = [job.cell.dataset for job in made if set(trained) & set(job.needs)]
    assert trained and sorted(tested) == ["demo", "demo_hd"]
    assert runs.folder("20_compare", "demo", "outputs").name == "20_compare"
