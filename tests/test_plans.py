"""A cell may take the weights that another cell of its plan trains."""

import json

import pytest

from clipfh_lib import files, params, plans, runs
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


def test_a_cell_may_need_named_cells_above_it(project):
    other = {**TEST, "recipe": "flip", "dataset": "demo", "overrides": {}}
    train, flip, plain = jobs(
        project, TRAIN, {**other, "name": "flipped"},
        {**other, "recipe": "default", "needs": ["{flipped}", "{small}"]},
    )  # fmt: skip
    assert plain.needs == [flip.folder, train.folder] and not flip.needs
    with pytest.raises(
        InputError, match=r"needs: \{flip\} names no cell above it \(named: small\)"
    ):
        jobs(project, TRAIN, {**other, "needs": ["{flip}"]})


STAGES = {"dataset": "demo", "backbone": "demo", "recipe": "demo"}
FIRST = {"notebook": "04_clip_reid_prompts", **STAGES}
SECOND = {"notebook": "05_clip_reid_encoder", **STAGES, "needs": ["04_clip_reid_prompts"]}


def recipe(project, method, name, content):
    folder = project / "params/recipes" / method
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(content))


@pytest.fixture
def stages(project):
    """Recipes of both stages of CLIP-ReID: own of each name, and one of the second stage alone."""
    for name in ("demo", "v1"):
        recipe(project, "clip_reid_prompts", name, {"fit": {"epochs": 1, "lr": 1e-3}})
    for name, more in (("demo", {}), ("v1", {}), ("v2", {"prompts": {"recipe": "v1"}})):
        content = {"fit": {"epochs": 1, "lr": 1e-5, "lr_heads": 1e-4}, "loss_use_i2t": True, **more}
        recipe(project, "clip_reid_encoder", name, content)
    return project


def test_a_second_stage_needs_the_prompts_of_its_own_axes_alone(stages):
    limit = {"data.limit.people": 30}
    firsts = [
        {**FIRST, "recipe": ["demo", "v1"], "seed": [0, 1]},
        {**FIRST, "overrides": limit},
        {**FIRST, "overrides": {"fit.epochs": 2}},
    ]
    seconds = [
        {**SECOND, "recipe": ["demo", "v1", "v2"], "seed": [0, 1]},
        {**SECOND, "overrides": {**limit, "fit.lr": 1e-6}},
    ]
    made = jobs(stages, *firsts, *seconds)
    needs = {
        (job.cell.recipe, job.cell.seed, "data.limit.people" in job.params.overrides): job.needs
        for job in made
        if job.cell.notebook == SECOND["notebook"]
    }
    of = stages / "outputs/demo" / FIRST["notebook"]
    for seed in (0, 1):
        for name, first in (("demo", "demo"), ("v1", "v1"), ("v2", "v1")):
            assert needs[name, seed, False] == [of / f"demo-{first}-seed{seed}"]
    limited = [job.folder for job in made if job.params.overrides == limit]
    assert needs["demo", 0, True] == limited
    for job in made:
        first = plans.first_stage(job, "outputs")
        assert (first and [first.folder]) == (job.needs or None), "what it would find by itself"


def test_prompts_of_a_named_run_go_first_and_no_others_are_looked_for(stages):
    named = {**FIRST, "overrides": {"fit.epochs": 2}, "name": "longer"}
    second = {**SECOND, "overrides": {"prompts.run": "{longer}"}, "needs": []}
    first, second = jobs(stages, named, second)
    assert second.needs == [first.folder] and plans.first_stage(second, "outputs") is None
    assert plans.prompts_folder(second.params) == first.folder


def test_the_control_with_shuffled_prompts_goes_after_the_plain_run(stages):
    control = {**SECOND, "overrides": {"prompts.shuffle": True}}
    control["needs"] = [FIRST["notebook"], SECOND["notebook"]]
    first, plain, shuffled = jobs(stages, FIRST, SECOND, control)
    assert shuffled.needs == [first.folder, plain.folder]
    with pytest.raises(InputError, match="needs 05_clip_reid_encoder, which is no cell of it"):
        jobs(stages, FIRST, control)


def test_the_demo_plan_is_at_most_26_cells_and_tests_what_it_trains():
    made = plans.jobs("demo", "outputs")
    assert len(made) + 1 <= 26
    trained = [job.folder for job in made if job.cell.name == "small"]
    tested = [job.cell.dataset for job in made if set(trained) & set(job.needs)]
    assert trained and sorted(tested) == ["demo", "demo_hd"]
    assert runs.folder("20_compare", "demo", "outputs").name == "20_compare"


def test_the_demo_plan_has_every_notebook_and_the_control_after_the_plain_run():
    made = plans.jobs("demo", "outputs")
    assert {job.cell.notebook for job in made} == set(params.NOTEBOOKS)
    own = [job for job in made if job.cell.notebook == SECOND["notebook"]]
    plain, control = own
    assert (plain.params.prompts.shuffle, control.params.prompts.shuffle) == (False, True)
    assert plain.folder in control.needs and plans.first_stage(plain, "outputs").folder in (
        set(plain.needs) & set(control.needs)
    )


def test_the_demo_plan_compares_losses_and_negatives_last():
    by_words = [job for job in plans.jobs("demo", "outputs") if "08" in job.cell.notebook]
    *others, last, objects = by_words
    assert [job.folder for job in others] == last.needs and len(others) == 3
    assert {last.cell.dataset, objects.cell.dataset} == {"demo_captions", "demo_objects"}


def test_the_plan_of_a_thesis_is_backbones_by_data_sets_by_methods_by_seeds():
    made = plans.jobs("thesis", "outputs")
    sets = {"11k_dorsal_r", "11k_dorsal_l", "11k_palmar_r", "11k_palmar_l", "hd"}
    for notebook in ("03_fine_tune", "05_clip_reid_encoder", "06_prompt_sg"):
        axes = [
            (job.cell.dataset, job.cell.backbone, job.cell.seed)
            for job in made
            if job.cell.notebook == notebook
        ]
        assert len(axes) == len(set(axes)) == 5 * 2 * 3
        assert {axis[0] for axis in axes} == sets and {axis[2] for axis in axes} == {0, 1, 2}
    needs = [job.needs for job in made if job.cell.notebook == SECOND["notebook"]]
    assert all(len(folders) == 2 for folders in needs), "the preparation and its own prompts"


def test_the_ablation_has_all_versions_of_each_backbone_with_their_first_stage():
    made = plans.jobs("ablation", "outputs")
    found = {}
    for job in made:
        found.setdefault((job.cell.notebook[:2], job.cell.backbone), []).append(job.cell.recipe)
    names = [f"v{number}" for number in range(1, 12)]
    assert found["05", "vit_b16"] == [*names[:6], "v9"] and found["05", "rn50"] == names[:10]
    assert found["06", "vit_b16"] == found["06", "rn50"] == names
    for job in made:
        if job.cell.notebook == SECOND["notebook"]:
            assert plans.first_stage(job, "outputs").folder in job.needs


@pytest.mark.parametrize("plan", ["demo", "ablation", "sample_learning"])
def test_a_plan_and_the_second_stage_itself_mean_the_same_prompts(plan):
    from clipfh_lib.methods import clip_reid  # imports torch, plans do not

    jobs = [job for job in plans.jobs(plan, "outputs") if "encoder" in job.cell.notebook]
    assert jobs
    for job in jobs:
        first = plans.first_stage(job, "outputs")
        assert first.params == clip_reid.first_stage(job.params)
        assert first.folder in job.needs


TUNED = {"notebook": "03_fine_tune", "dataset": "demo", "backbone": "demo", "recipe": "demo"}
STUDY = {**TUNED, "notebook": "10_robustness", "recipe": "default"}


def test_a_study_looks_into_runs_that_its_plan_makes_before_it(project):
    named = {**TUNED, "name": "tuned", "overrides": {"embed.flip": "add", "data.trials": 2}}
    study = {**STUDY, "of_run": ["", "{tuned}"]}
    tuned, plain, of_tuned = jobs(project, named, study)
    assert plain.needs == [] and plain.params.of.method == "zero_shot"
    assert of_tuned.needs == [tuned.folder] and of_tuned.params.embed.flip == "add"
    assert of_tuned.params.data.trials == 2
    inside = tuned.folder.relative_to(project).as_posix()
    assert of_tuned.params.model.weights == inside
    assert plans.arguments(of_tuned, "outputs")["of_run"] == inside
    assert plans.arguments(plain, "outputs")["of_run"] == ""
    assert "of_run" not in plans.arguments(tuned, "outputs")


def test_a_study_finds_the_run_of_its_own_axes(project):
    many = {**TUNED, "seed": [0, 1], "dataset": ["demo", "demo_hd"]}
    study = {**many, "notebook": "10_robustness", "recipe": "default"}
    study["of_run"] = "outputs/{dataset}/03_fine_tune/{backbone}-demo-seed{seed}"
    *runs_, a, b, c, d = jobs(project, many, study)
    assert [one.needs for one in (a, b, c, d)] == [[one.folder] for one in runs_]
    assert {one.params.of.dataset for one in (a, b, c, d)} == {"demo", "demo_hd"}


@pytest.mark.parametrize(
    "study, said",
    [
        ({"of_run": "{tuned}"}, "of_run: {tuned} names no cell above it"),
        ({"of_run": "03_fine_tune/{backbon}-demo-seed0"}, "take {name} of a cell above, or"),
        ({"of_run": "03_fine_tune/demo-demo-seed7"}, "no complete run in 03_fine_tune/demo-demo"),
        ({"notebook": "02_zero_shot", "of_run": "x"}, "02_zero_shot takes no of_run"),
    ],
)
def test_a_study_of_nothing_is_one_line(project, study, said):
    with pytest.raises(InputError) as error:
        jobs(project, TUNED, {**STUDY, **study})
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_plan_names_the_run_that_others_are_tested_against(project):
    path, cell = project / "params/plans/mine.yaml", {**TUNED, "name": "tuned"}
    path.write_text(json.dumps({"cells": [cell], "against": "{tuned}"}))
    assert plans.against("mine", "outputs").name == "demo-demo-seed0"
    path.write_text(json.dumps({"cells": [cell]}))
    assert plans.against("mine", "outputs") is None
    path.write_text(json.dumps({"cells": [cell], "against": "{tuend}"}))
    with pytest.raises(InputError, match="against: {tuend} names no cell above it"):
        plans.against("mine", "outputs")
