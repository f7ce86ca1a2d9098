"""The worst queries of a run, each with the right image and the wrong one that won.

Photographs are shown only where the data set's params allow it (`data.photographs`); drawn sets
always are.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from clipfh_lib import files, runs
from clipfh_lib.data import catalogues, images, splits
from clipfh_lib.files import InputError
from clipfh_lib.reports import panels, pictures, style, tables
from clipfh_lib.reports import photographs as rights
from clipfh_lib.reports.style import styled
from clipfh_lib.schema import DataParams

KEPT = ("ranks.csv", "embeddings.csv")
VIEW = ["weights", "direction", "test_aspect", "gallery", "trial"]
COLUMNS = [
    "dataset", "limited", *VIEW[:4], "query", "query_pid", "query_path", "right", "right_path",
    "rank", "wrong", "wrong_pid", "wrong_path", "trials", "of",
]  # fmt: skip
ROLES = ("query", "right", "wrong")


def worst(folder: str | Path, number: int = 6, gallery: str | None = None) -> pd.DataFrame:
    """Queries whose first right image comes last, each of another person.

    Of the run's first weights, over all its trials and aspects. The right image is that at the
    first right rank; beyond rank 10, where ranks.csv names none, the person's first there.

    Args:
        folder: a complete run that kept ranks.csv and embeddings.csv, beside its prepared data.
        number: queries at the most.
        gallery: which one; by default the run's first.

    Returns:
        COLUMNS, the worst first: ids, people and paths of the query, of a right image (empty where
        the split is gone) and of the wrong one that won; `rank` of the first right one; `trials`:
        in how many of the trials that asked it (`of`) the query failed. No rows where the run kept
        no ranks of images, or nothing failed.

    Raises:
        InputError: a file is not what its manifest says, or that gallery is not there.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        return pd.DataFrame(columns=COLUMNS)
    if not set(KEPT) <= set(runs.manifest(folder)["files"]):
        return pd.DataFrame(columns=COLUMNS)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    text = dict.fromkeys(["query", *pictures.RANKED], "str")
    ranks = files.read_csv(runs.kept(folder, "ranks.csv"), text)
    ranks = tables.ordered(ranks[ranks["direction"] == "image_image"])
    ranks = ranks[ranks["weights"] == ranks["weights"].iloc[0]] if len(ranks) else ranks
    here = panels.galleries(ranks)
    if gallery is not None and gallery not in here:
        raise InputError(f"{folder.name}: no gallery {gallery}; there is {', '.join(here)}")
    ranks = ranks[ranks["gallery"] == (gallery or here[0])] if here else ranks
    asked = ranks.groupby(["test_aspect", "query"])["rank"].agg(
        trials=lambda rank: int((rank > 1).sum()), of="size"
    )
    failed = ranks[ranks["rank"] > 1].sort_values(["rank", "query"], ascending=[False, True])
    failed = failed.drop_duplicates("pid").head(number)
    if failed.empty:
        return pd.DataFrame(columns=COLUMNS)
    kinds = {"image_id": "str", "path": "str", "pid": "Int64", "aspect": "str"}
    known = files.read_csv(runs.kept(folder, "embeddings.csv"), kinds).set_index("image_id")
    failed = failed.join(asked, on=["test_aspect", "query"])
    failed = failed.rename(columns={"pid": "query_pid", "top_1": "wrong"})
    split = _split(folder)
    failed["right"] = [_right(row, split) for _, row in failed.iterrows()]
    for role in ROLES:
        failed[f"{role}_path"] = known["path"].reindex(failed[role]).to_numpy()
    limit = params["data"].get("limit") or {}
    return failed.assign(
        wrong_pid=known["pid"].reindex(failed["wrong"]).to_numpy(),
        dataset=params["dataset"],
        limited=any(value is not None for value in limit.values()),
    )[COLUMNS].reset_index(drop=True)


def _split(folder: Path) -> pd.DataFrame:
    """The split that a run was measured on, of the prepared data beside it; empty if it is gone."""
    wanted = runs.manifest(folder).get("split_sha256")
    for path in sorted((folder.parents[1] / "01_prepare_data").glob("*/split.csv")):
        if files.sha256(path) == wanted:
            return splits.read(path)
    return pd.DataFrame(columns=["image_id", "pid", "aspect", *VIEW[2:], "role"])


def _right(row: pd.Series, split: pd.DataFrame) -> str | None:
    if row["rank"] <= len(pictures.RANKED):
        return row[f"top_{row['rank']:.0f}"]
    there = split[(split["role"] == "gallery") & (split["pid"] == row["query_pid"])]
    for column in ("test_aspect", "gallery", "trial"):
        there = there[there[column] == row[column]]
    own = there[there["aspect"] == row["test_aspect"]]  # other hands of the person are wrong
    found = sorted((own if len(own) else there)["image_id"])
    return found[0] if found else None


def photographs(folder: str | Path, found: pd.DataFrame) -> np.ndarray | None:
    """Pictures of `worst`, (rows, 3, H, W, 3) uint8: query, right, wrong.

    None if they may not be shown, or are not there. A right image that is not known is white.

    Args:
        folder: the run.
        found: of `worst`.
    """
    params = yaml.safe_load((Path(folder) / "params.yaml").read_text(encoding="utf-8"))
    root = catalogues.root(DataParams(**params["data"]))
    if found.empty or not rights.allowed(params) or not root.is_dir():
        return None
    paths = found[[f"{role}_path" for role in ROLES]].to_numpy().ravel()
    known = pd.notna(paths)
    shown = images.thumbnails(root, list(paths[known]))
    sheet = np.full((len(paths), *shown.shape[1:]), 255, np.uint8)
    sheet[known] = shown
    return sheet.reshape(len(found), len(ROLES), *shown.shape[1:])


@styled
def failures(
    found: pd.DataFrame,
    shown: np.ndarray | None,
    dataset: str | None = None,
    limited: bool = False,
) -> Figure:
    """The worst queries, two in a line: the query, a right image, and the wrong one that won.

    Where nothing failed, or photographs may not be shown, the figure says so.

    Args:
        found: of `worst`.
        shown: of `photographs`.
        dataset: the data set's name, where the table has no such column.
        limited: data.limit was set; the figure says so.

    Raises:
        InputError: not three pictures for each row.
    """
    if found.empty:
        return style.saying(found, dataset, limited, "no query failed, or no run kept its ranks")
    if shown is None:
        said = "photographs may not be shown (data.photographs is false), or are not there"
        return style.saying(found, dataset, limited, said)
    if shown.shape[:2] != (len(found), len(ROLES)):
        raise InputError(f"failures: pictures of shape {shown.shape[:2]} for {len(found)} rows")
    lines = -(-len(found) // 2)
    tall = style.WIDTH / 6.3 * shown.shape[2] / shown.shape[3]
    weights, gallery = found["weights"].iloc[0], found["gallery"].iloc[0]
    said = f"{weights}, {style.GALLERIES.get(gallery, gallery)}"
    said = weights if gallery in ("default", "enrolled") else said
    limited = limited or bool(found.get("limited", pd.Series(False)).any())
    figure = style.new(found, dataset, limited, 0.4 + (tall + 0.34) * lines, said=said)
    widths = [1, 1, 1, 0.12, 1, 1, 1]
    grid = figure.subplots(lines, 7, squeeze=False, width_ratios=widths)
    for axes in grid.flat:
        axes.axis("off")
    for number, (row, three) in enumerate(zip(found.itertuples(), shown, strict=True)):
        line, first = divmod(number, 2)
        beside = grid[line, 4 * first : 4 * first + 3]
        missed = f"person {row.query_pid}\nmissed in {row.trials} of {row.of}"
        right = f"{pictures.RIGHT[0]} a right image\nfirst at rank {row.rank:.0f}"
        wrong = f"{pictures.WRONG[0]} person {row.wrong_pid}\nat rank 1"
        looks = [(missed, "black", "-"), (right, *pictures.RIGHT[1:]), (wrong, *pictures.WRONG[1:])]
        for axes, picture, look in zip(beside, three, looks, strict=True):
            axes.axis("on")
            pictures.framed(axes, picture, *look)
        if line == 0:
            for axes, title in zip(beside, ("query", "right", "won"), strict=True):
                axes.set_title(title)
    return figure
