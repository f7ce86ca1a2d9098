"""Embeddings and a split to ranks of every query, and ranks to tables with intervals."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

from clipfh_lib.evaluation import intervals, metrics, reranking, search, trials
from clipfh_lib.files import InputError
from clipfh_lib.schema import EvaluationParams, RerankParams

TOP = 10  # nearest images kept per query
METRICS = ("rank1", "rank5", "rank10", "mAP", "mAP_trapezoid", "mINP")
_GROUP = ["weights", "direction", "test_aspect", "gallery"]


class Results(NamedTuple):
    """Tables of an evaluation, with the columns of `ranks.csv`, `trials.csv`, `metrics.csv`.

    The run folder puts data set, method, backbone, recipe and seed in front. `value` is a
    fraction 0..1 except for `unmatched`, a number of queries. `queries` is the number of the
    trial in `trials`, and the mean over all trials in `metrics`; `people` the distinct people
    among them, which are what is resampled for `low` and `high`. `sd` is the sample standard
    deviation (n - 1) over the trials.
    """

    ranks: pd.DataFrame
    trials: pd.DataFrame
    metrics: pd.DataFrame


class Weighted(Protocol):
    """Embeddings, array and table, and what made them; as `embeddings.Weighted`."""

    @property
    def weights(self) -> str:
        """For the column of that name."""

    @property
    def embeddings(self) -> tuple[np.ndarray, pd.DataFrame]:
        """See `evaluate`."""


def evaluate(
    array: np.ndarray,
    table: pd.DataFrame,
    split: pd.DataFrame,
    weights: str,
    distance: search.Distance = "cosine",
    resamples: int = 10_000,
    seed: int = 0,
    rerank: RerankParams | None = None,
    subsets: Sequence[str] = tuple(trials.SUBSETS),
) -> Results:
    """Rank every query of a split in every gallery of its aspect and trial, and sum up.

    Args:
        array: (N, D) float embeddings, one row per row of the table.
        table: `image_id` and, where known, `file_number`. Who is who comes from the split alone.
        split: the split manifest (rows of other roles than query and gallery are passed over).
        weights: what made the embeddings, for the column of that name.
        distance: `cosine` or `euclidean`.
        resamples: how often people are drawn for an interval.
        seed: of that draw.
        rerank: ranks are those after re-ranking, in each trial and gallery by itself; it uses the
            other queries too, see `reranking.distances`.
        subsets: which ones are summed up.

    Raises:
        InputError: if images of the split have no finite embedding, an image is a query in its own
            gallery, or the split tests nobody.
    """
    found = trials.searches(array, table, split)
    names = table["image_id"].array
    numbers = trials.file_numbers(table)
    frames = []
    for _, group in itertools.groupby(found, key=lambda each: each.test_aspect):
        of_aspect = list(group)
        rows = [each.rows for each in of_aspect]
        if rerank is None:
            answers = search.search(array, array, rows, distance, TOP)
        else:
            answers = [reranking.rank(array, each, rerank, distance, TOP) for each in rows]
        for each, answer in zip(of_aspect, answers, strict=True):
            frames.append(_rank_rows(each, answer, names, numbers))
    ranks = pd.concat(frames, ignore_index=True)
    ranks.insert(0, "weights", weights)
    ranks.insert(1, "direction", "image_image")
    return summarise(ranks, resamples, seed, subsets)


def of_run(found: Sequence[Weighted], split: pd.DataFrame, how: EvaluationParams) -> list[Results]:
    """Evaluate all embeddings of a run as its parameters have it.

    Args:
        found: the run's own embeddings, then others to hold beside them.
        split: the split manifest.
        how: with `rerank`, the first embeddings are also evaluated with re-ranking; `weights` of
            those rows ends with `_reranked`, so that rows without it stay what they were.

    Returns:
        One for each of `found` in its order, then the re-ranked one if there is one.
    """
    cells = [(one, one.weights, None) for one in found]
    if how.rerank is not None:
        cells.append((found[0], f"{found[0].weights}_reranked", how.rerank))
    return [
        evaluate(*one.embeddings, split, name, how.distance, how.resamples, rerank=rerank)
        for one, name, rerank in cells
    ]


def summarise(
    ranks: pd.DataFrame,
    resamples: int = 10_000,
    seed: int = 0,
    subsets: Sequence[str] = tuple(trials.SUBSETS),
) -> Results:
    """Compute all metrics of all subsets from a table of ranks alone, as `ranks.csv` holds it.

    Where there are several test aspects, rows with `test_aspect` "all" take their queries
    together. A subset without queries has no row. Queries without a right gallery image (`rank`
    is empty) are in no metric; where there are any, the metric `unmatched` counts them.

    Args:
        ranks: `Results.ranks`, or read from a CSV file.
        resamples: how often people are drawn for an interval.
        seed: of that draw.
        subsets: which ones.
    """
    values, gap = query_values(parse_ranks(ranks["ranks"])), gap_column(ranks)
    long = trials.LongTables()
    for key, group in groups(ranks):
        numbers = np.unique(ranks["trial"].to_numpy()[group])
        for subset in subsets:
            mine = group[trials.in_subset(gap[group], subset)]
            matched = mine[~np.isnan(values[mine, 0])]
            if len(matched):
                sums, counts = sums_of(ranks, matched, values[matched], numbers)
                means = intervals.trial_means(sums, counts)
                ends = intervals.interval(sums, counts, resamples, seed)
                long.add({**key, "subset": subset}, numbers, METRICS, means, ends, counts)
            if len(matched) < len(mine):
                lost = np.setdiff1d(mine, matched)
                _, counts = sums_of(ranks, lost, values[lost], numbers)
                means = counts.sum(axis=0)[:, None]
                ends = intervals.Interval(*np.full((2, 1), np.nan))
                long.add({**key, "subset": subset}, numbers, ("unmatched",), means, ends, counts)
    return Results(ranks, *long.frames())


def cmc(
    ranks: pd.DataFrame, up_to: int = 50, resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """Cumulative match characteristic with 95 % intervals, all queries.

    Args:
        ranks: `Results.ranks`, or read from a CSV file.
        up_to: last rank.
        resamples: how often people are drawn for the intervals.
        seed: of that draw.

    Returns:
        Columns `weights, direction, test_aspect, gallery, rank, value, low, high`.
    """
    values = metrics.rank_k(parse_ranks(ranks["ranks"]), np.arange(1, up_to + 1))
    frames = []
    for key, group in groups(ranks):
        matched = group[~np.isnan(values[group, 0])]
        if not len(matched):
            continue
        numbers = np.unique(ranks["trial"].to_numpy()[matched])
        sums, counts = sums_of(ranks, matched, values[matched], numbers)
        low, high = intervals.interval(sums, counts, resamples, seed)
        mean = intervals.trial_means(sums, counts).mean(axis=0)
        curve = {"rank": np.arange(1, up_to + 1), "value": mean, "low": low, "high": high}
        frames.append(pd.DataFrame({**key, **curve}))
    return pd.concat(frames, ignore_index=True)


def compare(
    first: pd.DataFrame | Sequence[pd.DataFrame],
    second: pd.DataFrame | Sequence[pd.DataFrame],
    resamples: int = 10_000,
    seed: int = 0,
    subsets: Sequence[str] = tuple(trials.SUBSETS),
) -> pd.DataFrame:
    """Compare two methods on the same queries, paired over people; see `intervals.compare`.

    Args:
        first: ranks of one method with one kind of weights, as `ranks.csv` holds them; of several
            runs that differ in the seed of their training a table each, see `over_seeds`.
        second: those of the other.
        resamples: of people and of signs.
        seed: of both draws.
        subsets: which ones.

    Returns:
        Columns `direction, test_aspect, gallery, subset, metric, difference, low, high, p, queries,
        people`; the difference is first minus second.

    Raises:
        InputError: if the queries of the two are not the same.
    """
    tables = [[one] if isinstance(one, pd.DataFrame) else list(one) for one in (first, second)]
    ranks, *values = _aligned(tables)
    frames = []
    for key, sums, counts in _subset_sums(ranks, values, subsets):
        found = intervals.compare(*sums, counts, resamples, seed)._asdict()
        size = {"queries": counts.sum(axis=0).mean(), "people": len(counts)}
        frames.append(pd.DataFrame({**key, "metric": METRICS, **found, **size}))
    return pd.concat(frames, ignore_index=True).drop(columns="weights")


def over_seeds(
    runs: Sequence[pd.DataFrame],
    resamples: int = 10_000,
    seed: int = 0,
    subsets: Sequence[str] = tuple(trials.SUBSETS),
) -> pd.DataFrame:
    """Mean over runs that differ in the seed of their training alone, with its interval.

    What a query scored is averaged over the runs before people are resampled, so the interval is
    that of their mean for other people; how much seeds differ is not in it.

    Args:
        runs: their ranks, each with one kind of weights.
        resamples: how often people are drawn.
        seed: of that draw.
        subsets: which ones.

    Returns:
        Columns `direction, test_aspect, gallery, subset, metric, value, low, high, queries,
        people`.

    Raises:
        InputError: if they do not rank the same queries.
    """
    ranks, values = _aligned([list(runs)])
    frames = []
    for key, (sums,), counts in _subset_sums(ranks, [values], subsets):
        value = intervals.trial_means(sums, counts).mean(axis=0)
        ends = intervals.interval(sums, counts, resamples, seed)._asdict()
        size = {"queries": counts.sum(axis=0).mean(), "people": len(counts)}
        frames.append(pd.DataFrame({**key, "metric": METRICS, "value": value, **ends, **size}))
    return pd.concat(frames, ignore_index=True).drop(columns="weights")


def _aligned(methods: Sequence[Sequence[pd.DataFrame]]) -> list:
    """The first table in a fixed order, then of each method what its runs scored on average."""
    same = ["direction", "test_aspect", "trial", "gallery", "query"]
    tables = [[one.sort_values(same, ignore_index=True) for one in runs] for runs in methods]
    first = tables[0][0]
    if not all(one[same].equals(first[same]) for runs in tables for one in runs):
        raise InputError("the two runs do not rank the same queries: they need the same split")
    scored = [[query_values(parse_ranks(one["ranks"])) for one in runs] for runs in tables]
    return [first, *(np.mean(runs, axis=0) for runs in scored)]


def _subset_sums(
    ranks: pd.DataFrame, values: Sequence[np.ndarray], subsets: Sequence[str]
) -> Iterator[tuple[dict[str, str], list[np.ndarray], np.ndarray]]:
    """Names, people's sums of each of `values`, and counts, for every subset that has queries."""
    gap = gap_column(ranks)
    for key, group in groups(ranks):
        numbers = np.unique(ranks["trial"].to_numpy()[group])
        for subset in subsets:
            mine = group[trials.in_subset(gap[group], subset) & ~np.isnan(values[0][group, 0])]
            if len(mine):
                sums = [sums_of(ranks, mine, each[mine], numbers) for each in values]
                yield {**key, "subset": subset}, [each for each, _ in sums], sums[0][1]


def query_values(ranks: np.ndarray) -> np.ndarray:
    """All `METRICS` of every query: (Q, K) ranks to (Q, 6); NaN without a right image."""
    return np.column_stack(
        [
            metrics.rank_k(ranks, np.array([1, 5, 10])),
            metrics.average_precision(ranks),
            metrics.average_precision_trapezoid(ranks),
            metrics.inverse_negative_penalty(ranks),
        ]
    )


def parse_ranks(column: pd.Series) -> np.ndarray:
    """Column `ranks` of `ranks.csv` to (Q, K) integers, 0 fills up."""
    if pd.api.types.is_integer_dtype(column):  # one right image each, read from a file
        return column.to_numpy(np.int64, na_value=0)[:, None]
    cells = ["" if empty else str(cell) for cell, empty in zip(column, column.isna(), strict=True)]
    cells = [cell.split() for cell in cells]
    lengths = np.array([len(cell) for cell in cells])
    out = np.zeros((len(cells), max(lengths.max(initial=0), 1)), np.int64)
    real = np.arange(out.shape[1]) < lengths[:, None]
    out[real] = [int(float(rank)) for cell in cells for rank in cell]
    return out


def groups(ranks: pd.DataFrame) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Names and row numbers of each weights, direction, test aspect and gallery; then pooled."""
    for key, rows in ranks.groupby(_GROUP, sort=False).indices.items():
        yield dict(zip(_GROUP, key, strict=True)), rows
    pooled = [name for name in _GROUP if name != "test_aspect"]
    for key, rows in ranks.groupby(pooled, sort=False).indices.items():
        if ranks["test_aspect"].iloc[rows].nunique() > 1:
            yield {**dict(zip(pooled, key, strict=True)), "test_aspect": trials.POOLED}, rows


def sums_of(
    ranks: pd.DataFrame, rows: np.ndarray, values: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums (P, T, M) and counts (P, T) of these rows' people and the trials `numbers`."""
    people, names = pd.factorize(ranks["pid"].to_numpy()[rows])
    trial = np.searchsorted(numbers, ranks["trial"].to_numpy()[rows])
    return intervals.person_sums(values, people, trial, (len(names), len(numbers)))


def gap_column(ranks: pd.DataFrame) -> np.ndarray:
    """Column `gap`: (Q,) float, NaN where it is empty."""
    return ranks["gap"].to_numpy(np.float64, na_value=np.nan)


def _rank_rows(
    one: trials.Search, answer: search.Found, names: ExtensionArray, numbers: np.ndarray
) -> pd.DataFrame:
    """Rows of `ranks.csv` of one gallery and trial, without weights and direction."""
    first, gap = answer.ranks[:, 0], trials.gaps(one.rows, numbers)
    columns = {
        "test_aspect": one.test_aspect,
        "trial": one.trial,
        "gallery": one.gallery,
        "query": names.take(one.rows.queries),
        "pid": one.rows.query_pids,
        "rank": _integers(first, first == 0),
        "ranks": _words(answer.ranks),
        "gap": _integers(gap, np.isnan(gap)),
    }
    for place in range(TOP):
        columns[f"top_{place + 1}"] = names.take(answer.top[:, place], allow_fill=True)
    return pd.DataFrame(columns)


def _integers(values: np.ndarray, empty: np.ndarray) -> ExtensionArray:
    return pd.arrays.IntegerArray(np.where(empty, 0, values).astype(np.int64), empty)


def _words(ranks: np.ndarray) -> np.ndarray:
    """Ranks (Q, K) as text, space-separated, without the zeros that fill up: (Q,)."""
    words = np.array(["", *map(str, range(1, ranks.max(initial=0) + 1))], dtype=object)
    text = words[ranks[:, 0]]
    for k in range(1, ranks.shape[1]):
        text = np.where(ranks[:, k] > 0, text + " " + words[ranks[:, k]], text)
    return text
