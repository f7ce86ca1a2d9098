"""Which pairs of images a study of maps looks at: right and wrong first matches, by no choice."""

import hashlib

import numpy as np
import pandas as pd

from clipfh_lib.files import InputError

COLUMNS = "kind test_aspect query found pid found_pid rank other".split()


def choose(ranks: pd.DataFrame, split: pd.DataFrame, right: int, wrong: int) -> pd.DataFrame:
    """Right first matches, wrong ones, and beside each of these the image that would be right.

    Of the first trial and gallery, one query a person and aspect, in the order of the SHA-256 of
    its image id: nobody picks them.

    Args:
        ranks: of `retrieval.evaluate`.
        split: the manifest the ranks are of.
        right: pairs of each aspect whose first match is right.
        wrong: pairs of each aspect whose first match is wrong.

    Returns:
        A row for each pair, `kind` right, wrong, or missed (what belongs to the wrong one before
        it): `test_aspect, query, found, pid, found_pid, rank` of the first right image, and
        `other`, an image of the gallery of some other person than either.

    Raises:
        InputError: nobody is searched for, or a gallery holds too few people.
    """
    names = list(ranks["gallery"].unique())
    own = next((name for name in ("same_aspect", "default") if name in names), None)
    mine = ranks[(ranks["gallery"] == own) & ranks["rank"].notna()]
    mine = _in_order(mine[mine["trial"] == mine["trial"].min()], "query")
    if mine.empty:
        raise InputError("attention: the split searches for nobody; test more people")
    where = ["role", "gallery", "trial", "test_aspect"]
    there = _in_order(split[split["role"] == "gallery"], "image_id").groupby(where)
    rows = []
    for aspect in dict.fromkeys(ranks["test_aspect"]):
        part = mine[mine["test_aspect"] == aspect]
        key = ("gallery", mine["gallery"].iloc[0], mine["trial"].iloc[0], aspect)
        pids = there.get_group(key).set_index("image_id")["pid"]
        hit = part["rank"] == 1
        for query in part[hit].drop_duplicates("pid").head(right).itertuples():
            rows.append(_row("right", query, query.top_1, pids))
        for query in part[~hit].drop_duplicates("pid").head(wrong).itertuples():
            rows.append(_row("wrong", query, query.top_1, pids))
            rows.append(_row("missed", query, pids.index[pids == query.pid][0], pids))
    return pd.DataFrame(rows, columns=COLUMNS)


def of_person(table: pd.DataFrame, number: int) -> pd.DataFrame:
    """All images of one person and aspect, in the order of the SHA-256 of their ids.

    Whoever comes first in that order among those who have more than `number` images, or most.

    Args:
        table: `image_id, pid` and, where known, `aspect`.
        number: of images that shall be shown.
    """
    table = _in_order(table, "image_id")
    aspect = table["aspect"] if "aspect" in table else pd.Series("", table.index)
    who = table["pid"].astype(str) + " " + aspect.astype(str)
    sizes = who.map(who.value_counts())
    first = who[sizes >= min(number + 1, sizes.max())].iloc[0]
    return table[who == first]


def rows(pairs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Where the images of pairs stand in a table: `query, found, other`, numbers from 0."""
    place = pd.Series(np.arange(len(table)), table["image_id"].to_numpy())
    return pairs[["query", "found", "other"]].apply(lambda names: place[names].to_numpy())


def shown(pairs: pd.DataFrame, kind: str, number: int) -> np.ndarray:
    """Positions of some pairs of a kind, spread evenly; of wrong ones with what they missed."""
    found = np.flatnonzero(pairs["kind"] == kind)
    number = min(number, len(found))
    found = found[np.linspace(0, len(found) - 1, number).round().astype(int)] if number else found
    return (found[:, None] + np.arange(2)).ravel() if kind == "wrong" else found


def cosines(array: np.ndarray, place: pd.DataFrame) -> np.ndarray:
    """Similarity of each pair's `query` and `found`, rows of (M, F) embeddings: (N,)."""
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    return (unit[place["query"]] * unit[place["found"]]).sum(axis=1)


def _row(kind: str, query: tuple, found: str, pids: pd.Series) -> dict:
    """One row; `other` is drawn by the query's hash from the people who are neither of the two."""
    strangers = pids.index[~pids.isin([query.pid, pids[found]])]
    if strangers.empty:
        raise InputError(f"attention: {query.test_aspect} needs a third person in its gallery")
    row = {"kind": kind, "test_aspect": query.test_aspect, "query": query.query, "found": found}
    row |= {"pid": int(query.pid), "found_pid": int(pids[found]), "rank": int(query.rank)}
    return row | {"other": strangers[int(_digest(query.query), 16) % len(strangers)]}


def _in_order(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table.iloc[np.argsort([_digest(name) for name in table[column]], kind="stable")]


def _digest(name: str) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()
