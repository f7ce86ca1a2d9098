"""Embeddings of images and texts, and who is true of whom, to ranks and tables: both ways."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from clipfh_lib.data.pairs import Pairs
from clipfh_lib.evaluation import embeddings, intervals, metrics, retrieval, search, trials
from clipfh_lib.files import InputError
from clipfh_lib.models import prompts

DIRECTIONS = ("text_image", "image_text")
TOP = retrieval.TOP
RECALLS = (1, 5, 10)
MEANS = (
    "recall@1", "recall@5", "recall@10", "hit@1", "hit@5", "hit@10", "mAP",
    "ndcg@1", "ndcg@5", "ndcg@10",
)  # fmt: skip
METRICS = (*MEANS, "median_rank")
COMPARED = ("recall@1", "hit@1", "mAP", "ndcg@10")
BLOCK, CELLS = 1024, 2**20  # queries whose ranks are held side by side, and ranks, at most
_PLACE = {"test_aspect": trials.POOLED, "trial": 0, "gallery": "default"}


def evaluate(
    images: np.ndarray,
    texts: np.ndarray,
    pairs: Pairs,
    weights: str,
    distance: search.Distance = "cosine",
    resamples: int = 10_000,
    seed: int = 0,
    subset: str = "all",
) -> retrieval.Results:
    """Search the images by each text, and the texts by each image; all right answers count.

    A text that is said of many images is one query, and all of them are right. What is resampled
    for an interval are queries, but what shows one person stays together: images by their pid,
    and texts all of whose images are of one person by that. `pid` in the ranks is that person, or
    a negative number of its own for a text of several people (or an image of nobody known);
    `people` counts these units.

    Args:
        images: (N, D) float, any norm, rows as `pairs.table`.
        texts: (T, D) float, any norm, rows as `pairs.texts`.
        pairs: which text is true of which image.
        weights: what made the embeddings, for the column of that name.
        distance: `cosine` or `euclidean`.
        resamples: how often units are drawn for an interval.
        seed: of that draw.
        subset: name of these queries, for the column.

    Returns:
        Ranks, trials and metrics with the columns of `retrieval.Results`; `direction` is text_image
        or image_text, `query` and `top_1` ... an image_id or an id of `names`. `recall@k` is the
        share of right answers among the first k, `hit@k` whether there is any; `median_rank`, of
        the first right answer, is no fraction.

    Raises:
        InputError: an embedding is not finite.
    """
    for what, array, count in (
        ("image", images, len(pairs.table)),
        ("text", texts, len(pairs.texts)),
    ):
        _check(what, array, count)
    ids = pairs.table["image_id"].array, pd.array(names(pairs.texts)["id"])
    arrays, ends = (images, texts), (pairs.images, pairs.ids)
    frames = []
    for direction, (asked, given), units in zip(
        DIRECTIONS, ((1, 0), (0, 1)), (_text_units(pairs), _image_units(pairs)), strict=True
    ):
        frame = pd.DataFrame({"weights": weights, "direction": direction, **_PLACE}, units.index)
        frame = frame.assign(query=ids[asked], pid=units)
        parts = _ranked(arrays[asked], arrays[given], ends[asked], ends[given], distance)
        ranks, top = np.empty(len(frame), object), np.full((len(frame), TOP), -1)
        first = np.zeros(len(frame), np.int64)
        for rows, found in parts:
            first[rows], top[rows] = found.ranks[:, 0], found.top
            ranks[rows] = [" ".join(map(str, row[row > 0].tolist())) for row in found.ranks]
        frame = frame.assign(rank=pd.array(first, "Int64"), ranks=ranks)
        frame["gap"] = pd.array([pd.NA] * len(frame), "Int64")
        for place in range(TOP):
            frame[f"top_{place + 1}"] = ids[given].take(top[:, place], allow_fill=True)
        frames.append(frame)
    return summarise(pd.concat(frames, ignore_index=True), resamples, seed, subset)


def summarise(
    ranks: pd.DataFrame, resamples: int = 10_000, seed: int = 0, subset: str = "all"
) -> retrieval.Results:
    """All metrics from a table of ranks alone, as `ranks.csv` holds it; rows of `DIRECTIONS`."""
    long = trials.LongTables()
    for key, rows in retrieval.groups(ranks):
        if key["direction"] not in DIRECTIONS:
            continue
        here = ranks.iloc[rows]
        values, units = _values(here["ranks"]), pd.factorize(here["pid"])[0]
        sums, counts = _sums(values[:, :-1], units)
        means = np.append(intervals.trial_means(sums, counts), np.median(values[:, -1]))
        low, high = intervals.interval(sums, counts, resamples, seed)
        middle = intervals.median_interval(values[:, -1], units, resamples, seed)
        ends = (np.append(part, end) for part, end in zip((low, high), middle, strict=True))
        key = {**key, "subset": subset}
        long.add(key, np.zeros(1, int), METRICS, means[None], intervals.Interval(*ends), counts)
    return retrieval.Results(ranks, *long.frames())


def compare(
    first: pd.DataFrame, second: pd.DataFrame, resamples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """Compare two evaluations of the same queries, paired by what `evaluate` resamples.

    Args:
        first: ranks of one kind of weights, as `ranks.csv` holds them; other directions than
            `DIRECTIONS` are passed over.
        second: those of the other.
        resamples: of units and of signs.
        seed: of both draws.

    Returns:
        Columns `direction, test_aspect, gallery, subset, metric, difference, low, high, p, queries,
        people` for `COMPARED`; the difference is first minus second.

    Raises:
        InputError: if the queries of the two are not the same, or there are none.
    """
    same, frames = ["direction", "test_aspect", "trial", "gallery", "query", "pid"], []
    tables = [one[one["direction"].isin(DIRECTIONS)] for one in (first, second)]
    tables = [one.sort_values(same, ignore_index=True) for one in tables]
    if tables[0].empty or not tables[0][same].equals(tables[1][same]):
        raise InputError(
            "the two do not search by the same texts and images: they need the same split and "
            "the same prompts"
        )
    kept = [METRICS.index(name) for name in COMPARED]
    groups = retrieval.groups(tables[0])
    for key, rows in sorted(groups, key=lambda group: DIRECTIONS.index(group[0]["direction"])):
        units = pd.factorize(tables[0]["pid"].iloc[rows])[0]
        sums = [_sums(_values(one["ranks"].iloc[rows])[:, kept], units) for one in tables]
        counts = sums[0][1]
        found = intervals.compare(sums[0][0], sums[1][0], counts, resamples, seed)._asdict()
        size = {"queries": float(len(rows)), "people": len(counts)}
        frames.append(pd.DataFrame({**key, "subset": "all", "metric": COMPARED, **found, **size}))
    return pd.concat(frames, ignore_index=True).drop(columns="weights")


def validate(images: np.ndarray, texts: np.ndarray, pairs: Pairs) -> dict[str, float]:
    """How well texts find their images, quick, after each epoch.

    What is not finite is compared as zeros: all of a model that came apart tie, which is wrong.

    Args:
        images: (N, D) float, any norm, rows as `pairs.table`.
        texts: (T, D) float, any norm, rows as `pairs.texts`.
        pairs: which text is true of which image.

    Returns:
        `mAP`, `recall@1` and `hit@1`, means over the distinct texts, 0..1.
    """
    found = np.empty((len(pairs.texts), 3))
    images, texts = _finite(images), _finite(texts)
    for rows, answer in _ranked(texts, images, pairs.ids, pairs.images, "cosine", top=0):
        found[rows, 0] = metrics.average_precision(answer.ranks)
        found[rows, 1] = metrics.recall_k(answer.ranks, 1)
        found[rows, 2] = metrics.rank_k(answer.ranks, 1)
    return dict(zip(("mAP", "recall@1", "hit@1"), map(float, found.mean(axis=0)), strict=True))


def names(texts: Sequence[str]) -> pd.DataFrame:
    """An id for each text, which is short and says where it stands: `id`, `text`.

    Its last letters are of a hash of the text, so that a text of other prompts, which stands in
    the same place, is not taken for it.
    """
    ids = [
        f"text_{number:06d}_{hashlib.sha256(text.encode()).hexdigest()[:4]}"
        for number, text in enumerate(texts)
    ]
    return pd.DataFrame({"id": ids, "text": list(texts)})


def listed(pairs: Pairs) -> pd.DataFrame:
    """The texts of an evaluation, for texts.csv: `id`, `text` and the number of their `images`."""
    return names(pairs.texts).assign(images=np.bincount(pairs.ids, minlength=len(pairs.texts)))


def shown(
    ranks: pd.DataFrame, pairs: Pairs, images: np.ndarray, texts: np.ndarray, top: int = 6
) -> pd.DataFrame:
    """What some texts found, a row for each image, for a sheet of results.

    Args:
        ranks: rows of `evaluate` in the direction text_image; a column `kind` is kept.
        pairs: as there.
        images: (N, D) as there.
        texts: (T, D) as there.
        top: images of each text, at most `TOP`.

    Returns:
        `sentence, first, rank, image_id, path, similarity, caption, right`: `first` is the rank of
        the first right answer, similarity the cosine, caption the first text of the image, and
        `right` whether it was a right answer.
    """
    ids, paths = names(pairs.texts)["id"], pairs.table["path"]
    place = pd.Index(pairs.table["image_id"])
    first = pairs.ids[np.searchsorted(pairs.images, np.arange(len(pairs.table)))]
    said, rows = pd.Index(ids).get_indexer(ranks["query"]), []
    for text, (_, row) in zip(said, ranks.iterrows(), strict=True):
        right = {int(float(rank)) for rank in str(row["ranks"]).split()}
        found = row[[f"top_{rank}" for rank in range(1, top + 1)]].dropna()
        near = place.get_indexer(found)
        score = search.similarity(texts[[text]], images[near], "cosine")[0]
        for rank, (image, similarity) in enumerate(zip(near, score, strict=True), 1):
            rows.append(
                {
                    **({"kind": row["kind"]} if "kind" in row else {}),
                    "sentence": pairs.texts[text],
                    "first": min(right),
                    "rank": rank,
                    "image_id": place[image],
                    "path": paths[image],
                    "similarity": float(similarity),
                    "caption": pairs.texts[first[image]],
                    "right": rank in right,
                }
            )
    return pd.DataFrame(rows)


@torch.inference_mode()
def texts_of(
    encoder: nn.Module, texts: Sequence[str], device: str = "cpu", batch: int = 256
) -> np.ndarray:
    """(T, D) float32 text embeddings at unit length; the encoder goes back to its device.

    Args:
        encoder: a CLIP in eval mode.
        texts: T, at least one.
        device: where it is done: `auto`, `cpu`, `cuda` or `mps`.
        batch: texts at a time; texts of like length stand together, which saves a half.

    Raises:
        InputError: the backbone reads no text, a text is too long, or there is no such device.
    """
    if not prompts.reads_text(encoder):
        raise InputError("model.name: this backbone reads no text: searching by words needs a CLIP")
    target, before = embeddings.device(device), next(encoder.parameters()).device
    coded = prompts.tokens(texts, encoder.context_length)
    order = torch.argsort(coded.argmax(dim=1), stable=True)
    encoder.to(target)
    try:
        parts = [prompts.encode(encoder, coded[some].to(target)) for some in order.split(batch)]
    finally:
        encoder.to(before)
    found = embeddings.unit(torch.cat(parts).float()).cpu()
    return found[torch.argsort(order)].numpy()


def _ranked(
    asked: np.ndarray,
    given: np.ndarray,
    from_: np.ndarray,
    to: np.ndarray,
    distance: search.Distance,
    top: int = TOP,
) -> Iterator[tuple[np.ndarray, search.Found]]:
    """Rows of `asked` and what they find among `given`; `from_` and `to` (M,) are the true pairs.

    Queries with many right answers are searched apart from those with few, at no cost but theirs.
    """
    order = np.argsort(from_, kind="stable")
    to = to[order]
    count = np.bincount(from_, minlength=len(asked))
    first = np.cumsum(count) - count
    kind = np.ceil(np.log2(np.maximum(count, 1)) / 2)  # 1, up to 4, up to 16, ...
    rows = [np.flatnonzero(kind == each) for each in np.unique(kind)]
    gallery, searches = np.arange(len(given)), []
    for some in rows:
        nth = np.arange(count[some].max(initial=1))
        place = np.minimum(first[some, None] + nth, len(to) - 1)
        right = np.where(nth < count[some, None], to[place], -1)
        searches.append(search.Matched(some, gallery, right))
    yield from zip(rows, search.search(asked, given, searches, distance, top), strict=True)


def _values(ranks: pd.Series) -> np.ndarray:
    """All `METRICS` of every query: (Q, 11); those with as many right answers at a time."""
    found = np.empty((len(ranks), len(METRICS)))
    length = ranks.astype(str).str.len().to_numpy()  # a query has fewer answers than that
    order, start = np.argsort(length, kind="stable"), 0
    while start < len(order):
        rows = order[start : start + BLOCK]
        # one text of a million images beside texts of one: not a million places for each of them
        held = np.arange(1, len(rows) + 1) * length[rows] <= CELLS
        rows = rows[: max(held.sum(), 1)]
        place = retrieval.parse_ranks(ranks.iloc[rows])
        found[rows] = np.column_stack(
            [
                metrics.recall_k(place, np.array(RECALLS)),
                metrics.rank_k(place, np.array(RECALLS)),
                metrics.average_precision(place),
                *(metrics.ndcg_k(place, k) for k in RECALLS),
                place[:, 0],
            ]
        )
        start += len(rows)
    return found


def _sums(values: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return intervals.person_sums(values, units, np.zeros_like(units), (units.max() + 1, 1))


def _image_units(pairs: Pairs) -> pd.Series:
    """What each image is resampled with: its pid; by itself where that is not known."""
    pid, alone = pairs.table["pid"].astype(np.int64), -1 - np.arange(len(pairs.table))
    return pid.where(pid >= 0, alone)


def _text_units(pairs: Pairs) -> pd.Series:
    """What each text is resampled with: the person on all of its images; by itself if several."""
    pid = _image_units(pairs).to_numpy()[pairs.images]
    least, most = (pd.Series(pid).groupby(pairs.ids).agg(each) for each in ("min", "max"))
    alone = -1 - np.arange(len(pairs.texts))
    return least.where((least == most) & (least >= 0), alone)


def _check(what: str, array: np.ndarray, count: int) -> None:
    if len(array) != count:
        raise ValueError(f"{len(array)} {what} embeddings for {count}")
    bad = _spoilt(array)
    if bad.any():
        raise InputError(
            f"{bad.sum()} {what} embeddings are not finite: check the weights and the precision"
        )


def _spoilt(array: np.ndarray) -> np.ndarray:
    """Which rows (N, D) hold a number that is not finite: (N,); in blocks, as of a memory map."""
    parts = np.array_split(array, 1 + len(array) // search.GALLERY_BLOCK)
    return np.concatenate([~np.isfinite(part).all(axis=1) for part in parts])


def _finite(array: np.ndarray) -> np.ndarray:
    """The same rows (N, D), zeros where a row is not finite; a copy only where there is one."""
    bad = _spoilt(array)
    if bad.any():
        array = np.array(array)
        array[bad] = 0
    return array
