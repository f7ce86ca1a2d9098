"""What the photographs themselves bring: jewellery, polish, other sides, other data.

Nothing is drawn here. Images that the protocol leaves out are extra queries in the galleries of
their person's trials; what was measured before, on the same people's own queries, stands beside.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipfh_lib import files, params
from clipfh_lib.data import catalogues, images, layouts, loaders, origin, splits
from clipfh_lib.evaluation import across, drops, embeddings, retrieval
from clipfh_lib.files import InputError
from clipfh_lib.runs import IDENTITY
from clipfh_lib.schema import IncludeParams
from clipfh_lib.studies.opened import Opened
from clipfh_lib.studies.robustness import CHANGED, VALUES, identity
from clipfh_lib.study import RobustnessParams

OPPOSITE = {
    "dorsal_r": "dorsal_l",
    "dorsal_l": "dorsal_r",
    "palmar_r": "palmar_l",
    "palmar_l": "palmar_r",
}
COLUMNS = [
    *IDENTITY, "condition", "detail", "gallery", "subset", *VALUES, *drops.LOST, "queries",
    "people", "note",
]  # fmt: skip
OWN = ("same_aspect", "default")  # galleries in which an id means the person


class Bench(NamedTuple):
    """What all conditions are measured with: the network, the data, and the plain ranks."""

    found: Opened
    data: splits.Prepared
    p: RobustnessParams
    outputs: str | Path
    ranks: pd.DataFrame

    def embed(self, table: pd.DataFrame) -> embeddings.Embeddings:
        """Of any images of the data set."""
        return embeddings.of(
            self.found.embedder, self.found.preprocess, table, self.data.root, self.p
        )

    def ranked(
        self, array: np.ndarray, table: pd.DataFrame, split: pd.DataFrame
    ) -> retrieval.Results:
        """Results as the run's parameters have them."""
        how = {"distance": self.p.evaluation.distance, "resamples": self.p.evaluation.resamples}
        how |= {"subsets": drops.SUBSETS}
        return retrieval.evaluate(array, table, split, self.found.weights, **how)


class Part(NamedTuple):
    """One condition: its results and the ranks beside it; or, without, why there are none."""

    detail: str
    results: retrieval.Results | None = None
    before: pd.DataFrame | None = None
    note: str = ""


def evaluate(
    found: Opened, data: splits.Prepared, p: RobustnessParams, outputs: str | Path
) -> pd.DataFrame:
    """Measure every real condition of `p.real` and `p.other_dataset`, in galleries of clean images.

    Returns:
        COLUMNS. `detail` says what exactly was asked. `value` is of all queries of the condition;
        `before` and `drop` of the people (`compared`) who have plain queries of that aspect too; a
        negative drop is a gain. What the data set does not have is one row without numbers, its
        reason in `note`.

    Raises:
        InputError: p.other_dataset is no data set, or not there.
    """
    split = data.split[data.split["role"].isin(["query", "gallery"])]
    own = split[(split["role"] == "query") | split["gallery"].isin(OWN)]
    bench = Bench(found, data, p, outputs, pd.DataFrame())
    plain = bench.ranked(*bench.embed(data.test), own)
    bench = bench._replace(ranks=plain.ranks)
    frames = []
    for condition in [*p.real, *(["other_dataset"] if p.other_dataset else [])]:
        for part in MEASURED[condition](bench):
            frames.append(_rows(part, p).assign(condition=condition, detail=part.detail))
    who = identity(p, found.weights)
    empty = pd.DataFrame(columns=COLUMNS)
    table = pd.concat(frames, ignore_index=True).assign(**who) if frames else empty
    return table.reindex(columns=COLUMNS)


def queries(split: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Query rows of images in every trial whose gallery of their aspect holds their person.

    Args:
        split: query and gallery rows of the galleries OWN.
        table: `image_id, pid, aspect` of the images that ask; one that stands in a trial's gallery
            does not ask there.
    """
    own = split.loc[split["role"] == "gallery", ["test_aspect", "trial", "pid", "image_id"]]
    people = own[["test_aspect", "trial", "pid"]].drop_duplicates()
    asked = table[["image_id", "pid", "aspect"]].merge(people, on="pid")
    asked = asked[asked["aspect"] == asked["test_aspect"]]
    there = asked.merge(own, on=["test_aspect", "trial", "image_id"], how="left", indicator=True)
    asked = asked[(there["_merge"] == "left_only").to_numpy()]
    return asked.assign(role="query", gallery=None, distractor=False)[splits.COLUMNS]


# --- conditions ----------------------------------------------------------------------------------


def _accessories(bench: Bench) -> Iterator[Part]:
    yield _marked(bench, "accessories", worn=True)


def _nail_polish(bench: Bench) -> Iterator[Part]:
    yield _marked(bench, "nail_polish", worn=False)


def _irregularities(bench: Bench) -> Iterator[Part]:
    yield _marked(bench, "irregularities", worn=False)


def _marked(bench: Bench, column: str, worn: bool) -> Part:
    """Images with a 1 in a column: those with accessories, or without and with something else."""
    detail = f"queries with {column.replace('_', ' ')}"
    table = bench.data.images
    if column not in table:
        return Part(detail, note=f"this data set has no column {column}")
    marked = pd.to_numeric(table[column], errors="coerce") == 1
    taken = table[marked] if worn else splits.participants(table[marked])
    return _asked(bench, taken, detail)


def _include(bench: Bench) -> Iterator[Part]:
    """Images that data.include leaves out, value by value: lower resolution, tighter crops."""
    data = bench.p.data
    if data.include is None:
        yield Part("images left out by data.include", note="this data set takes all images")
        return
    file, column = data.include.file, data.include.column
    header, rows = layouts.rows_of(bench.data.root / file, [column], [])
    values = [dict(zip(header, row, strict=False)).get(column, "") for _, row in rows]
    for value in sorted(set(values) - set(data.include.values)):
        detail = f"queries with {column} {value}"
        include = IncludeParams(file=file, column=column, values=[value])
        other = data.model_copy(update={"include": include, "limit": None})
        try:
            table = splits.participants(catalogues.read(other).images)
        except InputError as error:
            yield Part(detail, note=str(error))
            continue
        seen = images.survey(bench.data.root, list(table["path"]), bench.p.loader.workers).table
        yield _asked(bench, table[seen["reason"].eq("").to_numpy()], detail)


def _asked(bench: Bench, table: pd.DataFrame, detail: str) -> Part:
    """Images as extra queries, beside all other queries of the same people."""
    split = bench.data.split
    gallery = split[(split["role"] == "gallery") & split["gallery"].isin(OWN)]
    if set(gallery["test_aspect"]) == {"all"}:
        table = table.assign(aspect="all")
    asked = queries(gallery, table)
    if asked.empty:
        return Part(detail, note="no such image of a person who is tested")
    here = table[table["image_id"].isin(asked["image_id"])]
    both = pd.concat([bench.data.test, here], ignore_index=True).drop_duplicates("image_id")
    results = bench.ranked(*bench.embed(both), pd.concat([asked, gallery], ignore_index=True))
    before = bench.ranks[~bench.ranks["query"].isin(asked["image_id"])]
    return Part(detail, results, before)


def _other_aspect(bench: Bench) -> Iterator[Part]:
    """Queries in the galleries of the other aspects, beside the same ones in their own."""
    pairs = across.searched(bench.data.split)
    pairs = pairs[(pairs["role"] == "query") | (pairs["gallery"] != pairs["test_aspect"])]
    if pairs.empty:
        yield Part("gallery of another aspect", note="this data set tests fewer than two aspects")
        return
    results = bench.ranked(*bench.embed(bench.data.test), pairs)
    own = bench.ranks[bench.ranks["gallery"] == "same_aspect"]
    names = dict.fromkeys(results.ranks["gallery"])
    before = [own[own["test_aspect"] != name].assign(gallery=name) for name in names]
    yield Part("gallery of another aspect", results, pd.concat(before, ignore_index=True))


def _mirrored(bench: Bench) -> Iterator[Part]:
    """Left hands, mirrored, among right ones and the reverse, beside the same ones unmirrored."""
    detail = "mirrored, in the gallery of the other hand"
    pairs = across.searched(bench.data.split)
    other = pairs["test_aspect"].map(OPPOSITE)
    pairs = pairs[(pairs["role"] == "query") | (pairs["gallery"] == other)]
    pairs = pairs[pairs["test_aspect"].isin(pairs["gallery"].dropna().map(OPPOSITE))]
    if pairs.empty:
        yield Part(detail, note="this data set does not test both hands")
        return
    test, p = bench.data.test, bench.p
    plain = bench.embed(test)
    turned = _of_mirror_images(bench, test)
    table = test.assign(image_id=test["image_id"] + CHANGED)
    query = pairs["role"] == "query"
    names = pairs["image_id"].where(~query, pairs["image_id"] + CHANGED)
    results = bench.ranked(
        np.concatenate([plain.array, turned]),
        pd.concat([test, table], ignore_index=True),
        pairs.assign(image_id=names),
    )
    note = "the embedding holds the mirror image already (embed.flip)" * (p.embed.flip == "add")
    yield Part(detail, results, bench.ranked(*plain, pairs).ranks, note)


def _of_mirror_images(bench: Bench, table: pd.DataFrame) -> np.ndarray:
    """Embeddings (N, D) of left-right mirrored photographs, past the cache."""
    size = bench.found.preprocess.size(bench.p.data.resize)
    target, network = embeddings.device(bench.p.device), bench.found.embedder
    photographs = loaders.HandImages(table, bench.data.root, size, bench.p.loader.workers)
    turned = _Mirrored(photographs)
    network.to(target).eval()
    found = embeddings.encode(network, bench.found.preprocess, turned, bench.p.embed, target)
    network.cpu()
    return found


class _Mirrored:
    """Images of a data set, left and right exchanged."""

    def __init__(self, data: loaders.HandImages):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: list[int]) -> loaders.Batch:
        batch = self.data[rows]
        return batch._replace(pixels=batch.pixels.flip(2))


def _other_dataset(bench: Bench) -> Iterator[Part]:
    """The test people of another data set by its own split; other people, so nothing is paired."""
    p, name = bench.p, bench.p.other_dataset
    detail = f"{name}, by its own split"
    if p.of.method == "prompt_sg":
        yield Part(detail, note="PromptSG's sentences speak of the aspects of its own data set")
        return
    other = params.read("prepare_data", name)
    own = p.model_copy(update={"dataset": name, "data": other.data, "overrides": {}})
    data = splits.prepare(own, bench.outputs)
    test = data.split[data.split["role"].isin(["query", "gallery"])]
    array = embeddings.of(bench.found.embedder, bench.found.preprocess, data.test, data.root, own)
    results = bench.ranked(*array, test[(test["role"] == "query") | test["gallery"].isin(OWN)])
    note = "other people, other galleries: a value of its own, not a drop"
    trained = origin.of(own, data) if files.resolve(p.model.weights).is_dir() else pd.DataFrame()
    for seen in trained.get("seen", []):
        said = "nobody can tell how many" if seen < 0 else str(seen)
        note += f"; {said} of these people trained the weights" * bool(seen)
    yield Part(detail, results, note=note)


MEASURED: dict[str, Callable[[Bench], Iterator[Part]]] = {
    "accessories": _accessories,
    "nail_polish": _nail_polish,
    "irregularities": _irregularities,
    "mirrored": _mirrored,
    "other_aspect": _other_aspect,
    "include": _include,
    "other_dataset": _other_dataset,
}


def _rows(part: Part, p: RobustnessParams) -> pd.DataFrame:
    if part.results is None:
        return pd.DataFrame([{"note": part.note}])
    metrics = part.results.metrics
    names = [*drops.METRICS, "unmatched"]
    metrics = metrics[metrics["metric"].isin(names) & metrics["subset"].isin(drops.SUBSETS)]
    before, after = _paired(part.before, part.results.ranks)
    lost = drops.between(before, after, p.evaluation.resamples)
    return metrics.merge(lost, on=[*drops.KEY, "metric"], how="left").assign(note=part.note)


def _paired(
    before: pd.DataFrame | None, after: pd.DataFrame
) -> tuple[drops.Measured, drops.Measured]:
    """Sums of the people whom both have in an aspect: a palm must not stand beside a nail."""
    if before is None:
        return {}, {}
    who = ["test_aspect", "gallery", "pid"]
    both = before[who].drop_duplicates().merge(after[who].drop_duplicates(), on=who)
    if both.empty:
        return {}, {}
    wanted = pd.MultiIndex.from_frame(both)
    ranks = (each[pd.MultiIndex.from_frame(each[who]).isin(wanted)] for each in (before, after))
    return tuple(drops.sums(each.reset_index(drop=True)) for each in ranks)
