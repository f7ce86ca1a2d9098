"""Simulated embeddings, images table and split manifest for the tests of evaluation."""

import numpy as np
import pandas as pd

OFFSETS = (11_000_000, 21_000_000, 31_000_000)


def people(
    aspects=("dorsal_r", "palmar_l"), test=12, val=6, images=8, trials=3, noise=2.0, seed=0
) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Embeddings (N, 16), their table and a split as the 11k protocol has it.

    People are shot in two bursts per aspect, 20 file numbers apart. The first `val` people are
    val, the others test; each test person has one gallery image per aspect and trial.
    """
    draw = np.random.default_rng(seed)
    rows, number = [], 0
    for pid in range(1, 1 + val + test):
        for aspect in aspects:
            for image in range(images):
                number += 20 if image == images // 2 else 1
                rows.append((f"hand_{number:05d}", pid, aspect, number))
    table = pd.DataFrame(rows, columns=["image_id", "pid", "aspect", "file_number"])
    hand = table.groupby(["pid", "aspect"]).ngroup()
    array = draw.standard_normal((hand.max() + 1, 16))[hand]
    array = (array + noise * draw.standard_normal(array.shape)).astype(np.float32)
    base = table[["image_id", "pid", "aspect"]]
    parts = [base[table["pid"] <= val].assign(role="val")]
    tested = base[table["pid"] > val]
    for trial in range(trials):
        gallery = tested.groupby(["pid", "aspect"]).sample(1, random_state=trial)
        for aspect in aspects:
            here = {"test_aspect": aspect, "trial": trial}
            own = gallery[gallery["aspect"] == aspect].assign(**here, role="gallery")
            others = [own.assign(gallery="all_aspects", distractor=False)]
            away = [name for name in aspects if name != aspect]
            for name, offset in zip(away, OFFSETS, strict=False):
                other = gallery[gallery["aspect"] == name].assign(**here, role="gallery")
                others.append(
                    other.assign(pid=other["pid"] + offset, gallery="all_aspects", distractor=True)
                )
            query = tested[(tested["aspect"] == aspect) & ~tested.index.isin(gallery.index)]
            parts += [
                query.assign(**here, role="query"),
                own.assign(gallery="same_aspect", distractor=False),
                *others,
            ]
    return array, table, pd.concat(parts, ignore_index=True)
