"""From the images table to the prompts of each image: templates, metadata, captions, or a file.

A prompt is made of the columns of the images table and of the captions that a data set brings.
Columns that hold 0 or 1 are said as "with" and "without"; an empty value and `none` say nothing.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from clipfh_lib import files
from clipfh_lib.data import captions as sentences
from clipfh_lib.data import layouts, tidying
from clipfh_lib.files import InputError
from clipfh_lib.params import nearest
from clipfh_lib.words import NAMES, PromptParams, fields

COLUMNS = ["image_id", "pid", "prompt"]
SILENT = ("image_id", "path", "file_number", "distractor", "partition", "width", "height")
FLAGS = ("accessories", "nail_polish", "irregularities")  # 0 or 1
FIRST = {True: ["aspect", "side", "accessories"], False: ["category", "color"]}  # v4; of hands?
LABELS = {"skin_color": "skin"}  # v4: what a column is called; others by their own words
YES, NO = ("yes", "true"), ("no", "false")
log = logging.getLogger(__name__)


# --- from a table to prompts ---------------------------------------------------------------------


def generate(table: pd.DataFrame, captions: pd.DataFrame, how: PromptParams) -> pd.DataFrame:
    """Prompts of all images; several of an image by v3, and where it has several captions.

    v1 fills the first template whose fields the row has; v2 adds the columns of `how.traits`; v3
    does so with every such template; v4 says the same as "aspect: dorsal; side: right; ...". Where
    the aspect is known the templates are `how.hands`, else `how.described`. `how.written` goes
    before, `how.file` replaces all.

    Args:
        table: images table.
        captions: `image_id, caption`; where an image has none here, its column `caption` is taken.

    Returns:
        `image_id, pid, prompt`, in the order of the table; an image that nothing can be said of
        has one row with an empty prompt, for `clean` to count.

    Raises:
        InputError: a field that no image has (v1 and v2: and no other template can be used); an
            unknown column in `how.written`; a file that cannot be used.
    """
    if how.file is not None:
        return _of_file(table, files.resolve(how.file), how.file)
    rows = [_fields(row, how.name_people) for row in table.to_dict("records")]
    captions = captions[captions["caption"].astype(str).str.strip() != ""]
    said = captions.groupby("image_id")["caption"].agg(list).to_dict()
    known = {name for row in rows for name in row} | ({"caption"} if said else set())
    written = _written(table, how, known)
    if lacking := [column for column in dict.fromkeys(how.traits) if column not in known]:
        told = [f"{column} (nearest: {nearest(column, sorted(known))})" for column in lacking]
        log.warning("prompts.traits: no image has %s", ", ".join(told))
    _check_templates(rows, written, how, known)
    found = []
    for image, pid, row, own in zip(table["image_id"], table["pid"], rows, written, strict=True):
        texts = said.get(image) or [row.get("caption", "")]
        prompts = dict.fromkeys(
            prompt for text in texts for prompt in _prompts(row | {"caption": text}, own, how)
        )
        found += [(image, pid, prompt) for prompt in prompts or [""]]
    return pd.DataFrame(found, columns=COLUMNS)


def _fields(row: dict[str, object], with_name: bool) -> dict[str, str]:
    """What fills the braces of a template: columns that say something, and the `side` of a hand.

    An image that is of no known hand side has no `aspect`.
    """
    found = {}
    for column, value in row.items():
        text = text_of(value)
        if text in ("", "none") or column in SILENT or (column in NAMES and not with_name):
            continue
        found[column] = worn(column, text)
    aspect = found.pop("aspect", "")
    if aspect in layouts.ASPECTS.values():
        kind = sentences.words(aspect, 0)
        found |= {"aspect": kind["aspect"], "side": kind["side"]}
    return found


def text_of(value: object) -> str:
    """A cell as text: 43.0 is "43", and what is missing is empty."""
    if pd.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split())


def worn(column: str, text: str) -> str:
    """0 and 1 of the columns that hold them as "without" and "with"; others as they are."""
    if column not in FLAGS or not text:
        return text
    return sentences.WORN[int(text.casefold() not in ("0", *NO))]


def _written(table: pd.DataFrame, how: PromptParams, known: set[str]) -> list[list[str]]:
    """Prompts written by hand that fit each image, the first that fits first.

    One whose template has a field that the image lacks is passed over for the next.
    """
    found: list[list[str]] = [[] for _ in range(len(table))]
    for entry in how.written:
        fits = pd.Series(True, table.index)
        for column, value in entry.where.items():
            if column not in table:
                near = nearest(column, list(table))
                raise InputError(f"prompts.written: no column {column!r}; nearest: {near}")
            fits &= table[column].map(text_of) == value.strip()
        _check_fields([entry.prompt], "written", known)
        if not fits.any():
            log.warning("prompts.written: no image has %s", entry.where)
        for place in fits.to_numpy().nonzero()[0]:
            found[place].append(entry.prompt)
    return found


def _check_templates(
    rows: list[dict], written: list[list[str]], how: PromptParams, known: set[str]
) -> None:
    """Refuse templates with a field that none of the images has that they are meant for.

    Of v1 and v2, which take the first that can be filled, only if none can.
    """
    if how.strategy == "v4":
        return
    for name in ("hands", "described"):
        mine = [
            row
            for row, own in zip(rows, written, strict=True)
            if not own and ("aspect" in row) == (name == "hands")
        ]
        if mine:
            has = {field for row in mine for field in row} | ({"caption"} & known)
            templates = getattr(how, name)
            usable = any(has.issuperset(fields(template, "")) for template in templates)
            if how.strategy == "v3" or not usable:
                _check_fields(templates, name, has)


def _check_fields(templates: Sequence[str], name: str, known: set[str]) -> None:
    for template in templates:
        for field in fields(template, f"prompts.{name}"):
            if field not in known:
                raise InputError(
                    f"prompts.{name}: no image has {{{field}}} of {template!r}; "
                    f"known: {', '.join(sorted(known)) or 'nothing'}"
                )


def _prompts(row: dict[str, str], own: list[str], how: PromptParams) -> Iterator[str]:
    """All that is said of one image with one of its captions."""
    row = {name: value for name, value in row.items() if value}
    for template in own:
        if row.keys() >= set(fields(template, "")):
            yield template.format_map(row)
            return
    if how.strategy == "v4":
        if text := _structured(row, how):
            yield text
        return
    for template in how.hands if "aspect" in row else how.described:
        named = set(fields(template, ""))
        if row.keys() >= named:
            columns = [] if how.strategy == "v1" else [c for c in how.traits if c not in named]
            more = _phrases(row, columns)
            text = template.format_map(row)
            yield ", ".join([text.rstrip(" .,;") if more else text, *more])
            if how.strategy != "v3":
                return


def _phrases(row: dict[str, str], columns: Sequence[str]) -> list[str]:
    """A phrase for each of the columns that the row has; coloured nail polish is said once."""
    coloured = "polish" in row and "polish" in columns
    return [
        phrase(column, row[column])
        for column in dict.fromkeys(columns)
        if column in row and not (coloured and column == "nail_polish")
    ]


def phrase(column: str, value: str) -> str:
    """How a column is said in a sentence: "dark skin", "with nail polish", "43 years old"."""
    words = spoken(column)
    if column in FLAGS:
        return f"{value} {words}"
    if column == "age":
        return f"{value} years old"
    if known := sentences.phrases({column: value}):
        return known[0]
    if value.casefold() in YES:
        return words
    return f"without {words}" if value.casefold() in NO else f"{words} {value}"


def spoken(column: str) -> str:
    """A column's name as words."""
    return " ".join(re.sub(r"[_\W]+", " ", column).split())


def _structured(row: dict[str, str], how: PromptParams) -> str:
    """v4: "aspect: dorsal; side: right; skin: dark", the description last."""
    columns = [*FIRST["aspect" in row], *how.traits, "caption"]
    found = []
    for column in dict.fromkeys(columns):
        value = tidying.tidy(row.get(column, "")).replace(";", ",").strip(" ,.:")
        if value:
            label = "description" if column == "caption" else spoken(LABELS.get(column, column))
            found.append(f"{label}: {value}")
    return "; ".join(found)


# --- prompts from a file -------------------------------------------------------------------------


def read(path: str | Path) -> pd.DataFrame:
    """Prompts as they stand in a file: `image_id, prompt`.

    Args:
        path: `prompts.csv` of a run or one's own, or the folder it stands in.

    Raises:
        InputError: no such file; columns that are missing; cells too many, as when a prompt with
            commas has no quotes; no row.
    """
    path = Path(path) / "prompts.csv" if Path(path).is_dir() else Path(path)
    header, rows = layouts.rows_of(path, ["image_id", "prompt"], [])
    for number, cells in rows:
        if len(cells) != len(header):
            problem = f"{len(cells)} cells under {len(header)} columns"
            raise InputError(f"{path} row {number}: {problem}; put quotes around each prompt")
    if not rows:
        raise InputError(f"{path}: no prompt below the header; write one a row")
    table = pd.DataFrame([cells for _, cells in rows], columns=header)[["image_id", "prompt"]]
    return table.replace(f"^'(?={files.FORMULA})", "", regex=True)


def _of_file(table: pd.DataFrame, path: Path, name: str) -> pd.DataFrame:
    """Prompts of a file for the images of the table, in its order."""
    given = read(path).drop_duplicates()
    strange = ~given["image_id"].isin(table["image_id"])
    if strange.all():
        raise InputError(
            f"prompts.file {name}: none of its {given['image_id'].nunique()} image ids is in the "
            f"data set, the first is {given['image_id'].iloc[0]!r}; take the file of this data set"
        )
    if strange.any():
        text = "prompts.file %s: %d rows are of images that the data set does not have, such as %r"
        log.warning(text, name, strange.sum(), given.loc[strange, "image_id"].iloc[0])
    found = table[["image_id", "pid"]].merge(given, on="image_id", how="left")
    return found.fillna({"prompt": ""})[COLUMNS]
