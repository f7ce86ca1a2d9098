"""Which pairs of images a study of maps looks at: right and wrong first matches, by no choice."""

import hashlib

import numpy as np
import pandas as pd

from clipfh_lib.files import InputError

TOPS = [f"top_{rank}" for rank in range(1, 11)]
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
        InputError: nobody is searched for, or a gallery holds one person.
    """
    if ranks.empty:
        raise InputError("attention: the split searches for nobody")
    names = list(ranks["gallery"].unique())
    own = next((name for name in ("same_aspect", "default") if name in names), names[0])
    mine = ranks[(ranks["gallery"] == own) & ranks["rank"].notna()]
    mine = mine[mine["trial"] == mine["trial"].min()]
    mine = mine.assign(order=[_digest(name) for name in mine["query"]]).sort_values("order")
    rows = []
    for aspect, part in mine.groupby("test_aspect", sort=False):
        gallery = split[(split["role"] == "gallery") & (split["gallery"] == own)]
        gallery = gallery[
            (gallery["test_aspect"] == aspect) & (gallery["trial"] == mine["trial"].min())
        ]
        gallery = gallery.assign(order=[_digest(name) for name in gallery["image_id"]])
        gallery = gallery.sort_values("order")
        pids = gallery.set_index("image_id")["pid"]
        hit = part["rank"] == 1
        for query in part[hit].drop_duplicates("pid").head(right).itertuples():
            rows.append(_row("right", aspect, query, query.top_1, pids))
        for query in part[~hit].drop_duplicates("pid").head(wrong).itertuples():
            rows.append(_row("wrong", aspect, query, query.top_1, pids))
            first = gallery.loc[gallery["pid"] == query.pid, "image_id"].iloc[0]
            rows.append(_row("missed", aspect, query, first, pids))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(kind: str, aspect: str, query: tuple, found: str, pids: pd.Series) -> dict:
    """One row; `other` is the gallery's next person after the query in the order of hashes."""
    strangers = pids[~pids.isin([query.pid, pids[found]])]
    if strangers.empty:
        raise InputError(f"attention: the gallery of {aspect} needs a third person; test more")
    start = int(_digest(query.query)[:8], 16) % len(strangers)
    row = {"kind": kind, "test_aspect": aspect, "query": query.query, "found": found}
    row |= {"pid": int(query.pid), "found_pid": int(pids[found]), "rank": int(query.rank)}
    return row | {"other": strangers.index[start]}


def of_person(table: pd.DataFrame, number: int, pid: int | None = None) -> pd.DataFrame:
    """Some images of one person and aspect: of those who have most, the first by SHA-256.

    Args:
        table: `image_id, pid` and, where known, `aspect`.
        number: of images, at most; drawn by SHA-256 too.
        pid: whom; none: whoever comes first.
    """
    table = table if pid is None else table[table["pid"] == pid]
    keys = ["pid", "aspect"] if "aspect" in table and table["aspect"].notna().any() else ["pid"]
    order = np.array([_digest(name) for name in table["image_id"]])
    table = table.assign(order=order).sort_values("order")
    sizes = table.groupby(keys, sort=False)["image_id"].transform("size")
    most = table[sizes >= min(number + 1, sizes.max())]
    first = most.iloc[0]
    mine = np.logical_and.reduce([table[key] == first[key] for key in keys])
    return table[mine].drop(columns="order").reset_index(drop=True)


def _digest(name: str) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()
