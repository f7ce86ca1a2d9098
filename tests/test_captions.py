import dataclasses

import open_clip
import pandas as pd
import pytest

from clipfh_lib.data import captions, catalogues, demo_hands, demo_people
from clipfh_lib.models import prompts
from clipfh_lib.schema import DataParams


@pytest.fixture(scope="module")
def described():
    """The images table of many drawn people, without their pictures."""
    photographs = demo_hands.table_11k(people=60, images=2, seed=3)
    _, traits = demo_hands._tables(photographs, seed=3)
    pictured = pd.DataFrame(
        {
            "aspect": [item.aspect for item in photographs],
            "accessories": [int(item.worn) for item in photographs],
            "gender": [demo_hands.person(3, item.pid).gender for item in photographs],
            "skin_color": [
                demo_people.skin_color(demo_hands.person(3, item.pid)) for item in photographs
            ],
        }
    )
    return pictured.join(traits)


def test_every_trait_of_a_drawn_person_is_said_and_nothing_else(drawn):
    table = catalogues.read(DataParams(catalogue="hands_11k", root=str(drawn))).images
    assert set(captions.TRAITS) <= set(table)  # by the names that the images table has
    who = demo_hands.person(0, 1)
    shot = demo_hands.shot(who, "dorsal_r", 0, 0, False)
    drawn_traits = demo_hands.traits(who, "dorsal_r", shot, True)
    passing = {"pose", "sleeve"}  # no two photographs of a person have them in common
    assert set(captions.TRAITS) == {*drawn_traits, "gender", "skin_color"} - passing


def test_the_colour_of_nail_polish_is_said_and_its_flag_is_not(drawn):
    who = dataclasses.replace(demo_hands.person(0, 1), polish="blue")
    shot = dataclasses.replace(demo_hands.shot(who, "dorsal_r", 0, 0, False), polish="blue")
    row = {"nail_polish": 1, **demo_hands.traits(who, "dorsal_r", shot, True)}
    assert "blue nail polish" in captions.phrases(row)
    assert not any("1" in phrase for phrase in captions.phrases(row))
    table = catalogues.read(DataParams(catalogue="hands_11k", root=str(drawn))).images
    said = ["nail polish" in ", ".join(captions.phrases(row)) for row in table.to_dict("records")]
    assert said == table["nail_polish"].eq(1).tolist() and any(said) and not all(said)


def test_phrases_say_what_the_columns_hold():
    row = {"moles": "none", "hair": "", "ring": "index and ring"}
    row |= {"scar": float("nan"), "metal": None, "unknown": "word", "watch": 1, "veins": "strong"}
    assert captions.phrases(row) == ["strong veins", "a ring on the index and ring finger"]


def test_a_caption_is_a_base_and_some_of_the_phrases_of_its_row(described):
    for row, text in zip(
        described.to_dict("records"), captions.varied(described, 0, 0), strict=True
    ):
        kind = captions.words(row["aspect"], row["accessories"])
        base = [b for b in (b.format(**kind) for b in captions.BASES) if text.startswith(b)]
        rest = text.removeprefix(max(base, key=len)).removeprefix(", ").split(", ")
        assert set(rest) - {""} <= set(captions.phrases(row))
        assert len(rest) == len(set(rest)) and 6 <= len(rest) <= 12


def test_captions_differ_by_epoch_and_seed_and_come_back(described):
    first = captions.varied(described, 0, 0)
    assert first == captions.varied(described, 0, 0)
    for other in (captions.varied(described, 0, 1), captions.varied(described, 1, 0)):
        same = sum(a == b for a, b in zip(first, other, strict=True))
        assert same < 0.02 * len(first)
    assert len(set(first)) > 0.95 * len(first)


def test_a_row_without_traits_is_still_said():
    table = pd.DataFrame({"aspect": ["palmar_l"], "accessories": [1]})
    (text,) = captions.varied(table, 0, 0)
    assert text in [base.format(**captions.words("palmar_l", 1)) for base in captions.BASES]


def test_no_caption_can_be_longer_than_77_tokens(described):
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    phrases = {p for row in described.to_dict("records") for p in captions.phrases(row)}
    bases = captions.vocabulary(pd.DataFrame())
    by_column = [  # the longest thing that each column says
        max(len(tokenizer.encode(f", {p}")) for p in phrases if p in said)
        for said in (
            {captions.TRAITS[column].format(value) for value in described[column].dropna().map(str)}
            for column in captions.TRAITS
        )
    ]
    longest = max(len(tokenizer.encode(base)) for base in bases)
    assert 2 + longest + sum(sorted(by_column)[-12:]) <= 77
    prompts.tokens(captions.varied(described, 0, 0))  # refuses what is too long


def test_the_vocabulary_has_every_token_of_captions_and_names(described):
    used = set(prompts.tokens(captions.vocabulary(described)).unique().tolist())
    for epoch in range(5):
        said = prompts.tokens(captions.varied(described, 0, epoch)).unique().tolist()
        assert set(said) <= used
    names = [name for kind in captions.naming(captions.BASES) for name in kind]
    assert set(prompts.tokens(names).unique().tolist()) <= used
    assert len(used) < 250  # that few rows of the token table are stored


def test_naming_puts_each_kind_into_each_template():
    templates = ["A {aspect} {side} hand {accessories} accessories", "{side}"]
    names = captions.naming(templates)
    assert [kind[1] for kind in names] == ["right"] * 2 + ["left"] * 2 + ["right"] * 2 + [
        "left"
    ] * 2
    assert names[0][0] == "A dorsal right hand without accessories"
    assert names[7][0] == "A palmar left hand with accessories"
    assert len({kind[0] for kind in names}) == 8
    assert captions.kinds()[5] == ("palmar_r", 1)
    with pytest.raises(KeyError):
        captions.naming(["{hand}"])
