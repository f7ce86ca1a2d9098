"""Zero-shot naming: which prompt lies nearest to a photograph?"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from clipfh_lib.data import captions, splits
from clipfh_lib.evaluation import embeddings, intervals, trials
from clipfh_lib.files import InputError
from clipfh_lib.models import prompts
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import ZeroShotParams


class Named(NamedTuple):
    """What the prompts said.

    `confusion`: images, shown (rows) by named (columns), both as "dorsal right, with". `trials`
    and `metrics` have the columns of `retrieval.Results`: the share of images named rightly, in
    all (`named`) and by part (`named_aspect`, `named_side`, `named_accessories`); one pass, so
    there is one trial. All three are empty for a backbone that reads no text.
    """

    confusion: pd.DataFrame
    trials: pd.DataFrame
    metrics: pd.DataFrame


def labels() -> list[str]:
    """The names of `captions.kinds()`, for people."""
    said = [captions.words(*kind) for kind in captions.kinds()]
    return [f"{word['aspect']} {word['side']}, {word['accessories']}" for word in said]


def classifier(encoder: nn.Module, templates: list[str]) -> np.ndarray:
    """(8, D) unit-length text embeddings of the kinds, averaged over the templates.

    Radford et al., CLIP, ICML 2021, section 3.1.4, prompt ensembling.

    Raises:
        InputError: a template with an unknown field, or too long for the encoder.
    """
    try:
        texts = captions.naming(templates)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"naming.templates: no field {error}; there are {{aspect}}, {{side}}, {{accessories}}"
        ) from None
    each = prompts.embed(encoder, [text for kind in texts for text in kind], torch.device("cpu"))
    mean = each.reshape(len(texts), len(templates), -1).mean(dim=1)
    return embeddings.unit(mean).numpy()


def name(
    encoder: nn.Module, preprocess: Preprocess, data: splits.Prepared, p: ZeroShotParams
) -> Named:
    """Name aspect, side and accessories of all photographs of the test people.

    Photographs with accessories, which the protocol leaves out, are named too. `embed.flip` does
    not count here: the mirror image of a right hand is a left one.

    Raises:
        InputError: a template that cannot be used.
    """
    table = data.images[data.images["pid"].isin(data.test["pid"])]
    if not prompts.reads_text(encoder) or not {"aspect", "accessories"} <= set(table):
        empty = pd.DataFrame(0, index=[], columns=labels())
        return Named(empty, *trials.LongTables().frames())
    unflipped = p.model_copy(update={"embed": p.embed.model_copy(update={"flip": "none"})})
    images = embeddings.of(encoder, preprocess, table, data.root, unflipped)
    nearest = (images.array @ classifier(encoder, p.naming.templates).T).argmax(axis=1)
    kinds = captions.kinds()
    shown = [
        kinds.index((aspect, accessories))
        for aspect, accessories in zip(
            images.table["aspect"], (images.table["accessories"] > 0).astype(int), strict=True
        )
    ]
    names = np.array(labels())
    confusion = pd.crosstab(names[shown], names[nearest]).reindex(
        index=labels(), columns=labels(), fill_value=0
    )
    pids, weights = images.table["pid"].to_numpy(), embeddings.first_weights(p)
    rates = _rates(np.array(shown), nearest, pids, weights, p.evaluation.resamples)
    return Named(confusion, *rates)


def _rates(
    shown: np.ndarray, named: np.ndarray, pids: np.ndarray, weights: str, resamples: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares of right names with intervals over people; a kind's number is aspect, side, worn."""
    right = np.stack(
        [
            shown == named,
            shown // 4 == named // 4,
            shown // 2 % 2 == named // 2 % 2,
            shown % 2 == named % 2,
        ],
        axis=1,
    ).astype(float)
    people, which = np.unique(pids, return_inverse=True)
    sums, counts = intervals.person_sums(right, which, np.zeros_like(which), (len(people), 1))
    long = trials.LongTables()
    group = {"test_aspect": "all", "weights": weights, "gallery": "prompts"}
    long.add(
        {**group, "subset": "all", "direction": "image_text"},
        np.array([0]),
        ("named", "named_aspect", "named_side", "named_accessories"),
        intervals.trial_means(sums, counts),
        intervals.interval(sums, counts, resamples),
        counts,
    )
    return long.frames()
