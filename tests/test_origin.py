"""People of test and val who trained are counted, also under another name of the data set."""

import pytest

from clipfh_lib import files, params, runs
from clipfh_lib.data import origin, splits
from clipfh_lib.files import InputError

DRAW = {"data.draw.people": 10, "data.draw.images": 2, "data.draw.size": 32, "data.trials": 1}


def parameters(method="zero_shot", backbone="demo", dataset="demo", **overrides):
    return params.read(method, dataset, backbone, "demo", 0, {**DRAW, **overrides})


@pytest.fixture
def trained(project):
    """A finished run that trained on `dorsal_r`: 5 people of 10."""
    own = {"data.cut": "first_half", "data.val": "published", "data.aspects": ["dorsal_r"]}
    p = parameters("demo_clip", "demo_untrained", **own)
    run = runs.start("00_demo_clip", p, "outputs")
    run.record(split_sha256=splits.prepare(p, "outputs").sha256)
    run.finish()
    return run.folder


def found(weights, **overrides):
    p = parameters(**{"model.weights": str(weights), **overrides})
    return origin.of(p, splits.prepare(p, "outputs"))


def test_people_of_the_test_who_trained_are_counted(trained):
    people = {"first_half": 0, "none": 5}  # of the 10 who all test, 5 trained
    for cut, seen in people.items():
        (row,) = found(trained, **{"data.cut": cut}).to_dict("records")
        assert row["seen"] == seen and row["test_people"] == (10 if cut == "none" else 5)
        assert row["train_notebook"] == "00_demo_clip" and row["train_dataset"] == "demo"
        assert row["train_aspect"] == "dorsal_r" and row["train_seed"] == 0


def test_val_people_who_trained_are_counted_and_choose_no_threshold(trained):
    made = runs.manifest(trained)
    split = splits.read(next((trained.parents[1] / "01_prepare_data").iterdir()) / "split.csv")
    theirs = set(split.loc[split["role"] == "train", "pid"])
    said = {}
    for seed in range(3):
        own = {"data.cut": "first_half", "data.val": "held_out", "data.split_seed": seed}
        p = parameters(**{"model.weights": str(trained), **own})
        data = splits.prepare(p, "outputs")
        val = set(data.split.loc[data.split["role"] == "val", "pid"])
        (row,) = origin.of(p, data).to_dict("records")
        assert row["seen_val"] == len(val & theirs) and made["params"]["seed"] == 0
        said[row["seen_val"]] = origin.no_threshold(origin.of(p, data))
    assert max(said) > 0 and f"{max(said)} of the val people trained" in said[max(said)]
    assert origin.no_threshold(found("none")) == ""
    for seen, word in ((0, ""), (-1, "nobody can tell how many of the val people trained")):
        row = found(trained).assign(seen_val=seen)
        assert origin.no_threshold(row).startswith(word) and bool(word) == (seen != 0)


@pytest.mark.parametrize(
    "dataset, overrides, same",
    [
        ("demo", {"data.draw.people": 11}, True),  # a drawn person is his seed and his id
        ("demo", {"data.draw.seed": 1}, False),
        ("demo", {"data.root": "data/11k"}, False),
        ("demo_hd", {}, True),  # in another layout too
        ("demo_hd", {"data.draw.seed": 1}, False),
    ],
)
def test_an_id_is_the_same_person_only_in_the_same_people(dataset, overrides, same):
    theirs = parameters().model_dump(mode="json")
    assert origin._same_people(parameters(dataset=dataset, **overrides), theirs) is same


@pytest.mark.parametrize(
    "dataset, same",
    [
        ("11k_sample", True),
        ("hd", False),
        ("demo", False),
        ("folders", None),
        ("split_folders", None),
    ],
)
def test_a_part_of_11k_hands_holds_the_same_people(dataset, same):
    theirs = params.read("zero_shot", "11k_dorsal_r", "demo", "demo").model_dump(mode="json")
    ours = params.read("zero_shot", dataset, "demo", "demo")
    assert origin._same_people(ours, theirs) is same


def test_where_the_split_is_gone_nobody_can_tell(trained):
    path = next((trained.parents[1] / "01_prepare_data").iterdir()) / "split.csv"
    files.write_text(path, path.read_text().replace("train", "val"))
    (row,) = found(trained, **{"data.cut": "none", "data.val": "held_out"}).to_dict("records")
    assert row["seen"] == row["seen_val"] == -1


def test_whether_somebodys_folders_show_people_who_trained_nobody_can_tell(trained, monkeypatch):
    monkeypatch.setattr(origin, "_same_people", lambda p, theirs: None)
    (row,) = found(trained, **{"data.cut": "none"}).to_dict("records")
    assert row["seen"] == -1 and row["test_people"] == 10


def test_weights_that_are_no_run_have_no_origin(project):
    assert found("none").empty
    (project / "outputs/empty").mkdir(parents=True)
    with pytest.raises(InputError, match="no complete run"):
        found("outputs/empty")
