"""Images with captions: a JSON of annotations, or train, val and test with a text beside each.

A flaw of one item sets that item aside with its reason and leaves the others alone; what concerns
the whole, a JSON that is none or no image to test on, stops.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from clipfh_lib.data.layouts import COLUMNS, Found, listing
from clipfh_lib.files import InputError
from clipfh_lib.schema import DataParams

PARTS = ("train", "val", "test")
ANNOTATIONS = "annotations.json"
BESIDE = (".txt", ".json")  # what may stand beside an image
LARGEST = 1_000_000  # bytes of a text beside an image
FIELDS = 50  # trait columns at the most, those that most items have
RESERVED = {*COLUMNS, "image_path", "id", "captions", "prompt", "test_aspect", "role", "trial",
            "gallery", "group"}  # fmt: skip


class Item(NamedTuple):
    """An image and what is said of it."""

    part: str
    number: int | None  # in its list of a JSON, from 1
    path: str
    image_id: str
    captions: list[str]
    category: str
    group: str  # the person, place or thing that it shows; empty where none is given
    traits: dict[str, str]

    @property
    def where(self) -> str:
        """What the reader of a reason finds it by."""
        return f"item {self.number} of splits.{self.part}" if self.number else self.path


# --- what is there --------------------------------------------------------------------------------


def needed(folder: Path, data: DataParams) -> list[str]:
    """What must lie in the folder."""
    if name := _annotations(folder, data):
        return [name]
    return ["test"] if any((folder / part).is_dir() for part in PARTS) else [ANNOTATIONS]


def tables(folder: Path, data: DataParams) -> list[str]:
    """Files whose content decides the images table, relative to the folder."""
    if name := _annotations(folder, data):
        return [name]
    there, _ = _in_parts(folder, data)
    return [name for name in there if _suffix(name) in BESIDE]


def _annotations(folder: Path, data: DataParams) -> str | None:
    """Name of the JSON of annotations; none where texts stand beside the images."""
    if data.annotations is None:
        return ANNOTATIONS if (folder / ANNOTATIONS).is_file() else None
    if not (folder / data.annotations).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"data.annotations {data.annotations!r} leaves {folder}; put it there")
    return data.annotations


def _in_parts(folder: Path, data: DataParams) -> tuple[dict[str, int], dict[str, str]]:
    """Sizes of images and texts in train, val and test, and what is not to be used."""
    both = [*data.extensions, *(suffix[1:] for suffix in BESIDE)]
    found = listing(folder, data.model_copy(update={"extensions": both}))
    return tuple(
        {n: each for n, each in part.items() if n.split("/")[0] in PARTS} for part in found
    )


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


# --- reading --------------------------------------------------------------------------------------


def read(folder: Path, data: DataParams) -> Found:
    """Read images and captions; pids count from 0 in the order of image_id.

    Items of one `group` show the same person, place or thing: they are one pid, whose name is the
    group. Every other item is a pid of its own. Of two items with one id or one image the first is
    kept: a train item before one of test. Of a group in several parts the items of test are kept,
    or, where none tests, those of train.

    Raises:
        InputError: the JSON of annotations cannot be read or has no `splits`, or no image of test
            is left; one line with the file, and where it can be said, line and column.
    """
    found, name = Found(), _annotations(folder, data)
    items = _annotated(folder, name, data, found) if name else _beside(folder, data, found)
    items = _apart(list(_once(items, found)), found)
    items = sorted(items, key=lambda item: item.image_id)
    parts = Counter(item.part for item in items)
    if items and not parts["test"]:
        where = f"{name}: splits.test" if name else "test/"
        first = [f"; first set aside: {path}: {reason}" for path, _, reason in found.aside[:1]]
        problem = f"no image of {where} is left, so that nothing is searched"
        raise InputError(f"{folder}: {problem}{''.join(first)}")
    traits = Counter(field for item in items for field in item.traits)
    kept = [field for field, _ in traits.most_common(FIELDS)]
    if len(traits) > FIELDS:
        found.notes.append(
            f"{len(traits)} other fields; taken are the {FIELDS} that most items have"
        )
    sorts = any(item.category for item in items)
    grouped, pids = any(item.group for item in items), {}
    for item in items:
        pid = pids.setdefault((item.group, "" if item.group else item.image_id), len(pids))
        image = {"image_id": item.image_id, "path": item.path, "pid": pid, "aspect": "all"}
        image |= {"pid_name": item.group} if grouped else {}
        image |= {"caption": item.captions[0], "partition": item.part}
        image |= {"category": item.category} if sorts else {}
        found.images.append(image | {field: item.traits.get(field, "") for field in kept})
    said = [(item.image_id, caption) for item in items for caption in item.captions]
    found.captions = pd.DataFrame(said, columns=["image_id", "caption"], dtype="str")
    counts = ", ".join(f"{parts[part]} of {part}" for part in PARTS)
    found.notes.append(f"{len(said)} captions of {len(items)} images: {counts}")
    if grouped:
        lone = sum(not item.group for item in items)
        found.notes.append(f"{len(pids) - lone} groups; {lone} images are in none")
    return found


def _once(items: Iterator[Item], found: Found) -> Iterator[Item]:
    """The items whose id and image no earlier one has."""
    ids, images = {}, {}
    for item in items:
        if first := images.get(item.path):
            how = "give an image its captions as a list"
            if first.part != item.part:
                how = f"kept there, or {first.part} and {item.part} would share an image"
            reason = f"its image is that of {first.where}; {how}"
        elif first := ids.get(item.image_id):
            reason = f"its id {item.image_id[:60]!r} is that of {first.where}; give it another"
        else:
            ids[item.image_id] = images[item.path] = item
            yield item
            continue
        found.aside.append((item.path, item.number, reason))


def _apart(items: list[Item], found: Found) -> list[Item]:
    """The items whose group stands in no part that goes before theirs: test, then train."""
    first: dict[str, Item] = {}
    for item in sorted(items, key=lambda item: ("test", "train", "val").index(item.part)):
        first.setdefault(item.group, item)
    kept = []
    for item in items:
        other = first[item.group]
        if not item.group or item.part == other.part:
            kept.append(item)
            continue
        reason = (
            f"{item.part}: its group {item.group[:60]!r} is that of {other.where} too, and a group "
            f"in {item.part} and {other.part} is a leak; give it to one part"
        )
        found.aside.append((item.path, item.number, reason))
    return kept


def _annotated(folder: Path, name: str, data: DataParams, found: Found) -> Iterator[Item]:
    """Items of a JSON of annotations: splits.train, val and test are lists of them."""
    try:
        content = _parsed((folder / name).read_bytes())
    except OSError as error:
        raise InputError(f"{folder / name}: {error.strerror}; it must be a file") from None
    except ValueError as error:
        raise InputError(f"{folder / name}: {error}") from None
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, dict) or not set(PARTS) & set(splits):
        form = '{"splits": {"train": [...], "val": [...], "test": [...]}}'
        raise InputError(f"{folder / name}: it has no splits of that name; it must be {form}")
    if other := sorted(set(splits) - set(PARTS)):
        found.notes.append(f"splits.{', '.join(other)} not read; {', '.join(PARTS)} are"[:200])
    there, unusable = listing(folder, data)
    composed = {unicodedata.normalize("NFC", path): path for path in there}  # as macOS does not
    named = set()
    for part in PARTS:
        rows = splits.get(part, [])
        if not isinstance(rows, list):
            found.aside.append((f"{name}: splits.{part}", None, "it is no list of items"))
            continue
        for number, row in enumerate(rows, start=1):
            shown = f"{name}: splits.{part}"
            try:
                path = _inside(row)
                shown = path
                path = path if path in there else composed.get(unicodedata.normalize("NFC", path))
                _check_there(shown, path, unusable, data)
                named.add(path)
                yield _item(part, number, path, row, [])
            except ValueError as error:
                found.aside.append((shown[:200], number, f"{part}: {error}"))
    if spare := len(there.keys() - named):
        found.notes.append(f"{spare} image files have no item in {name}")


def _beside(folder: Path, data: DataParams, found: Found) -> Iterator[Item]:
    """Images of train, val and test, each with the text or JSON of its name."""
    there, unusable = _in_parts(folder, data)
    found.aside += [(name, None, why) for name, why in sorted(unusable.items())]
    said = {stem: {} for stem in map(_stem, there)}
    for name in sorted(there):
        if _suffix(name) in BESIDE:
            said[_stem(name)][_suffix(name)] = name
    lost = {_stem(name): _suffix(name) in BESIDE for name in unusable}  # text, or image
    for name in sorted(there, key=lambda name: (PARTS.index(name.split("/")[0]), name)):
        if _suffix(name) in BESIDE:
            continue
        texts = said.pop(_stem(name), None)
        try:
            if texts is None:
                raise ValueError("another image has the same name but for its extension")
            if not texts and lost.get(_stem(name)):
                continue  # its text is set aside already
            if not texts:
                raise ValueError("no text beside it: a .txt or .json of its name")
            lines, row = _said(folder, texts, there)
            yield _item(name.split("/")[0], None, name, row, lines)
        except ValueError as error:
            found.aside.append((name, None, str(error)))
    said = {stem: texts for stem, texts in said.items() if lost.get(stem, True)}
    alone = sorted(name for texts in said.values() for name in texts.values())
    found.aside += [(name, None, "a text without an image of its name") for name in alone]


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _said(folder: Path, texts: dict[str, str], sizes: dict[str, int]) -> tuple[list[str], dict]:
    """Lines of the .txt and fields of the .json beside an image."""
    lines, row = [], {}
    for suffix, name in texts.items():
        try:
            if sizes[name] > LARGEST:
                raise ValueError("it is larger than 1 MB")
            content = (folder / name).read_bytes()
            if suffix == ".txt":
                lines = _text(content).splitlines() or [""]
            elif not isinstance(row := _parsed(content), dict):
                raise ValueError("it holds no object with caption or captions")
        except OSError as error:
            raise ValueError(f"its {suffix}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"its {suffix}: {error}") from None
    return lines, row


# --- parts of an item -----------------------------------------------------------------------------


def _item(part: str, number: int | None, path: str, row: dict, lines: list[str]) -> Item:
    """An item of its fields, and lines of text beside it; a ValueError says what is wrong."""
    texts = list(lines)
    for field in ("caption", "captions"):
        value = row.get(field)
        each = (value or [""]) if isinstance(value, list) else [value] * (value is not None)
        if not all(isinstance(text, str) for text in each):
            raise ValueError(f"{field} is neither a text nor a list of texts")
        texts += each
    captions = [line for line in dict.fromkeys(map(_line, texts)) if _says(line)]
    if not captions:
        raise ValueError("caption is empty" if texts else "caption is missing")
    own, group = _name(row, "id"), _name(row, "group")
    image_id = _stem(path) if own is None else own
    if not image_id:
        raise ValueError("id is empty")
    category = row.get("category")
    if not isinstance(category, str | None):
        raise ValueError("category is no text")
    traits = {
        field: _line(value)
        for field, value in row.items()
        if isinstance(value, str) and field.isidentifier() and field.casefold() not in RESERVED
    }
    return Item(part, number, path, image_id, captions, _line(category or ""), group or "", traits)


def _name(row: dict, field: str) -> str | None:
    """A text or whole number that calls something, as text."""
    given = row.get(field)
    if isinstance(given, bool) or not isinstance(given, str | int | None):
        raise ValueError(f"{field} is neither a text nor a whole number")
    return None if given is None else _line(str(given))


def _line(text: str) -> str:
    """The text in one line: white space and control characters become a blank."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("half a character of Unicode (a lone surrogate) in its text")
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()


def _says(line: str) -> bool:
    """Whether there is anything but blanks and invisible characters."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in line)


def _inside(row: object) -> str:
    """The image's path in the folder, with / and without detours."""
    if not isinstance(row, dict):
        raise ValueError("it is no object with image_path and caption")
    path = row.get("image_path")
    if not isinstance(path, str) or not path.strip():
        raise ValueError("image_path is missing or no text")
    name = path.replace("\\", "/")
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        raise ValueError(f"image_path {path[:60]!r} leaves the folder")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _check_there(shown: str, path: str | None, unusable: dict[str, str], data: DataParams) -> None:
    """Say why the image is not to be used, if so."""
    if path is not None:
        return
    for name in [shown, *map(str, PurePosixPath(shown).parents)]:
        if name in unusable:
            raise ValueError(unusable[name])
    if _suffix(shown) not in {"." + extension.lower().lstrip(".") for extension in data.extensions}:
        raise ValueError("its extension is not in data.extensions")
    raise ValueError("no such image file")


def _text(content: bytes) -> str:
    """UTF-8, with or without a mark at its beginning."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = error.start - before.rfind(b"\n")
        place = f"line {before.count(10) + 1}, byte {column}"
        raise ValueError(f"not UTF-8 ({place}); save it as UTF-8") from None


def _parsed(content: bytes) -> object:
    """What a JSON holds."""
    text = _text(content)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"no JSON ({place}: {error.msg}); correct it there") from None
    except (RecursionError, ValueError) as error:  # nested too deep, a number too long
        raise ValueError(f"no JSON that can be read ({error})") from None
