"""Folders of the older scripts -> the images, each once, and the split that the folders are.

`train_all`, `train`, `val`, `query0` ..., `gallery0` ... and `gallery0_all` ... hold one folder for
each person, with photographs; any of the first three may be absent.
"""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from clipfh_lib.data.layouts import LARGEST, OTHERS, STEPS, Found, listing, numbered
from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams

_PART = re.compile(r"(train_all|train|val)|(query|gallery)(0|[1-9]\d{0,3})(_all)?", re.ASCII)
_IMAGE = ["person", "file"]  # a file name of a person is one image, wherever it stands


class Place(NamedTuple):
    """Where a file stands: the trial (-1: of none), the kind of folder, and the person's folder."""

    trial: int
    kind: str  # train_all, train, val, query, gallery or gallery_all
    person: str
    file: str
    path: str
    size: int  # bytes


def read(folder: Path, data: DataParams) -> Found:
    """Read a split of folders: an image's path is the first of its places.

    With an aspect given, people of gallery<i>_all from 11 million on are those of other aspects:
    images have the pid without that step, rows of the split keep it.

    Raises:
        InputError: the folders are no split; one line with the folder and the fix.
    """
    aspect, found = _aspect(folder, data), Found()
    there, unusable = listing(folder, data)
    found.aside += [(name, None, why) for name, why in sorted(unusable.items())]
    places = sorted(place for name, size in there.items() if (place := _place(name, size)))
    if other := len(there) - len(places):
        found.notes.append(f"{other} image files lie outside the people of the split: not read")
    if not places:
        return found
    table = pd.DataFrame(places, columns=Place._fields)
    steps = {name: _step(name) if aspect else 0 for name in table["person"].unique()}
    _check(folder, table, steps, aspect)
    pids, named = numbered(folder, {name for name, step in steps.items() if not step})
    pids |= {name: int(name) - step for name, step in steps.items() if step}
    aspects = dict.fromkeys(steps, aspect or "all")
    aspects |= {n: OTHERS[aspect][STEPS.index(step)] for n, step in steps.items() if step}
    images = _images(table, found)
    images["pid"] = images["person"].map(pids)
    images["aspect"] = images["person"].map(aspects)
    if named:
        images["pid_name"] = images["person"].where(images["person"].isin(named), "")
    rows = table[["trial", "kind", *_IMAGE]].merge(images, on=_IMAGE)
    rows["pid"] += rows["person"].map(steps)
    found.split = _split(rows, aspect, found.notes)
    found.images = images.drop(columns=_IMAGE).to_dict("records")
    return found


def _aspect(folder: Path, data: DataParams) -> str | None:
    """The aspect that the split is of, if it is given."""
    for name in ("include", "limit"):
        if getattr(data, name):
            raise InputError(
                f"data.{name} would tear the split in {folder}; leave it out, and take people or "
                "trials out of a copy of the folders"
            )
    if len(data.aspects) > 1:
        raise InputError(f"data.aspects: {folder} is the split of one aspect; name that one alone")
    return data.aspects[0] if data.aspects else None


def _place(path: str, size: int) -> Place | None:
    """What a file's path says; none if it is no place of a split."""
    part, *inside = path.split("/")
    match = _PART.fullmatch(part)
    if not match or len(inside) != 2 or (match[2] == "query" and match[4]):
        return None
    kind = match[1] or match[2] + (match[4] or "")
    return Place(int(match[3] or -1), kind, *inside, path, size)


def _step(name: str) -> int:
    """What was added to the number of another aspect's person; 0 for the aspect's own people."""
    number = int(name) if re.fullmatch(r"\d{8}", name, re.ASCII) else 0
    return next((step for step in STEPS if 0 <= number - step <= LARGEST), 0)


def _check(folder: Path, table: pd.DataFrame, steps: dict[str, int], aspect: str | None) -> None:
    """Stop where the folders contradict each other."""
    trials = {kind: set(part["trial"]) for kind, part in table.groupby("kind")}
    if "gallery_all" in trials and not aspect:
        raise InputError(
            f"{folder}: gallery<i>_all counts people by aspect; set data.aspects to the one that "
            "this split is of, e.g. [dorsal_r]"
        )
    names = {"query": "query{}", "gallery": "gallery{}", "gallery_all": "gallery{}_all"}
    tested = [kind for kind in names if kind in trials or kind != "gallery_all"]
    every = {0}.union(*(trials.get(kind, set()) for kind in tested))
    for kind in tested:
        if lacking := every - trials.get(kind, set()):
            name = names[kind].format(min(lacking))
            raise InputError(
                f"{folder}/{name} is missing or holds no <pid>/*.jpg; all trials must have the "
                f"same folders: add it, or remove trial {min(lacking)}"
            )
    step = table["person"].map(steps)
    wrong = table[(step > 0) & (table["kind"] != "gallery_all")]
    if len(wrong):
        raise InputError(
            f"{folder}/{wrong['path'].iloc[0]}: people from {STEPS[0]} on are those of other "
            "aspects, in gallery<i>_all alone; rename the person's folder"
        )
    first = table.groupby(_IMAGE)[["path", "size"]].transform("first")
    wrong = table.index[table["size"] != first["size"]]
    if len(wrong):
        one, other = first["path"][wrong[0]], table["path"][wrong[0]]
        raise InputError(
            f"{folder}: {one} and {other} have one name and not one size; give two images two names"
        )
    keys = ["trial", *_IMAGE]
    both = table[table["kind"].isin(["gallery", "gallery_all"])].merge(
        table.loc[table["kind"] == "query", keys], on=keys
    )
    if len(both):
        raise InputError(
            f"{folder}/{both['path'][0]} is in query{both['trial'][0]} too; a query may not be in "
            "its own gallery: remove one of the two"
        )


def _images(table: pd.DataFrame, found: Found) -> pd.DataFrame:
    """Each image once: image_id, path, and file_number where the names count the photographs."""
    images = table.drop_duplicates(_IMAGE)[[*_IMAGE, "path"]].reset_index(drop=True)
    stem = images["file"].map(lambda name: PurePosixPath(name).stem)
    low = stem.str.casefold()
    twice = pd.concat([images["person"], low], axis=1).duplicated()
    reason = "another image has the same name but for its extension or case"
    found.aside += [(path, None, reason) for path in images.loc[twice, "path"]]
    images, stem, low = images[~twice].copy(), stem[~twice], low[~twice]
    images.insert(0, "image_id", stem if low.is_unique else images["person"] + "/" + stem)
    number = pd.to_numeric(stem.str.extract(r"([0-9]{1,15})$", expand=False)).astype("Int64")
    if number.dropna().is_unique and number.notna().any():
        images["file_number"] = number
    elif number.notna().any():
        found.notes.append("file numbers stand twice, as where each person's begin anew: not taken")
    return images


def _split(rows: pd.DataFrame, aspect: str | None, notes: list[str]) -> pd.DataFrame:
    """Rows of the manifest; train_all less val trains where there is no train."""
    kind, ids = rows["kind"], rows.groupby("kind")["image_id"].agg(set)
    train_all, train, val = (ids.get(name, set()) for name in ("train_all", "train", "val"))
    trains = "train" if train else "train_all"
    if train and (spare := len(train_all - train - val)):
        notes.append(f"{spare} images of train_all are in neither train nor val: not used")
    learnt = (kind == trains) & ~((trains == "train_all") & rows["image_id"].isin(val))
    rows = rows[learnt | (kind == "val") | (rows["trial"] >= 0)]
    own = "same_aspect" if aspect else "default"
    tested = rows["trial"] >= 0
    return pd.DataFrame(
        {
            **rows[["image_id", "pid", "aspect"]],
            "test_aspect": pd.Series(aspect or "all", rows.index).where(tested),
            "role": rows["kind"].replace({"train_all": "train", "gallery_all": "gallery"}),
            "trial": rows["trial"].astype("Int64").where(tested),
            "gallery": rows["kind"].map({"gallery": own, "gallery_all": "all_aspects"}),
        }
    )
