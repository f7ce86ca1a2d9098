import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipfh_lib.data import variations
from clipfh_lib.models import prompts
from clipfh_lib.words import VaryParams

OFF = {"templates": [], "synonyms": False, "order": False, "dropout": 0}
ALL = VaryParams(count=3, dropout=0.3)
HAND = "A dorsal right hand without accessories, dark skin, male, faint veins, without nail polish"
STRUCTURED = "aspect: dorsal; side: right; accessories: without; skin: dark; moles: several"


def words(text):
    return re.findall(r"[^\W_]+", text.casefold())


def undone(text):
    """A wording with each synonym put back."""
    back = {new: old for old, all_new in variations.SYNONYMS.items() for new in all_new}
    known = sorted(back, key=len, reverse=True)
    text = re.sub(rf"\b({'|'.join(known)})\b", lambda found: back[found[0]], text.casefold())
    return re.sub(r"\b(color|gray|large|pants|couch)\b", lambda f: back[f[0]], text)


# --- each kind by itself, and off ----------------------------------------------------------------


@pytest.mark.parametrize("text", [HAND, STRUCTURED, "A dog.", "", "左手"])
def test_where_all_kinds_are_off_or_none_is_asked_for_there_is_no_other_wording(text):
    assert variations.vary([text], VaryParams(count=3, **OFF), 0) == [[]]
    assert variations.vary([text], VaryParams(), 0) == [[]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_so_many_other_wordings_as_asked_for_distinct_and_other_than_the_text(count):
    for text in (HAND, STRUCTURED, "A photo of a big dog in front of a house"):
        (found,) = variations.vary([text], VaryParams(count=count), 1)
        assert len({*found, text}) == count + 1 and all(found)


def test_templates_hold_the_text_and_lose_its_full_stop_where_more_follows():
    how = VaryParams(count=3, **OFF | {"templates": ["A photo: {caption}", "{caption}, taken"]})
    (found,) = variations.vary(["A dog."], how, 0)
    assert sorted(found) == ["A dog, taken", "A photo: A dog."]


@pytest.mark.parametrize("template", ["A photo", "{caption} {caption}", "{caption} {pid}", "{0}"])
def test_a_template_holds_the_caption_once_and_nothing_else(template):
    with pytest.raises(ValueError, match="vary.templates"):
        VaryParams(templates=[template])


def test_synonyms_replace_words_of_attributes_as_a_whole_and_keep_capitals():
    how = VaryParams(count=3, **OFF | {"synonyms": True})
    assert variations.vary(["Grey photos"], how, 0) == [["Gray photos"]]
    (found,) = variations.vary(["fair skin, greyish"], how, 0)
    assert found == ["light skin, greyish"]
    assert variations.vary(["A hand, dark skin"], how, 0) == [[]]  # no word that has one


def test_no_two_words_share_a_synonym_so_that_levels_stay_apart():
    meant = Counter()
    for word, others in variations.SYNONYMS.items():
        assert word not in others and word.casefold() == word
        meant.update(others)
        for other in others:  # where it is a word of the table itself the two say the same
            assert variations.SYNONYMS.get(other, [word]) == [word]
            assert not set(words(other)) & (variations.TURNING | set(variations.SIDES))
    assert max(meant.values()) == 1


def test_only_attributes_of_a_list_change_places_and_the_sentence_before_them_stays():
    how = VaryParams(count=3, **OFF | {"order": True})
    (found,) = variations.vary([HAND + "."], how, 0)
    assert len(found) == 3
    for text in found:
        first, *rest = text.removesuffix(".").split(", ")
        assert text.endswith(".") and first == HAND.split(", ")[0]
        assert sorted(rest) == sorted(HAND.split(", ")[1:]) and rest != HAND.split(", ")[1:]
    (found,) = variations.vary([STRUCTURED], how, 0)
    assert all(sorted(t.split("; ")) == sorted(STRUCTURED.split("; ")) for t in found)
    assert len(found) == 3


@pytest.mark.parametrize(
    "text",
    [
        "A hand without rings, watches, dark skin",  # it reaches over the comma
        "A hand, no ring, bracelet, dark skin",
        "A hand without accessories, gloves or rings, dark skin",
        "A left hand with a ring, a watch, the right hand bare, dark",
        "A man walks, who is tall, who wears a hat",
        "A dress in red, green, and blue",
        "A dog runs, fast. Then it sleeps, long",
        "A man walks; he sings; he is happy",
        "A garment (red, long, warm)",
        "A man walks, having eaten far too much of it all today, slowly",
        "A hand, dark skin",
        "A street, a red car, a dog behind it, a tree",
        "A table, on it a cup, left of it a plate",
        "A man, his dog, a red hat",
        "Two dogs, a cat, one black, the other white",
        "A table, a cup, a plate behind",
        "A house, a man, a dog that barks",
        "A wall, a shelf, there a clock, below a lamp",
    ],
)
def test_what_is_no_plain_list_keeps_its_order(text):
    assert variations.vary([text], VaryParams(count=3, **OFF | {"order": True}), 0) == [[]]


def test_about_so_many_words_are_left_out_as_asked_for():
    text = " ".join(f"word{n}" for n in range(200))
    for share in (0.05, 0.4):
        (found,) = variations.vary([text], VaryParams(count=3, **OFF | {"dropout": share}), 0)
        left = [len(words(wording)) / 200 for wording in found]
        assert len(found) == 3 and abs(sum(left) / 3 - (1 - share)) < 0.06


def test_of_structured_text_a_value_goes_with_its_name():
    how = VaryParams(count=3, **OFF | {"dropout": 0.5})
    texts = [f"{STRUCTURED}; description: a long text number {n}" for n in range(40)]
    for text, found in zip(texts, variations.vary(texts, how, 0), strict=True):
        for wording in found:
            parts = dict(part.split(": ") for part in wording.split("; "))
            given_parts = dict(part.split(": ") for part in text.split("; "))
            assert list(parts)[:3] == ["aspect", "side", "accessories"]
            for name, value in parts.items():
                assert value == given_parts[name] or name == "description"


# --- what must never happen ----------------------------------------------------------------------


LISTS = st.lists(
    st.sampled_from(
        "dark skin|male|without nail polish|no ring|a ring on the left finger|Left|palmar|rings or "
        "watches|not tall|right-handed|the leftmost|few moles|fake leather|a bright photo|two "
        "big, grey dogs|with".split("|")
    ),
    min_size=1,
    max_size=7,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(LISTS, st.sampled_from([", ", "; ", " ", ". "]), st.integers(0, 5), st.floats(0.1, 0.95))
def test_a_wording_says_no_more_than_the_text_and_keeps_sides_and_negations(
    parts, sign, seed, dropout
):
    text = "A hand" + sign + sign.join(parts)
    how = VaryParams(count=3, templates=["{caption}"], dropout=dropout)
    (found,) = variations.vary([text], how, seed)
    for wording in found:
        assert wording.strip() == wording and words(wording)
        before, after = Counter(words(undone(text))), Counter(words(undone(wording)))
        assert not after - before
        kept = {"left", "right", "leftmost", "palmar", "dorsal"} | variations.TURNING
        assert {w: n for w, n in before.items() if w in kept} == {
            w: n for w, n in after.items() if w in kept
        }
        for negated in ("without nail polish", "no ring", "not tall", "few moles", "fake leather"):
            assert undone(wording).count(negated) == undone(text).count(negated)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.integers(0, 3))
def test_no_wording_is_empty_whatever_the_text(text, seed):
    (found,) = variations.vary([text], VaryParams(count=3, dropout=0.9), seed)
    assert len(found) <= 3 and len(set(found)) == len(found) and text not in found
    assert not text.strip() or all(wording.strip() for wording in found)


# --- seeds, lengths ------------------------------------------------------------------------------


def test_wordings_depend_on_seed_and_text_alone():
    texts = [HAND, STRUCTURED, "A big grey dog in a house"]
    found = variations.vary(texts, ALL, 0)
    assert variations.vary(texts[::-1], ALL, 0) == found[::-1]
    assert variations.vary([texts[1]], ALL, 0) == [found[1]]
    assert variations.vary([HAND, HAND], ALL, 0) == [found[0], found[0]]
    assert variations.vary(texts, ALL, 1) != found
    assert variations.vary(texts, ALL, 0) == found
    lists = [f"a: {n}; b: {n}; c: {n}; d: {n}" for n in range(20)]  # each with draws of its own
    orders = variations.vary(lists, VaryParams(count=1, **OFF | {"order": True}), 0)
    assert len({re.sub(r"[^a-d]", "", own[0]) for own in orders}) > 5


def test_wordings_that_the_encoder_cannot_read_are_left_out():
    text = " ".join(["word"] * 75)  # 77 tokens
    how = VaryParams(count=3, **OFF | {"templates": ["A photo: {caption}", "{caption}."]})
    assert len(variations.vary([text], how, 0)[0]) == 2
    assert variations.vary([text], how, 0, prompts.lengths) == [[]]
    short = " ".join(["word"] * 73)
    assert variations.vary([short], how, 0, prompts.lengths) == [[f"{short}."]]
    assert variations.vary([text], how, 0, prompts.lengths, 78) == [[f"{text}."]]


# --- mirrored ------------------------------------------------------------------------------------


def test_left_and_right_are_exchanged_where_they_are_words():
    assert variations.mirrored("A dorsal right hand beside a Left one, RIGHT-most") == (
        "A dorsal left hand beside a Right one, LEFT-most"
    )
    assert variations.mirrored("bright, upright, lefty, copyright, leftovers, all_right") == (
        "bright, upright, lefty, copyright, leftovers, all_left"
    )
    assert variations.mirrored("leftmost; rightward; side: left.") == (
        "rightmost; leftward; side: right."
    )
    assert variations.mirrored("A palmar hand") == "A palmar hand"


@given(st.lists(st.sampled_from(["left", "Right", "bright", "a", "-", "LEFT", "wards"])), st.text())
def test_mirrored_twice_is_the_text_itself(parts, more):
    for text in (" ".join(parts), more, "".join(parts)):
        assert variations.mirrored(variations.mirrored(text)) == text
