"""Demo hands: drawn photographs in exactly the layouts of 11k Hands and of PolyU HD.

No download, no licence, no person: people are drawn from a seed. Each is photographed in two
sessions, which go through the four aspects one after the other; the images of one person, aspect
and session are a burst of nearly equal photographs, and those of two sessions lie more than 10 file
numbers apart. Who has jewellery is photographed again with it, burst by burst.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from clipfh_lib.data.demo_drawing import draw
from clipfh_lib.data.demo_files import appearing, in_processes
from clipfh_lib.data.demo_people import (
    ASPECTS,
    Person,
    Shot,
    person,
    shot,
    skin_color,
    traits,
    wears,
)
from clipfh_lib.data.demo_shapes import wrist_in_frame

__all__ = ["ASPECTS", "Person", "Shot", "draw", "person", "shot", "table_11k",
           "table_hd", "traits", "write_11k", "write_hd"]  # fmt: skip

SESSIONS = 2
FAR = 10  # file numbers; two sessions of a person and aspect are further apart
QUALITY = 90  # of the JPEG files
HD_CUT = 447  # HD people with an id up to this one are the training half
HD_LAST = 712  # last id in the folder of the distractors, as its name says
HD_FOLDERS = ("1-501", "502-712")
_OFFICIAL = ("dorsal right", "dorsal left", "palmar right", "palmar left")  # in ASPECTS' order
_HEADER = "id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities"


@dataclass(frozen=True)
class Photograph:
    """One file to be drawn; `name` is its path below the folder of the data set."""

    name: str
    pid: int
    aspect: str
    session: int
    number: int  # in its burst
    worn: bool = False


def pids(seed: int) -> Iterator[int]:
    """Ids like the real ones: hundreds with gaps at 0, 500, 1000, 1500, in no order."""
    draw_from = np.random.default_rng([seed, 167])
    for block in itertools.count():
        pool = np.concatenate([np.arange(100) + 2000 * block + 500 * k for k in range(4)])
        yield from (int(pid) for pid in draw_from.permutation(pool))


def table_11k(people: int, images: int, seed: int) -> list[Photograph]:
    """List the photographs of an 11k Hands layout in order of shooting, without drawing.

    Args:
        people: how many.
        images: accessory-free photographs of each person and aspect, 2 or more.
        seed: of the data set.

    Raises:
        ValueError: if there are no people, or too few images for two bursts.
    """
    if people < 1 or images < SESSIONS:
        raise ValueError(f"people={people} images={images}: at least 1 and {SESSIONS} are needed")
    photographs, number = [], 0
    for pid in itertools.islice(pids(seed), people):
        who = person(seed, pid)
        gaps = np.random.default_rng([seed, 173, pid])
        for session in range(SESSIONS):
            order = [int(k) for k in gaps.permutation(2)]
            for side, hand in itertools.product(order, "rl" if gaps.random() < 0.5 else "lr"):
                aspect = ("dorsal_", "palmar_")[side] + hand
                count = images // SESSIONS + (session < images % SESSIONS)
                for worn in (True, False) if wears(who, aspect) else (False,):
                    for k in range(count):
                        number += 1 + int(gaps.random() < 0.06)  # some shots were thrown away
                        name = f"Hands/Hand_{number:07d}.jpg"
                        photographs.append(Photograph(name, pid, aspect, session, k, worn))
            number += FAR + int(gaps.integers(1, 15))
    return photographs


def table_hd(
    people: int, distractors: int, images: int | Sequence[int], seed: int
) -> list[Photograph]:
    """List the photographs of a PolyU HD layout, without drawing: dorsal right hands.

    Half of the people have ids up to 447; those of the other half go on from 448, past 501, and
    over the distractors' 502 to 712.

    Args:
        people: who train or are queries, in the folder 1-501.
        distractors: people of the folder 502-712.
        images: of each, or one number for each person, then for each distractor, in order of id.
        seed: of the data set.

    Raises:
        ValueError: if there are more training people than ids, or counts that do not fit.
    """
    train = (people + 1) // 2
    if people < 1 or train > HD_CUT:
        raise ValueError(f"people={people}: 1 to {2 * HD_CUT} fit the ids of HD")
    counts = [images] * (people + distractors) if isinstance(images, int) else list(images)
    if len(counts) != people + distractors or min(counts) < 1:
        raise ValueError(f"{len(counts)} image counts for {people} + {distractors} people")
    ids = np.random.default_rng([seed, 179])
    first_distractor = int(HD_FOLDERS[1].split("-")[0])
    beyond = first_distractor - 1 - HD_CUT  # ids between the cut and the distractors
    tail = max(HD_LAST, first_distractor + distractors - 1) + 1 - first_distractor
    test = np.sort(ids.choice(max(people - train, 2 * beyond), people - train, replace=False))
    test = test + HD_CUT + 1
    pids = [*np.sort(ids.choice(HD_CUT, train, replace=False)) + 1,
            *np.where(test < first_distractor, test, test + tail),
            *range(first_distractor, first_distractor + distractors)]  # fmt: skip
    photographs = []
    for row, (pid, count) in enumerate(zip(pids, counts, strict=True)):
        folder = HD_FOLDERS[row >= people]
        for k in range(count):
            session, number = divmod(k, (count + 1) // 2)
            name = f"Original Images/{folder}/{pid}_{k + 1}.jpg"
            photographs.append(Photograph(name, int(pid), "dorsal_r", session, number))
    return photographs


def write_11k(
    root: str | Path, people: int, images: int, size: int, seed: int, workers: int = 1
) -> None:
    """Draw a data set in the layout of 11k Hands, with HandTraits.csv beside HandInfo.csv.

    Args:
        root: folder to make; it appears when everything is drawn, and not otherwise.
        people: how many.
        images: accessory-free photographs of each person and aspect, 2 or more; with those that
            wear jewellery about 1.4 times as many are drawn.
        size: width of the pictures in pixels; they are 4:3.
        seed: the same seed gives the same bytes.
        workers: processes.

    Raises:
        FileExistsError: if root is there already and not empty.
        ValueError: see table_11k.
    """
    photographs = table_11k(people, images, seed)
    with appearing(Path(root)) as folder:
        _draw_all(photographs, folder, size, seed, workers)
        info, described = _tables(photographs, seed)
        (folder / "HandInfo.csv").write_bytes("".join(line + "\r\n" for line in info).encode())
        described.to_csv(folder / "HandTraits.csv", index=False, quoting=csv.QUOTE_MINIMAL)


def write_hd(
    root: str | Path,
    people: int,
    distractors: int,
    images: int | Sequence[int],
    size: int,
    seed: int,
    workers: int = 1,
) -> None:
    """Draw a data set in the layout of PolyU HD; arguments as in table_hd and write_11k."""
    photographs = table_hd(people, distractors, images, seed)
    with appearing(Path(root)) as folder:
        for part in ("1-501", "502-712"):  # the second is empty without distractors
            (folder / "Original Images" / part).mkdir(parents=True)
        _draw_all(photographs, folder, size, seed, workers)


def _tables(photographs: list[Photograph], seed: int) -> tuple[list[str], pd.DataFrame]:
    """Lines of HandInfo.csv, and the table of HandTraits.csv."""
    info, rows = [_HEADER], []
    for item in photographs:
        who = person(seed, item.pid)
        taken = shot(who, item.aspect, item.session, item.number, item.worn)
        name = item.name.rsplit("/", 1)[1]
        polish = int(bool(taken.polish) and item.aspect.startswith("dorsal"))
        info.append(
            f'"{item.pid:07d}",{who.age},"{who.gender}","{skin_color(who)}",{int(item.worn)},'
            f'{polish},"{_OFFICIAL[ASPECTS.index(item.aspect)]}","{name}",{int(bool(taken.mark))}'
        )
        seen = traits(who, item.aspect, taken, wrist_in_frame(who, item.aspect, taken))
        rows.append({"imageName": name, **seen})
    return info, pd.DataFrame(rows)


def _draw_all(
    photographs: list[Photograph], folder: Path, size: int, seed: int, workers: int
) -> None:
    for parent in {(folder / item.name).parent for item in photographs}:
        parent.mkdir(parents=True, exist_ok=True)
    groups = [list(group) for _, group in itertools.groupby(photographs, key=lambda item: item.pid)]
    work = partial(_draw_some, folder=folder, size=size, seed=seed)
    in_processes(work, groups, workers, len(photographs), "hands")


def _draw_some(photographs: list[Photograph], folder: Path, size: int, seed: int) -> int:
    """Draw and write the files of one person; returns how many."""
    for item in photographs:
        who = person(seed, item.pid)
        taken = shot(who, item.aspect, item.session, item.number, item.worn)
        pixels = draw(who, item.aspect, taken, size)
        Image.fromarray(pixels).save(folder / item.name, quality=QUALITY)
    return len(photographs)
