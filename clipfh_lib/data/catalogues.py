"""A source folder -> one images table: where it is, what it holds, which part of it is taken."""

import ast
import functools
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from clipfh_lib import files
from clipfh_lib.data import captioned, imports, inshop, layouts
from clipfh_lib.files import InputError
from clipfh_lib.params import nearest
from clipfh_lib.schema import DataParams

LAYOUT = {
    "hands_11k": "Hands/Hand_0000002.jpg ... and HandInfo.csv, from sites.google.com/view/11khands",
    "hd": "Original Images/1-501/<id>_*.jpg and Original Images/502-712/<id>_*.jpg, "
    "from www4.comp.polyu.edu.hk/~csajaykr/knuckleV2.htm",
    "folders": "one folder of photographs for each person, <pid>/*.jpg",
    "split_folders": "query0 ..., gallery0 ..., gallery0_all ..., train, val and train_all, as the "
    "older scripts write them, in each <pid>/*.jpg",
    "inshop": "Eval/list_eval_partition.txt, Img/img/... and Anno/list_description_inshop.json, "
    "from mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    "captions": "annotations.json with splits.train, val and test, each a list of image_path, "
    "caption and id; or train/, val/ and test/ with image1.jpg and image1.txt or image1.json",
}

READERS = {
    "hands_11k": layouts.hands_11k,
    "hd": layouts.hd,
    "folders": layouts.folders,
    "split_folders": imports.read,
    "inshop": inshop.read,
    "captions": captioned.read,
}
_HANDS = ("demo_drawing", "demo_hands", "demo_people", "demo_shapes", "demo_skin")
DRAWN_BY = {  # modules that draw a data set
    "hands_11k": _HANDS,
    "hd": _HANDS,
    "inshop": ("demo_garments", "demo_clothes"),
    "captions": (*_HANDS, "demo_captions", "demo_things", "captions"),
}


@dataclass(frozen=True)
class Catalogue:
    """What a source folder holds.

    Attributes:
        images: one row for each image, in the order of image_id; layouts.COLUMNS that it has,
            then traits.
        set_aside: path, row (of the table; the header is row 1) and reason.
        notes: what was counted, one line each.
        root: folder that the paths start from.
        split: where the folders themselves are one (split_folders); see splits.given.
        captions: `image_id, caption`, where the data set brings words; an image may have several.
    """

    images: pd.DataFrame
    set_aside: pd.DataFrame
    notes: list[str]
    root: Path
    split: pd.DataFrame | None = None
    captions: pd.DataFrame | None = None


# --- where the data is ---------------------------------------------------------------------------


def root(data: DataParams) -> Path:
    """Folder of the data set; of a drawn one, which `data.root` replaces, a folder by its content.

    Raises:
        InputError: neither data.root nor data.draw is given, or it is a kind that cannot be drawn.
    """
    if data.root is not None:
        return files.resolve(data.root)
    if data.draw is None:
        raise InputError("data.root is missing; it says where the photographs are")
    if data.catalogue not in DRAWN_BY:
        known = ", ".join(DRAWN_BY)
        raise InputError(f"data.draw: {known} can be drawn, {data.catalogue} cannot")
    return files.project() / "data" / f"demo-{files.digest(_drawing(data))[:8]}"


def _drawing(data: DataParams) -> dict:
    """What a drawn data set depends on: its parameters and the code that draws."""
    sources = [Path(__file__).parent / f"{name}.py" for name in DRAWN_BY[data.catalogue]]
    code = [_code(path, path.stat().st_mtime_ns) for path in sources]
    return {"catalogue": data.catalogue, "draw": data.draw.model_dump(), "code": code}


@functools.lru_cache
def _code(path: Path, _changed: int) -> str:
    """A module's code without comments and layout; kept by file time."""
    return ast.unparse(ast.parse(path.read_text(encoding="utf-8")))


def missing(data: DataParams) -> str:
    """One line on what is not there and how it must lie on disk; empty if a run can begin."""
    if data.root is None and data.draw is not None:
        return ""
    folder = root(data)
    parts = {
        "hands_11k": ["Hands", "HandInfo.csv"],
        "hd": [layouts.hd_start(folder) + name for name in layouts.HD_FOLDERS],
        "folders": [],
        "split_folders": ["query0", "gallery0"],
        "inshop": inshop.needed(folder),
        "captions": captioned.needed(folder, data),
    }
    absent = [part for part in parts[data.catalogue] if not (folder / part).exists()]
    if folder.is_dir() and not absent:
        return ""
    what = f"{' and '.join(absent)} not in {folder}" if folder.is_dir() else f"no folder {folder}"
    return f"{what}; expected there: {LAYOUT[data.catalogue]}; data.root names another place"


def ensure(data: DataParams, workers: int = 0) -> Path:
    """Root of a data set that is there; a drawn one is drawn first if need be.

    Args:
        workers: processes that draw; 0: one for each core.

    Raises:
        InputError: the folder is missing; the line says how it must lie and where it comes from.
    """
    if absent := missing(data):
        raise InputError(absent)
    folder = root(data)
    if data.root is not None or folder.is_dir():
        return folder
    from clipfh_lib.data import demo_hands  # only who draws pays for the import

    draw, workers = data.draw, workers or os.cpu_count() or 1
    with files.lock(folder):
        if folder.is_dir():  # another process drew it meanwhile
            return folder
        try:
            if data.catalogue == "hd":
                people = draw.people, draw.distractors
                demo_hands.write_hd(folder, *people, draw.images, draw.size, draw.seed, workers)
            elif data.catalogue == "hands_11k":
                people = draw.people
                demo_hands.write_11k(folder, people, draw.images, draw.size, draw.seed, workers)
            elif data.catalogue == "inshop":
                from clipfh_lib.data import demo_garments

                items = draw.people
                demo_garments.write(folder, items, draw.images, draw.size, draw.seed, workers)
            else:
                from clipfh_lib.data import demo_captions

                demo_captions.write(folder, draw, workers)
        except ValueError as error:
            raise InputError(f"data.draw: {error}") from None
    return folder


def digest(data: DataParams) -> str:
    """Hex SHA-256 of what a data set holds: names and sizes of images, tables; not file times."""
    if data.root is None:
        return files.digest(_drawing(data))
    folder = ensure(data)
    images = layouts.every_listing(folder, data)
    tables = ["HandInfo.csv", "HandTraits.csv", *([data.include.file] if data.include else [])]
    tables += {"inshop": inshop.TABLES, "captions": captioned.tables(folder, data)}.get(
        data.catalogue, []
    )
    hashes = {name: files.sha256(folder / name) for name in tables if (folder / name).is_file()}
    return files.digest({"images": images, "tables": hashes})


# --- reading -------------------------------------------------------------------------------------


def read(data: DataParams) -> Catalogue:
    """Read a data set's folder into one images table; no picture is opened.

    Raises:
        InputError: the folder is missing or holds no usable image, or its tables are such that the
            protocol cannot be kept; one line with the file, the row and the fix.
    """
    folder = ensure(data)
    found = READERS[data.catalogue](folder, data)
    aside = pd.DataFrame(found.aside, columns=["path", "row", "reason"]).astype({"row": "Int64"})
    if not found.images:
        first = f"; first set aside: {aside['path'][0]}: {aside['reason'][0]}" if len(aside) else ""
        raise InputError(f"{folder}: no usable image; {LAYOUT[data.catalogue]}{first}")
    images = _numbers(pd.DataFrame(found.images))
    known = [column for column in layouts.COLUMNS if column in images]
    images = images[known + [column for column in images if column not in known]]
    images = images.sort_values("image_id", ignore_index=True)
    notes = found.notes
    if len(aside):
        notes.append(f"{len(aside)} rows or files set aside; set_aside.csv has the reasons")
    if data.include:
        images = _include(images, folder, data)
        notes.append(f"{len(images)} of {len(found.images)} images taken by data.include")
    if data.limit:
        images = _limit(images, data)
        notes.append(f"limited run: {len(images)} images taken by data.limit")
    captions = found.captions
    if captions is not None:
        captions = captions[captions["image_id"].isin(images["image_id"])].reset_index(drop=True)
    return Catalogue(images, aside, notes, folder, found.split, captions)


def _numbers(images: pd.DataFrame) -> pd.DataFrame:
    """The table with those columns as numbers that hold nothing else; others hold text."""
    for column in images:
        if not pd.api.types.is_numeric_dtype(images[column]):
            text = images[column].fillna("")
            numbers = pd.to_numeric(text, errors="coerce")
            numeric = (numbers.isna() == text.eq("")).all() and numbers.notna().any()
            images[column] = numbers if numeric and column not in layouts.TEXT else text
    if "file_number" in images:
        images["file_number"] = images["file_number"].astype("Int64")
    return images


# --- taking less ---------------------------------------------------------------------------------


def _include(images: pd.DataFrame, folder: Path, data: DataParams) -> pd.DataFrame:
    """The images whose row in a table beside the data has one of the values."""
    wanted, path = data.include, folder / data.include.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"data.include.file {wanted.file!r} leaves {folder}; put it there")
    if not path.is_file():
        raise InputError(f"data.include: no file {path}; data.include: null takes all images")
    header, rows = layouts.rows_of(path, [], [])
    if wanted.column not in header:
        near = nearest(wanted.column, header)
        raise InputError(f"data.include.column {wanted.column!r} not in {path}; nearest: {near}")
    cells = [dict(zip(header, row, strict=False)) for _, row in rows]
    table = pd.DataFrame(cells, columns=header)
    values = set(table[wanted.column])
    for value in wanted.values:
        if value not in values:
            near = nearest(value, sorted(map(str, values)))
            raise InputError(f"data.include.values: {value!r} not in {path}; nearest: {near}")
    keys = {
        "imageName": images["path"].map(lambda path: PurePosixPath(path).name),
        "path": images["path"],
        "image_id": images["image_id"],
    }
    column = next((name for name in keys if name in header), None)
    if column is None:
        raise InputError(f"{path}: no column imageName, path or image_id says which image is meant")
    taken = set(table.loc[table[wanted.column].isin(wanted.values), column])
    images = images[keys[column].isin(taken)].reset_index(drop=True)
    if images.empty:
        raise InputError(f"data.include: no image of {folder} has {wanted.column} {wanted.values}")
    return images


def _limit(images: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """People spread evenly over the pids, and of each person and aspect the first images.

    The published cut is by pid, so that the first people alone would all train.

    Images without accessories come first, since only these take part; the people whom nobody
    searches for are counted apart from the others. Of one who is query and gallery by the data
    set's own word both are taken in turn.
    """
    kind = images["distractor"] if "distractor" in images else pd.Series(False, images.index)
    if data.limit.people:
        kept = [_spread(pids, data.limit.people) for _, pids in images["pid"].groupby(kind)]
        images = images[images["pid"].isin(np.concatenate(kept))]
    if data.limit.images:
        images = images.sort_values("image_id")
        order = [column for column in ("accessories", "image_id") if column in images]
        if "partition" in images:
            turn = images.groupby(["pid", "aspect", "partition"]).cumcount()
            images, order = images.assign(turn=turn), ["turn", *order]
        images = images.sort_values(order).groupby(["pid", "aspect"]).head(data.limit.images)
        images = images.drop(columns="turn", errors="ignore")
    return images.sort_values("image_id", ignore_index=True)


def _spread(pids: pd.Series, number: int) -> np.ndarray:
    """So many of the people, from the first to the last in even steps."""
    people = np.unique(pids)
    return people[
        np.unique(np.linspace(0, len(people) - 1, min(number, len(people))).round().astype(int))
    ]
