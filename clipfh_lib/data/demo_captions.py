"""Drawn images with captions, in the layouts that `captioned` reads: hands, things, scenes, places.

The hands are those of demo_hands, described by the sentences and phrases of `captions` and by two
more, sleeve and pose, that the demo CLIP was never told. Who or what is tested trains in no image.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from clipfh_lib.data import captions, demo_hands, demo_things
from clipfh_lib.data.demo_files import appearing, in_processes
from clipfh_lib.data.demo_hands import ASPECTS, QUALITY, Photograph
from clipfh_lib.data.demo_people import SLEEVES, Shot, skin_color, wears
from clipfh_lib.data.demo_shapes import wrist_in_frame
from clipfh_lib.schema import DrawParams

TRAIN, VAL = 0.6, 0.15  # shares of the people or things; the others test
MORE = {"sleeve": "a {} sleeve", "pose": "{}"}
SEEN = ("skin_color", "polish", "ring", "metal", "watch", "bracelet", "mark", *MORE)
OFTEN, REST = 0.9, 1  # how often what is SEEN is said, and how much else at the most
SLEEVED = 0.75  # of the photographs without a watch or bracelet


def write(root: str | Path, draw: DrawParams, workers: int = 1) -> None:
    """Draw a data set with captions.

    Args:
        root: folder to make; it appears when everything is drawn, and not otherwise. Hands and
            places have annotations.json, objects a text and a JSON with the group beside each
            image, scenes a JSON.
        draw: what; people: how many people or things; images: of each; size: width in pixels of
            4:3 pictures; seed: the same seed gives the same bytes.
        workers: processes that draw hands.

    Raises:
        FileExistsError: if root is there already and not empty.
        ValueError: fewer than 4 people or things, or more than there are combinations.
    """
    parts = _parts(draw.people, draw.seed)
    with appearing(Path(root)) as folder:
        if draw.what == "hands":
            _annotate(folder, _hands(folder, draw, parts, workers))
            return
        items = _things(folder, draw, parts)
        if draw.what == "places":
            _annotate(folder, items)
            return
        for _, item in items:
            text = folder / item.pop("image_path")
            if draw.what == "objects":
                lines = "".join(f"{caption}\n" for caption in item["captions"])
                text.with_suffix(".txt").write_bytes(lines.encode())
                item = {"group": item["group"]}
            _json(text.with_suffix(".json"), item)


def _parts(count: int, seed: int) -> list[str]:
    """The part of each person or thing."""
    if count < 4:
        raise ValueError(f"people={count}: at least 4 are needed for train, val and test")
    train, val = round(TRAIN * count), max(1, round(VAL * count))
    names = ["train"] * train + ["val"] * val + ["test"] * (count - train - val)
    order = np.random.default_rng([seed, 193]).permutation(count)
    return [names[place] for place in order]


def _annotate(folder: Path, items: Iterator[tuple[str, dict]]) -> None:
    """Write annotations.json; an item with one caption has it as a text."""
    splits = {"train": [], "val": [], "test": []}
    for part, item in items:
        said = item.pop("captions")
        splits[part].append(item | {"caption": said if len(said) > 1 else said[0]})
    _json(folder / "annotations.json", {"splits": splits})


def _json(path: Path, content: dict) -> None:
    path.write_bytes(json.dumps(content, ensure_ascii=False, indent=1).encode())


# --- hands ----------------------------------------------------------------------------------------


def _hands(
    folder: Path, draw: DrawParams, parts: list[str], workers: int
) -> Iterator[tuple[str, dict]]:
    """Draw the photographs; part and item of each, person by person."""
    pids = demo_hands.pids(draw.seed)
    part_of = dict(zip(pids, parts, strict=False))
    people = [list(_of_person(draw, pid)) for pid in part_of]
    (folder / "images").mkdir()
    work = partial(_draw_person, folder=folder, size=draw.size, seed=draw.seed)
    in_processes(work, people, workers, draw.people * draw.images, "hands")
    for number, photograph in enumerate(chain.from_iterable(people)):
        said = np.random.default_rng([draw.seed, 197, number])
        yield part_of[photograph.pid], _hand(photograph, draw.seed, said)


def _of_person(draw: DrawParams, pid: int) -> Iterator[Photograph]:
    """A person's photographs: all aspects in turn, with jewellery, if any, in every other one."""
    who = demo_hands.person(draw.seed, pid)
    first = int(np.random.default_rng([draw.seed, 199, pid]).integers(4))
    for k in range(draw.images):
        aspect = ASPECTS[(first + k) % 4]
        worn = (k + k // 4) % 2 == 0 and wears(who, aspect)
        yield Photograph(f"images/{pid:07d}_{k + 1:02d}.jpg", pid, aspect, k // 4, 0, worn)


def _taken(photograph: Photograph, seed: int) -> Shot:
    """How it is taken; most arms that have nothing at the wrist are seen with a sleeve."""
    who, aspect = demo_hands.person(seed, photograph.pid), photograph.aspect
    place = photograph.session, photograph.number, photograph.worn
    taken = demo_hands.shot(who, aspect, *place)
    draw = np.random.default_rng([seed, 227, who.pid, ASPECTS.index(aspect), *map(int, place)])
    if draw.random() > SLEEVED or (photograph.worn and aspect[-1] in (who.watch[:1], who.bracelet)):
        return taken
    far = {"scale": float(draw.uniform(0.66, 0.74)), "tip": float(draw.uniform(0.94, 0.97))}
    return replace(taken, sleeve=str(draw.choice(list(SLEEVES))), **far)


def _draw_person(photographs: list[Photograph], folder: Path, size: int, seed: int) -> int:
    """Draw and write the files of one person; returns how many."""
    for one in photographs:
        who = demo_hands.person(seed, one.pid)
        pixels = demo_hands.draw(who, one.aspect, _taken(one, seed), size)
        Image.fromarray(pixels).save(folder / one.name, quality=QUALITY)
    return len(photographs)


def _hand(photograph: Photograph, seed: int, draw: np.random.Generator) -> dict:
    """An item: what can be seen is mostly said, of all else little."""
    aspect = photograph.aspect
    who = demo_hands.person(seed, photograph.pid)
    taken = _taken(photograph, seed)
    row = demo_hands.traits(who, aspect, taken, wrist_in_frame(who, aspect, taken))
    row |= {"skin_color": skin_color(who)}
    words = captions.words(aspect, int(photograph.worn))
    said = [_sentence(row, words, draw) for _ in range(1 + int(draw.random() < 0.5))]
    path = Path(photograph.name)
    return {
        "id": path.stem,
        "image_path": photograph.name,
        "captions": list(dict.fromkeys(said)),
        "category": f"{words['aspect']} {words['side']}",
        "group": f"person_{photograph.pid:07d}",
        **{name: value for name, value in row.items() if value not in ("", "none")},
    }


def _sentence(row: dict[str, str], words: dict[str, str], draw: np.random.Generator) -> str:
    """A caption, short at times, so that it is true of several hands."""
    base = captions.BASES[draw.integers(len(captions.BASES))].format(**words)
    if draw.random() < 0.15:
        return base
    known = {name: how for name, how in (captions.TRAITS | MORE).items()
             if row.get(name, "") not in ("", "none")}  # fmt: skip
    seen = [name for name in known if name in SEEN and draw.random() < OFTEN]
    seen = [name for name in seen if name != "metal" or "ring" in seen]  # whose it is
    rest = [name for name in known if name not in SEEN]
    rest = [str(name) for name in draw.permutation(rest)[: draw.integers(REST + 1)]]
    return ", ".join([base, *(known[name].format(row[name]) for name in [*seen, *rest])])


# --- things ---------------------------------------------------------------------------------------


def _things(folder: Path, draw: DrawParams, parts: list[str]) -> Iterator[tuple[str, dict]]:
    """Draw the photographs; part and item of each, thing by thing."""
    for name in ("train", "val", "test") if draw.what != "places" else ("images",):
        (folder / name).mkdir()
    each = demo_things.pictures(draw.what, draw.people, draw.images, draw.seed)
    for number, picture in enumerate(each):
        part = parts[picture.thing]
        thing = f"{draw.what[:-1]}_{picture.thing + 1:04d}"
        stem = f"{thing}_{number % draw.images + 1:02d}"
        path = f"{'images' if draw.what == 'places' else part}/{stem}.jpg"
        picture.paint(draw.size).save(folder / path, quality=QUALITY)
        item = {"id": stem, "image_path": path, "captions": picture.captions, "group": thing}
        yield part, item | {"category": picture.category} | picture.traits
