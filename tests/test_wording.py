import logging
import string

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipfh_lib import files
from clipfh_lib.data import agreement, catalogues, tidying, wording
from clipfh_lib.data.pairs import make
from clipfh_lib.files import InputError
from clipfh_lib.models import prompts as tokens
from clipfh_lib.schema import DataParams
from clipfh_lib.words import PromptParams, WrittenPrompt

NONE = pd.DataFrame(columns=["image_id", "caption"])
TEMPLATES = ["A {aspect} {side} hand {accessories} accessories", "The {aspect} of a {side} hand"]
TRAITS = ["skin_color", "gender", "age", "nail_polish", "polish", "ring", "irregularities"]


@pytest.fixture
def hands(drawn):
    return catalogues.read(DataParams(catalogue="hands_11k", root=str(drawn))).images


@pytest.fixture
def garments():
    return pd.DataFrame(
        {
            "image_id": ["a_1", "a_2", "b_1", "c_1"],
            "path": ["a/1.jpg", "a/2.jpg", "b/1.jpg", "c/1.jpg"],
            "pid": [1, 1, 2, 3],
            "pid_name": ["id_00000001", "id_00000001", "id_00000002", "id_00000003"],
            "aspect": "all",
            "category": ["Dresses", "Dresses", "Tees", "Tees"],
            "color": ["navy; white", "blue", "", "red"],
            "caption": ["A long dress.", "A long dress.", "", "Cropped,  in\ncotton"],
        }
    )


def one_hand(**more):
    row = {"image_id": "h", "pid": 7, "aspect": "dorsal_r", "accessories": 0}
    return pd.DataFrame([row | more])


def said(table, captions=NONE, **how):
    return wording.generate(table, captions, PromptParams(**how))["prompt"].tolist()


# --- generate ------------------------------------------------------------------------------------


def test_v1_says_the_first_template_alone_of_every_hand(hands):
    how = PromptParams(strategy="v1", hands=TEMPLATES, traits=TRAITS)
    found = wording.generate(hands, NONE, how)
    assert found["image_id"].tolist() == hands["image_id"].tolist()
    assert found["pid"].tolist() == hands["pid"].tolist()
    for (_, row), text in zip(hands.iterrows(), found["prompt"], strict=True):
        surface, side = row["aspect"].split("_")
        worn = "with" if row["accessories"] else "without"
        side = {"r": "right", "l": "left"}[side]
        assert text == f"A {surface} {side} hand {worn} accessories"
    assert found["prompt"].nunique() == 8


def test_v2_adds_a_phrase_for_each_trait_that_is_asked_for_in_its_order():
    table = one_hand(skin_color="dark", gender="male", age=43.0, nail_polish=1, ring="index")
    start = "A dorsal right hand without accessories"
    assert said(table, traits=["skin_color", "gender", "age", "nail_polish", "ring"]) == [
        f"{start}, dark skin, male, 43 years old, with nail polish, a ring on the index finger"
    ]
    assert said(table, traits=["ring", "gender", "ring"]) == [
        f"{start}, a ring on the index finger, male"
    ]
    assert said(table) == [start]


def test_what_is_empty_or_none_is_not_said_and_flags_are_said_in_words():
    table = one_hand(irregularities=0, veins="none", skin_color="", age=float("nan"), moles="one")
    traits = ["irregularities", "veins", "skin_color", "age", "moles"]
    assert said(table, traits=traits, hands=["A hand."]) == [
        "A hand, without irregularities, one moles"
    ]
    assert said(one_hand(nail_polish=1.0), traits=["nail_polish"], hands=["A hand"]) == [
        "A hand, with nail polish"
    ]


def test_the_colour_of_nail_polish_is_not_said_twice():
    table = one_hand(nail_polish=1, polish="blue")
    assert said(table, traits=["nail_polish", "polish"], hands=["A hand"]) == [
        "A hand, blue nail polish"
    ]
    assert said(table, traits=["nail_polish"], hands=["A hand"]) == ["A hand, with nail polish"]


def test_a_trait_that_the_template_says_is_not_said_again():
    table = one_hand(skin_color="dark", gender="male")
    how = {"hands": ["A {gender} hand, {skin_color}"], "traits": ["gender", "skin_color"]}
    assert said(table, **how) == ["A male hand, dark"]


def test_free_trait_columns_are_said_by_their_own_words():
    table = one_hand(tattoo_of="an anchor", visible_veins="yes", warts="no", spots=3)
    traits = ["tattoo_of", "visible_veins", "warts", "spots"]
    assert said(table, traits=traits, hands=["A hand"]) == [
        "A hand, tattoo of an anchor, visible veins, without warts, spots 3"
    ]
    assert said(table, hands=["A hand, {tattoo_of}"]) == ["A hand, an anchor"]


def test_v3_says_all_templates_and_an_epoch_draws_one_of_them(hands):
    found = wording.generate(hands, NONE, PromptParams(strategy="v3", hands=TEMPLATES))
    assert len(found) == 2 * len(hands)
    pairs = make(hands, found)
    drawn = [pairs.drawn(0, epoch) for epoch in range(8)]
    starts = {pairs.texts[ids[0]].split()[0] for ids in drawn}
    assert starts == {"A", "The"}


def test_a_template_is_passed_over_for_rows_that_lack_its_field():
    table = pd.concat([one_hand(ring="index"), one_hand(ring="none").assign(image_id="i")])
    how = {"strategy": "v3", "hands": ["A ring on the {ring} finger", "A {side} hand"]}
    found = wording.generate(table, NONE, PromptParams(**how))
    assert found.values.tolist() == [
        ["h", 7, "A ring on the index finger"], ["h", 7, "A right hand"], ["i", 7, "A right hand"],
    ]  # fmt: skip
    kept = wording.generate(table, NONE, PromptParams(hands=["A ring on the {ring} finger"]))
    assert kept["prompt"].tolist() == ["A ring on the index finger", ""]  # counted by clean


def test_v4_says_columns_by_name_and_the_description_last(garments):
    table = one_hand(skin_color="dark", nail_polish=0, caption="Seen: from above; near")
    assert said(table, strategy="v4", traits=["skin_color", "nail_polish", "veins"]) == [
        "aspect: dorsal; side: right; accessories: without; skin: dark; nail polish: without; "
        "description: Seen: from above, near"
    ]
    assert said(garments, strategy="v4") == [
        "category: Dresses; color: navy, white; description: A long dress",
        "category: Dresses; color: blue; description: A long dress",
        "category: Tees",
        "category: Tees; color: red; description: Cropped, in cotton",
    ]


def test_descriptions_are_said_as_they_are_and_with_metadata(garments):
    assert said(garments, strategy="v1", described=["{caption}"]) == [
        "A long dress.", "A long dress.", "", "Cropped, in cotton"
    ]  # fmt: skip
    assert said(garments, traits=["category", "color"])[::3] == [
        "A long dress, category Dresses, color navy; white",
        "Cropped, in cotton, category Tees, color red",
    ]


def test_v1_and_v2_say_the_first_template_that_an_image_has_all_fields_of(garments):
    templates = ["A {material} {color} thing", "In {color}", "{caption}", "One of {category}"]
    expected = ["In navy; white", "In blue", "One of Tees", "In red"]
    assert said(garments, strategy="v1", described=templates) == expected
    assert said(garments, strategy="v2", described=templates, traits=["category"]) == [
        "In navy; white, category Dresses", "In blue, category Dresses", "One of Tees",
        "In red, category Tees",
    ]  # fmt: skip
    captions = pd.DataFrame([("b_1", "One"), ("b_1", "Two")], columns=NONE.columns)
    found = wording.generate(garments, captions, PromptParams(described=templates))
    assert found.query("image_id == 'b_1'")["prompt"].tolist() == ["One", "Two"]
    hands = pd.concat([one_hand(), one_hand(ring="index").assign(image_id="i")])
    assert said(hands, hands=["Ring: {ring}", "{side} hand"]) == ["right hand", "Ring: index"]


@pytest.mark.parametrize("strategy", ["v1", "v2"])
def test_templates_none_of_which_an_image_can_fill_stop_with_the_first_field(garments, strategy):
    with pytest.raises(InputError, match=r"prompts.described: no image has \{material\}"):
        said(garments, strategy=strategy, described=["{material}", "{side} of {category}"])
    with pytest.raises(InputError, match=r"prompts.described: no image has \{side\}"):
        said(garments, strategy="v3", described=["{category}", "{side} of {category}"])


def test_each_of_several_captions_is_a_prompt_and_the_table_has_the_last_word(garments):
    captions = pd.DataFrame(
        [("a_1", "One"), ("a_1", "Two"), ("b_1", " "), ("a_1", "One")], columns=NONE.columns
    )
    found = wording.generate(garments, captions, PromptParams(described=["A photo: {caption}"]))
    assert found[["image_id", "prompt"]].values.tolist() == [
        ["a_1", "A photo: One"], ["a_1", "A photo: Two"], ["a_2", "A photo: A long dress."],
        ["b_1", ""], ["c_1", "A photo: Cropped, in cotton"],
    ]  # fmt: skip
    fixed = said(garments, captions, described=["A {category} photo"])
    assert fixed == [f"A {kind} photo" for kind in garments["category"]]


def test_a_field_that_no_image_has_is_named_with_the_known_ones(hands, garments):
    with pytest.raises(InputError, match=r"prompts.hands: no image has \{colour\}.*skin_color"):
        said(hands, hands=["A {colour} hand"])
    with pytest.raises(InputError, match=r"prompts.hands: no image has \{caption\}"):
        said(hands, strategy="v3", hands=["A hand", "{caption}"])
    with pytest.raises(InputError, match=r"prompts.described: no image has \{side\}"):
        said(garments, described=["{side}"])
    with pytest.raises(InputError, match=r"\{path\}.*known: caption, category, color$"):
        said(garments, described=["{path}"])  # it says whose image it is, as pid does
    both = pd.concat([garments, one_hand()], ignore_index=True)
    with pytest.raises(InputError, match=r"prompts.hands: no image has \{category\}"):
        said(both, hands=["A {category}"])  # of hands none has it
    assert said(garments, hands=["A {colour} hand"])[0]  # for hands, of which none is here


@pytest.mark.parametrize("field", ["pid.real", "pid!r", "pid:>9", "", "0", "aspect[0]"])
def test_a_field_is_a_plain_name(field):
    for how in ({"hands": [f"A {{{field}}}"]}, {"described": [f"A {{{field}}}"]}):
        with pytest.raises(ValueError, match="name of a column alone|unmatched|expected"):
            PromptParams(name_people=True, **how)
    with pytest.raises(ValueError, match="name of a column alone"):
        PromptParams(written=[WrittenPrompt(where={"pid": "1"}, prompt=f"A {{{field}}}")])


def test_traits_that_no_image_has_are_told_in_one_line_with_the_nearest(hands, caplog):
    said(hands, traits=["skin_colour", "gender", "polnish", "skin_colour"])
    assert [r.getMessage() for r in caplog.records] == [
        "prompts.traits: no image has skin_colour (nearest: skin_color), polnish (nearest: polish)"
    ]


# --- written by hand -----------------------------------------------------------------------------


def test_the_first_written_prompt_that_fits_replaces_the_template(hands, caplog):
    some = str(hands["pid"].iloc[0])
    written = [
        {"where": {"pid": some, "aspect": "dorsal_r"}, "prompt": "A hand with a scar, {side}"},
        {"where": {"pid": some}, "prompt": "A hand with a scar"},
        {"where": {"age": "999"}, "prompt": "An old hand"},
    ]
    how = PromptParams(written=written, strategy="v3", hands=TEMPLATES)
    found = wording.generate(hands, NONE, how)
    mine = hands["pid"].astype(str) == some
    first = hands.loc[mine & (hands["aspect"] == "dorsal_r"), "image_id"]
    got = found.set_index("image_id")["prompt"]
    assert set(got[first]) == {"A hand with a scar, right"}
    assert set(got[hands.loc[mine, "image_id"].drop(first.index)]) == {"A hand with a scar"}
    assert got[hands.loc[~mine, "image_id"]].str.startswith(("A ", "The ")).all()
    assert not got[hands.loc[~mine, "image_id"]].str.contains("scar").any()
    assert [r.getMessage() for r in caplog.records] == [
        "prompts.written: no image has {'age': '999'}"
    ]


def test_a_written_prompt_also_replaces_the_structured_one_and_numbers_are_compared_as_text():
    table = one_hand(age=43.0, file_number=pd.NA)
    entry = {"where": {"age": "43", "accessories": "0"}, "prompt": "Mine"}
    assert said(table, strategy="v4", written=[entry]) == ["Mine"]
    assert said(table, hands=["A {ring}"], written=[entry]) == ["Mine"]  # no template is needed
    other = entry | {"where": {"age": "43", "accessories": "1"}}
    assert said(table, strategy="v4", written=[other])[0].startswith("aspect: dorsal")


def test_a_written_prompt_whose_field_an_image_lacks_is_passed_over_for_the_next():
    table = pd.concat([one_hand(ring="index"), one_hand(ring="none").assign(image_id="i")])
    written = [{"where": {"pid": "7"}, "prompt": "Ring: {ring}"},
               {"where": {"pid": "7"}, "prompt": "Mine"}]  # fmt: skip
    assert said(table, written=written) == ["Ring: index", "Mine"]
    assert said(table, written=written[:1])[1].startswith("A dorsal right hand")


def test_an_unknown_column_of_a_written_prompt_stops_with_the_nearest(hands):
    entry = {"where": {"skin": "dark"}, "prompt": "x"}
    with pytest.raises(InputError, match="prompts.written: no column 'skin'; nearest: skin_color"):
        said(hands, written=[entry])
    with pytest.raises(InputError, match=r"prompts.written: no image has \{skin\}"):
        said(hands, written=[{"where": {"gender": "male"}, "prompt": "{skin}"}])


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["pid", "pid_name"])
def test_naming_people_must_be_asked_for_and_is_flagged(garments, field, caplog):
    for part in ({"described": [f"{{{field}}}"]}, {"traits": [field]}, {"hands": [f"{{{field}}}"]},
                 {"written": [{"where": {"pid": "1"}, "prompt": f"{{{field}}}"}]}):  # fmt: skip
        with pytest.raises(ValueError, match=f"{field} names the person.*name_people"):
            PromptParams(**part)
    how = PromptParams(described=[f"A garment of {{{field}}}"], name_people=True)
    found = wording.generate(garments, NONE, how)
    assert found["prompt"].iloc[2] == f"A garment of {garments[field].iloc[2]}"
    flags = agreement.leaks(found, garments, how)
    assert flags["count"].tolist() == [4] and not flags["what"].iloc[0].startswith("warning")
    assert caplog.records == []


def test_texts_that_name_their_person_are_found_wherever_they_come_from(garments, caplog):
    table = pd.concat([garments, one_hand(pid_name="Anna Ö", age=7, caption="")])
    texts = {
        "a_1": "Dress of ID 00000001", "a_2": "dress 2 of id_00000002", "b_1": "tee number 2",
        "c_1": "tee 30", "h": "a hand, 7 years old",
    }  # fmt: skip
    prompts = pd.DataFrame(texts.items(), columns=["image_id", "prompt"])
    told = agreement.named(prompts, table)
    assert told.tolist() == [True, False, True, False, False]  # 7 is an age
    for text in ("the hand of ANNA-Ö", "age: 7, number 7", "person 007"):
        more = pd.DataFrame([("h", text)], columns=prompts.columns)
        assert agreement.named(more, table).all(), text
    more = pd.DataFrame([("h", "a hand; age: 7"), ("h", "Annaö 77")], columns=prompts.columns)
    assert not agreement.named(more, table).any()
    one_each = table.drop_duplicates("pid").assign(pid=[7, 8, 9, 10])
    more = pd.DataFrame([("a_1", "7 dresses"), ("h", "Anna Ö")], columns=prompts.columns)
    assert agreement.named(more, one_each).tolist() == [False, True]  # a pid that counts images
    flags = agreement.leaks(prompts, table, PromptParams())
    assert flags.values.tolist() == [[
        "warning: prompts that name their person (leaks identity), though prompts.name_people is "
        "false", 2, "Dress of ID 00000001",
    ]]  # fmt: skip
    assert "2 of 5 prompts name their person" in caplog.text


def test_groups_of_captions_are_named_by_their_name_and_not_by_their_count():
    rows = {"image_id": list("abcd"), "pid": [0, 0, 1, 2], "caption": "x", "aspect": "all",
            "pid_name": ["Anna", "Anna", "43", ""], "years": ["", "", "43", ""]}  # fmt: skip
    texts = {"a": "0 rings", "b": "hand of anna", "c": "1 ring, years 43", "d": "2 rings"}
    prompts = pd.DataFrame(texts.items(), columns=["image_id", "prompt"])
    told = agreement.named(prompts, pd.DataFrame(rows))
    assert told.tolist() == [False, True, False, False]
    prompts.loc[2, "prompt"] = "hand 43"
    assert agreement.named(prompts, pd.DataFrame(rows)).tolist() == [False, True, True, False]


def test_prompts_that_name_nobody_are_not_flagged(hands, caplog):
    how = PromptParams(traits=TRAITS)
    found = wording.generate(hands, NONE, how)
    assert agreement.leaks(found, hands, how)["count"].tolist() == [0] and caplog.records == []
    first = hands["pid"].iloc[0]
    found.loc[0, "prompt"] += f", person {first}"
    assert agreement.leaks(found, hands, how)["count"].tolist() == [1]


# --- from a file ---------------------------------------------------------------------------------


def test_prompts_that_were_written_come_back_from_their_file(hands, tmp_path):
    how = PromptParams(strategy="v3", hands=TEMPLATES)
    found = wording.generate(hands, NONE, how)
    found.loc[0, "prompt"] = '=HYPERLINK(1), \'a "hand"'
    found.loc[1, "prompt"] = "'- quoted"
    written = files.write_csv(tmp_path / "run" / "prompts.csv", found)
    assert "'=HYPERLINK" in written.read_text() and "''- quoted" in written.read_text()
    for name in (written, written.parent):  # the file, or its folder
        again = wording.generate(hands, NONE, PromptParams(file=str(name)))
        pd.testing.assert_frame_equal(again, found)


def test_images_that_a_file_leaves_out_have_no_prompt_and_strange_ones_are_told(hands, caplog):
    pd.DataFrame(
        {"image_id": [hands["image_id"].iloc[1], "elsewhere"], "prompt": ["A hand", "x"]}
    ).to_csv("mine.csv", index=False)
    found = wording.generate(hands, NONE, PromptParams(file="mine.csv"))
    assert found["prompt"].tolist() == ["", "A hand", *[""] * (len(hands) - 2)]
    assert "1 rows are of images that the data set does not have" in caplog.text
    assert "'elsewhere'" in caplog.text
    _, report = tidying.clean(found, tokens.lengths)
    assert report.set_index("what").loc["images without a prompt", "count"] == len(hands) - 1


@pytest.mark.parametrize(
    "content, problem",
    [
        ("image_id,text\na,b\n", "columns prompt are missing"),
        ("image_id,prompt\nHand_1,A hand, dark\n", "row 2: 3 cells under 2 columns; put quotes"),
        ("image_id,prompt\n", "no prompt below the header"),
        ("", "columns image_id, prompt are missing"),
        ("image_id,prompt\nelsewhere,b\n", "none of its 1 image ids is in the data set"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_line(hands, project, content, problem):
    if content is not None:
        (project / "mine.csv").write_text(content)
    with pytest.raises(InputError, match=problem) as caught:
        wording.generate(hands, NONE, PromptParams(file="mine.csv"))
    assert "mine.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_image_ids_of_digits_stay_text_in_a_file(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,image_id,more\nNA,0012,1\n")
    assert wording.read(tmp_path / "p.csv").values.tolist() == [["0012", "NA"]]


# --- consistency ---------------------------------------------------------------------------------


def rows(*cells):
    columns = ["image_id", "pid", "aspect", "skin_color", "ring", "veins"]
    return pd.DataFrame(cells, columns=columns).assign(accessories=0)


def test_conflicts_within_a_person_are_counted_by_hand():
    table = rows(
        ("a", 1, "dorsal_r", "dark", "index", "strong"), ("b", 1, "dorsal_r", "dark", "none", ""),
        ("c", 1, "palmar_r", "fair", "none", ""), ("d", 2, "dorsal_r", "fair", "none", "faint"),
        ("e", 2, "dorsal_r", "fair", "none", "faint"), ("f", 3, "dorsal_r", "fair", "", "faint"),
        ("g", 4, "dorsal_r", "fair", "index", ""), ("h", 4, "dorsal_r", "fair", "", ""),
    )  # fmt: skip
    how = PromptParams(hands=["A {aspect} hand"], traits=["skin_color", "ring"])
    found = agreement.consistency(wording.generate(table, NONE, how), table)
    assert found.people.values.tolist() == [
        [1, "dorsal_r", 2, 2, False, "ring"], [1, "palmar_r", 1, 1, True, ""],
        [2, "dorsal_r", 2, 1, True, ""], [3, "dorsal_r", 1, 1, True, ""],
        [4, "dorsal_r", 2, 2, False, ""],
    ]  # fmt: skip
    assert list(found.people) == ["pid", "aspect", "images", "prompts", "stable", "conflicts"]
    # veins and accessories are not said; 3 has a single image, 4 a ring that one image cannot show
    assert found.attributes.values.tolist() == [
        ["skin_color", 3, 1, "1: dark, fair"], ["ring", 2, 1, "1: index, none"]
    ]  # fmt: skip


@pytest.mark.parametrize("strategy", ["v2", "v3", "v4"])
def test_exactly_the_attributes_that_prompts_say_are_compared(hands, strategy):
    traits = ["skin_color", "gender", "age", "nail_polish", "ring"]
    how = PromptParams(strategy=strategy, hands=TEMPLATES, traits=traits)
    found = agreement.consistency(wording.generate(hands, NONE, how), hands)
    assert set(found.attributes["attribute"]) == {*traits, "accessories"}
    conflicts = found.attributes.set_index("attribute")["conflicts"]
    assert conflicts["skin_color"] == conflicts["age"] == 0  # as they are drawn
    several = hands.groupby("pid")["accessories"].nunique() > 1
    assert conflicts["accessories"] == several.sum() > 0
    assert found.people["images"].sum() == len(hands)


def test_a_person_is_stable_if_all_images_have_the_same_set_of_prompts():
    table = pd.DataFrame({"image_id": ["a", "b", "c", "d"], "pid": [1, 1, 2, 2]})
    prompts = pd.DataFrame(
        [("a", "x"), ("a", "y"), ("b", "y"), ("b", "x"), ("c", "x"), ("c", "y"), ("d", "x")],
        columns=["image_id", "prompt"],
    )
    people = agreement.consistency(prompts, table).people
    assert people.values.tolist() == [[1, 2, 2, True, ""], [2, 2, 2, False, ""]]


# --- people with few images ----------------------------------------------------------------------


def test_people_with_fewer_images_than_asked_for_are_left_out_and_listed(garments):
    kept, dropped = tidying.lone(garments, 2)
    assert kept["image_id"].tolist() == ["a_1", "a_2"]
    assert dropped.values.tolist() == [[2, 1], [3, 1]] and list(dropped) == ["pid", "images"]
    kept, dropped = tidying.lone(garments, 1)
    assert len(kept) == len(garments) and dropped.empty
    assert tidying.lone(garments, 3)[1]["images"].sum() == len(garments)


# --- clean ---------------------------------------------------------------------------------------


def table_of(*texts):
    names = [f"i{n}" for n in range(len(texts))]
    return pd.DataFrame({"image_id": names, "pid": range(len(texts)), "prompt": texts})


def test_characters_and_white_space_become_plain():
    given = " “A”\u00a0hand\u200b,\n\tof\u202e ‘ﬁve’ …\ufeff "
    assert tidying.tidy(given) == "\"A\" hand, of 'five' ..."
    assert tidying.tidy("black &amp; white &amp;amp; &lt;end_of_text&gt;<START_of_text>") == (
        "black & white & < end_of_text>< START_of_text>"
    )
    assert tidying.tidy("smörgås 日本 ٣ e\u0301") == "smörgås 日本 ٣ é"


@given(st.text(max_size=60))
@example("&amp;lt;＜end_of_text＞")
def test_tidied_text_stays_as_it_is_and_hides_nothing(text):
    tidy = tidying.tidy(text)
    assert tidying.tidy(tidy) == tidy
    assert tidy == " ".join(tidy.split()) and all(c == " " or c.isprintable() for c in tidy)
    assert len(tokens.lengths([tidy])) == 1
    coded = tokens.tokens([tidy], 1000)[0]
    assert (coded == coded.max()).sum() == 1  # one end, its own


def test_what_cleaning_did_is_counted_with_examples():
    long = " ".join(["word"] * 100)
    given = table_of("A hand", " A  hand", "", " -\u200b", long, "Another")
    given.loc[len(given)] = ["i0", 0, "A hand\n"]
    prompts, report = tidying.clean(given, tokens.lengths)
    counted = report.set_index("what")["count"].to_dict()
    assert counted == {
        "prompts": 7, "characters or white space normalised": 3, "shortened to 77 tokens": 1,
        "empty, dropped": 2, "images without a prompt": 2, "repeated of one image, dropped": 1,
        "images whose text is said of several people too": 2, "prompts left": 4,
        "distinct among them": 3,
    }  # fmt: skip
    examples = report.set_index("what")["example"]
    assert examples["images without a prompt"] == "i2"
    assert examples["images whose text is said of several people too"] == (
        "'A hand': 2 images, 2 people"
    )
    assert examples["repeated of one image, dropped"] == "i0: 'A hand'"
    assert prompts["prompt"].tolist() == ["A hand", "A hand", " ".join(["word"] * 75), "Another"]
    assert list(prompts) == ["image_id", "pid", "prompt"]
    again, after = tidying.clean(prompts, tokens.lengths)
    pd.testing.assert_frame_equal(again, prompts)
    assert after["count"].tolist()[1:6] == [0, 0, 0, 0, 0]


def brute(text, lengths, limit):
    """The longest beginning of whole words that fits, one word after the other."""
    words = text.split(" ")
    begun = [" ".join(words[: n + 1]).rstrip(" ,;:-–—(") for n in range(len(words))]
    return [text for text in begun if lengths([text])[0] <= limit][-1]


WORDS = st.text(string.ascii_letters + ",.;'ß日", min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=30), st.integers(20, 40))
def test_an_over_long_prompt_is_cut_behind_the_last_word_that_fits(words, limit):
    text = tidying.tidy("a " + " ".join(words))
    prompts, _ = tidying.clean(table_of(text), tokens.lengths, limit)
    found = prompts["prompt"].tolist()
    fits = tokens.lengths([text])[0] <= limit
    assert found == [text if fits else brute(text, tokens.lengths, limit)]


def test_a_text_is_measured_about_log2_of_its_words_times():
    measured = []

    def lengths(texts):
        measured.extend(texts)
        return tokens.lengths(texts)

    tidying.clean(table_of(" ".join(["word"] * 300), "short"), lengths)
    assert len(measured) <= 2 + 10


def test_a_word_that_is_too_long_itself_is_cut_within_and_takes_no_time():
    prompts, report = tidying.clean(table_of("日本" * 500, "x" * 200_000), tokens.lengths)
    counts = tokens.lengths(prompts["prompt"])
    assert max(counts) <= 77 and min(counts) >= 60
    assert report.set_index("what").loc["shortened to 77 tokens", "count"] == 2


VALUES = st.one_of(st.none(), st.text(max_size=300), st.integers(), st.floats(allow_nan=True))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["color", "category", "veins", "skin_color", "age"]), VALUES),
    st.one_of(st.text(max_size=900), st.lists(WORDS, max_size=120).map(" ".join)),
    st.sampled_from(["dorsal_r", "palmar_l", "all"]),
)
def test_structured_prompts_never_exceed_what_the_encoder_reads(values, caption, aspect):
    table = one_hand(**values).assign(aspect=aspect)
    captions = pd.DataFrame([("h", caption)], columns=NONE.columns)
    how = PromptParams(strategy="v4", traits=["veins", "skin_color", "age", "color"])
    prompts, report = tidying.clean(wording.generate(table, captions, how), tokens.lengths)
    assert tokens.tokens(prompts["prompt"]).shape == (len(prompts), 77)  # raises if one is longer
    counted = report.set_index("what")["count"]
    assert len(prompts) + counted["images without a prompt"] == 1
    if aspect != "all":
        start = f"aspect: {aspect[:6]}; side: {'right' if aspect[-1] == 'r' else 'left'}"
        assert prompts["prompt"].iloc[0].startswith(start)


def test_lengths_are_those_of_the_tokens_and_of_what_would_not_fit():
    texts = ["", "A dorsal right hand", "naïve — 日本 🖐", "word " * 75, "word " * 76, "word " * 200]
    counts = tokens.lengths(texts)
    assert counts[3:] == [77, 78, 202]
    coded = tokens.tokens(texts[:4])
    assert (coded != 0).sum(dim=1).tolist() == counts[:4]
    with pytest.raises(InputError, match="longer than"):
        tokens.tokens(texts[4:5])


def test_nothing_is_told_where_all_is_well(hands, caplog):
    with caplog.at_level(logging.INFO):
        said(hands, traits=["gender"], written=[{"where": {"gender": "male"}, "prompt": "A hand"}])
    assert caplog.records == []
