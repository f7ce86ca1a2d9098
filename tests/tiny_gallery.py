"""A few drawn people and a tiny CLIP to enrol them with."""

import numpy as np
import pandas as pd
import tiny_clip
import torch
from PIL import Image

from clipfh_lib.schema import EmbedParams
from clipfh_lib.studies import gallery, vectors
from clipfh_lib.studies.thresholds import Threshold

NAMES = ("1051", "Annegret Ünlü", "zoë-3")
LIMIT = Threshold(0.1, (1, 100), (0.5, 0.6), 900, 0.4, 300, 9)


def photograph(path, seed, shift=0):
    """A picture that nobody else has: smooth colours of a person, moved a little."""
    y, x = np.mgrid[0:1:48j, 0:1:64j]
    turn = np.random.default_rng(seed).uniform(1, 9, (3, 3))
    waves = [np.sin(a * x + b * y + c + 0.1 * shift) for a, b, c in turn]
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.stack(waves, axis=2) * 120 + 127
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def people(root, names=NAMES, images=3):
    """One folder a person."""
    for seed, name in enumerate(names):
        for image in range(images):
            photograph(root / name / f"{name} at {image}.png", seed, image)
    return gallery.of_folder(root)


def model(folder, seed=0, embed=None, resize="clip", **keys):
    encoder, preprocess = tiny_clip.load(folder, seed, **keys)
    return vectors.Model(encoder, preprocess, embed or EmbedParams(), resize, torch.device("cpu"))


def enrolled(folder, limit=LIMIT, **how):
    """A gallery of `people` below a folder, and the model."""
    one = model(folder, **how)
    made = gallery.enrol(people(folder / "people"), one, {"params": {}, "outputs": "o"}, limit)
    return made.gallery, one


def of_vectors(array, persons, limit=LIMIT):
    """A gallery of embeddings that somebody made up."""
    names = [f"{person}/{number}" for number, person in enumerate(persons)]
    table = pd.DataFrame({"person": persons, "image": names}, dtype="str")
    unit = array / np.linalg.norm(array, axis=1, keepdims=True)
    return gallery.Gallery(unit.astype(np.float32), table, {}, {}, limit)
