"""The nearest people and nobody else; thresholds do on new people what they say."""

import datetime
import time

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import tiny_gallery
from tiny_gallery import LIMIT

from clipfh_lib import studied
from clipfh_lib.data import splits
from clipfh_lib.evaluation.embeddings import Embeddings
from clipfh_lib.files import InputError
from clipfh_lib.reports import identified
from clipfh_lib.studies import gallery, identify, index, thresholds, upload, vectors
from clipfh_lib.studies.thresholds import Threshold


def ready(folder, **how):
    made, model = tiny_gallery.enrolled(folder, **how)
    return identify.of(made, model)


def in_a_plane(degrees, persons, limit):
    turn = np.deg2rad(np.asarray(degrees, float))
    made = tiny_gallery.of_vectors(np.stack([np.cos(turn), np.sin(turn)], axis=1), persons, limit)
    return identify.Identifier(made, None, index.build(made.embeddings, made.first))


def at(*degrees):
    turn = np.deg2rad(degrees)
    return np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)


# --- answers -----------------------------------------------------------------------------------


def test_answers_on_a_circle_worked_by_hand():
    bar = float(np.cos(np.deg2rad(20)))
    limit = Threshold(0.1, (4,), (bar,), 9, 0.0, 9, 3)
    found = in_a_plane([0, 50, 90, 180], ["a", "a", "b", "c"], limit)
    answers = found.nearest(at(65, 71, 19), ["x", "y", "z"], top=2)
    assert list(answers) == ["query", "rank", "person", "similarity", "image", "answer"]
    rows = answers[["query", "rank", "person", "image", "answer"]].to_numpy().tolist()
    assert rows == [
        ["x", 1, "a", "a/1", "a"],  # 15 degrees to a's second image
        ["x", 2, "b", "b/2", "a"],
        ["y", 1, "b", "b/2", "b"],  # 19 degrees
        ["y", 2, "a", "a/1", "b"],
        ["z", 1, "a", "a/0", "a"],
        ["z", 2, "b", "b/2", "a"],
    ]
    np.testing.assert_allclose(
        answers["similarity"], np.cos(np.deg2rad([15, 25, 19, 21, 19, 71])), atol=1e-6
    )
    nobody = found.nearest(at(115, 159), ["x", "y"], top=1)  # 25 and 21 degrees
    assert nobody["answer"].tolist() == ["nobody here"] * 2
    assert nobody["person"].tolist() == ["b", "c"]


def test_without_a_threshold_nothing_is_decided_and_an_empty_gallery_has_nobody():
    found = in_a_plane([0, 90], ["a", "b"], Threshold(0.1, reason="val people also train"))
    answers = found.nearest(at(1), ["x"], top=5)
    assert answers["answer"].tolist() == [identify.UNDECIDED] * 2
    assert answers["person"].tolist() == ["a", "b"]
    empty = identify.Identifier(
        gallery.removed(gallery.removed(found.gallery, "a"), "b"),
        None,
        index.build(found.gallery.embeddings[:0], np.empty(0, int)),
    )
    assert empty.nearest(at(1, 2), ["x", "y"])["answer"].tolist() == ["nobody here"] * 2


def test_an_enrolled_photograph_is_its_person_and_a_broken_one_is_named(tmp_path):
    found = ready(tmp_path)
    root = tmp_path / "people"
    (root / "bad.png").write_bytes(b"no picture")
    paths = ["bad.png", "zoë-3/zoë-3 at 1.png", "../1051.png", "1051/1051 at 0.png"]
    answers, aside = found.identify(root, paths, top=2)
    first = answers[answers["rank"] == 1]
    assert first["query"].tolist() == [paths[1], paths[3]] == first["image"].tolist()
    assert first["person"].tolist() == ["zoë-3", "1051"]
    np.testing.assert_allclose(first["similarity"], 1, atol=1e-5)
    assert aside["path"].tolist() == ["bad.png", "../1051.png"]
    assert aside["reason"].str.contains("no image of a kind|leaves the folder").all()


def test_two_images_are_compared_at_the_threshold_of_pairs(tmp_path):
    found, root = ready(tmp_path), tmp_path / "people"
    pair = "1051/1051 at 0.png", "zoë-3/zoë-3 at 0.png"
    row = found.verify(root, *pair).iloc[0]
    vectors_ = {i: v for i, v in zip(found.gallery.table["image"], found.gallery.embeddings)}  # noqa: B905
    assert row["similarity"] == pytest.approx(vectors_[pair[0]] @ vectors_[pair[1]], abs=1e-5)
    assert (row["threshold"], row["far"]) == (0.4, 0.1)
    for limit, same in ((row["similarity"] + 1e-4, "no"), (row["similarity"] - 1e-4, "yes")):
        made = found.gallery.__class__(
            **vars(found.gallery) | {"threshold": Threshold(0.1, (100,), (2.0,), 9, limit, 9, 9)}
        )
        assert identify.of(made, found.model).verify(root, *pair)["same"].item() == same
    made = made.__class__(**vars(made) | {"threshold": Threshold(0.1, reason="none")})
    undecided = identify.of(made, found.model).verify(root, *pair)["same"].item()
    assert undecided == identify.UNDECIDED
    with pytest.raises(InputError, match="none.png: missing; two readable images"):
        found.verify(root, "none.png", pair[0])


def test_a_gallery_of_another_model_is_not_searched(tmp_path):
    made, _ = tiny_gallery.enrolled(tmp_path)
    with pytest.raises(InputError, match="another model .*weights"):
        identify.of(made, tiny_gallery.model(tmp_path, seed=1))


def test_a_saved_gallery_is_opened_with_the_model_of_its_run(tmp_path):
    p = studied.read("identify", "demo", "demo", "demo", 0, {"embed.flip": "add"})
    model = vectors.load(p)
    people = tiny_gallery.people(tmp_path / "people")
    settings = {"params": p.model_dump(mode="json"), "outputs": "outputs"}
    made = gallery.enrol(people, model, settings, LIMIT).gallery
    path = gallery.write(made, tmp_path / "g.safetensors")
    found = identify.open(path)
    assert found.model.sha256 == model.sha256 and found.model.embed.flip == "add"
    one = people.table["path"].iloc[0]
    start = time.perf_counter()
    answers, _ = found.identify(people.root, [one])
    assert time.perf_counter() - start < 3  # of 0.3 in benchmarks, for busy machines
    assert answers.iloc[0][["person", "image"]].tolist() == [people.table["person"].iloc[0], one]
    assert answers["similarity"].iloc[0] == pytest.approx(1, abs=1e-5)


# --- thresholds --------------------------------------------------------------------------------


def prepared(split):
    return splits.Prepared(None, None, None, split, None, [], "", False)


def val_only(people=12, images=5, width=16, seed=0, noise=1.0):
    """Embeddings, table and split of val people of two aspects."""
    draw = np.random.default_rng(seed)
    rows = [
        (f"{pid}-{aspect}-{image}", pid, aspect, 100 * pid + 30 * image)
        for pid in range(people)
        for aspect in ("dorsal_r", "palmar_r")
        for image in range(images)
    ]
    table = pd.DataFrame(rows, columns=["image_id", "pid", "aspect", "file_number"])
    own = draw.standard_normal((people, width))[table["pid"]]
    array = (own + noise * draw.standard_normal(own.shape)).astype(np.float32)
    split = table.assign(role="val", trial=pd.NA, test_aspect=None, gallery=None, distractor=False)
    return Embeddings(array, table), prepared(split)


def test_thresholds_are_those_of_all_pairs_of_two_val_people():
    found, data = val_only()
    limit = thresholds.choose(found, data, 0.05, ["a"] * 3 + ["b"])
    unit = found.array / np.linalg.norm(found.array, axis=1, keepdims=True)
    every, alike = [], []
    for i, one in found.table.iterrows():
        for j in range(i):
            other = found.table.iloc[j]
            near = abs(one["file_number"] - other["file_number"]) <= 10
            if one["pid"] != other["pid"] and not near:
                every.append(unit[i] @ unit[j])
                if one["aspect"] == other["aspect"]:
                    alike.append(unit[i] @ unit[j])
    assert (limit.search_pairs, limit.pairs) == (len(every), len(alike)) and limit.people == 12
    assert limit.pair == pytest.approx(np.sort(alike)[-1 - int(0.05 * len(alike))], abs=1e-6)
    of_one = 1 - 0.95 ** (1 / 4)  # four comparisons, none of which may go wrong
    allowed = int(of_one * len(every))
    assert limit.search(4) == pytest.approx(np.sort(every)[-1 - allowed], abs=1e-6)
    assert (np.array(every) >= limit.search(4)).sum() == allowed > 10
    assert limit.search(1) == pytest.approx(np.sort(every)[-1 - int(0.05 * len(every))], abs=1e-6)


def test_the_threshold_rises_with_the_gallery_and_is_that_of_the_next_size():
    found, data = val_only()
    limit = thresholds.choose(found, data, 0.1, ["a"] * 11)
    assert limit.sizes[:6] == (1, 2, 4, 8, 11, 16) and limit.sizes[-1] == 2**20
    assert (np.diff(limit.searches) >= 0).all() and limit.search(1) < limit.search(200)
    assert limit.search(9) == limit.search(11) < limit.search(12) == limit.search(16)
    assert limit.search(2**20 + 1) is None
    assert thresholds.load(limit.dump()) == limit


@pytest.mark.parametrize("far", [0.1, 0.02])
def test_a_search_for_strangers_names_somebody_as_often_as_was_allowed(far):
    found, data = val_only(people=150, images=2, width=8, noise=0.6)
    draw = np.random.default_rng(5)
    enrolled, strangers = draw.standard_normal((2, 2000, 8))
    shares = []
    for start in range(0, 2000, 20):  # galleries of 20 people
        persons = [f"{n:02d}" for n in range(20)]
        limit = thresholds.choose(found, data, far, persons) if not start else limit  # noqa: F821
        made = tiny_gallery.of_vectors(enrolled[start : start + 20], persons, limit)
        one = identify.Identifier(made, None, index.build(made.embeddings, made.first))
        asked = strangers[start : start + 20]
        asked = (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)
        answers = one.nearest(asked, [str(n) for n in range(20)], top=1)
        shares.append((answers["answer"] != identify.NOBODY).mean())
    assert np.mean(shares) == pytest.approx(far, rel=0.35)


def test_many_comparisons_together_have_the_far_that_was_allowed():
    for far, images in ((0.1, 160), (0.01, 1), (1e-3, 10**6)):
        assert 1 - (1 - thresholds.of_a_pair(far, images)) ** images == pytest.approx(far, rel=1e-3)


def test_val_people_who_train_set_no_threshold():
    found, data = val_only()
    train = data.split.assign(role="train")
    both = prepared(pd.concat([data.split, train], ignore_index=True))
    limit = thresholds.choose(found, both, 0.1, ["a"])
    assert limit.reason == "val people also train (data.val: published)"
    assert limit.search(1) is None
    assert limit.table(1)["because"].item() == limit.reason
    limit = thresholds.choose(found, data, 0.1, ["a"], "2 of the val people trained the weights")
    assert limit.reason == "2 of the val people trained the weights"
    assert limit.search(1) is None and thresholds.load(limit.dump()) == limit


def test_the_table_says_on_how_many_pairs_a_threshold_rests_and_marks_too_few():
    limit = Threshold(0.01, (1, 50), (0.5, 0.7), 9_000, 0.4, 4_000, 12)
    table = limit.table(50)
    assert table["similarity"].tolist() == [0.7, 0.4]
    assert table["rests on"].tolist() == [
        "9,000 impostor pairs of 12 people", "4,000 impostor pairs of 12 people"
    ]  # fmt: skip
    assert table["rule of 30"].tolist() == ["149,264 pairs (!)", "3,000 pairs"]
    assert table["threshold of"].tolist() == ["a search among 50", "two images"]


# --- rates -------------------------------------------------------------------------------------


def test_rates_of_searches_worked_by_hand():
    def answers(*rows):
        columns = ["query", "rank", "person", "similarity", "image", "answer"]
        more = [(q, 2, "z", 0.1, "", a) for q, _, a in rows]
        first = [(q, 1, person, 0.5, "", answer) for q, person, answer in rows]
        return pd.DataFrame(first + more, columns=columns)

    known = answers(("1", "a", "a"), ("2", "a", "nobody here"), ("3", "b", "b"), ("4", "b", "b"),
                    ("8", "b", "b"))  # fmt: skip
    vain = answers(("5", "a", "nobody here"), ("6", "b", "b"), ("7", "a", "nobody here"))
    queries = pd.DataFrame({"path": list("12348"), "person": list("aaabb")})
    strangers = pd.DataFrame({"path": list("567"), "person": list("xxy")})
    found = identify.rates(known, vain, queries, strangers, 200).set_index("metric")
    assert found["value"].to_dict() == {"rank1": 0.8, "fnir": 0.4, "fpir": pytest.approx(1 / 3)}
    assert found["searches"].to_dict() == {"rank1": 5, "fnir": 5, "fpir": 3}
    assert found["people"].to_dict() == {"rank1": 2, "fnir": 2, "fpir": 2}
    assert (found["low"] < found["value"]).all() and (found["high"] > found["value"]).all()
    undecided = known.assign(answer=identify.UNDECIDED)
    nothing = vain.assign(answer=identify.UNDECIDED)
    found = identify.rates(undecided, nothing, queries, strangers, 20)
    assert found["metric"].tolist() == ["rank1"]
    assert identify.rates(known[:0], vain[:0], queries, strangers).empty


def test_some_answers_are_spread_over_the_queries():
    found = pd.DataFrame({"query": np.repeat(list("abcdefg"), 2), "rank": [1, 2] * 7})
    assert identify.some(found, 3)["query"].tolist() == ["a", "a", "d", "d", "g", "g"]
    assert len(identify.some(found, 99)) == 14


# --- the widget --------------------------------------------------------------------------------


def handed(path, name=None):
    content = memoryview(path.read_bytes())
    when = datetime.datetime.fromtimestamp(0, datetime.UTC)
    kind = {"type": "image/png", "size": len(content), "last_modified": when}
    return {"name": name or path.name, "content": content, **kind}


def test_the_upload_widget_shows_who_was_handed_over_and_keeps_nothing(tmp_path, project):
    found = ready(tmp_path)
    drawn = []

    def draw(answers, pictures):
        drawn.append((answers, pictures))
        return identified.sheet(answers, pictures, bar=found.gallery.bar, dataset="demo")

    box = upload.widget(found, draw, top=2)
    chosen, said, sheet = box.children
    assert isinstance(chosen, ipywidgets.FileUpload) and sheet.children == ()
    one, two = (tmp_path / f"people/{n}/{n} at 0.png" for n in ("1051", "zoë-3"))
    (tmp_path / "bad.png").write_bytes(b"<script>")
    chosen.value = (
        handed(one, "hand.png"), handed(two, "hand.png"), handed(tmp_path / "bad.png", "<b>.png")
    )  # fmt: skip
    (answers, pictures) = drawn[0]
    first = answers[answers["rank"] == 1]
    assert first["person"].tolist() == ["1051", "zoë-3"] and pictures.shape == (2, 120, 160, 3)
    assert pictures[0].std() > 5 and (pictures[0] != pictures[1]).any()
    assert said.value.count("<div>") == 3
    assert "hand.png: 1051 (nearest: 1051, 1.000)" in said.value
    assert "&lt;b&gt;.png: no image of a kind" in said.value and "<b>" not in said.value
    (image,) = sheet.children
    assert bytes(image.value[:4]) == b"\x89PNG" and len(image.value) > 5000
    assert chosen.value == ()
    assert not list((project / "outputs").rglob("*.npy"))


def test_the_upload_widget_tells_what_went_wrong_and_goes_on(tmp_path):
    found = ready(tmp_path)

    def draw(answers, pictures):
        raise InputError("no paper left")

    box = upload.widget(found, draw)
    good = handed(tmp_path / "people/1051/1051 at 0.png")
    box.children[0].value = (good,)
    assert "InputError: no paper left" in box.children[1].value
    figure, lines = upload.ask(found, [{**good, "name": "../../x.png"}], lambda *_: "sheet")
    assert figure == "sheet" and lines == ["x.png: 1051 (nearest: 1051, 1.000)"]
    many = upload.ask(found, [good] * 22, lambda answers, _: len(answers.groupby("query")))
    assert many[0] == 20 and many[1][-1].startswith("2 more files were passed over")
    bad = [{"name": "a.png", "content": b""}]
    assert upload.ask(found, bad, draw) == (None, ["a.png: empty"])
