import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipfh_lib import params
from clipfh_lib.data import captions, catalogues, demo_captions, demo_things
from clipfh_lib.schema import DataParams, DrawParams

SETS = {"hands": (12, 8), "objects": (24, 3), "scenes": (24, 2), "places": (20, 3)}
PARTS = ["train", "val", "test"]


def draw_of(what, **others):
    people, images = SETS[what]
    return DrawParams(**{"what": what, "people": people, "images": images, "size": 64} | others)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A small set of each kind."""
    folder = tmp_path_factory.mktemp("captions")
    for what in SETS:
        demo_captions.write(folder / what, draw_of(what))
    return {what: folder / what for what in SETS}


@pytest.fixture(scope="module")
def found(roots):
    data = {w: DataParams(catalogue="captions", root=str(root)) for w, root in roots.items()}
    return {what: catalogues.read(each) for what, each in data.items()}


def contents(root):
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def whose(images):
    """The person or thing of each image."""
    return images["path"].str.extract(r"(\d+)_\d+\.jpg$", expand=False)


@pytest.mark.parametrize("what", SETS)
def test_a_drawn_set_is_read_whole_with_the_shares_that_are_promised(found, what):
    people, images = SETS[what]
    table = found[what].images
    assert found[what].set_aside.empty and len(table) == people * images
    counts = table.groupby("partition")["path"].count() / images
    val = max(1, round(0.15 * people))
    assert counts[PARTS].tolist() == [round(0.6 * people), val, people - round(0.6 * people) - val]
    said = found[what].captions.groupby("image_id").size()
    assert set(said.index) == set(table["image_id"]) and said.isin([1, 2]).all()


@pytest.mark.parametrize("what", SETS)
def test_nobody_and_nothing_stands_in_two_parts(found, what):
    images = found[what].images
    parts = images.groupby(whose(images))["partition"].nunique()
    assert len(parts) == SETS[what][0] and (parts == 1).all()


@pytest.mark.parametrize("what", SETS)
def test_photographs_of_one_person_or_thing_are_one_pid(found, what):
    images = found[what].images
    assert (images["pid"] == pd.factorize(whose(images))[0]).all()
    assert images["pid"].nunique() == SETS[what][0] == images["pid_name"].nunique()
    assert not {"person", "group"} & set(images)


def test_all_layouts_are_written(roots):
    kinds = {what: {path.suffix for path in root.rglob("*.*")} for what, root in roots.items()}
    assert kinds["objects"] == {".jpg", ".txt", ".json"} and kinds["scenes"] == {".jpg", ".json"}
    for what in ("hands", "places"):
        splits = json.loads((roots[what] / "annotations.json").read_text("utf-8"))["splits"]
        assert list(splits) == PARTS
        said = [item["caption"] for part in PARTS for item in splits[part]]
        assert not all(isinstance(each, list) for each in said)
    for what in ("objects", "scenes"):
        assert sorted(path.name for path in roots[what].iterdir()) == sorted(PARTS)


@pytest.mark.parametrize("what", SETS)
def test_pictures_have_the_size_and_each_is_another(roots, what):
    seen = set()
    for path in roots[what].rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.size == (64, 48)
            pixels = np.asarray(image)
        assert pixels.std() > 8, "something is drawn"
        seen.add(pixels.tobytes())
    assert len(seen) == np.prod(SETS[what])


@pytest.mark.parametrize("what", SETS)
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(roots, tmp_path, what):
    demo_captions.write(tmp_path / "again", draw_of(what))
    assert contents(tmp_path / "again") == contents(roots[what])
    demo_captions.write(tmp_path / "other", draw_of(what, seed=1))
    assert contents(tmp_path / "other") != contents(roots[what])


def test_processes_draw_the_same_bytes(roots, tmp_path):
    demo_captions.write(tmp_path / "hands", draw_of("hands", people=4), workers=2)
    demo_captions.write(tmp_path / "alone", draw_of("hands", people=4), workers=1)
    assert contents(tmp_path / "hands") == contents(tmp_path / "alone")


@pytest.mark.parametrize("what", ["hands", "places"])
def test_a_set_appears_whole_or_not_at_all(tmp_path, monkeypatch, what):
    def full(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(json, "dumps", full)  # the last that is written
    with pytest.raises(OSError, match="disk"):
        demo_captions.write(tmp_path / "set", draw_of(what, people=4, images=1))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        demo_captions.write(tmp_path, draw_of("objects"))
    assert (tmp_path / "own.txt").read_text() == "mine"


@pytest.mark.parametrize("what", SETS)
def test_three_people_are_too_few(tmp_path, what):
    with pytest.raises(ValueError, match="at least 4"):
        demo_captions.write(tmp_path / "few", draw_of(what, people=3))


def test_more_things_than_combinations_are_refused():
    with pytest.raises(ValueError, match="there are 384 different objects"):
        next(demo_things.pictures("objects", 385, 1, 0))


# --- what the captions say ------------------------------------------------------------------------


def test_captions_of_hands_are_made_of_known_sentences_and_say_what_the_traits_say(roots):
    splits = json.loads((roots["hands"] / "annotations.json").read_text("utf-8"))["splits"]
    bases = [base.format(**captions.words(*kind)) for base in captions.BASES
             for kind in captions.kinds()]  # fmt: skip
    known = captions.TRAITS | demo_captions.MORE
    for row in itertools.chain.from_iterable(splits.values()):
        said = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        phrases = {how.format(row[name]) for name, how in known.items() if name in row}
        for caption in said:
            base = max((b for b in bases if caption.startswith(b)), key=len)
            rest = [phrase for phrase in caption.removeprefix(base).split(", ") if phrase]
            assert {p for p in rest if "skin" not in p} <= phrases
            aspect, side = row["category"].split()
            assert aspect in base and side in base
            worn = {"with", "without"} & set(base.split())
            assert not worn or ("with" in worn) == bool({"ring", "watch", "bracelet"} & set(row))


@pytest.fixture(scope="module")
def of_params():
    """What the demo sets of params/ will say, part and item of each image; nothing is painted."""
    said = {}
    for what in SETS:
        name = "demo_captions" if what == "hands" else f"demo_{what}"
        draw = params.read("prepare_data", name).data.draw
        parts = demo_captions._parts(draw.people, draw.seed)
        if what == "hands":
            people = zip(demo_captions.demo_hands.pids(draw.seed), parts, strict=False)
            draws = (np.random.default_rng([draw.seed, 197, n]) for n in itertools.count())
            rows = [
                (part, demo_captions._hand(one, draw.seed, next(draws)))
                for pid, part in people
                for one in demo_captions._of_person(draw, pid)
            ]
        else:
            each = demo_things.pictures(what, draw.people, draw.images, draw.seed)
            rows = [(parts[one.thing], {"captions": one.captions} | one.traits) for one in each]
        said[what] = pd.DataFrame([row for _, row in rows]).fillna("")
        said[what]["part"] = [part for part, _ in rows]
    return said


def test_test_hands_are_with_and_without_jewellery_and_captions_repeat_at_times(of_params):
    test = of_params["hands"].query("part == 'test'")
    assert len(test) == 256
    for worn, least in (("ring", 0.15), ("watch", 0.03), ("sleeve", 0.4)):
        assert least < (test[worn] != "").mean() < 0.8, worn
    said = test["captions"].explode()
    assert 0.15 < said.str.contains("with accessories|a ring on|a watch").mean() < 0.6
    assert 0.1 < said.duplicated(keep=False).mean() < 0.4


@pytest.mark.parametrize("what", SETS)
def test_every_word_that_is_tested_was_trained_but_of_things_no_combination(of_params, what):
    said = of_params[what].explode("captions")
    texts = {part: set(said.loc[said["part"] == part, "captions"]) for part in PARTS}
    words = {part: set(re.findall(r"\w+", " ".join(texts[part]))) for part in PARTS}
    assert words["test"] <= words["train"] and len(words["test"]) > 20
    if what in ("scenes", "places"):
        assert not texts["test"] & texts["train"]
    if what == "objects":  # the short ones leave out size and ground
        whole = {part: {t.split(" on ")[0] for t in texts[part] if " on " in t} for part in PARTS}
        assert len(whole["test"]) > 20 and not whole["test"] & whole["train"]


def test_photographs_of_a_place_share_its_caption_and_differ_in_light(found):
    images = found["places"].images
    groups = images.groupby(whose(images))
    assert (groups["caption"].nunique() == 1).all()
    assert images["caption"].nunique() == SETS["places"][0]
    assert images["light"].nunique() == 3 and (groups["light"].nunique() > 1).any()


def test_scenes_say_the_same_from_both_sides():
    for picture in demo_things.pictures("scenes", 30, 2, 0):
        if len(picture.captions) == 2:
            first, second = (re.sub("[.,]", "", text).lower().split() for text in picture.captions)
            other = dict(zip(demo_things.MIRRORED, demo_things.MIRRORED.values(), strict=True))
            said = [next(r for r in [*other, *other.values()] if r in " ".join(words))
                    for words in (first, second)]  # fmt: skip
            assert other.get(said[0]) == said[1]


def test_a_thing_has_the_colour_that_its_caption_names():
    """The pixels that change when nothing but the colour changes are nearest to the named one."""
    grounds, tints = list(demo_things.GROUNDS), demo_things.COLOURS
    right = []
    for colour in tints:
        draw = np.random.default_rng(3)
        *_, paint = demo_things._object(("ball", colour, "plain", "large"), draw)
        pixels = np.asarray(paint(96), float)
        *_, paint = demo_things._object(("ball", "purple" if colour != "purple" else "green",
                                         "plain", "large"), np.random.default_rng(3))  # fmt: skip
        other = np.asarray(paint(96), float)
        own = np.median(pixels[np.abs(pixels - other).sum(axis=2) > 60], axis=0)
        near = min(tints, key=lambda name: np.abs(own - tints[name]).sum())
        right.append(near == colour)
    assert all(right) and len(grounds) == 4


# --- as data sets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", SETS)
def test_the_demo_sets_of_params_have_sizes_that_train_in_a_minute(what):
    name = "demo_captions" if what == "hands" else f"demo_{what}"
    data = params.read("prepare_data", name).data
    assert data.draw.what == what and catalogues.missing(data) == ""
    images = data.draw.people * data.draw.images
    assert 500 <= images <= 1200 and 96 <= data.draw.size <= 160
    assert 80 <= images * 0.25 <= 300


@pytest.mark.parametrize("name", ["captions", "objects", "scenes", "places"])
def test_the_data_sets_for_ones_own_images_read_them_from_root(name, roots, tmp_path):
    data = params.read("prepare_data", name).data
    assert "no folder" in catalogues.missing(data)
    root = {"data.root": str(roots["scenes"])}
    found = catalogues.read(params.read("prepare_data", name, overrides=root).data)
    assert isinstance(found.captions, pd.DataFrame) and len(found.images) == 48
