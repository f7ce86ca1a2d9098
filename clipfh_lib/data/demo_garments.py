"""Demo garments: drawn photographs in exactly the layout of DeepFashion In-Shop.

No download, no licence, no model: garments are drawn from a seed. Eight at a time are of one kind,
colour and pattern, as in a shop, and differ in cut, neckline, buttons, pockets and print; half of
them train. Each is photographed from four sides in every session; sessions differ in who wears it,
in the clothes beside it, the background and the light.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from clipfh_lib.data.demo_clothes import VIEWS, Garment, draw, garment, shot
from clipfh_lib.data.demo_files import appearing, in_processes
from clipfh_lib.data.inshop import DESCRIPTIONS, HEADER, PARTITION

QUALITY = 90  # of the JPEG files


def described(item: Garment) -> dict[str, str | list[str]]:
    """What list_description_inshop.json says of an item."""
    pattern = "plain" if item.pattern == "plain" else f"{item.second} {item.pattern}"
    size = ("short", "medium", "long")[min(2, int(3 * item.length))]
    pair = "pair of " if item.kind == "trousers" else ""
    text = f"A {size} {pair}{item.color} {item.kind}, {pattern}"
    if item.neck:
        sleeves = {0.0: "no", 0.3: "short", 0.6: "half", 1.0: "long"}[item.sleeve]
        text += f", with a {item.neck} neck and {sleeves} sleeves"
    count = {3: "three", 4: "four", 6: "six"}
    more = [f"{count[item.buttons]} {item.accent} buttons"] if item.buttons else []
    more += [("one pocket", "two pockets")[item.pockets - 1]] if item.pockets else []
    more += [f"a {item.accent} {item.printed} as print"] if item.printed else []
    more += [f"a {item.accent} hem"] if item.trim else []
    lines = [text + ".", ", ".join(more).capitalize() + "."] if more else [text + "."]
    return {"item": f"id_{item.pid:08d}", "color": item.color.capitalize(), "description": lines}


def table(items: int, images: int, seed: int) -> list[tuple[str, int, int, str]]:
    """List the photographs without drawing: image_name, item number, photograph, status.

    Of every two items one trains; the images of the other are query and gallery, half and half.

    Raises:
        ValueError: fewer than two items or images.
    """
    if items < 2 or images < 2:
        raise ValueError(f"items={items} images={images}: 2 of each are needed")
    rows = []
    for pid in range(1, items + 1):
        pair = np.random.default_rng([seed, 233, (pid - 1) // 2])
        trains = pair.integers(2) == pid % 2
        order = np.random.default_rng([seed, 239, pid]).permutation(images)
        folder = f"img/{garment(seed, pid).folder}/id_{pid:08d}"
        for number in range(images):
            session, view = divmod(number, len(VIEWS))
            name = f"{folder}/{session + 1:02d}_{view + 1}_{VIEWS[view]}.jpg"
            status = "query" if order[number] < (images + 1) // 2 else "gallery"
            rows.append((name, pid, number, "train" if trains else status))
    return rows


def write(
    folder: str | Path, items: int, images: int, size: int, seed: int, workers: int = 1
) -> None:
    """Draw a data set in the layout of In-Shop.

    Args:
        folder: to make; it appears when everything is drawn, and not otherwise.
        items: how many garments, 2 or more; of every two one trains.
        images: of each, 2 or more.
        size: width and height of the pictures in pixels.
        seed: the same seed gives the same bytes.
        workers: processes.

    Raises:
        FileExistsError: if the folder is there already and not empty.
        ValueError: too few items or images.
    """
    rows = table(items, images, seed)
    with appearing(Path(folder)) as root:
        for part in {"Img/" + name.rpartition("/")[0] for name, *_ in rows}:
            (root / part).mkdir(parents=True)
        groups = [rows[start : start + 64] for start in range(0, len(rows), 64)]
        work = partial(_draw_some, root=root / "Img", size=size, seed=seed)
        in_processes(work, groups, workers, len(rows), "garments")
        lines = [str(len(rows)), " ".join(HEADER)]
        lines += [f"{name:<60} id_{pid:08d} {status}" for name, pid, _, status in rows]
        said = [described(garment(seed, pid)) for pid in range(1, items + 1)]
        for name, text in (
            (PARTITION, "\n".join(lines)),
            (DESCRIPTIONS, json.dumps(said, indent=1)),
        ):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(f"{text}\n".encode())


def _draw_some(rows: list[tuple], root: Path, size: int, seed: int) -> int:
    """Draw and write some files; returns how many."""
    for name, pid, number, _ in rows:
        pixels = draw(garment(seed, pid), shot(seed, pid, number), size)
        Image.fromarray(pixels).save(root / name, quality=QUALITY)
    return len(rows)
