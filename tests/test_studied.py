"""What a study takes over from the run that it looks into, and where it stands."""

import pytest

from clipfh_lib import params, runs, studied
from clipfh_lib.files import InputError

AXES = ("demo", "demo", "default")
TRIALS = {"data.trials": 2, "data.split_seed": 3}


@pytest.fixture
def tuned(project):
    """The folder of a finished run of 03 with a split, a feature and a distance of its own."""
    own = {**TRIALS, "embed.flip": "add", "evaluation.distance": "euclidean", "fit.epochs": 1}
    p = params.read("fine_tune", "demo", "demo", "demo", 0, own)
    run = runs.start("03_fine_tune", p, "outputs")
    run.finish()
    return run.folder


def test_a_study_compares_as_its_run_does_and_on_its_split(tuned, project):
    p = studied.read("robustness", *AXES, of_run=tuned.relative_to(project).as_posix())
    assert (p.data.trials, p.data.split_seed) == (2, 3)
    assert (p.embed.flip, p.evaluation.distance) == ("add", "euclidean")
    assert p.model.weights == tuned.relative_to(project).as_posix() == p.of.folder
    assert (p.of.method, p.of.recipe, p.of.dataset) == ("fine_tune", "demo", "demo")
    of_run = params.read("fine_tune", "demo", "demo", "demo", 0, TRIALS)
    folders = [runs.folder("01_prepare_data", one, "outputs") for one in (p, of_run)]
    assert folders[0] == folders[1], "the split is that of the run, not made anew"


def test_what_is_overridden_wins_over_the_run(tuned):
    own = {"data.trials": 1, "embed.flip": "none"}
    p = studied.read("robustness", *AXES, overrides=own, of_run=str(tuned))
    assert (p.data.trials, p.data.split_seed, p.embed.flip) == (1, 3, "none")


def test_identify_compares_by_the_cosine_where_that_is_said(tuned):
    own = {"evaluation.distance": "cosine"}
    p = studied.read("identify", *AXES, overrides=own, of_run=str(tuned))
    assert p.evaluation.distance == "cosine" and p.embed.flip == "add"


def test_a_run_with_reranking_can_be_studied_without(project):
    q = params.read("zero_shot", "demo", "demo", "rerank", 0, TRIALS)
    assert q.evaluation.rerank is not None
    run = runs.start("02_zero_shot", q, "outputs")
    run.finish()
    p = studied.read("identify", *AXES, of_run=str(run.folder))
    assert p.evaluation.rerank is None and p.of.recipe == "rerank"


def test_another_data_set_has_its_own_split(tuned):
    p = studied.read("robustness", "demo_hd", *AXES[1:], of_run=str(tuned))
    assert p.data.split_seed == 0 and p.embed.flip == "add" and p.of.dataset == "demo"
    assert "-of-demo" in runs.folder("10_robustness", p, "outputs").name


def test_without_a_run_it_is_zero_shot_of_the_backbone(project):
    p = studied.read("robustness", *AXES, seed=2, overrides=TRIALS)
    q = params.read("zero_shot", *AXES, 2, TRIALS)
    assert (p.model, p.data, p.of.method) == (q.model, q.data, "zero_shot")
    assert project / p.of.folder == runs.folder("02_zero_shot", q, "outputs")


def test_a_study_stands_by_the_name_of_its_run_and_the_results_by_its_method(tuned, project):
    of_run = f"03_fine_tune/{tuned.name}"
    folders = []
    (project / "params/recipes/robustness/other.yaml").write_text("")
    for changed in ({}, {"recipe": "other"}, {"overrides": {"data.trials": 1}}, {"of_run": ""}):
        asked = {"dataset": "demo", "backbone": "demo", "recipe": "default", "of_run": of_run}
        p = studied.read("robustness", **{**asked, **changed})
        folders.append(runs.folder("10_robustness", p, "outputs"))
    assert len(set(folders)) == 4, "whatever differs stands elsewhere"
    assert folders[0].name.startswith(f"03_fine_tune-{tuned.name}-")  # its split's overrides
    assert folders[3].name == "02_zero_shot-demo-default-seed0"
    assert folders[0].parent == project / "outputs/demo/10_robustness"


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"backbone": "demo_untrained"}, "of_run is a run with backbone demo; set backbone"),
        ({"seed": 1}, "of_run is a run with seed 0; set seed to that"),
        ({"overrides": {"model.weights": "none"}}, "model.weights is the studied run's"),
        ({"of_run": "outputs/demo/03_fine_tune/no"}, "no complete run in outputs/demo/03_fine"),
        ({"overrides": {"embed.flop": "add"}}, "unknown key embed.flop"),
        ({"overrides": {"evaluation.rerank": {"k1": 9}}}, "rerank: the studies 10 to 12 compare"),
        ({"method": "identify"}, "euclidean, as of the studied run; 12_identify compares by the"),
    ],
)
def test_what_cannot_be_studied_is_one_line(tuned, changed, said):
    asked = {"dataset": "demo", "backbone": "demo", "recipe": "default", "of_run": str(tuned)}
    with pytest.raises(InputError, match=said) as error:
        studied.read(**{"method": "robustness", **asked, **changed})
    assert "\n" not in str(error.value)


def test_a_run_without_embeddings_is_refused(project):
    run = runs.start("01_prepare_data", params.read("prepare_data", "demo"), "outputs")
    run.finish()
    with pytest.raises(InputError, match="01_prepare_data, which makes no embeddings"):
        studied.read("robustness", *AXES, of_run=str(run.folder))
