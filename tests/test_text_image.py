import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import retrieval as theirs

from clipfh_lib import params, runs
from clipfh_lib.data import pairs
from clipfh_lib.evaluation import retrieval, search, text_image
from clipfh_lib.files import InputError
from clipfh_lib.reports import tables


def simulated(people=12, each=4, shared=2, noise=1.5, seed=0, ties=False):
    """Images of people, a text of each one's own, a text of every `shared` people; embeddings.

    Person 0's own text is said of each image; of the others' every second image has none.
    """
    draw = np.random.default_rng(seed)
    pid = np.repeat(np.arange(people), each)
    table = pd.DataFrame({"image_id": [f"i{n:03d}" for n in range(len(pid))], "pid": pid})
    table["path"] = "images/" + table["image_id"] + ".jpg"
    some = table[(np.arange(len(table)) % 2 == 0) | (pid == 0)]
    own = some[["image_id"]].assign(prompt=[f"person {p}" for p in some["pid"]])
    both = table[["image_id"]].assign(prompt=[f"group {p // shared}, said" for p in pid])
    found = pairs.make(table, pd.concat([own, both]))
    texts = draw.standard_normal((len(found.texts), 12))
    images = np.zeros((len(table), 12))
    np.add.at(images, found.images, texts[found.ids])
    images += noise * draw.standard_normal(images.shape)
    if ties:
        texts, images = np.sign(texts[:, :3]), np.sign(images[:, :3])
    return images.astype(np.float32), texts.astype(np.float32), found


def by_hand(images, texts, found, direction):
    """Scores and truth values of every query, (Q, G); of equal scores the wrong stand first."""
    scores = search.similarity(texts, images, "cosine").astype(float).round(5)
    right = np.zeros(scores.shape, bool)
    right[found.ids, found.images] = True
    scores = scores - 1e-6 * right
    return (scores, right) if direction == "text_image" else (scores.T, right.T)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.booleans())
def test_metrics_of_both_directions_equal_torchmetrics(seed, shared, ties):
    images, texts, found = simulated(shared=shared, seed=seed, ties=ties)
    results = text_image.evaluate(images, texts, found, "trained", resamples=10)
    values = results.metrics.set_index(["direction", "metric"])["value"]
    assert len(values) == 2 * len(text_image.METRICS)
    for direction in text_image.DIRECTIONS:
        scores, right = by_hand(images, texts, found, direction)
        rows = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
        settled = 1 + torch.tensor(scores).argsort(dim=1).argsort(dim=1).double()  # 0 is not found
        given_ = settled.ravel(), torch.tensor(right).ravel(), rows
        for k in (1, 5, 10):
            recall, hit = theirs.RetrievalRecall(top_k=k), theirs.RetrievalHitRate(top_k=k)
            gain = theirs.RetrievalNormalizedDCG(top_k=k)
            for name, of in (("recall", recall), ("hit", hit), ("ndcg", gain)):
                assert values[direction, f"{name}@{k}"] == pytest.approx(
                    float(of(*given_)), abs=1e-5
                )
        mean = theirs.RetrievalMAP()
        assert values[direction, "mAP"] == pytest.approx(float(mean(*given_)), abs=1e-5)
        first = [1 + (s > s[r].max()).sum() for s, r in zip(scores, right, strict=True)]
        assert values[direction, "median_rank"] == np.median(first)
    quick = text_image.validate(images, texts, found)
    assert set(quick) == {"mAP", "recall@1", "hit@1"}
    for name, value in quick.items():
        assert value == pytest.approx(values["text_image", name])


def test_a_text_of_many_images_is_one_query_and_all_of_them_are_right():
    images, texts, found = simulated()
    ranks = text_image.evaluate(images, texts, found, "trained", resamples=10).ranks
    counts = ranks["ranks"].str.split().str.len()
    asked = ranks[ranks["direction"] == "text_image"]
    assert len(asked) == len(found.texts) == 18
    assert counts[asked.index].tolist() == np.bincount(found.ids).tolist()
    assert counts[ranks["direction"] == "image_text"].tolist() == np.bincount(found.images).tolist()
    scores, right = by_hand(images, texts, found, "text_image")
    for row, (_, query) in enumerate(asked.iterrows()):
        order = np.argsort(-scores[row])
        expected = np.flatnonzero(right[row][order]) + 1
        assert query["ranks"] == " ".join(map(str, expected))
        assert query["rank"] == expected[0]
        nearest = [query[f"top_{place}"] for place in range(1, 11)]
        assert nearest == found.table["image_id"].iloc[order[:10]].tolist()


def test_what_shows_one_person_is_resampled_together():
    images, texts, found = simulated(shared=3)
    results = text_image.evaluate(images, texts, found, "trained", resamples=200)
    ranks, names = results.ranks, text_image.names(found.texts).set_index("id")["text"]
    pid = ranks.assign(text=ranks["query"].map(names)).set_index("text")["pid"]
    assert all(pid[f"person {number}"] == number for number in range(12))
    groups = pid[[f"group {number}, said" for number in range(4)]]
    assert (groups < 0).all() and groups.is_unique  # of three people each: a unit of its own
    people = results.metrics.groupby("direction")["people"].unique()
    assert people["text_image"].tolist() == [16] and people["image_text"].tolist() == [12]
    nobody = pairs.Pairs(found.table.assign(pid=-1), found.texts, found.images, found.ids)
    single = text_image.evaluate(images, texts, nobody, "trained", resamples=200)
    alone = single.metrics
    assert (single.ranks["pid"] < 0).all()  # so that no unit is taken for a person
    assert alone.groupby("direction")["people"].first().tolist() == [48, 16]
    width = [one["high"] - one["low"] for one in (alone, results.metrics)]
    assert (width[0] < width[1])[alone["metric"] == "mAP"].any()


def test_the_tables_are_those_of_retrieval_and_a_run_takes_both():
    images, texts, found = simulated()
    results = text_image.evaluate(images, texts, found, "trained", resamples=100)
    p = params.load("zero_shot", "demo", "demo", "demo")
    run = runs.start("02_zero_shot", p, "outputs")
    saved = run.save_results([results, results])
    run.save_table("texts", text_image.listed(found))
    run.finish()
    assert len(saved) == 2 * len(results.metrics)
    read = pd.read_csv(run.folder / "ranks.csv", dtype={"ranks": str})
    assert {"weights", "direction", "query", "pid", "rank", "ranks", "gap", "top_10"} <= set(read)
    again = text_image.summarise(read[: len(results.ranks)], resamples=100)
    pd.testing.assert_frame_equal(again.metrics, results.metrics)
    said = pd.read_csv(run.folder / "texts.csv")
    assert said["id"].tolist() == results.ranks["query"][: len(said)].tolist()
    assert said["images"].sum() == len(found.ids)
    low, high = (results.metrics[end] for end in ("low", "high"))
    assert ((low <= results.metrics["value"]) & (results.metrics["value"] <= high)).all()
    assert tables.read_runs([run.folder])["direction"].isin(text_image.DIRECTIONS).all()


def test_a_better_model_is_ahead_with_an_interval_that_excludes_zero_and_an_equal_one_is_not():
    images, texts, found = simulated(people=40, noise=0.5)
    worse = images + 3 * np.random.default_rng(1).standard_normal(images.shape).astype(np.float32)
    good, bad = (
        text_image.evaluate(array, texts, found, name, resamples=100).ranks
        for array, name in ((images, "trained"), (worse, "pretrained"))
    )
    compared = text_image.compare(good, bad, resamples=1000)
    assert compared["metric"].tolist() == [*text_image.COMPARED] * 2
    assert compared["direction"].unique().tolist() == ["text_image", "image_text"]
    assert (compared["low"] > 0).all() and (compared["p"] < 0.05).all()
    values = [text_image.summarise(one, 10).metrics for one in (good, bad)]
    values = [one.set_index(["direction", "metric"])["value"] for one in values]
    for row in compared.itertuples():
        key = row.direction, row.metric
        assert row.difference == pytest.approx(values[0][key] - values[1][key])
    shuffled = good.sample(frac=1, random_state=0)
    assert (text_image.compare(good, shuffled, resamples=100)["difference"] == 0).all()


def test_other_texts_in_the_same_places_are_not_compared():
    images, texts, found = simulated()
    other = pairs.Pairs(found.table, [f"{t}!" for t in found.texts], found.images, found.ids)
    one, two = (
        text_image.evaluate(images, texts, each, "x", resamples=10).ranks for each in (found, other)
    )
    with pytest.raises(InputError, match="the same split and the same prompts"):
        text_image.compare(one, two)
    with pytest.raises(InputError, match="do not search"):
        text_image.compare(one.assign(direction="image_image"), one.assign(direction="image_image"))


def test_image_retrieval_beside_it_does_not_count():
    images, texts, found = simulated()
    ranks = text_image.evaluate(images, texts, found, "trained", resamples=50).ranks
    both = pd.concat([ranks, ranks.assign(direction="image_image")], ignore_index=True)
    alone, beside = (text_image.summarise(one, 50).metrics for one in (ranks, both))
    pd.testing.assert_frame_equal(alone, beside)
    pd.testing.assert_frame_equal(
        text_image.compare(ranks, ranks, 50), text_image.compare(both, both, 50)
    )
    assert set(retrieval.compare(ranks, ranks, 50, subsets=["all"])["metric"]) >= {"rank1", "mAP"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused_and_are_the_worst_in_validation(value):
    images, texts, found = simulated(noise=0.1)
    good = text_image.validate(images, texts, found)
    spoilt = np.full_like(images, value)
    with pytest.raises(InputError, match="48 image embeddings are not finite"):
        text_image.evaluate(spoilt, texts, found, "trained")
    with pytest.raises(ValueError, match="17 text embeddings for 18"):
        text_image.evaluate(images, texts[1:], found, "trained")
    bad = text_image.validate(spoilt, texts, found)
    assert bad["hit@1"] == 0 < 0.8 < good["hit@1"]
    assert bad["mAP"] < 0.2 < 0.8 < good["mAP"]


def test_validation_copies_embeddings_only_where_some_are_not_finite():
    images, texts, found = simulated()
    good = text_image.validate(images, texts, found)
    assert text_image._finite(images) is images
    spoilt = images.copy()
    spoilt[3, 2], spoilt[7] = np.nan, np.inf
    before, zeros = spoilt.copy(), images.copy()
    zeros[[3, 7]] = 0
    bad = text_image.validate(spoilt, texts, found)
    np.testing.assert_array_equal(spoilt, before)  # not changed for who gave them
    assert bad == text_image.validate(zeros, texts, found) != good


def test_one_text_of_very_many_images_does_not_make_all_others_as_long(monkeypatch):
    ranks = pd.Series(["7", "12 300", " ".join(map(str, range(1, 3001)))] * 2 + ["4"] * 2500)
    whole, widths, parse = text_image._values(ranks), [], retrieval.parse_ranks

    def seen(column):
        widths.append(parse(column).size)
        return parse(column)

    monkeypatch.setattr(text_image, "CELLS", 20_000)
    monkeypatch.setattr(retrieval, "parse_ranks", seen)
    np.testing.assert_array_equal(text_image._values(ranks), whole)
    assert max(widths) <= 20_000
    names = dict(zip(text_image.METRICS, whole[1], strict=True))
    assert (names["recall@10"], names["median_rank"], names["mAP"]) == (
        0,
        12,
        (1 / 12 + 2 / 300) / 2,
    )


def test_queries_with_few_and_with_very_many_answers_are_ranked_as_one_by_one():
    """One text of all images beside texts of one: their ranks do not need a table as wide."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"image_id": [f"i{n}" for n in range(300)], "pid": np.arange(300)})
    every = table[["image_id"]].assign(prompt="a hand")
    own = table[["image_id"]].assign(prompt="hand " + table["image_id"])
    found = pairs.make(table, pd.concat([every, own, own[:7].assign(prompt="seven")]))
    images = draw.standard_normal((300, 8), dtype=np.float32)
    texts = draw.standard_normal((len(found.texts), 8), dtype=np.float32)
    ranks = text_image.evaluate(images, texts, found, "x", resamples=10).ranks
    scores, right = by_hand(images, texts, found, "text_image")
    for row in (0, 5, found.texts.index("seven"), found.texts.index("a hand")):
        expected = np.flatnonzero(right[row][np.argsort(-scores[row])]) + 1
        assert ranks["ranks"][row] == " ".join(map(str, expected))


def test_a_sheet_shows_what_a_text_found_with_similarity_and_what_was_right():
    images, texts, found = simulated()
    ranks = text_image.evaluate(images, texts, found, "trained", resamples=10).ranks
    asked = ranks[ranks["direction"] == "text_image"].iloc[[3, 9]].assign(kind="best")
    shown = text_image.shown(asked, found, images, texts, top=5)
    assert len(shown) == 10 and set(shown["kind"]) == {"best"}
    scores = search.similarity(texts, images, "cosine")
    rows = pd.Index(found.table["image_id"]).get_indexer(shown["image_id"])
    said = np.repeat([3, 9], 5)
    np.testing.assert_allclose(shown["similarity"], scores[said, rows], atol=1e-6)
    pair = set(zip(found.ids, found.images, strict=True))
    assert shown["right"].tolist() == [(t, i) in pair for t, i in zip(said, rows, strict=True)]
    assert shown["right"].any() and not shown["right"].all()
    assert shown["sentence"].tolist() == [found.texts[text] for text in said]
    captions = [found.texts[found.ids[found.images == row][0]] for row in rows]
    assert shown["caption"].tolist() == captions
    assert shown["path"].tolist() == [f"images/{name}.jpg" for name in shown["image_id"]]
