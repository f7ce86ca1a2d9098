"""Queries of one aspect in the galleries of the others."""

from typing import NamedTuple

import numpy as np
import pytest
import simulated

from clipfh_lib.evaluation import across, retrieval, trials
from clipfh_lib.schema import EvaluationParams, RerankParams

ASPECTS = ("dorsal_r", "dorsal_l", "palmar_r", "palmar_l")


def rank1(array, table, split):
    metrics = retrieval.evaluate(array, table, split, "w", resamples=10).metrics
    metrics = metrics[(metrics["metric"] == "rank1") & (metrics["subset"] == "all")]
    metrics = metrics[metrics["test_aspect"] != trials.POOLED]
    return metrics.pivot(index="test_aspect", columns="gallery", values="value")


def test_across_aspects_equals_a_loop_over_queries():
    array, table, split = simulated.people(aspects=ASPECTS[:3], noise=1.0)
    hand = table.groupby("pid").ngroup().to_numpy()
    who = np.random.default_rng(1).standard_normal((hand.max() + 1, 16))[hand]
    array = (array + 0.7 * who).astype(np.float32)  # a person's hands have something in common
    found = rank1(array, table, across.searched(split))
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    row = dict(zip(table["image_id"], range(len(table)), strict=True))
    for query_aspect in ASPECTS[:3]:
        for searched in ASPECTS[:3]:
            means = []
            for trial in range(3):
                here = split[split["trial"] == trial]
                query = here[(here["role"] == "query") & (here["test_aspect"] == query_aspect)]
                own = here[here["gallery"] == "same_aspect"]
                own = own[own["test_aspect"] == searched]
                hits = []
                for image, pid in zip(query["image_id"], query["pid"], strict=True):
                    scores = unit[[row[name] for name in own["image_id"]]] @ unit[row[image]]
                    hits.append(own["pid"].iloc[int(scores.argmax())] == pid)
                means.append(np.mean(hits))
            assert found.loc[query_aspect, searched] == pytest.approx(np.mean(means))
    off = found.to_numpy()[~np.eye(3, dtype=bool)]
    assert np.diag(found).min() > off.max() > off.min() > 0.1, "harder, but not by chance"


def test_the_diagonal_is_the_gallery_of_the_same_aspect():
    array, table, split = simulated.people(aspects=ASPECTS, noise=1.5)
    found = rank1(array, table, across.searched(split))
    own = rank1(array, table, split)["same_aspect"]
    assert np.diag(found).tolist() == own[found.index].tolist()
    assert own.between(0.2, 0.99).all()


def test_people_of_one_aspect_alone_are_unmatched_in_the_others():
    array, table, split = simulated.people()
    lone = split.loc[split["role"] == "query", "pid"].max()
    split = split[~((split["pid"] == lone) & (split["test_aspect"] == "palmar_l"))]
    metrics = retrieval.evaluate(array, table, across.searched(split), "w", resamples=10)
    unmatched = metrics.metrics[metrics.metrics["metric"] == "unmatched"]
    cells = set(zip(unmatched["test_aspect"], unmatched["gallery"], strict=True))
    assert ("dorsal_r", "palmar_l") in cells and ("dorsal_r", "dorsal_r") not in cells


class Weighted(NamedTuple):
    weights: str
    embeddings: tuple


def test_a_run_is_evaluated_for_each_weights_and_without_re_ranking():
    array, table, split = simulated.people()
    found = [Weighted("pretrained", (array, table)), Weighted("pixels", (-array[::-1], table))]
    how = EvaluationParams(resamples=10, rerank=RerankParams())
    metrics = across.evaluate(found, split, how)
    assert set(metrics["weights"]) == {"pretrained", "pixels"}
    assert set(metrics["gallery"]) == {"dorsal_r", "palmar_l"}


def test_one_aspect_alone_has_nothing_across():
    array, table, split = simulated.people(aspects=("dorsal_r",))
    found = across.evaluate([Weighted("w", (array, table))], split, EvaluationParams())
    assert found.empty and {"test_aspect", "gallery", "metric", "subset"} <= set(found)
