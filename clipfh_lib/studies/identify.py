"""Who is this? The nearest enrolled people, or nobody; and whether two images are of one person."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipfh_lib import params
from clipfh_lib.data import splits
from clipfh_lib.evaluation import intervals
from clipfh_lib.files import InputError
from clipfh_lib.studies import gallery, index, vectors
from clipfh_lib.studies.gallery import Gallery
from clipfh_lib.studies.index import Approximate, Exact
from clipfh_lib.studies.vectors import Model
from clipfh_lib.study import IdentifyParams

NOBODY, UNDECIDED = "nobody here", "undecided: no threshold"
COLUMNS = ["query", "rank", "person", "similarity", "image", "answer"]


class Answers(NamedTuple):
    """`found`: `query, rank, person, similarity, image, answer`, a row for each person named.

    `image` is the person's nearest one, `answer` the person at rank 1, or `NOBODY` where that one
    is below the threshold. `aside`: `path, reason` of queries that cannot be read.
    """

    found: pd.DataFrame
    aside: pd.DataFrame


@dataclass(frozen=True)
class Identifier:
    """A gallery, the model that made it, and an index over it."""

    gallery: Gallery
    model: Model
    index: Exact | Approximate

    def identify(self, root: str | Path, paths: list[str], top: int = 5) -> Answers:
        """The nearest people to each image, best first.

        Args:
            root: folder the paths start from.
            paths: of the images.
            top: how many people.
        """
        seen = self.model.see(root, paths)
        names = [paths[row] for row in seen.rows]
        return Answers(self.nearest(seen.array, names, top), seen.aside)

    def nearest(self, array: np.ndarray, names: list[str], top: int = 5) -> pd.DataFrame:
        """The same of embeddings (Q, D) of length one: `found` of Answers."""
        bar, enrolled = self.gallery.bar, self.gallery.table
        best = self.index.people(array, min(top, len(self.gallery.people)))
        if not best.rows.shape[1]:  # nobody is enrolled
            cells = {"rank": 1, "person": "", "similarity": np.nan, "image": "", "answer": NOBODY}
            return pd.DataFrame({"query": names, **cells}, columns=COLUMNS)
        query, rank = np.nonzero(best.rows >= 0)
        rows = enrolled.iloc[best.rows[query, rank]]
        first = enrolled["person"].to_numpy()[best.rows[:, 0]]
        answers = np.full(len(names), UNDECIDED, object)
        if bar is not None:
            answers = np.where(best.similarity[:, 0] >= bar, first, NOBODY)
        return pd.DataFrame(
            {
                "query": np.array(names, object)[query],
                "rank": rank + 1,
                "person": rows["person"].to_numpy(),
                "similarity": best.similarity[query, rank],
                "image": rows["image"].to_numpy(),
                "answer": answers[query],
            }
        )

    def verify(self, root: str | Path, first: str, second: str) -> pd.DataFrame:
        """Whether two images are of one person: `first, second, similarity, threshold, far, same`.

        `same` is yes or no, or `UNDECIDED`. The threshold is that of pairs, not of searches.

        Raises:
            InputError: one of them cannot be read.
        """
        seen = self.model.see(root, [first, second])
        if len(seen.aside):
            path, reason = seen.aside.iloc[0]
            raise InputError(f"{path}: {reason}; two readable images are compared")
        similarity, limit = float(seen.array[0] @ seen.array[1]), self.gallery.threshold
        same = "yes" if similarity >= limit.pair else "no"
        row = {"first": first, "second": second, "similarity": similarity}
        row |= {"threshold": limit.pair, "far": limit.far}
        return pd.DataFrame([row | {"same": UNDECIDED if limit.reason else same}])


def of(found: Gallery, model: Model, kind: index.Kind = "auto", seed: int = 0) -> Identifier:
    """Ready to answer; with `faiss` the index is built now.

    Raises:
        InputError: the gallery is of another model.
    """
    gallery.check(found.made_by, model.made_by, "the gallery")
    return Identifier(found, model, index.build(found.embeddings, found.first, kind, seed))


def open(path: str | Path) -> Identifier:
    """A gallery's file with the model of the run that enrolled it.

    Raises:
        InputError: no gallery; its run is gone, or its weights are others now.
    """
    found = gallery.read(path)
    settings = found.settings
    p = params.validate(IdentifyParams, settings["params"], {})
    # PromptSG's sentences need the aspects of its data set; no other method needs the data
    data = splits.prepare(p, settings["outputs"]) if p.of.method == "prompt_sg" else None
    return of(gallery.read(path, model := vectors.load(p, data)), model, p.index, p.seed)


def rates(
    searched: pd.DataFrame,
    in_vain: pd.DataFrame,
    queries: pd.DataFrame,
    strangers: pd.DataFrame,
    resamples: int = 1_000,
    seed: int = 0,
) -> pd.DataFrame:
    """What became of searches whose answer is known, with 95 % intervals over people.

    `rank1`: the right person stands first, whatever the similarity. `fnir`: the answer is not the
    right person. `fpir`: somebody is named who is not enrolled; this is what FAR was asked for.

    Args:
        searched: answers to images of enrolled people, `found` of Answers.
        in_vain: answers to images of people who are not enrolled.
        queries: `path, person` of the first ones.
        strangers: `path, person` of the second ones.
        resamples: how often people are drawn.
        seed: of that draw.

    Returns:
        `metric, value, low, high, searches, people`; without a threshold `rank1` alone.
    """
    rows = []
    for answers, asked in ((searched, queries), (in_vain, strangers)):
        own = asked.drop_duplicates("path").set_index("path")["person"]
        one = answers[answers["rank"] == 1].assign(own=lambda a: a["query"].map(own))  # noqa: B023
        if one.empty:
            continue
        named, right = one["answer"] != NOBODY, one["answer"] == one["own"]
        outcome = {"rank1": one["person"] == one["own"], "fnir": ~right}
        if answers is in_vain:
            outcome = {"fpir": named}
        decided = (one["answer"] != UNDECIDED).all()
        outcome = {name: hit for name, hit in outcome.items() if decided or name == "rank1"}
        people, who = np.unique(one["own"], return_inverse=True)
        for name, hit in outcome.items():
            shape = (len(people), 1)
            trial = np.zeros(len(one), int)
            sums = intervals.person_sums(hit.to_numpy(float)[:, None], who, trial, shape)
            low, high = intervals.interval(*sums, resamples, seed)
            rows.append((name, hit.mean(), low[0], high[0], len(one), len(people)))
    columns = ["metric", "value", "low", "high", "searches", "people"]
    return pd.DataFrame(rows, columns=columns)


def some(found: pd.DataFrame, queries: int) -> pd.DataFrame:
    """The answers to so many queries, spread evenly over all."""
    names = found["query"].unique()
    places = np.linspace(0, len(names) - 1, min(queries, len(names))).round().astype(int)
    return found[found["query"].isin(names[np.unique(places)])]


def seconds(identifier: Identifier, root: str | Path, path: str, repeats: int = 5) -> float:
    """Median seconds from an image file to its answer."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        identifier.identify(root, [path])
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
