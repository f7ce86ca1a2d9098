"""DeepFashion In-Shop: images of garments, who is query and who is gallery, and descriptions.

Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations,
CVPR 2016. A garment takes the place of a person: the number of its item id is the pid.
"""

import json
import re
from pathlib import Path, PurePosixPath

import pandas as pd

from clipfh_lib.data.layouts import LARGEST, Found, listing, text_of
from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams

PARTITION = "Eval/list_eval_partition.txt"
DESCRIPTIONS = "Anno/list_description_inshop.json"
TABLES = [PARTITION, DESCRIPTIONS]
FOLDERS = ["Img/img", "img", "Img/img_highres", "img_highres"]  # the first that is there is read
HEADER = ["image_name", "item_id", "evaluation_status"]
STATUSES = ["train", "query", "gallery"]
WHOLE = {  # images and items, as published; query and gallery are of the same items
    "all": (52_712, 7_982),
    "train": (25_882, 3_997),
    "query": (14_218, 3_985),
    "gallery": (12_612, 3_985),
}


def needed(folder: Path) -> list[str]:
    """What must lie in the folder: the partition, and the images in one of their places."""
    return [PARTITION, start(folder)]


def start(folder: Path) -> str:
    """Where the images lie below the root, which the partition calls img/."""
    return next((name for name in FOLDERS if (folder / name).is_dir()), FOLDERS[0])


def read(folder: Path, data: DataParams) -> Found:
    """Read the images of the partition, and what the descriptions say of their items.

    Raises:
        InputError: the protocol cannot be kept: no header, a path that leaves the folder, an image
            with two items or two statuses, an item in train and in test, or, where the data set is
            whole, other counts than the published ones; one line with file, row and fix.
    """
    found, top, table = Found(), start(folder), folder / PARTITION
    rows, total = partition(table, found)
    described = descriptions(folder / DESCRIPTIONS, found)
    there, unusable = listing(folder / top, data)
    by_stem = {_stem(name).casefold(): name for name in [*there, *unusable]}
    used, absent, elsewhere = set(), 0, 0
    for row in rows.itertuples():
        file = row.tail if row.tail in there else by_stem.get(row.image_id.casefold())
        if file is None:
            absent += 1
            continue
        used.add(file)
        if file in unusable:
            found.aside.append((f"{top}/{file}", row.row, unusable[file]))
            continue
        parts = row.tail.split("/")[:-1]
        kind = " ".join(part for part in parts if not _is_item(part))
        elsewhere += any(_is_item(part) and part != row.item for part in parts)
        image = {"image_id": row.image_id, "path": f"{top}/{file}", "pid": row.pid}
        image |= {"pid_name": row.item, "aspect": "all", "partition": row.status}
        image |= {"category": _words(kind.replace("_", " ").replace("-", " ")).lower()}
        found.images.append(image | described.get(row.item, {}))
    found.aside += [(f"{top}/{name}", None, unusable[name]) for name in sorted({*unusable} - used)]
    if absent:
        found.notes.append(
            f"{absent} of {total} rows of {table.name} have no image file, as in a partial copy"
        )
    if spare := len(there.keys() - used):
        found.notes.append(f"{spare} image files in {top} have no row in {table.name}")
    if elsewhere:
        found.notes.append(
            f"{elsewhere} images lie in the folder of another item than {table.name} says; what it "
            "says counts"
        )
    images = pd.DataFrame(found.images)
    if len(images) and total == WHOLE["all"][0] and not absent:
        assert_counts(images, table)
    if described and len(images):
        mute = images["caption"].fillna("") == ""
        found.captions = images.loc[~mute, ["image_id", "caption"]].reset_index(drop=True)
        if mute.any():
            items = images.loc[mute, "pid"].nunique()
            found.notes.append(f"{items} items with {mute.sum()} images have no description")
    return found


# --- the partition --------------------------------------------------------------------------------


def partition(path: Path, found: Found) -> tuple[pd.DataFrame, int]:
    """Rows that can be used, and how many there are in all; flaws go to `found`.

    Returns:
        `row` (of the file, the first is 1), `tail` (the path below img/), `image_id` (without its
        extension), `item`, `pid`, `status`; the number of rows below the header.

    Raises:
        InputError: see `read`.
    """
    rows = _rows(path, found)
    usable = []
    for number, cells in rows:
        try:
            usable.append({"row": number, **_row(cells, f"{path} row {number}")})
        except InputError:
            raise
        except ValueError as error:
            found.aside.append((" ".join(cells)[:80], number, str(error)))
    table = pd.DataFrame(usable, columns=["row", "tail", "image_id", "item", "pid", "status"])
    name = table["image_id"].str.casefold()
    _assert_one(path, table, name, "item", "image", "keep the row that is right")
    _assert_one(path, table, name, "status", "image", "keep the row that is right")
    _assert_one(path, table, table["pid"], "item", "item number", "write it alike in all rows")
    side = table["status"].eq("train").map({True: "train", False: "test"})
    fix = "an item trains or tests: correct evaluation_status"
    _assert_one(path, table.assign(side=side), table["item"], "side", "item", fix)
    double = name.duplicated()
    first = table.groupby(name)["row"].transform("first")
    found.aside += [
        (f"img/{row.tail}", row.row, f"stands in row {before} already")
        for row, before in zip(table[double].itertuples(), first[double], strict=True)
    ]
    return table[~double].reset_index(drop=True), len(rows)


def assert_counts(images: pd.DataFrame, path: Path) -> None:
    """Stop if a whole data set has other numbers of images and items than published."""
    counts = {"all": (len(images), images["pid"].nunique())}
    for status in STATUSES:
        own = images[images["partition"] == status]
        counts[status] = len(own), own["pid"].nunique()
    for what, expected in WHOLE.items():
        if counts[what] != expected:
            raise InputError(
                f"{path}: {what}: {counts[what][0]} images of {counts[what][1]} items, published "
                f"{expected[0]} of {expected[1]}; the table was changed: download it again"
            )


def _rows(path: Path, found: Found) -> list[tuple[int, list[str]]]:
    """Cells of the rows below the header, with the number of the row in the file."""
    text, encoding = text_of(path)
    if encoding != "utf-8":
        found.notes.append(f"{path.name} is not UTF-8; read as {encoding}")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    header = lines[1].split() if len(lines) > 1 else []
    if not re.fullmatch(r"\d{1,9}", lines[0].strip(), re.ASCII):
        problem = f"{lines[0].strip()[:40]!r} is not the number of images"
        raise InputError(f"{path} row 1: {problem}; it stands above the header")
    if header != HEADER:
        says = " ".join(header)[:80] or "nothing"
        raise InputError(f"{path} row 2: the header must be {' '.join(HEADER)}; it is {says}")
    rows = [(number, line.split()) for number, line in enumerate(lines[2:], start=3)]
    rows = [(number, cells) for number, cells in rows if cells]
    if int(lines[0]) != len(rows):
        found.notes.append(f"row 1 of {path.name} says {int(lines[0])} images; it has {len(rows)}")
    return rows


def _row(cells: list[str], where: str) -> dict[str, str | int]:
    """One row of the partition; ValueError for what is set aside, InputError for what stops."""
    if len(cells) != len(HEADER):
        raise ValueError(f"{len(cells)} cells under {len(HEADER)} columns")
    name, item, status = cells
    parts = name.split("/")
    if re.search(r"[\\:\x00-\x1f\x7f]", name) or not all(parts) or {".", ".."} & set(parts):
        problem = f"image_name {name[:60]!r} is not the path of a file below img"
        raise InputError(f"{where}: {problem}; correct or remove the row")
    tail = name.removeprefix("img/")
    if tail == name:
        raise ValueError(f"image_name {name[:60]!r} does not begin with img/")
    if not _is_item(item) or int(item[3:]) > LARGEST:
        raise ValueError(f"item_id {item[:40]!r} is no id_ with a number up to {LARGEST}")
    if status not in STATUSES:
        raise ValueError(f"evaluation_status {status[:40]!r} is none of {', '.join(STATUSES)}")
    found = {"tail": tail, "image_id": _stem(tail), "item": item}
    return found | {"pid": int(item[3:]), "status": status}


def _assert_one(
    path: Path, table: pd.DataFrame, key: pd.Series, column: str, what: str, fix: str
) -> None:
    """Stop at the first row that says something else of a key than the key's first row."""
    first = table.groupby(key)[["row", column]].transform("first")
    for place in table.index[table[column] != first[column]][:1]:
        row, before = table.loc[place], first.loc[place]
        raise InputError(
            f"{path} row {row['row']}: {what} {str(key[place])[:80]!r} has {column} {row[column]} "
            f"here and {before[column]} in row {before['row']}; {fix}"
        )


def _is_item(text: str) -> bool:
    return re.fullmatch(r"id_\d{1,15}", text, re.ASCII) is not None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


# --- the descriptions -----------------------------------------------------------------------------


def descriptions(path: Path, found: Found) -> dict[str, dict[str, str]]:
    """Colour and caption of each item, where the file is there; flaws go to `found`.

    Raises:
        InputError: the file is no JSON list.
    """
    if not path.is_file():
        found.notes.append(f"no {DESCRIPTIONS}: the images have no captions")
        return {}
    text, _ = text_of(path)
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON ({error}); download it again or remove it") from None
    if not isinstance(entries, list):
        raise InputError(f"{path}: a list of items is needed; download it again or remove it")
    said = {}
    for number, entry in enumerate(entries, start=1):
        try:
            item, words = _description(entry)
            if item in said:
                raise ValueError(f"{item} was described before")
            said[item] = words
        except ValueError as error:
            found.aside.append((DESCRIPTIONS, number, f"entry {number}: {error}"))
    return said


def _description(entry: object) -> tuple[str, dict[str, str]]:
    """Item and words of one entry; ValueError says what is wrong with it."""
    if not isinstance(entry, dict) or not isinstance(entry.get("item"), str):
        raise ValueError("it names no item")
    item, color, lines = entry["item"], entry.get("color"), entry.get("description")
    lines = [lines] if isinstance(lines, str) else [] if lines is None else lines
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"the description of {item[:40]!r} is no list of texts")
    if not isinstance(color, str | None):
        raise ValueError(f"the color of {item[:40]!r} is no text")
    color = _words(color or "")
    caption = ". ".join(part for part in (color, _words(" ".join(lines))) if part)
    return item, {"color": color, "caption": caption}


def _words(text: str) -> str:
    """One line: white space and what cannot be printed become single blanks."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
