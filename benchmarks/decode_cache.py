"""Pixels from the decode cache, against Pillow's decoding and resizing of the same files."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import common
from clipfh_lib.data import images

SIDE, TIMES = 224, 10


def reference(path: Path) -> np.ndarray:
    """CLIP's own way: the shorter side to 224 by bicubic interpolation, then the centre."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = SIDE / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (round((side - SIDE) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def main() -> None:
    args = common.arguments(__doc__, people=4, images=8, width=1600, repeats=5)
    with common.project() as root:
        table = common.photographs(root, args.people, args.images, args.width)

        def ours() -> np.ndarray:
            return np.array(images.decode(root, table["path"], images.Size(SIDE, SIDE), 1).pixels)

        def theirs() -> np.ndarray:
            return np.stack([reference(root / path) for path in table["path"]])

        np.testing.assert_array_equal(ours(), theirs())
        times = common.paired(ours, theirs, args.repeats)
    what = f"{len(table)} of {args.width} x {args.width * 3 // 4} to {SIDE} x {SIDE}"
    common.report([common.faster(what, *times, "s", TIMES)], args.check)


if __name__ == "__main__":
    main()
