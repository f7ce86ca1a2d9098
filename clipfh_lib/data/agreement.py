"""What prompts give away of their person, and whether those of one person agree."""

import logging
import re
from typing import NamedTuple

import pandas as pd

from clipfh_lib.data import tidying, wording
from clipfh_lib.words import NAMES, PromptParams

log = logging.getLogger(__name__)


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
    return pd.DataFrame([(what, int(told.sum()), example)], columns=tidying.REPORT)


def named(prompts: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Whether each prompt holds its person's `pid` or `pid_name`, as a word of its own.

    A pid is not looked for where it counts images or groups: where every image has one of its own,
    or where most images have captions and a name of their person that does not hold it.
    """
    rows = {row["image_id"]: row for row in table.to_dict("records")}
    counted = bool(table["pid"].is_unique) or _counts_groups(table)
    return pd.Series(
        [
            _names(prompt, rows[image], counted) if image in rows else False
            for image, prompt in zip(prompts["image_id"], prompts["prompt"], strict=True)
        ],
        prompts.index,
        dtype=bool,
    )


def _counts_groups(table: pd.DataFrame) -> bool:
    if not {"caption", "pid_name"} <= set(table):
        return False
    names, pids = table["pid_name"].map(wording.text_of), table["pid"].map(wording.text_of)
    held = [
        pid in {number.lstrip("0") or "0" for number in re.findall(r"\d+", name)}
        for name, pid in zip(names, pids, strict=True)
        if name
    ]
    return 2 * sum(held) < len(held)


def _names(prompt: str, row: dict[str, object], counted: bool) -> bool:
    pid, text = wording.text_of(row["pid"]), _plain(prompt)
    name = wording.text_of(row.get("pid_name", ""))
    numbers = {pid, name} if name.isdecimal() else {pid}
    for column, value in row.items():
        value = wording.text_of(value)
        if column not in (*wording.SILENT, *NAMES) and value in numbers:
            for said in (wording.phrase(column, value), f"{_label(column)} {value}"):
                text = text.replace(_plain(said), " ")
    name = _plain(name)
    numbers = {number.lstrip("0") for number in re.findall(r"\d+", text)}
    numbered = not counted and pid.lstrip("0") in numbers
    return numbered or (bool(name.strip()) and name in text)


def _label(column: str) -> str:
    return wording.spoken(wording.LABELS.get(column, column))


def _plain(text: str) -> str:
    """Words in small letters, a blank before and after each, to look for words in."""
    return " " + " ".join(re.findall(r"[^\W_]+", tidying.tidy(text).casefold())) + " "


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
        column: table[column].map(wording.text_of).map(lambda text, c=column: wording.worn(c, text))
        for column in table
        if column not in (*wording.SILENT, *NAMES, "aspect", "caption")
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
    forms = [wording.phrase(column, value), f"{_label(column)} {value}"]
    return [_plain(form) for form in [*forms, *([] if column in wording.FLAGS else [value])]]


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
