"""From the images table to one checked prompt an image: generate, compare, filter, clean.

A prompt is made of the columns of the images table and of the captions that a data set brings.
Columns that hold 0 or 1 are said as "with" and "without"; an empty value and `none` say nothing.
"""

import html
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from clipfh_lib import files
from clipfh_lib.data import captions as sentences
from clipfh_lib.data import layouts
from clipfh_lib.files import InputError
from clipfh_lib.params import nearest
from clipfh_lib.words import NAMES, PromptParams, fields

COLUMNS = ["image_id", "pid", "prompt"]
REPORT = ["what", "count", "example"]
SILENT = ("image_id", "path", "file_number", "distractor", "partition", "width", "height")
FLAGS = ("accessories", "nail_polish", "irregularities")  # 0 or 1
FIRST = {True: ["aspect", "side", "accessories"], False: ["category", "color"]}  # v4; of hands?
LABELS = {"skin_color": "skin"}  # v4: what a column is called; others by their own words
YES, NO = ("yes", "true"), ("no", "false")
LETTERS = 32  # of a token of CLIP's own vocabulary: none has more
# Quotes of all kinds as plain ones; what CLIP's tokeniser takes for its own marks loses its form
PLAIN = str.maketrans("“”„‟«»″＂‘’‚‛`´′＇", "\"\"\"\"\"\"\"\"''''''''")
SPECIAL = re.compile(r"[&<`]")  # what is not plain in plain ASCII
MARKS = re.compile(r"<(?=(start|end)_of_text>)", re.IGNORECASE)
log = logging.getLogger(__name__)


# --- from a table to prompts ---------------------------------------------------------------------


def generate(table: pd.DataFrame, captions: pd.DataFrame, how: PromptParams) -> pd.DataFrame:
    """Prompts of all images; several of an image by v3, and where it has several captions.

    v1 fills one fixed template; v2 adds the columns of `how.traits`; v3 does so with every
    template; v4 says the same as "aspect: dorsal; side: right; ...". Where the aspect is known the
    templates are `how.hands`, else `how.described`. A template with a field that a row lacks is
    passed over for that row. `how.written` goes before, `how.file` replaces all.

    Args:
        table: images table.
        captions: `image_id, caption`; where an image has none here, its column `caption` is taken.

    Returns:
        `image_id, pid, prompt`, in the order of the table; an image that nothing can be said of
        has one row with an empty prompt, for `clean` to count.

    Raises:
        InputError: a field that no image has; an unknown column in `how.written`; a file that
            cannot be used.
    """
    if how.file is not None:
        return _of_file(table, files.resolve(how.file), how.file)
    rows = [_fields(row, how.name_people) for row in table.to_dict("records")]
    captions = captions[captions["caption"].astype(str).str.strip() != ""]
    said = captions.groupby("image_id")["caption"].agg(list).to_dict()
    known = {name for row in rows for name in row} | ({"caption"} if said else set())
    written = _written(table, how, known)
    for column in how.traits:
        if column not in known:
            near = nearest(column, sorted(known))
            log.warning("prompts.traits: no image has %s; the nearest that is: %s", column, near)
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
        text = _text(value)
        if text in ("", "none") or column in SILENT or (column in NAMES and not with_name):
            continue
        found[column] = _worn(column, text)
    aspect = found.pop("aspect", "")
    if aspect in layouts.ASPECTS.values():
        kind = sentences.words(aspect, 0)
        found |= {"aspect": kind["aspect"], "side": kind["side"]}
    return found


def _text(value: object) -> str:
    """A cell as text: 43.0 is "43", and what is missing is empty."""
    if pd.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split())


def _worn(column: str, text: str) -> str:
    """0 and 1 of the columns that hold them as "without" and "with"; others as they are."""
    if column not in FLAGS or not text:
        return text
    return sentences.WORN[int(text.casefold() not in ("0", *NO))]


def _written(table: pd.DataFrame, how: PromptParams, known: set[str]) -> list[list[str]]:
    """Prompts written by hand that fit each image, the first that fits first."""
    found: list[list[str]] = [[] for _ in range(len(table))]
    for entry in how.written:
        fits = pd.Series(True, table.index)
        for column, value in entry.where.items():
            if column not in table:
                near = nearest(column, list(table))
                raise InputError(f"prompts.written: no column {column!r}; nearest: {near}")
            fits &= table[column].map(_text) == value.strip()
        _check_fields([entry.prompt], "written", known)
        if not fits.any():
            log.warning("prompts.written: no image has %s", entry.where)
        for place in fits.to_numpy().nonzero()[0]:
            found[place].append(entry.prompt)
    return found


def _check_templates(
    rows: list[dict], written: list[list[str]], how: PromptParams, known: set[str]
) -> None:
    """Refuse templates with a field that none of the images has that they are meant for."""
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
            _check_fields(_templates(how, name == "hands"), name, has)


def _check_fields(templates: Sequence[str], name: str, known: set[str]) -> None:
    for template in templates:
        for field in fields(template, f"prompts.{name}"):
            if field not in known:
                raise InputError(
                    f"prompts.{name}: no image has {{{field}}} of {template!r}; "
                    f"known: {', '.join(sorted(known)) or 'nothing'}"
                )


def _templates(how: PromptParams, of_hands: bool) -> list[str]:
    templates = how.hands if of_hands else how.described
    return templates if how.strategy == "v3" else templates[:1]


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
    for template in _templates(how, "aspect" in row):
        named = set(fields(template, ""))
        if row.keys() >= named:
            columns = [] if how.strategy == "v1" else [c for c in how.traits if c not in named]
            more = _phrases(row, columns)
            text = template.format_map(row)
            yield ", ".join([text.rstrip(" .,;") if more else text, *more])


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
    words = _spoken(column)
    if column in FLAGS:
        return f"{value} {words}"
    if column == "age":
        return f"{value} years old"
    if known := sentences.phrases({column: value}):
        return known[0]
    if value.casefold() in YES:
        return words
    return f"without {words}" if value.casefold() in NO else f"{words} {value}"


def _spoken(column: str) -> str:
    """A column's name as words."""
    return " ".join(re.sub(r"[_\W]+", " ", column).split())


def _structured(row: dict[str, str], how: PromptParams) -> str:
    """v4: "aspect: dorsal; side: right; skin: dark", the description last."""
    columns = [*FIRST["aspect" in row], *how.traits, "caption"]
    found = []
    for column in dict.fromkeys(columns):
        value = tidy(row.get(column, "")).replace(";", ",").strip(" ,.:")
        if value:
            label = "description" if column == "caption" else _spoken(LABELS.get(column, column))
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


# --- what prompts give away ----------------------------------------------------------------------


def leaks(prompts: pd.DataFrame, table: pd.DataFrame, how: PromptParams) -> pd.DataFrame:
    """How many prompts name the person they are of, by `pid` or `pid_name`: `what, count, example`.

    Wherever the text comes from; a warning where `how.name_people` does not allow it. A number that
    is said of the person anyway, such as an age, is no name.
    """
    told = named(prompts, table)
    what = "prompts that name their person (leaks identity)"
    if told.any() and not how.name_people:
        what = f"warning: {what}, though prompts.name_people is false"
        log.warning("%d of %d prompts name their person", told.sum(), len(prompts))
    example = prompts.loc[told, "prompt"].iloc[0] if told.any() else ""
    return pd.DataFrame([(what, int(told.sum()), example)], columns=REPORT)


def named(prompts: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Whether each prompt holds its person's `pid` or `pid_name`, as a word of its own.

    A pid is not looked for where every image has one of its own: then it counts images.
    """
    rows = {row["image_id"]: row for row in table.to_dict("records")}
    counted = bool(table["pid"].is_unique)
    return pd.Series(
        [
            _names(prompt, rows[image], counted) if image in rows else False
            for image, prompt in zip(prompts["image_id"], prompts["prompt"], strict=True)
        ],
        prompts.index,
        dtype=bool,
    )


def _names(prompt: str, row: dict[str, object], counted: bool) -> bool:
    pid, text = _text(row["pid"]), _plain(prompt)
    for column, value in row.items():
        if column not in (*SILENT, *NAMES) and _text(value) == pid:
            for said in (phrase(column, pid), f"{_label(column)} {pid}"):
                text = text.replace(_plain(said), " ")
    name = _plain(_text(row.get("pid_name", "")))
    numbers = {number.lstrip("0") for number in re.findall(r"\d+", text)}
    numbered = not counted and pid.lstrip("0") in numbers
    return numbered or (bool(name.strip()) and name in text)


def _label(column: str) -> str:
    return _spoken(LABELS.get(column, column))


def _plain(text: str) -> str:
    """Words in small letters, a blank before and after each, to look for words in."""
    return " " + " ".join(re.findall(r"[^\W_]+", tidy(text).casefold())) + " "


# --- consistency ---------------------------------------------------------------------------------


class Consistency(NamedTuple):
    """How much the prompts of a person agree.

    Attributes:
        people: for each person, and aspect where there are several, `images`, `prompts` (distinct),
            `stable` (the same of every image) and `conflicts`, the attributes that differ.
        attributes: for each attribute that the prompts say, `people` who have it in at least two
            images, `conflicts` (people in whom it differs, in whatever aspect) and an `example`.
    """

    people: pd.DataFrame
    attributes: pd.DataFrame


def consistency(prompts: pd.DataFrame, table: pd.DataFrame) -> Consistency:
    """Compare the prompts of each person's images, and the attributes that they say.

    An attribute is a column of the table. It counts as said if prompts hold its value, on average
    over its values in at least half of the images that have it. An empty cell is not a value: what
    cannot be seen conflicts with nothing.
    """
    prompts = prompts[prompts["prompt"] != ""]
    texts = prompts.groupby("image_id")["prompt"].agg(frozenset)
    table = table[table["image_id"].isin(texts.index)].reset_index(drop=True)
    texts = table["image_id"].map(texts)
    plain = {own: "".join(sorted(map(_plain, own))) for own in set(texts)}
    plain = texts.map(plain)
    cells = {
        column: table[column].map(_text).map(lambda text, c=column: _worn(c, text))
        for column in table
        if column not in (*SILENT, *NAMES, "aspect", "caption")
    }
    cells = {column: values for column, values in cells.items() if _is_said(column, values, plain)}
    differs = {column: _differing(values, table["pid"]) for column, values in cells.items()}
    attributes = [
        (column, len(many), int((many > 1).sum()), _example(cells[column], table["pid"], many))
        for column, many in differs.items()
    ]
    several = "aspect" in table and table["aspect"].nunique() > 1
    keys = [table[column] for column in ("pid", *(["aspect"] if several else []))]
    by = texts.groupby(keys)
    people = pd.DataFrame(
        {
            "images": by.size(),
            "prompts": by.agg(lambda own: len(frozenset().union(*own))),
            "stable": by.nunique() == 1,
            "conflicts": "",
        }
    )
    for column, values in cells.items():
        many = values.where(values != "").groupby(keys).nunique() > 1
        people.loc[many, "conflicts"] += column + ", "
    people["conflicts"] = people["conflicts"].str.removesuffix(", ")
    columns = ["attribute", "people", "conflicts", "example"]
    return Consistency(people.reset_index(), pd.DataFrame(attributes, columns=columns))


def _is_said(column: str, values: pd.Series, plain: pd.Series) -> bool:
    """Whether the prompts hold a column's values, one value counting as much as another."""
    here = ~values.isin(["", "none"])
    found = [
        any(form in text for form in _forms(column, value))
        for value, text in zip(values[here], plain[here], strict=True)
    ]
    shares = pd.Series(found, values[here].index, dtype=float).groupby(values[here]).mean()
    return len(shares) > 0 and shares.mean() >= 0.5


def _forms(column: str, value: str) -> list[str]:
    """The ways in which a prompt may say a value, as `_plain` writes them."""
    forms = [phrase(column, value), f"{_label(column)} {value}"]
    return [_plain(form) for form in [*forms, *([] if column in FLAGS else [value])]]


def _differing(values: pd.Series, pids: pd.Series) -> pd.Series:
    """Distinct values of each person who has the attribute in at least two images."""
    values = values[values != ""]
    groups = values.groupby(pids[values.index])
    return groups.nunique()[groups.size() > 1]


def _example(values: pd.Series, pids: pd.Series, many: pd.Series) -> str:
    if not (many > 1).any():
        return ""
    pid = many.index[many > 1][0]
    own = values[(pids == pid) & (values != "")]
    return f"{pid}: {', '.join(own.unique())}"


# --- people with few images ----------------------------------------------------------------------


def lone(table: pd.DataFrame, least: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images of people who have at least so many, and the others by `pid` and `images`."""
    count = table.groupby("pid")["image_id"].transform("size")
    dropped = table[count < least].groupby("pid").size().rename("images").reset_index()
    return table[count >= least].reset_index(drop=True), dropped


# --- cleaning ------------------------------------------------------------------------------------


def tidy(text: str) -> str:
    """White space, quotes and compatible characters as plain ones; what has no shape is left out.

    Unicode's NFKC; control characters are blanks, zero-width and private ones vanish, HTML's names
    of characters are those characters. Tidied once more a text stays as it is.
    """
    if text.isascii() and text.isprintable() and not SPECIAL.search(text):
        return " ".join(text.split())  # as nearly all are
    kinds = ((unicodedata.category(letter), letter) for letter in html.unescape(text))
    shaped = "".join(
        " " if kind in ("Cc", "Zs", "Zl", "Zp") else "" if kind[0] == "C" else letter
        for kind, letter in kinds
    )
    plain = unicodedata.normalize("NFKC", shaped.translate(PLAIN)).translate(PLAIN)
    found = " ".join(MARKS.sub("< ", plain).split())
    return found if found == text else tidy(found)


def clean(
    prompts: pd.DataFrame, lengths: Callable[[Sequence[str]], Sequence[int]], limit: int = 77
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Normalise prompts, shorten those that are too long, drop the empty and the repeated ones.

    Args:
        prompts: `image_id, pid, prompt`, as `generate` gives them.
        lengths: tokens of each text, start and end counted; `models.prompts.lengths`.
        limit: tokens that the text encoder reads.

    Returns:
        The prompts that are left, and a report `what, count, example`.
    """
    given = list(dict.fromkeys(prompts["prompt"]))
    neat = {text: tidy(text) for text in given}
    neat = {text: new if any(map(str.isalnum, new)) else "" for text, new in neat.items()}
    short = _shortened(sorted({text for text in neat.values() if text}), lengths, limit)
    found = prompts.assign(
        prompt=[short.get(neat[text], "") for text in prompts["prompt"]],
        given=prompts["prompt"],
        neat=prompts["prompt"].map(neat),
    )
    empty = found["prompt"] == ""
    left = found[~empty & ~found.duplicated(["image_id", "prompt"])]
    silent = sorted(set(found["image_id"]) - set(left["image_id"]))
    people = left.groupby("prompt")["pid"].nunique()
    shared = left[left["prompt"].map(people) > 1]
    often = shared["prompt"].value_counts()
    most = often.index[0] if len(often) else ""
    said = f"{most!r}: {often[most]} images, {people[most]} people" if most else ""
    report = [
        ("prompts", len(prompts), ""),
        ("characters or white space normalised", *_of(found, found["given"] != found["neat"])),
        (f"shortened to {limit} tokens", *_of(found, ~empty & (found["prompt"] != found["neat"]))),
        ("empty, dropped", int(empty.sum()), found.loc[empty, "image_id"].astype(str).min()),
        ("images without a prompt", len(silent), silent[0] if silent else ""),
        ("repeated of one image, dropped", *_of(found, ~empty & ~found.index.isin(left.index))),
        ("images whose text is said of several people too", len(shared), said),
        ("prompts left", len(left), ""),
        ("distinct among them", left["prompt"].nunique(), ""),
    ]
    left = left.drop(columns=["given", "neat"]).reset_index(drop=True)
    return left, pd.DataFrame(report, columns=REPORT).fillna({"example": ""})


def _of(found: pd.DataFrame, rows: pd.Series) -> tuple[int, str]:
    """How many rows, and the first of them as an example: the whole text as it is now."""
    first = found.loc[rows].head(1)
    return int(rows.sum()), "" if first.empty else f"{first['image_id'].iloc[0]}: " + repr(
        first["prompt"].iloc[0]
    )


def _shortened(
    texts: list[str], lengths: Callable[[Sequence[str]], Sequence[int]], limit: int
) -> dict[str, str]:
    """Each text, cut behind the last word that fits; within a word if it is the first.

    Words are counted by bisection, all texts at once, so a text is measured about log2(words)
    times. A tokeniser takes very long for very long words, so what cannot fit is cut off before.
    """
    pieces = {text: text[: limit * LETTERS].split(" ") for text in texts}
    known = dict(zip(texts, lengths([" ".join(pieces[text]) for text in texts]), strict=True))
    long = [text for text in texts if known[text] > limit or len(text) > limit * LETTERS]
    best = _longest({text: pieces[text] for text in long}, " ", lengths, limit)
    stuck = {text: list(pieces[text][0]) for text in long if not best[text]}
    return {text: text for text in texts} | best | _longest(stuck, "", lengths, limit)


def _longest(
    pieces: dict[str, list[str]],
    glue: str,
    lengths: Callable[[Sequence[str]], Sequence[int]],
    limit: int,
) -> dict[str, str]:
    """The longest beginning of each list of pieces that fits, put together."""
    fits = dict.fromkeys(pieces, "")
    low, high = dict.fromkeys(pieces, 1), {text: len(parts) for text, parts in pieces.items()}
    while going := [text for text in pieces if low[text] <= high[text]]:
        middle = {text: (low[text] + high[text]) // 2 for text in going}
        tried = [glue.join(pieces[text][: middle[text]]).rstrip(" ,;:-–—(") for text in going]
        for text, begun, length in zip(going, tried, lengths(tried), strict=True):
            if length <= limit:
                fits[text], low[text] = begun, middle[text] + 1
            else:
                high[text] = middle[text] - 1
    return fits
