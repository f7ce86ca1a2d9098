"""Photographs to metrics: four aspects, both galleries, ten trials, cold and with a warm cache.

The reference reads, resizes and encodes the queries and the gallery of every trial anew, as
published scripts do (the gallery of one aspect is part of that of all four), with the same network
in batches of the same size. It stops at the metrics; ours goes on to intervals of all subsets.
"""

import shutil
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from torch import nn

from benchmarks import common
from clipfh_lib import files
from clipfh_lib.data import splits
from clipfh_lib.evaluation import embeddings, retrieval
from clipfh_lib.models import backbones
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import DataParams, EmbedParams, ModelParams

COLD, WARM = 8, 100
BATCH = embeddings.CPU_BATCH  # the fastest on a CPU


@torch.inference_mode()
def encode(encoder: nn.Module, transform: nn.Module, root: Path, paths: list[str]) -> np.ndarray:
    """Files to (N, D) of norm 1, with open_clip's own preprocessing."""
    found = []
    for start in range(0, len(paths), BATCH):
        pixels = []
        for path in paths[start : start + BATCH]:
            with Image.open(root / path) as image:
                pixels.append(transform(image))
        found.append(encoder.encode_image(torch.stack(pixels)))
    return nn.functional.normalize(torch.cat(found), dim=1).numpy()


def each_trial_anew(
    encoder: nn.Module, preprocess: Preprocess, root: Path, table: pd.DataFrame, split: pd.DataFrame
) -> pd.DataFrame:
    """Rank-1 and mAP of one right image, by aspect, trial and gallery."""
    mean, std = preprocess.mean, preprocess.std
    transform = open_clip.image_transform(preprocess.height, False, mean, std)
    path, rows = table.set_index("image_id")["path"], []
    for (aspect, trial), part in split.groupby(["test_aspect", "trial"]):
        queries = part[part["role"] == "query"]
        whole = part[part["gallery"] == "all_aspects"]
        left, right = (
            encode(encoder, transform, root, list(path[some["image_id"]]))
            for some in (queries, whole)
        )
        similarity = left @ right.T
        for gallery in ("all_aspects", "same_aspect"):
            some = np.ones(len(whole), bool)
            if gallery == "same_aspect":
                some = (whole["aspect"] == aspect).to_numpy()
            order = np.argsort(-similarity[:, some], axis=1)
            pids = whole["pid"].to_numpy()[some][order]
            rank = 1 + np.argmax(pids == queries["pid"].to_numpy()[:, None], axis=1)
            rows.append((aspect, trial, gallery, "rank1", (rank == 1).mean()))
            rows.append((aspect, trial, gallery, "mAP", (1 / rank).mean()))
    return pd.DataFrame(rows, columns=["test_aspect", "trial", "gallery", "metric", "value"])


def check(ours: pd.DataFrame, reference: pd.DataFrame) -> None:
    """Every value of the reference is that of ours, and there is something to agree on."""
    ours = ours[ours["subset"] == "all"]
    same = ["test_aspect", "trial", "gallery", "metric"]
    both = reference.merge(ours, on=same, suffixes=("_reference", ""))
    assert len(both) == len(reference)
    np.testing.assert_allclose(both["value"], both["value_reference"], atol=1e-6)
    assert 0.1 < both["value"].mean() < 0.99


def main() -> None:
    args = common.arguments(__doc__, people=4, images=14, width=1600, repeats=1)
    weights = str(backbones.ASSETS / "demo_clip.safetensors")
    encoder, preprocess = backbones.load(ModelParams(name="demo_clip", weights=weights))
    with common.project() as root:
        table = common.photographs(root, args.people, args.images, args.width)
        split = splits.make(table, DataParams(catalogue="hands_11k", cut="none"))

        def warm() -> pd.DataFrame:
            found = embeddings.extract(encoder, preprocess, table, root, EmbedParams(), workers=1)
            return retrieval.evaluate(*found, split, "pretrained").trials

        def cold() -> pd.DataFrame:
            shutil.rmtree(files.cache())
            return warm()

        def reference() -> pd.DataFrame:
            return each_trial_anew(encoder, preprocess, root, table, split)

        check(cold(), reference())
        ours, theirs = common.paired(cold, reference, args.repeats)
        again, _ = common.paired(warm, lambda: 0, 3)
    what = f"{len(table)} files, {args.width} x {args.width * 3 // 4}"
    rows = [
        common.faster(f"{what}, cold", ours, theirs, "s", COLD),
        common.faster(f"{what}, embeddings in the cache", again, theirs, "s", WARM),
    ]
    common.report(rows, args.check)


if __name__ == "__main__":
    main()
