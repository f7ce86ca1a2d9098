"""The words of an epoch: which wording of which text each training image has, as token ids."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from clipfh_lib.data import variations
from clipfh_lib.data.pairs import Pairs
from clipfh_lib.models import prompts
from clipfh_lib.words import VaryParams


def of_epochs(
    pairs: Pairs, how: VaryParams, seed: int, length: int = 77
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Epoch -> one wording of one text of each image, and what is true of its mirror image.

    (seed, epoch) decide which of an image's texts is said, and whether as it stands or in one of
    its other wordings, of which those that are too long for the encoder are left out.

    Args:
        pairs: training images and their texts.
        how: which other wordings there are.
        seed: of the draws, and of the wordings.
        length: tokens that the encoder takes (`context_length`).

    Returns:
        epoch -> two tensors (N, length) of token ids, for `loaders.Captioned`.

    Raises:
        InputError: a text itself is too long.
    """
    others = variations.vary(pairs.texts, how, seed, prompts.lengths, length)
    wordings = [[text, *more] for text, more in zip(pairs.texts, others, strict=True)]
    count = np.array([len(each) for each in wordings])
    first = np.cumsum(count) - count
    flat = [one for each in wordings for one in each]
    coded = prompts.tokens(flat, length)
    turned = prompts.tokens([variations.mirrored(one) for one in flat], length)

    def of(epoch: int) -> tuple[Tensor, Tensor]:
        ids = pairs.drawn(seed, epoch)
        nth = np.random.default_rng([seed, epoch, 11]).integers(count[ids])
        return coded[first[ids] + nth], turned[first[ids] + nth]

    return of
