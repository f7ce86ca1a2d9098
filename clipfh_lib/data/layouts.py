"""The layouts on disk that are read, one short reader each; what their tables and names may hold.

What becomes of a flaw:

- the protocol cannot be kept, so reading stops with the file, the row and the fix: columns that are
  missing, an image that stands twice with different people, aspects or accessories, a name that
  leads out of the folder, quotes that are not closed, text in no known encoding, counts that are
  not the published ones though the set is whole;
- it can be kept without them, so the row or file is set aside with its reason and counted: an id
  that is no number, an unknown aspect, accessories that are no integer, cells too many or too few,
  a row that stands twice, a link out of the folder, a name that is not UTF-8;
- it is normal, so only counted: rows without an image file, image files without a row.
"""

import csv
import io
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams

COLUMNS = [
    "image_id", "path", "pid", "pid_name", "aspect", "accessories", "nail_polish", "gender", "age",
    "skin_color", "irregularities", "file_number", "caption", "category", "partition", "distractor",
    "width", "height",
]  # fmt: skip
TEXT = [
    "image_id", "path", "pid_name", "aspect", "gender", "skin_color", "caption", "category",
    "partition",
]  # fmt: skip
ASPECTS = {
    "dorsal right": "dorsal_r",
    "dorsal left": "dorsal_l",
    "palmar right": "palmar_r",
    "palmar left": "palmar_l",
}
NEEDED = ["id", "accessories", "aspectOfHand", "imageName"]
OPTIONAL = {
    "age": "age",
    "gender": "gender",
    "skinColor": "skin_color",
    "nailPolish": "nail_polish",
    "irregularities": "irregularities",
}
HD_FOLDERS = ("1-501", "502-712")
HD_SHIFT = 1000  # added to the ids of the second folder, whose people nobody searches for
LARGEST = 9_999_999  # ids above meet those of another aspect's people in a gallery, + 11 million
STEPS = (11_000_000, 21_000_000, 31_000_000)  # added to the ids of other aspects' people
OTHERS = {  # in the order of the steps, which MBA-Net's scripts chose for each aspect apart
    "dorsal_r": ("dorsal_l", "palmar_r", "palmar_l"),
    "dorsal_l": ("dorsal_r", "palmar_r", "palmar_l"),
    "palmar_r": ("dorsal_l", "dorsal_r", "palmar_l"),
    "palmar_l": ("palmar_r", "dorsal_r", "dorsal_l"),
}
WHOLE_11K = {  # aspect: images, images without accessories, people who have one of these
    "dorsal_r": (2892, 2004, 143),
    "dorsal_l": (2788, 1869, 146),
    "palmar_r": (2813, 1965, 143),
    "palmar_l": (2583, 2027, 151),
}
WHOLE_HD = {"1-501": (4650, 502), "502-712": (1342, 213)}  # images, people


@dataclass
class Found:
    """What a reader collects; `split` where the folders themselves are one.

    An image's `partition` is what the data set itself says of it: train, val, query or gallery, or
    test, where it does not say which of the two. `captions`: `image_id, caption`.
    """

    images: list[dict] = field(default_factory=list)
    aside: list[tuple[str, int | None, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    split: pd.DataFrame | None = None
    captions: pd.DataFrame | None = None


# --- readers --------------------------------------------------------------------------------------


def hands_11k(folder: Path, data: DataParams) -> Found:
    """Hands/ and HandInfo.csv, and HandTraits.csv where it is there."""
    found = Found()
    info = folder / "HandInfo.csv"
    header, rows = rows_of(info, NEEDED, found.notes)
    traits = _traits(folder / "HandTraits.csv", found.notes)
    there, unusable = listing(folder / "Hands", data)
    by_stem = {PurePosixPath(name).stem.casefold(): name for name in [*there, *unusable]}
    seen, used, absent, renamed = {}, set(), 0, 0
    for number, cells in rows:
        where = f"{info} row {number}"
        if len(cells) != len(header):
            reason = f"{len(cells)} cells under {len(header)} columns"
            found.aside.append((",".join(cells)[:80], number, reason))
            continue
        row = dict(zip(header, cells, strict=True))
        name = row["imageName"]
        try:
            _check_name(name, where)
            who = _pid(row["id"]), _aspect(row["aspectOfHand"]), _integer(row["accessories"])
        except InputError:
            raise
        except ValueError as error:
            found.aside.append((f"Hands/{name}", number, str(error)))
            continue
        stem = PurePosixPath(name).stem
        if stem.casefold() in seen:
            first, other = seen[stem.casefold()]
            for what, here, before in zip(("id", "aspect", "accessories"), who, other, strict=True):
                if here != before:
                    problem = f"{name!r} has {what} {here} here and {before} in row {first}"
                    raise InputError(f"{where}: {problem}; keep the row that is right")
            found.aside.append((f"Hands/{name}", number, f"stands in row {first} already"))
            continue
        seen[stem.casefold()] = number, who
        file = name if name in there or name in unusable else by_stem.get(stem.casefold())
        if file is None:
            absent += 1
            continue
        used.add(file)
        if file in unusable:
            found.aside.append((f"Hands/{file}", number, unusable[file]))
            continue
        renamed += file != name
        digits = re.search(r"\d{1,15}$", stem, re.ASCII)
        image = dict(image_id=stem, path=f"Hands/{file}", pid=who[0], aspect=who[1])
        image |= {"accessories": who[2], "file_number": int(digits[0]) if digits else None}
        image |= {OPTIONAL[key]: value for key, value in row.items() if key in OPTIONAL}
        found.images.append(image | traits.get(stem.casefold(), {}))
    if absent:
        found.notes.append(
            f"{absent} of {len(rows)} rows of HandInfo.csv have no image file, as in a partial copy"
        )
    for name in sorted(unusable.keys() - used):
        found.aside.append((f"Hands/{name}", None, unusable[name]))
    if spare := len(there.keys() - used):
        found.notes.append(f"{spare} image files in Hands have no row in HandInfo.csv")
    if renamed:
        found.notes.append(f"{renamed} images stand under another extension than in HandInfo.csv")
    if len(found.images) == len(rows) == sum(count for count, _, _ in WHOLE_11K.values()):
        images = pd.DataFrame(found.images)
        for aspect, expected in WHOLE_11K.items():
            own = images[images["aspect"] == aspect]
            free = own[own["accessories"] == 0]
            counts = len(own), len(free), free["pid"].nunique()
            _assert_count(info, f"{aspect} images, without accessories, people", counts, expected)
    return found


def hd_start(folder: Path) -> str:
    """What the two folders' names follow below the root, which may be Original Images itself."""
    return "" if (folder / HD_FOLDERS[0]).is_dir() else "Original Images/"


def hd(folder: Path, data: DataParams) -> Found:
    """One folder of people who train and are searched for, one of people who are distractors."""
    found, counts = Found(), {}
    for part, shift in zip(HD_FOLDERS, (0, HD_SHIFT), strict=True):
        start = hd_start(folder) + part
        there, unusable = listing(folder / start, data)
        found.aside += [(f"{start}/{name}", None, why) for name, why in sorted(unusable.items())]
        people, before = set(), set()
        for name in sorted(there):
            stem = PurePosixPath(name).stem
            try:
                pid = _pid(stem.split("_")[0]) + shift
                _check_new(stem, before)
            except ValueError as error:
                found.aside.append((f"{start}/{name}", None, str(error)))
                continue
            people.add(pid)
            image = dict(image_id=f"{part}/{stem}", path=f"{start}/{name}", pid=pid, aspect="all")
            found.images.append(image | {"distractor": shift > 0})
        counts[part] = len(before), len(people)
    if all(counts[part][0] == WHOLE_HD[part][0] for part in HD_FOLDERS):
        for part in HD_FOLDERS:
            _assert_count(folder / part, "images, people", counts[part], WHOLE_HD[part])
    return found


def folders(folder: Path, data: DataParams) -> Found:
    """One folder a person; a name that is no number gets one after the largest, in order."""
    found = Found()
    there, unusable = listing(folder, data)
    found.aside += [(name, None, why) for name, why in sorted(unusable.items())]
    inside = [name for name in sorted(there) if name.count("/") == 1]
    if other := len(there) - len(inside):
        found.notes.append(f"{other} image files lie outside the people's folders: not read")
    pids, named = numbered(folder, {name.split("/")[0] for name in inside})
    before = set()
    for path in inside:
        name, stem = path.split("/")[0], path.rsplit(".", 1)[0]
        try:
            _check_new(stem, before)
        except ValueError as error:
            found.aside.append((path, None, str(error)))
            continue
        image = dict(image_id=stem, path=path, pid=pids[name], aspect="all")
        if named:
            image["pid_name"] = name if name in named else ""
        found.images.append(image)
    return found


# --- parts of the readers -------------------------------------------------------------------------


def every_listing(folder: Path, data: DataParams) -> list[tuple[str, int]]:
    """Names and sizes of all image files that a reader would take, sorted."""
    starts = {
        "hands_11k": ["Hands"],
        "hd": [hd_start(folder) + part for part in HD_FOLDERS],
        "folders": ["."],
        "split_folders": ["."],
        "inshop": ["."],
        "captions": ["."],
    }[data.catalogue]
    found = [(start, listing(folder / start, data)[0]) for start in starts]
    return sorted(
        (f"{start}/{name}", size) for start, sizes in found for name, size in sizes.items()
    )


def listing(top: Path, data: DataParams) -> tuple[dict[str, int], dict[str, str]]:
    """Sizes of the files below a folder that have an image's extension, and those not to be used.

    Names are relative to the folder, with /. Hidden ones are skipped.
    """
    suffixes = {"." + extension.lower().lstrip(".") for extension in data.extensions}
    sizes, unusable, queue, home = {}, {}, [top], top.resolve()
    while queue:
        folder = queue.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if folder == top:
                raise InputError(f"{top}: {error.strerror}; it must be readable") from None
            unusable[folder.relative_to(top).as_posix()] = f"a folder: {error.strerror}"
            continue
        for entry in entries:
            path = Path(entry.path)
            name = path.relative_to(top).as_posix()
            shown = name.encode("utf-8", "backslashreplace").decode()
            try:
                if entry.name.startswith("."):
                    pass
                elif entry.is_symlink() and entry.is_dir():
                    unusable[shown] = "a link to a folder; put the folder itself there"
                elif path.suffix.lower() not in suffixes:
                    queue += [path] if entry.is_dir() else []
                elif shown != name:
                    unusable[shown] = "its name is not UTF-8"
                elif re.search(r"(^|/)'[=+\-@\t\r]", name):
                    unusable[name] = "its name reads like a defused cell; rename it"
                elif entry.is_symlink() and not path.resolve().is_relative_to(home):
                    unusable[name] = "a link that leaves the folder; put the file itself there"
                elif not entry.is_file():
                    unusable[name] = "a folder" if entry.is_dir() else "not a regular file"
                else:
                    sizes[name] = entry.stat().st_size
            except OSError as error:  # a link in a circle, a file that went away
                unusable[shown] = str(error.strerror)
    return sizes, unusable


def numbered(folder: Path, names: set[str]) -> tuple[dict[str, int], set[str]]:
    """Pids of people's folders, and which names are no numbers: these follow after the largest."""
    named = {name for name in names if not re.fullmatch(r"\d{1,7}", name, re.ASCII)}
    pids = {name: int(name) for name in sorted(names - named)}
    count = Counter(pids.values())
    if same := [name for name in pids if count[pids[name]] > 1]:
        raise InputError(f"{folder}: folders {' and '.join(same)} are the same number; rename one")
    first = max(pids.values(), default=0) + 1
    return pids | {name: first + row for row, name in enumerate(sorted(named))}, named


def rows_of(path: Path, needed: list[str], notes: list[str]) -> tuple[list[str], list]:
    """Header and numbered rows of a CSV file, cells stripped of blanks; the header is row 1."""
    text, encoding = text_of(path)
    if encoding != "utf-8":
        notes.append(f"{path.name} is not UTF-8; read as {encoding}")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        problem = f"{error}; save it again as CSV with commas"
        raise InputError(f"{path} row {reader.line_num}: {problem}") from None
    for number, row in enumerate(rows, start=1):
        if any("\n" in cell for cell in row):  # it would swallow all rows up to the next quote
            raise InputError(f"{path} row {number}: a cell over several lines; close its quotes")
    rows = [[cell.strip() for cell in row] for row in rows]
    header = rows[0] if rows else []
    absent = [column for column in needed if column not in header]
    if absent:
        found = ", ".join(header)[:200] or "nothing"
        raise InputError(f"{path} row 1: columns {', '.join(absent)} are missing; it has {found}")
    if doubled := {column for column in header if column and header.count(column) > 1}:
        raise InputError(f"{path} row 1: column {doubled.pop()!r} stands twice; keep one")
    return header, [(number, row) for number, row in enumerate(rows[1:], start=2) if any(row)]


def text_of(path: Path) -> tuple[str, str]:
    """Text of a file and its encoding; UTF-8, UTF-16 or Windows-1252."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; it must be a readable file") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    else:
        encodings = ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        try:
            return content.decode(encoding), encoding.removesuffix("-sig")
        except UnicodeDecodeError:
            pass
    raise InputError(f"{path}: neither UTF-8 nor Windows-1252; save it as UTF-8")


def _traits(path: Path, notes: list[str]) -> dict[str, dict[str, str]]:
    """Traits by image, where the table is there; columns that HandInfo.csv has are left to it."""
    if not path.is_file():
        return {}
    header, rows = rows_of(path, ["imageName"], notes)
    own = [column for column in header if column not in {*COLUMNS, *NEEDED, *OPTIONAL, ""}]
    found = {}
    for number, cells in rows:
        row = dict(zip(header, cells, strict=False))
        name = row.get("imageName", "")
        stem = PurePosixPath(name).stem.casefold()
        if len(cells) != len(header) or stem in found:
            what = "stands twice" if stem in found else f"has {len(cells)} cells, not {len(header)}"
            raise InputError(f"{path} row {number}: {name!r} {what}; correct it")
        found[stem] = {column: row[column] for column in own}
    return found


def _check_name(name: str, where: str) -> None:
    """Only the plain name of a file in the folder: nothing that could lead out of it."""
    if not name:
        raise ValueError("imageName is empty")
    if re.search(r"[/\\:\x00-\x1f\x7f]", name) or name in (".", ".."):
        problem = f"imageName {name[:60]!r} is not the plain name of a file in Hands"
        raise InputError(f"{where}: {problem}; correct or remove the row")


def _check_new(stem: str, before: set[str]) -> None:
    if stem.casefold() in before:
        raise ValueError("another image has the same name but for its extension or case")
    before.add(stem.casefold())


def _pid(text: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII):
        raise ValueError(f"id {text[:40]!r} is no whole number")
    if int(text) > LARGEST:
        raise ValueError(f"id {text} is above {LARGEST}, where other aspects' people are counted")
    return int(text)


def _aspect(text: str) -> str:
    if text not in ASPECTS:
        raise ValueError(f"aspectOfHand {text[:40]!r} is none of {', '.join(ASPECTS)}")
    return ASPECTS[text]


def _integer(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"accessories {text[:40]!r} is no whole number")
    return int(text)


def _assert_count(where: Path, what: str, found: tuple, expected: tuple) -> None:
    if found != expected:
        raise InputError(
            f"{where}: {what}: found {found}, published {expected}; the table was changed: "
            "download it again"
        )
