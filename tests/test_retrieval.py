import csv
import io
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from simulated import people

from clipfh_lib.evaluation import reranking, retrieval, trials
from clipfh_lib.files import InputError
from clipfh_lib.schema import EvaluationParams, RerankParams

RANKS = [
    *("weights", "direction", "test_aspect", "trial", "gallery", "query", "pid"),
    *("rank", "ranks", "gap", *(f"top_{place}" for place in range(1, 11))),
]
LONG = ["test_aspect", "weights", "gallery", "subset", "direction"]


@pytest.fixture(scope="module")
def drawn():
    return people()


@pytest.fixture(scope="module")
def results(drawn):
    return retrieval.evaluate(*drawn, "trained", resamples=500)


def value(table, metric, subset="all", test_aspect="dorsal_r", gallery="same_aspect"):
    rows = table.query(
        "metric == @metric and subset == @subset and test_aspect == @test_aspect "
        "and gallery == @gallery"
    )
    assert len(rows) == 1
    return rows["value"].item()


def test_columns_are_those_of_the_run_folder(results):
    assert list(results.ranks) == RANKS
    assert list(results.trials) == [*LONG, "trial", "metric", "value", "queries", "people"]
    back = ["value", "sd", "low", "high", "queries", "people"]
    assert list(results.metrics) == [*LONG, "metric", *back]
    assert set(results.metrics["test_aspect"]) == {"dorsal_r", "palmar_l", "all"}


@pytest.mark.parametrize("subset", ["all", "far", "gap_1", "gap_3_5"])
@pytest.mark.parametrize("test_aspect", ["palmar_l", "all"])
def test_the_text_of_the_ranks_table_gives_the_same_numbers(results, subset, test_aspect):
    """Twenty lines that share nothing with the library but the file."""
    text = results.ranks.to_csv(index=False)
    bounds = {"all": (0, 10**9), "far": (11, 10**9), "gap_1": (0, 1), "gap_3_5": (3, 5)}
    low, high = bounds[subset]
    hits, precisions, trapezoids = {}, {}, {}
    for row in csv.DictReader(io.StringIO(text)):
        if row["gallery"] != "all_aspects" or not low <= int(row["gap"]) <= high:
            continue
        if test_aspect not in ("all", row["test_aspect"]):
            continue
        ranks = [int(rank) for rank in row["ranks"].split()]
        ap = sum((k + 1) / rank for k, rank in enumerate(ranks)) / len(ranks)
        ends = [(1 if rank == 1 else k / (rank - 1)) for k, rank in enumerate(ranks)]
        trapezoid = (ap + sum(ends) / len(ends)) / 2
        hits.setdefault(row["trial"], []).append(int(row["rank"]) == 1)
        precisions.setdefault(row["trial"], []).append(ap)
        trapezoids.setdefault(row["trial"], []).append(trapezoid)
    for metric, found in (("rank1", hits), ("mAP", precisions), ("mAP_trapezoid", trapezoids)):
        expected = np.mean([np.mean(one) for one in found.values()])
        ours = value(results.metrics, metric, subset, test_aspect, "all_aspects")
        assert ours == pytest.approx(expected, abs=1e-12)
        assert 0.05 < ours < 0.95
    row = results.metrics.query(
        "metric == 'mAP' and subset == @subset and test_aspect == @test_aspect "
        "and gallery == 'all_aspects'"
    ).iloc[0]
    assert row["queries"] * 3 == sum(map(len, hits.values()))
    assert row["low"] < row["value"] < row["high"]
    assert row["sd"] == pytest.approx(np.std([np.mean(one) for one in precisions.values()], ddof=1))


def test_subsets_meet_at_their_edges():
    gap = np.array([1, 2, 3, 5, 6, 10, 11, 50, 51, np.nan])
    inside = {name: gap[trials.in_subset(gap, name)].tolist() for name in trials.SUBSETS}
    assert len(inside.pop("all")) == 10
    assert inside.pop("far") == [11, 50, 51]
    assert list(inside.values()) == [[1], [2], [3, 5], [6, 10], [11, 50], [51]]


def test_a_table_read_from_a_file_sums_up_to_the_same(results):
    read = pd.read_csv(io.StringIO(results.ranks.to_csv(index=False)))
    again = retrieval.summarise(read, resamples=500)
    pd.testing.assert_frame_equal(again.metrics, results.metrics)
    pd.testing.assert_frame_equal(again.trials, results.trials)


def test_with_one_gallery_image_the_trapezoid_is_the_mean_of_rank_1_and_map(results):
    wide = results.trials.pivot(
        index=[*LONG, "trial"], columns="metric", values="value"
    ).reset_index()
    np.testing.assert_allclose(wide["mAP_trapezoid"], (wide["rank1"] + wide["mAP"]) / 2)
    assert (wide["rank1"] < wide["mAP"]).mean() > 0.9


def test_ranks_gaps_and_nearest_images_equal_a_loop(drawn, results):
    array, table, split = drawn
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    at = {image: row for row, image in enumerate(table["image_id"])}
    sample = results.ranks.sample(60, random_state=0)
    for row in sample.itertuples():
        here = split.query(
            "role == 'gallery' and test_aspect == @row.test_aspect and trial == @row.trial "
            "and gallery == @row.gallery"
        )
        scores = unit[[at[image] for image in here["image_id"]]] @ unit[at[row.query]]
        order = np.argsort(-scores)
        place = np.flatnonzero(here["pid"].to_numpy()[order] == row.pid)
        assert (row.rank, row.ranks) == (place[0] + 1, str(place[0] + 1))
        images = here["image_id"].to_numpy()[order]
        assert [getattr(row, f"top_{n}") for n in range(1, 11)] == images[:10].tolist()
        numbers = [table["file_number"][at[image]] for image in (row.query, images[place[0]])]
        assert row.gap == abs(numbers[0] - numbers[1])


def test_people_come_from_the_split_not_from_the_table(drawn, results):
    array, table, split = drawn
    again = retrieval.evaluate(array, table.assign(pid=1), split, "trained", resamples=500)
    pd.testing.assert_frame_equal(again.metrics, results.metrics)
    other_hand = split["pid"].where(split["pid"] < 11_000_000, split["pid"] - 11_000_000)
    merged = retrieval.evaluate(
        array, table, split.assign(pid=other_hand), "trained", resamples=500
    )
    assert (merged.ranks["ranks"].astype(str).str.split().str.len() == 2).any()


def test_the_order_of_rows_changes_nothing(drawn, results):
    array, table, split = drawn
    order = np.random.default_rng(0).permutation(len(table))
    turned = retrieval.evaluate(
        array[order],
        table.iloc[order].reset_index(drop=True),
        split.sample(frac=1, random_state=0),
        "trained",
        resamples=500,
    )
    keys = ["test_aspect", "gallery", "trial", "query"]
    ours, theirs = (
        each.sort_values(keys, ignore_index=True) for each in (results.ranks, turned.ranks)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    same = ["value", "sd", "queries", "people"]
    pd.testing.assert_frame_equal(turned.metrics[same], results.metrics[same])


def test_a_query_whose_person_is_in_no_gallery_is_left_out_and_counted(drawn, results):
    array, table, split = drawn
    gone = split["pid"].eq(7) & split["role"].eq("gallery") & split["test_aspect"].eq("dorsal_r")
    found = retrieval.evaluate(array, table, split[~gone], "trained", resamples=100)
    lost = found.ranks[found.ranks["rank"].isna()]
    assert set(lost["pid"]) == {7}
    assert value(found.metrics, "unmatched") == 7  # eight images, one of them the gallery's
    rest = found.ranks.query("test_aspect == 'dorsal_r' and gallery == 'same_aspect' and pid != 7")
    assert value(found.metrics, "rank1") == pytest.approx((rest["rank"] == 1).mean())
    assert "unmatched" not in set(results.metrics["metric"])
    read = pd.read_csv(io.StringIO(found.ranks.to_csv(index=False)))
    pd.testing.assert_frame_equal(retrieval.summarise(read, 100).metrics, found.metrics)


def test_without_file_numbers_there_is_no_gap_and_no_subset(drawn):
    array, table, split = drawn
    found = retrieval.evaluate(array, table.drop(columns="file_number"), split, "w", resamples=100)
    assert found.ranks["gap"].isna().all()
    assert set(found.metrics["subset"]) == {"all"}


def test_a_gallery_smaller_than_ten_leaves_places_empty():
    found = retrieval.evaluate(*people(test=7), "trained", resamples=100).ranks
    small = found[found["gallery"] == "same_aspect"]
    assert small["top_7"].notna().all()
    assert small["top_8"].isna().all()
    assert found.loc[found["gallery"] == "all_aspects", "top_10"].notna().all()


def test_cmc_starts_at_rank_1_and_meets_rank_5(results):
    curve = retrieval.cmc(results.ranks, up_to=12).query(
        "test_aspect == 'dorsal_r' and gallery == 'same_aspect'"
    )
    assert curve["rank"].tolist() == list(range(1, 13))
    assert curve["value"].iloc[0] == pytest.approx(value(results.metrics, "rank1"))
    assert curve["value"].iloc[4] == pytest.approx(value(results.metrics, "rank5"))
    assert curve["value"].iloc[11] == 1
    assert curve["value"].is_monotonic_increasing
    assert (curve["low"] <= curve["value"]).all() and (curve["value"] <= curve["high"]).all()


def test_comparison_of_two_methods_is_paired_over_people(drawn, results):
    array, table, split = drawn
    noisy = array + 2 * np.random.default_rng(0).standard_normal(array.shape).astype(np.float32)
    other = retrieval.evaluate(noisy, table, split, "trained", resamples=500)
    rows = retrieval.compare(results.ranks, other.ranks, resamples=500)
    row = rows.query("test_aspect == 'all' and metric == 'mAP' and subset == 'all'").iloc[0]
    gained = [value(r.metrics, "mAP", "all", "all", row["gallery"]) for r in (results, other)]
    assert row["difference"] == pytest.approx(gained[0] - gained[1])
    assert row["difference"] > 0.05
    assert row["low"] > 0
    assert row["p"] < 0.05
    with pytest.raises(InputError, match="do not rank the same queries"):
        retrieval.compare(results.ranks, other.ranks.iloc[1:])


def test_join_puts_kinds_of_weights_together(results):
    other = results._replace(ranks=results.ranks.assign(weights="pixels"))
    both = trials.join(results, other)
    assert len(both.metrics) == 2 * len(results.metrics)
    again = retrieval.summarise(both.ranks, resamples=100)
    assert again.metrics.groupby("weights")["value"].sum().nunique() == 1


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_re_ranking_is_by_trial_and_gallery(drawn, distance):
    array, table, split = drawn
    how = RerankParams(k1=7, k2=3)
    found = retrieval.evaluate(
        array, table, split, "trained", distance, resamples=100, rerank=how
    ).ranks
    assert list(found) == RANKS
    for one in trials.searches(array, table, split):
        final = np.concatenate(list(reranking.distances(array, one.rows, how, distance)))
        right = one.rows.gallery_pids == one.rows.query_pids[:, None]
        rank = 1 + (final < np.where(right, final, np.inf).min(axis=1, keepdims=True)).sum(axis=1)
        nearest = table["image_id"].to_numpy()[one.rows.gallery[final.argmin(axis=1)]]
        rows = found.query(
            "test_aspect == @one.test_aspect and gallery == @one.gallery and trial == @one.trial"
        )
        assert rows["query"].tolist() == table["image_id"].iloc[one.rows.queries].tolist()
        assert rows["rank"].tolist() == rank.tolist()
        assert rows["top_1"].tolist() == nearest.tolist()


def test_with_all_weight_on_the_plain_distance_re_ranking_changes_nothing(drawn, results):
    again = retrieval.evaluate(
        *drawn, "trained", resamples=500, rerank=RerankParams(k1=7, k2=3, weight=1)
    )
    pd.testing.assert_frame_equal(again.ranks, results.ranks)
    other = retrieval.evaluate(*drawn, "trained", resamples=500, rerank=RerankParams(k1=7, k2=3))
    assert (other.ranks["rank"] != results.ranks["rank"]).mean() > 0.2


class Weighted(NamedTuple):
    weights: str
    embeddings: tuple[np.ndarray, pd.DataFrame]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_a_run_has_its_own_rows_and_re_ranked_ones_of_its_first_embeddings(drawn, distance):
    array, table, split = drawn
    found = [Weighted("trained", (array, table)), Weighted("pixels", (array[:, :3], table))]
    how = EvaluationParams(distance=distance, resamples=100)
    plain = retrieval.of_run(found, split, how)
    assert len(plain) == 2
    for one, result in zip(found, plain, strict=True):
        expected = retrieval.evaluate(*one.embeddings, split, one.weights, distance, 100)
        pd.testing.assert_frame_equal(result.ranks, expected.ranks)
        pd.testing.assert_frame_equal(result.metrics, expected.metrics)
    rerank = RerankParams(k1=7, k2=3)
    *same, more = retrieval.of_run(found, split, how.model_copy(update={"rerank": rerank}))
    for result, expected in zip(same, plain, strict=True):
        pd.testing.assert_frame_equal(result.metrics, expected.metrics)
    expected = retrieval.evaluate(
        array, table, split, "trained_reranked", distance, 100, rerank=rerank
    )
    pd.testing.assert_frame_equal(more.ranks, expected.ranks)
    pd.testing.assert_frame_equal(more.metrics, expected.metrics)
    joined = trials.join(*same, more).metrics
    assert joined.groupby("weights").size().nunique() == 1
    assert list(joined["weights"].unique()) == ["trained", "pixels", "trained_reranked"]
    value(joined[joined["weights"] == "trained"], "rank1")  # still exactly one


def broken_array(array, table, split):
    array = array.copy()
    array[table.index[table["image_id"] == split["image_id"].iloc[-1]], 3] = np.nan
    return array, table, split


def own_gallery(array, table, split):
    query = split[split["role"] == "query"].iloc[[0]]
    return array, table, pd.concat([split, query.assign(role="gallery", gallery="same_aspect")])


def missing_image(array, table, split):
    row = table.index[table["image_id"] == split["image_id"].iloc[-1]]
    return np.delete(array, row, axis=0), table.drop(row), split


def nobody(array, table, split):
    return array, table, split[split["role"] == "val"]


def doubled(array, table, split):
    return np.r_[array, array[:1]], pd.concat([table, table[:1]], ignore_index=True), split


@pytest.mark.parametrize(
    "spoil, message",
    [
        (broken_array, "1 embeddings are not finite, first that of hand_"),
        (own_gallery, "dorsal_r, trial 0, gallery same_aspect: hand_.* is a query and in the gal"),
        (missing_image, "1 images of the split have no embedding, first: hand_"),
        (nobody, "it tests nobody"),
        (doubled, "hand_00001 stands twice in the table"),
    ],
)
def test_what_cannot_be_evaluated_is_named_in_one_line(drawn, spoil, message):
    with pytest.raises(InputError, match=message) as caught:
        retrieval.evaluate(*spoil(*drawn), "trained", resamples=100)
    assert "\n" not in str(caught.value)
