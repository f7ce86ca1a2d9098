"""The network of the run that a study looks into, as that run compares images."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from clipfh_lib import files, runs, studied
from clipfh_lib.data import splits
from clipfh_lib.evaluation import embeddings
from clipfh_lib.files import InputError
from clipfh_lib.learning import MbaNetParams, PromptSgParams, TrainedParams
from clipfh_lib.methods import mba_net, prompt_sg
from clipfh_lib.models import backbones, objective, towers
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.study import StudyParams

BEST = "checkpoints/best.safetensors"
OWN = "objective."  # the heads of CLIP-ReID where prompts trained on beside them


class Opened(NamedTuple):
    """What a run compares, on the CPU and in eval mode.

    `embedder` has `encode_image`, (B, 3, H, W) -> (B, F), with the heads where the run's feature is
    theirs; `encoder` is the backbone within; `weights` stands in the column of that name; `logits`
    gives (B, P), one for each training person, and is none where the run kept no head for that.
    """

    embedder: nn.Module
    encoder: nn.Module
    preprocess: Preprocess
    weights: str
    logits: Callable[[Tensor], Tensor] | None


def open(p: StudyParams, data: splits.Prepared | None) -> Opened:
    """The studied run's network, its heads included.

    Args:
        data: of the study; where the run trained on the same data set it names the aspects that
            PromptSG's sentences speak of. No other method needs it.

    Raises:
        InputError: the run is not complete, its weights are damaged or do not fit.
    """
    encoder, preprocess = backbones.load(p.model, p.seed, heads=True)
    weights, embedder, logits = embeddings.first_weights(p), encoder, None
    if files.resolve(p.of.folder) == files.resolve(p.model.weights):
        made = studied.params_of(files.resolve(p.of.folder))
        state = heads_of(p)
        if isinstance(made, PromptSgParams):
            if p.of.dataset != p.dataset:
                raise InputError(
                    f"of_run: PromptSG speaks of the aspects of {p.of.dataset}; study it there"
                )
            embedder = prompt_sg.reopen(encoder, made, state, prompt_sg.aspects_of(data))
        elif isinstance(made, MbaNetParams):
            embedder = mba_net.reopen(encoder, made, state)
            logits = embedder.logits if made.loss_use_id else None
        elif isinstance(made, TrainedParams):
            own = {k.removeprefix(OWN): v for k, v in state.items() if k.startswith(OWN)}
            heads = objective.reopen(made, towers.widths(encoder), own or state)
            embedder = objective.embedder(encoder, heads)
            heads.requires_grad_(False)
            if {"id", "arcface", "cosface"} & set(heads.on):
                logits = functools.partial(_named, encoder, heads)
    embedder = embedder.eval().requires_grad_(False)
    return Opened(embedder, encoder, preprocess, weights, logits)


def _named(encoder: nn.Module, heads: objective.Objective, images: Tensor) -> Tensor:
    return heads.logits(towers.levels(encoder, images))


def heads_of(p: StudyParams) -> dict[str, Tensor]:
    """The tensors that the studied run trained beside its encoder, by name."""
    path = runs.kept(files.resolve(p.of.folder), BEST)
    state = backbones.read_state(path)
    start = backbones.HEADS
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
