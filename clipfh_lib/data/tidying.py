"""Prompts put right: characters and white space, length, what is empty or stands twice; lone people."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence

import pandas as pd

REPORT = ["what", "count", "example"]
LETTERS = 32  # of a token of CLIP's own vocabulary: none has more
# Quotes of all kinds as plain ones; what CLIP's tokeniser takes for its own marks loses its form
PLAIN = str.maketrans("“”„‟«»″＂‘’‚‛`´′＇", "\"\"\"\"\"\"\"\"''''''''")
SPECIAL = re.compile(r"[&<`]")  # what is not plain in plain ASCII
MARKS = re.compile(r"<(?=(start|end)_of_text>)", re.IGNORECASE)


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
