"""Queries of one aspect in the galleries of another: does a palm find the back of the same hand?"""

from collections.abc import Sequence

import pandas as pd

from clipfh_lib.evaluation import retrieval, trials
from clipfh_lib.schema import EvaluationParams


def evaluate(
    found: Sequence[retrieval.Weighted], split: pd.DataFrame, how: EvaluationParams
) -> pd.DataFrame:
    """Rates of each weights for every pair of aspects; see `searched`.

    Args:
        found: embeddings with the name of their weights.
        split: the split manifest.
        how: distance and resamples count.

    Returns:
        The columns of `retrieval.Results.metrics`; `gallery` is the aspect that is searched. Empty
        where a split tests fewer than two aspects.
    """
    pairs = searched(split)
    if pairs.empty:
        return trials.LongTables().frames()[1]
    plain = how.model_copy(update={"rerank": None})
    return trials.join(*retrieval.of_run(found, pairs, plain)).metrics


def searched(split: pd.DataFrame) -> pd.DataFrame:
    """The split with each aspect's queries against the galleries of every aspect's people.

    Can the back of a hand be found by its palm, the left by the right? In these galleries an id
    means the person; in `all_aspects` the same person's other hands count as wrong. People who
    test in one aspect alone have no right image in the others: `unmatched` counts their queries.

    Args:
        split: a manifest with the gallery `same_aspect`.

    Returns:
        Query and gallery rows; `gallery` is the aspect that is searched. Empty where a split tests
        fewer than two aspects.
    """
    query = split[split["role"] == "query"]
    own = split[split["gallery"] == "same_aspect"]
    here = list(dict.fromkeys(query["test_aspect"]))
    if len(here) < 2:
        return split.iloc[:0]
    galleries = [
        own[own["test_aspect"] == other].assign(test_aspect=aspect, gallery=other)
        for aspect in here
        for other in here
    ]
    return pd.concat([query, *galleries], ignore_index=True)
