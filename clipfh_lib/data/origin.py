"""What a run's weights were trained on, and whether its test or val people trained there too."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from clipfh_lib import files, runs
from clipfh_lib.data import splits
from clipfh_lib.schema import Common

COLUMNS = [
    "train_notebook", "train_run", "train_dataset", "train_aspect", "train_recipe", "train_seed",
    "test_people", "seen", "seen_val",
]  # fmt: skip


def of(p: Common, data: splits.Prepared) -> pd.DataFrame:
    """The run that `model.weights` names: one row, or none where the weights are no run of ours.

    A person of the test who trained there makes that test too easy, and one of val is no stranger
    to choose a threshold on: a hand's two sides share the person, and the published cuts of the
    four aspects are not the same.

    Args:
        p: parameters of the run that tests.
        data: its images and split.

    Returns:
        COLUMNS: which run trained, `train_aspect` (space-separated, "all" for all that there are),
        the number of `test_people`, `seen`: how many of them trained there, and `seen_val`: how
        many val people did; -1 where nobody can tell, since that run's split is gone or one of the
        two is somebody's own folders.

    Raises:
        InputError: the folder holds no complete run.
    """
    folder = files.resolve(p.model.weights)
    if not folder.is_dir():
        return pd.DataFrame(columns=COLUMNS)
    made = runs.manifest(folder)
    theirs, trained = made["params"], _trained(folder, made)
    people = [set(data.split.loc[data.split["role"] == role, "pid"]) for role in ("query", "val")]
    same = _same_people(p, theirs)
    known = same is False or (same and trained is not None)
    seen = [(len(those & trained) if same else 0) if known else -1 for those in people]
    row = [made["notebook"], folder.name, theirs["dataset"], aspects(theirs["data"])]
    row += [theirs["recipe"], theirs["seed"], len(people[0]), *seen]
    return pd.DataFrame([row], columns=COLUMNS)


def no_threshold(trained: pd.DataFrame) -> str:
    """Why val people may choose no threshold for weights that they trained; empty if they may.

    Args:
        trained: what `of` found.
    """
    for row in trained.itertuples():
        if row.seen_val:
            many = row.seen_val if row.seen_val > 0 else "nobody can tell how many"
            return f"{many} of the val people trained the weights, in {row.train_run}"
    return ""


def aspects(data: dict) -> str:
    """The aspects that a data set's parameters train and test, as one word for a table."""
    return " ".join(data["aspects"]) if 0 < len(data["aspects"]) < 4 else "all"


def _trained(folder: Path, made: dict) -> set[int] | None:
    """Ids of the people who trained in a run, from the split that its manifest names."""
    theirs = SimpleNamespace(**made["params"])
    theirs.data = SimpleNamespace(**theirs.data)
    path = runs.folder("01_prepare_data", theirs, folder.parents[2]) / "split.csv"
    if not path.is_file() or files.sha256(path) != made.get("split_sha256"):
        return None
    split = splits.read(path)
    return set(split.loc[split["role"] == "train", "pid"])


def _same_people(p: Common, theirs: dict) -> bool | None:
    """Whether an id means the same person in both data sets; None where nobody can tell."""
    ours, other = p.data.model_dump(mode="json"), theirs["data"]
    if ours["root"] is None and other["root"] is None:  # a drawn person is his seed and his id
        return ours["draw"]["seed"] == other["draw"]["seed"]
    if ours["root"] == other["root"]:
        return True
    if {ours["catalogue"], other["catalogue"]} & {"folders", "split_folders"}:
        return None  # perhaps photographs of the other set
    both_real = ours["root"] is not None and other["root"] is not None
    return both_real and ours["catalogue"] == other["catalogue"]
