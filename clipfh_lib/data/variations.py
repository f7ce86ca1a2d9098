"""Other wordings of a caption that say no more than it does, and the caption of a mirror image."""

import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from clipfh_lib.words import VaryParams

# Words of attributes, and others that say the same; no two share one, so that levels stay apart
SYNONYMS = {
    "photo": ["photograph", "picture", "image"],
    "accessories": ["adornments"],
    "nail polish": ["nail varnish"],
    "fair skin": ["light skin"],
    "broad fingers": ["wide fingers"],
    "slender": ["slim"],
    "faint": ["weak"],
    "clear veins": ["distinct veins"],
    "clear creases": ["distinct creases"],
    "strong veins": ["pronounced veins"],
    "deep creases": ["deeply cut creases"],
    "sparse": ["scanty"],
    "dense": ["thick"],
    "pale": ["whitish"],
    "many": ["numerous"],
    "round": ["rounded"],
    "striped": ["stripy"],
    "dotted": ["spotted"],
    "shiny": ["glossy"],
    "big": ["large"],
    "large": ["big"],
    "colour": ["color"],
    "color": ["colour"],
    "grey": ["gray"],
    "gray": ["grey"],
    "purple": ["violet"],
    "trousers": ["pants"],
    "pants": ["trousers"],
    "sweater": ["pullover", "jumper"],
    "tee": ["t-shirt"],
    "sofa": ["couch"],
    "couch": ["sofa"],
}
SIDES = ("left", "right", "dorsal", "palmar")
# Words that turn what follows them, or make another thing of it: neither they nor it is left out
TURNING = set(
    "no not without never none nor neither nothing lacking except but hardly barely almost nearly "
    "half only few less fake faux imitation artificial toy".split()
)
# Words of an attribute that point at another part, so that no part may come between
POINTING = set(
    "it its itself they them their theirs he him his she her hers one ones other others another "
    "both each either same latter former here there this that these those which who whom "
    "whose".split()
)
# As last words of an attribute they point as well: "a dog behind"
PLACES = set(
    "behind beside below above beneath underneath inside outside nearby opposite around between "
    "front next top".split()
)
# Where such a word cannot reach over the next comma
CLOSED = re.compile(r"\bwithout (accessories|adornments|nail polish|nail varnish|irregularities)\b")
MANY_TRIES = 24  # for each wording that is asked for, until a new one is found
WORDS_OF_ATTRIBUTE = 6  # at most; longer parts between commas are no list
_KNOWN = re.compile(rf"\b({'|'.join(sorted(SYNONYMS, key=len, reverse=True))})\b", re.IGNORECASE)
_MIRRORED = re.compile(r"(?<![^\W_])(left|right)(?=(?:most|wards?)?(?![^\W_]))", re.IGNORECASE)


def mirrored(text: str) -> str:
    """What is true of the mirror image: left and right exchanged where they stand as words."""
    return _MIRRORED.sub(lambda found: _like(found[0], _other_side(found[0])), text)


def _other_side(word: str) -> str:
    return "right" if word.casefold() == "left" else "left"


def _like(old: str, new: str) -> str:
    """The new word, in capitals where the old one has them."""
    if old.isupper():
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new


def vary(
    texts: Sequence[str],
    how: VaryParams,
    seed: int,
    lengths: Callable[[Sequence[str]], Sequence[int]] | None = None,
    limit: int = 77,
) -> list[list[str]]:
    """Other wordings of each text: other templates, synonyms, order of attributes, words left out.

    They depend on the seed and on the text alone. Sides stay as they are, and so do negations with
    all that they reach; parts that point at one another keep their order. What dropout leaves says
    less than the text, and now and then says it clumsily ("A of a big dog").

    Args:
        texts: captions or prompts.
        lengths: tokens of texts, `models.prompts.lengths`; wordings above the limit are left out.
        limit: tokens that the text encoder reads.

    Returns:
        For each text at most `how.count` wordings, distinct and other than the text; fewer where it
        gives no more, none where all kinds are off.
    """
    found = {text: _wordings(text, how, seed) for text in dict.fromkeys(texts)}
    if lengths is not None:
        every = sorted({wording for own in found.values() for wording in own})
        fits = {text for text, n in zip(every, lengths(every), strict=True) if n <= limit}
        found = {text: [w for w in own if w in fits] for text, own in found.items()}
    return [list(found[text]) for text in texts]


def _wordings(text: str, how: VaryParams, seed: int) -> list[str]:
    content = f"{seed}/{text}".encode("utf-8", "surrogatepass")
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:16]))
    found: dict[str, None] = {}
    for _ in range(MANY_TRIES * how.count):
        other = text
        if how.order:
            other = _reordered(other, draw)
        if how.dropout:
            other = _thinned(other, how.dropout, draw)
        if how.synonyms:
            other = _KNOWN.sub(lambda word: _synonym(word[0], draw), other)
        if how.templates and draw.random() < 0.5:
            other = _put(other, how.templates[draw.integers(len(how.templates))])
        if other != text:
            found[other] = None
        if len(found) == how.count:
            break
    return list(found)


def _put(text: str, template: str) -> str:
    """The text in a template, without its full stop where more follows."""
    inside = text if template.endswith("{caption}") else text.rstrip(" .")
    return template.format(caption=inside)


def _synonym(word: str, draw: np.random.Generator) -> str:
    """Another word for the same, or the word itself, each as likely."""
    others = SYNONYMS[word.casefold()]
    place = int(draw.integers(len(others) + 1))
    return word if place == len(others) else _like(word, others[place])


# --- order ---------------------------------------------------------------------------------------


def _reordered(text: str, draw: np.random.Generator) -> str:
    """The attributes of a list in another order; a text that lists none as it is.

    A list is "aspect: dorsal; side: right; ..." or a sentence, which stays first, and at least two
    short attributes after commas.
    """
    body, end = (text[:-1], ".") if text.endswith(".") else (text, "")
    if ";" in body:
        parts = [part.strip() for part in body.split(";")]
        return "; ".join(_shuffled(parts, draw)) + end if all(":" in p for p in parts) else text
    first, *parts = [part.strip() for part in body.split(",")]
    if not _lists(body, parts):
        return text
    return ", ".join([first, *_shuffled(parts, draw)]) + end


def _shuffled(parts: list[str], draw: np.random.Generator) -> list[str]:
    return [parts[place] for place in draw.permutation(len(parts))]


def _lists(text: str, parts: list[str]) -> bool:
    """Whether the parts may change places: nothing in the text reaches over a comma."""
    words = set(_bare(text))
    sides = SIDES[:2], SIDES[2:]
    return (
        len(parts) > 1
        and all(0 < len(part.split()) <= WORDS_OF_ATTRIBUTE for part in parts)
        and not any(_bare(part)[:1] == ["and"] or _points(part) for part in parts)
        and not words & {"or", "nor"}
        and not any(words.issuperset(pair) for pair in sides)
        and not re.search(r"[.!?:()\[\]\"]", text)
        and not TURNING.intersection(_bare(CLOSED.sub("", text.casefold())))
    )


def _points(part: str) -> bool:
    """Whether it says something of what another part names."""
    words = _bare(part)
    return not POINTING.isdisjoint(words) or not PLACES.isdisjoint(words[-1:])


def _bare(text: str) -> list[str]:
    """The words of a text in small letters."""
    return re.findall(r"[^\W_]+", text.casefold())


# --- words left out ------------------------------------------------------------------------------


def _thinned(text: str, share: float, draw: np.random.Generator) -> str:
    """The text without some words; of "key: value" the value, or both if it is one word."""
    parts = re.split(r"(?<=[,;.!?])\s+", text)
    left = [" ".join(part) for part in (_part(part, share, draw) for part in parts) if part]
    if not left:
        return text
    found = " ".join(left)
    return found if text[-1:] in (",", ";") else found.rstrip(" ,;")


def _part(part: str, share: float, draw: np.random.Generator) -> list[str]:
    """What is left of the words between two signs, the sign kept at their end."""
    words = part.split()
    turned = next((n for n, word in enumerate(words) if TURNING.intersection(_bare(word))), None)
    keyed = max((n + 1 for n, word in enumerate(words) if word.endswith(":")), default=0)
    gone = draw.random(len(words)) < share
    kept = [
        word
        for n, word in enumerate(words)
        if n < keyed
        or not gone[n]
        or (turned is not None and n >= turned)
        or _MIRRORED.search(word)
        or set(SIDES).intersection(_bare(word))
    ]
    if len(kept) <= keyed:
        return []
    sign = words[-1][-1]
    return kept if kept[-1] == words[-1] or sign not in ",;.!?" else [*kept[:-1], kept[-1] + sign]
