"""Kept embeddings of several runs -> a table of places in a plane, a plane for each run.

Needs no torch: a run keeps its embeddings in safetensors, its rows in a table beside them.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import load_file
from sklearn.manifold import TSNE

from clipfh_lib import files, runs
from clipfh_lib.reports import tables

FILES = ("embeddings.safetensors", "embeddings.csv", "ranks.csv")
COLUMNS = [
    "dataset", "method", "backbone", "recipe", "seed", "weights", "run", "label", "limited",
    "image_id", "pid", "aspect", "x", "y", "of", "perplexity",
]  # fmt: skip
RUNS = 4  # planes at the most


def lay_out(folders: Iterable[str | Path], people: int = 10, seed: int = 0) -> pd.DataFrame:
    """Where t-SNE puts the test images of some people, of each run in a plane of its own.

    van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008, by scikit-learn, of cosine
    distances. The people are those of the lowest ids, seen from the first aspect: no result chooses
    them, and every run shows the same images. Places of two planes are not to be compared, only
    whether a person's images lie together.

    Args:
        folders: run folders. Taken are those that are complete, searched images by images and kept
            their embeddings, of the first one's data set, of each backbone and method the first,
            at most `RUNS`.
        people: how many.
        seed: of t-SNE.

    Returns:
        COLUMNS, a row for each run and image; `of`: test people of that aspect in all;
        `perplexity` of t-SNE. No rows without such runs, or for fewer than two people.

    Raises:
        InputError: a file is not what its manifest says.
    """
    taken: list[tuple[Path, dict, str, pd.DataFrame]] = []
    seen: set[tuple] = set()
    for folder in map(Path, folders):
        if len(taken) == RUNS or not _kept(folder):
            continue
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        ranks = pd.read_csv(runs.kept(folder, "ranks.csv"), usecols=["weights", "direction", "pid"])
        ranks = ranks[ranks["direction"] == "image_image"]
        one = (params["backbone"], params["method"])
        if ranks.empty or one in seen or (taken and params["dataset"] != taken[0][1]["dataset"]):
            continue
        seen.add(one)
        kinds = {"image_id": "str", "path": "str", "pid": "Int64", "aspect": "str"}
        table = files.read_csv(runs.kept(folder, "embeddings.csv"), kinds)
        table = table.reset_index(names="row")
        weights = tables.ordered(ranks)["weights"].iloc[0]  # the first are those that were kept
        taken.append((folder, params, weights, table[table["pid"].isin(ranks["pid"])]))
    shown, of = _chosen([table for *_, table in taken], people)
    if not shown:
        return pd.DataFrame(columns=COLUMNS)
    frames = []
    for folder, params, weights, table in taken:
        rows = table.set_index("image_id").loc[shown].reset_index()
        vectors = load_file(runs.kept(folder, "embeddings.safetensors"))["embeddings"]
        places, near = _plane(vectors[rows["row"].to_numpy()], seed)
        who = {name: params.get(name) for name in ("method", "backbone", "recipe", "seed")}
        limit = (params.get("data") or {}).get("limit") or {}
        who |= {"dataset": params["dataset"], "run": folder.name, "of": of, "perplexity": near}
        who |= {"limited": any(value is not None for value in limit.values()), "weights": weights}
        rows = rows[["image_id", "pid", "aspect"]]
        frames.append(rows.assign(**who, x=places[:, 0], y=places[:, 1]))
    found = pd.concat(frames, ignore_index=True)
    return found.assign(label=tables.labels(found))[COLUMNS]


def _kept(folder: Path) -> bool:
    if not (folder / "manifest.json").is_file():
        return False
    return set(FILES) <= set(runs.manifest(folder)["files"])


def _chosen(found: list[pd.DataFrame], people: int) -> tuple[list[str], int]:
    """Images that all runs have, of the first people of the first aspect; how many it has in all.

    No images where fewer than two people have two or more.
    """
    if not found:
        return [], 0
    common = set.intersection(*(set(table["image_id"]) for table in found))
    table = found[0][found[0]["image_id"].isin(common)]
    if table.empty:
        return [], 0
    one = table[table["aspect"] == tables.aspects(table["aspect"])[0]]
    often = one["pid"].value_counts()
    several = sorted(often[often > 1].index)
    here = one[one["pid"].isin(several[:people])]
    return list(here["image_id"]) if len(several) > 1 else [], len(several)


def _plane(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """(N, 2) places of (N, D) embeddings, and the perplexity: 15, or what so few images allow."""
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    near = min(15.0, (len(unit) - 1) / 3)
    how = {"metric": "cosine", "init": "pca", "perplexity": near, "random_state": seed}
    return TSNE(**how).fit_transform(unit), near
