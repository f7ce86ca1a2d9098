"""People enrolled with their embeddings in one file, to be searched, added to and removed from.

The file is safetensors: `embeddings` (N, D) float32 of length one, and in its metadata, as JSON,
the people with the names of their images, what made the embeddings, the settings of the run and
the threshold; no pixels. It is replaced as a whole or not at all, and sealed by a hash of itself.
"""

import glob
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError

from clipfh_lib import files
from clipfh_lib.data import layouts, splits
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones, checkpoints
from clipfh_lib.params import nearest
from clipfh_lib.schema import DataParams
from clipfh_lib.studies import thresholds
from clipfh_lib.studies.thresholds import Threshold
from clipfh_lib.studies.vectors import Model
from clipfh_lib.study import EnrolParams

FORMAT = 1
ROLES = ("enrolled", "queries", "strangers")


class People(NamedTuple):
    """Photographs of people to enrol.

    `table`: `person` (text), `image` (its name, unique for a person), `path` (from `root` on).
    `aside`: `path, row, reason` of what cannot be taken.
    """

    table: pd.DataFrame
    root: Path
    aside: pd.DataFrame


@dataclass(frozen=True)
class Gallery:
    """Who is enrolled.

    Attributes:
        embeddings: (N, D) float32 of length one, people one after another.
        table: their rows: `person, image`.
        made_by: what the embeddings depend on, see `vectors.Model.made_by`.
        settings: `params` of the study that enrolled them and its `outputs`.
        threshold: below which nobody is named.
        changed: people were added or removed since it was enrolled.
    """

    embeddings: np.ndarray
    table: pd.DataFrame
    made_by: dict[str, object]
    settings: dict[str, object]
    threshold: Threshold
    changed: bool = False

    @property
    def people(self) -> list[str]:
        """Who is enrolled, in the order of the rows."""
        return list(self.table["person"].unique())

    @property
    def first(self) -> np.ndarray:
        """Where the rows of each person begin."""
        return np.flatnonzero(~self.table["person"].duplicated())

    @property
    def bar(self) -> float | None:
        """Similarity below which a search names nobody; none where there is no threshold."""
        return self.threshold.search(len(self.table))


class Enrolled(NamedTuple):
    """A gallery, and `path, row, reason` of the images that are not in it."""

    gallery: Gallery
    aside: pd.DataFrame


# --- whom to enrol -------------------------------------------------------------------------------


def people(enrol: EnrolParams, data: splits.Prepared) -> dict[str, People]:
    """Whom the parameters name: `enrolled`, and whose images are searched for.

    `queries` are other images of the enrolled, `strangers` images of people who are not enrolled:
    of a folder or table of one's own there are no queries, and all that trial 0 of the data set
    searches for are strangers.

    Raises:
        InputError: trial 0 searches for nobody, and as `of_folder`, `of_table` and `of_split`.
    """
    if enrol.folder is None and enrol.table is None:
        found = of_split(data, enrol.strangers)
    else:
        own = of_folder(enrol.folder) if enrol.folder is not None else of_table(enrol.table)
        test = of_split(data, 0)
        others = test["queries"] if len(test["queries"].table) else test["strangers"]
        nobody = own._replace(table=own.table[:0])
        found = {"enrolled": own, "queries": nobody, "strangers": others}
    if all(found[role].table.empty for role in ("queries", "strangers")):
        raise InputError("enrol: trial 0 has no image to search for; test people with more images")
    return found


def newcomer(strangers: People, taken: list[str]) -> tuple[People, str] | None:
    """The first of them with two images: all but the last to enrol, and the path of the last.

    Called `newcomer`, or by a number after it where somebody has that name: a stranger's own may
    be that of another person who is enrolled.

    Args:
        strangers: who are not enrolled.
        taken: names of those who are.

    Returns:
        None where nobody has two images.
    """
    names = (f"newcomer {number}" if number else "newcomer" for number in range(len(taken) + 1))
    name = next(name for name in names if name not in taken)
    for _, own in strangers.table.groupby("person", sort=False):
        if len(own) > 1:
            table = own[:-1].assign(person=name).reset_index(drop=True)
            return strangers._replace(table=table), own["path"].iloc[-1]
    return None


def of_folder(root: str | Path) -> People:
    """One folder for each person; its name is the person's.

    Raises:
        InputError: no such folder, two folders with the same number, or no image in any.
    """
    root = files.resolve(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; it must hold one folder for each person")
    found = layouts.folders(root, DataParams(catalogue="folders", root=str(root)))
    paths = [image["path"] for image in found.images]
    table = pd.DataFrame({"person": [path.split("/")[0] for path in paths], "path": paths})
    aside = found.aside + [(note, None, "not read") for note in found.notes]
    return _people(table.assign(row=pd.NA), root, aside, "one folder of photographs each")


def of_table(path: str | Path) -> People:
    """A CSV file with columns `path`, from its own folder on, and `pid`, which may be a name.

    Raises:
        InputError: no such file, columns are missing, or no row can be taken.
    """
    path = files.resolve(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; it must be CSV with columns path and pid")
    header, rows = layouts.rows_of(path, ["path", "pid"], [])
    lines, aside = [], []
    for number, row in rows:
        cells = dict(zip(header, row, strict=False))
        image, person = cells.get("path", ""), cells.get("pid", "")
        if image and person:
            lines.append((person, image, number))
        else:
            aside.append((image, number, "path or pid is empty"))
    table = pd.DataFrame(lines, columns=["person", "path", "row"])
    return _people(table, path.parent, aside, "columns path and pid")


def of_split(data: splits.Prepared, strangers: float) -> dict[str, People]:
    """The test people of trial 0: who is enrolled, their other images, and who is not enrolled.

    A person is enrolled with the gallery image of each tested aspect (11k: of `same_aspect`), or
    with all of them where the gallery holds several (data.gallery: rest).

    Args:
        data: the split.
        strangers: share of the test people who are not enrolled, by lowest SHA-256 of their pid.
            Where a gallery has people without a query, it is these.

    Returns:
        `enrolled`; `queries` of the enrolled; `strangers`: queries of the others.

    Raises:
        InputError: nobody is left to enrol, or the split has no trials.
    """
    rows = data.split[(data.split["trial"] == 0).fillna(False)]
    gallery = rows[(rows["role"] == "gallery") & rows["gallery"].isin(["same_aspect", "default"])]
    queries = rows[rows["role"] == "query"]
    away = gallery[gallery["distractor"].eq(True)]
    if away.empty:
        pids = sorted(gallery["pid"].unique(), key=lambda pid: files.digest(int(pid)))
        away = queries[queries["pid"].isin(pids[: round(strangers * len(pids))])]
    there = ~gallery["pid"].isin(away["pid"])
    parts = gallery[there], queries[queries["pid"].isin(gallery["pid"][there])], away
    found = {}
    for role, part in zip(ROLES, parts, strict=True):
        taken = data.images[data.images["image_id"].isin(part["image_id"])]
        table = pd.DataFrame({"person": taken["pid"].astype(str), "path": taken["path"]})
        if role == "enrolled" and table.empty:
            raise InputError("enrol: nobody of trial 0 is left; lower enrol.strangers")
        found[role] = People(_sorted(table.assign(image=table["path"])), data.root, _aside([]))
    return found


def _people(table: pd.DataFrame, root: Path, aside: list[tuple], how: str) -> People:
    double = table.duplicated(["person", "path"])
    aside += [(p, n, "it stands twice") for p, n in table.loc[double, ["path", "row"]].to_numpy()]
    table = table[~double]
    both = table["path"].duplicated(keep=False)
    aside += [(p, n, "it is of two people") for p, n in table.loc[both, ["path", "row"]].to_numpy()]
    table = table.loc[~both, ["person", "path"]]
    if table.empty:
        first = f"; first set aside: {aside[0][0]}: {aside[0][2]}" if aside else ""
        raise InputError(f"{root}: no image of anybody to enrol; {how}{first}")
    return People(_sorted(table.assign(image=table["path"])), root, _aside(aside))


def _aside(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["path", "row", "reason"]).astype({"row": "Int64"})


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["person", "image"], ignore_index=True)


# --- enrolling -----------------------------------------------------------------------------------


def enrol(
    people: People, model: Model, settings: dict[str, object], threshold: Threshold
) -> Enrolled:
    """Embed photographs of people; a broken one is set aside.

    Raises:
        InputError: there is no image of anybody, or none can be read.
    """
    if people.table.empty:
        raise InputError(f"{people.root}: no image of anybody to enrol")
    seen = model.see(people.root, list(people.table["path"]))
    aside = pd.concat([people.aside, _aside(_tuples(seen.aside))], ignore_index=True)
    table = people.table.iloc[seen.rows][["person", "image"]].reset_index(drop=True)
    if table.empty:
        first = seen.aside.iloc[0]
        raise InputError(
            f"{people.root}: none of {len(seen.aside)} images can be read, first: {first['path']} "
            f"({first['reason']})"
        )
    made = Gallery(seen.array, table, model.made_by, settings, threshold)
    return Enrolled(made, aside)


def _tuples(aside: pd.DataFrame) -> list[tuple]:
    return [(path, None, reason) for path, reason in aside.to_numpy()]


def added(gallery: Gallery, more: Gallery) -> Gallery:
    """Both together; an image of the same person and name is replaced by the newer one.

    Raises:
        InputError: they are of different models.
    """
    check(gallery.made_by, more.made_by, "the gallery")
    table = pd.concat([gallery.table, more.table], ignore_index=True)
    array = np.concatenate([gallery.embeddings, more.embeddings])
    kept = ~table.duplicated(["person", "image"], keep="last")
    table = table[kept].sort_values(["person", "image"])
    return replace(gallery, embeddings=array[table.index], table=table.reset_index(drop=True))


def removed(gallery: Gallery, person: str) -> Gallery:
    """Without a person; with the last one an empty gallery is left.

    Raises:
        InputError: nobody of that name is enrolled.
    """
    there = gallery.table["person"] == str(person)
    if not there.any():
        near = nearest(str(person), gallery.people)
        raise InputError(f"{person!r} is not enrolled; nearest: {near}")
    return of_people(gallery, *gallery.table["person"][~there])


def of_people(gallery: Gallery, *people: str) -> Gallery:
    """The gallery of these people alone."""
    kept = gallery.table["person"].isin(people).to_numpy()
    table = gallery.table[kept].reset_index(drop=True)
    return replace(gallery, embeddings=gallery.embeddings[kept], table=table)


def check(made_by: dict[str, object], own: dict[str, object], where: str) -> None:
    """Refuse embeddings of another model.

    Raises:
        InputError: names what differs.
    """
    if made_by != own:
        differs = checkpoints.difference(made_by, own)
        raise InputError(
            f"{where} holds embeddings of another model ({differs}); open it with the run that "
            "made it, or enrol the people again"
        )


# --- the file ------------------------------------------------------------------------------------


def write(gallery: Gallery, path: str | Path) -> Path:
    """Write the gallery's file, whole or not at all.

    Raises:
        InputError: as `unchanged`.
    """
    path = files.resolve(path)
    with _alone(path):
        unchanged(path)
        return _write(gallery, path)


def unchanged(path: str | Path) -> None:
    """Refuse to enrol anew where people were added to a gallery's file or removed from it.

    Who was added would be lost, and who was removed would come back.

    Raises:
        InputError: it was changed by `add` or `remove`.
    """
    path = files.resolve(path)
    if not path.is_file():
        return
    try:
        changed = read(path).changed
    except InputError:  # damaged, or of another format: nobody can use it
        return
    if changed:
        raise InputError(
            f"{path} is kept: people were added or removed since it was enrolled; delete the file "
            "to enrol anew, or go on with it by identify.open"
        )


def read(path: str | Path, model: Model | None = None) -> Gallery:
    """What `write` wrote.

    Args:
        path: of the file.
        model: that shall search it.

    Raises:
        InputError: no gallery, a damaged one, or one of another model.
    """
    path = files.resolve(path)
    if not path.is_file():
        raise InputError(f"{path}: no such gallery; enrol people first")
    try:
        state, metadata = backbones.read_sealed(path)
        content = json.loads(metadata["gallery"])
        if content["format"] != FORMAT or "sha256" not in metadata:
            raise ValueError(f"it has format {content['format']}, this program reads {FORMAT}")
        rows = [(one["person"], image) for one in content["people"] for image in one["images"]]
        array = state["embeddings"].numpy()
        if array.dtype != np.float32 or array.ndim != 2 or len(array) != len(rows):
            raise ValueError(f"{len(rows)} images for embeddings {array.shape}")
        table = pd.DataFrame(rows, columns=["person", "image"], dtype="str")
        limit = thresholds.load(content["threshold"])
        made = content["made_by"], content["settings"], limit, content.get("changed", False)
        found = Gallery(array, table, *made)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: no gallery of ours, or damaged ({said}); enrol again") from None
    if model is not None:
        check(found.made_by, model.made_by, path.name)
    return found


def add(path: str | Path, more: Gallery) -> Gallery:
    """Add enrolled people to a gallery's file, which is replaced; see `added`."""
    return _change(files.resolve(path), lambda gallery: added(gallery, more))


def remove(path: str | Path, person: str) -> Gallery:
    """Remove a person from a gallery's file, which is replaced; see `removed`.

    Nothing of the person is left in the file or beside it (`traces`), also where a program that
    wrote there was killed. Nothing else is looked for. Of a run of 12_identify the names, and at
    some places the photographs, may still stand in its `identified.csv`, `set_aside.csv`,
    `figures/answers.pdf` and `.png` and its executed `notebook.ipynb`; beyond it in copies of the
    gallery, the photographs themselves, and the tables, embeddings, figures and caches of runs
    that were trained or tested on them.
    """
    return _change(files.resolve(path), lambda gallery: removed(gallery, person))


@contextmanager
def rehearsal(gallery: Gallery, folder: str | Path) -> Iterator[Path]:
    """A gallery's file to try changes on; it goes afterwards, and so does what a kill left of one.

    Args:
        gallery: that stands in it.
        folder: within which it stands for so long, in a folder of its own.
    """
    place = files.resolve(folder) / "rehearsal"
    shutil.rmtree(place, ignore_errors=True)
    try:
        yield write(gallery, place / "gallery.safetensors")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def traces(path: str | Path, gone: Gallery) -> list[str]:
    """Which names of people and images, and which vectors, of somebody still stand in a file.

    Looked through with it is what a program that was killed while it wrote left beside it.
    """
    path = files.resolve(path)
    content = b"".join(one.read_bytes() for one in (path, *_left(path)))
    names = [*gone.people, *gone.table["image"]]
    found = [name for name in names if _text(_text(name))[1:-1].encode() in content]
    rows = enumerate(gone.embeddings)
    return found + [f"vector {row}" for row, vector in rows if vector.tobytes() in content]


def _change(path: Path, change: Callable[[Gallery], Gallery]) -> Gallery:
    """Read, change and write, with no other process between."""
    with _alone(path):
        made = replace(change(read(path)), changed=True)
        _write(made, path)
    return made


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process writes a gallery in this folder, and what a killed one left there goes.

    The lock is the folder's, since a left-over does not tell of which gallery it is.
    """
    with files.lock(f"galleries in {path.parent}"):
        for left in _left(path):
            left.unlink(missing_ok=True)
        yield


def _left(path: Path) -> list[Path]:
    """Half-written files beside a gallery's, as `files.write` names them."""
    return sorted(path.parent.glob(f".writing-*{glob.escape(path.suffix)}"))


def _write(gallery: Gallery, path: Path) -> Path:
    groups = gallery.table.groupby("person", sort=False)["image"]
    content = {
        "format": FORMAT,
        "people": [{"person": person, "images": list(names)} for person, names in groups],
        "made_by": gallery.made_by,
        "settings": gallery.settings,
        "threshold": gallery.threshold.dump(),
        "changed": gallery.changed,
    }
    array = np.require(gallery.embeddings, np.float32, ["C", "W"])
    backbones.write_sealed(
        {"embeddings": torch.from_numpy(array)}, {"gallery": _text(content)}, path
    )
    return path


def _text(content: object) -> str:
    """JSON with names as they are written, so that one can look for them."""
    return json.dumps(content, ensure_ascii=False)
