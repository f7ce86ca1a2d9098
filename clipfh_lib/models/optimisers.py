"""Parameters -> optimiser groups; how their rates change from step to step."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from clipfh_lib.files import InputError
from clipfh_lib.learning import FitParams, OptimParams
from clipfh_lib.models import towers

# No decay: of the token table a batch uses few rows.
SPARED = ("positional_embedding", "class_embedding", "pos_embed", "cls_token")
SPARED += ("token_embedding.weight",)
CONFIGURED = dict[str, object]  # what Lightning's configure_optimizers returns


def groups(network: nn.Module, weight_decay: float, still: tuple[str, ...] = ()) -> list[dict]:
    """Optimiser groups: no decay on biases, norms, scales and what `still` names.

    Every trainable parameter stands in exactly one group.

    Args:
        still: ends of names that get no decay either, e.g. a token table of which a batch uses few
            rows.
    """
    decayed, rest = [], []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (rest if _spared(name, parameter, still) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0}]


def _spared(name: str, parameter: nn.Parameter, still: tuple[str, ...]) -> bool:
    return parameter.ndim < 2 or name.endswith(still)


def of_fit(encoder: nn.Module, heads: nn.Module, fit: FitParams) -> list[dict]:
    """Groups of an encoder and its heads, with a `name` and a rate each.

    The rate of an image parameter is `lr` times `layer_decay` for each block between it and the
    end; the text encoder has `lr_text`, if there is one, and the logit scale, where it is trained,
    the rate of what is new; biases learn `bias_rate` times as fast; class centres have
    `lr_centres`. Biases, norms and positions have no weight decay, and so have centres. Blocks that
    `unfreeze_blocks` frees later stand in their group from the start: without a gradient no
    optimiser moves them.

    Args:
        encoder: of `backbones.load`; what gets a gradient now is trained.
        heads: an Objective, or others.

    Raises:
        InputError: there is nothing to train.
    """
    place = towers.depths(encoder) if fit.layer_decay < 1 else {}
    end = max(place.values(), default=0)
    found: dict[tuple, dict] = {}

    def put(kind: str, name: str, parameter: nn.Parameter, rate: float, decay: float) -> None:
        spared = _spared(name, parameter, SPARED)
        if name.endswith("bias") and fit.bias_rate != 1:  # a name of its own: its rate is logged
            kind, rate = f"{kind}_biases", rate * fit.bias_rate
        one = {"name": kind, "lr": rate, "weight_decay": 0.0 if spared else decay, "params": []}
        found.setdefault((kind, rate, one["weight_decay"]), one)["params"].append(parameter)

    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            kind, rate = "encoder", fit.lr * fit.layer_decay ** (end - place.get(name, end))
            part = towers.part_of(name, encoder)
            if part == "scale":
                kind, rate = "scale", fit.lr_heads
            elif fit.lr_text and (part == "text" or name.startswith("text")):
                kind, rate = "text", fit.lr_text
            put(kind, name, parameter, rate, fit.weight_decay)
    for name, parameter in heads.named_parameters():
        if parameter.requires_grad:
            centres = name.endswith("centres")
            rate = fit.lr_centres if centres else fit.lr_heads
            decay = 0.0 if centres else fit.weight_decay
            put("centres" if centres else "heads", name, parameter, rate, decay)
    if not found:
        raise InputError("fit.frozen, fit.unfreeze_blocks: nothing is left to train, and no head")
    return sorted(found.values(), key=lambda one: -one["lr"] * (one["name"] == "encoder"))


def of_towers(
    encoder: nn.Module, lr: float, lr_text: float | None, weight_decay: float
) -> list[dict]:
    """Groups of a CLIP, `encoder` with `lr` and, if it has a rate of its own, `text` with that.

    Biases, norms, positions and the token table have no weight decay.

    Args:
        encoder: of `backbones.load`; what gets a gradient now is trained.

    Raises:
        InputError: there is nothing to train.
    """
    found: dict[tuple, dict] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            text = towers.part_of(name, encoder) == "text" or name.startswith("text")
            kind, rate = ("text", lr_text) if text and lr_text else ("encoder", lr)
            decay = 0.0 if _spared(name, parameter, SPARED) else weight_decay
            one = {"name": kind, "lr": rate, "weight_decay": decay, "params": []}
            found.setdefault((kind, decay), one)["params"].append(parameter)
    if not found:
        raise InputError("freeze_image_encoder, freeze_text_encoder: nothing is left to train")
    return sorted(found.values(), key=lambda one: one["name"])


def make(named: Iterable[dict], how: OptimParams) -> torch.optim.Optimizer:
    """The optimiser of a recipe; its groups bring their own rates and decays."""
    named = list(named)
    first = named[0]["lr"]
    if how.optimizer == "sgd":
        return torch.optim.SGD(named, lr=first, momentum=0.9)
    kind = torch.optim.AdamW if how.optimizer == "adamw" else torch.optim.Adam
    return kind(named, lr=first, betas=(0.9, 0.999))


def scheduled(optimizer: torch.optim.Optimizer, how: OptimParams, steps: int) -> CONFIGURED:
    """An optimiser with its schedule, stepped after each of its steps, as Lightning takes them.

    All but `onecycle` (Smith & Topin 2018, arXiv:1708.07120, as torch has it: it begins at a 25th
    of the rate) and `plateau` warm up linearly from `warmup_from` of the rate and then follow their
    own shape; a group's own rate is the peak. `onecycle` also cycles the first beta of Adam, or the
    momentum, between 0.95 and 0.85.

    Args:
        steps: of the optimiser in an epoch.
    """
    if how.schedule == "plateau":
        return {"optimizer": optimizer}
    total = steps * how.epochs
    if how.schedule == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        share = how.warmup / how.epochs if how.warmup else 0.3
        share = min(share, 1 - 1 / total)  # a step at least is left to fall in
        schedule = OneCycleLR(optimizer, rates, total_steps=total, pct_start=share)
    else:
        rising = round(how.warmup * steps)
        schedule = LambdaLR(optimizer, lambda step: _factor(step, rising, total, steps, how))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def plateau(optimizer: torch.optim.Optimizer, how: OptimParams, by: str) -> ReduceLROnPlateau:
    """The schedule that waits for a validation measure to stand still."""
    best = "min" if by == "loss" else "max"
    return ReduceLROnPlateau(optimizer, best, factor=how.gamma, patience=how.step)


def _factor(step: int, rising: int, total: int, steps: int, how: OptimParams) -> float:
    """What a rate is multiplied by at a step, from 0."""
    if step < rising:
        return how.warmup_from + (1 - how.warmup_from) * (step + 1) / rising
    epoch = step // steps
    if how.schedule == "cosine":
        return how.lr_end + (1 - how.lr_end) * _wave(step, rising, total)
    if how.schedule == "step":
        return how.gamma ** (epoch // how.step)
    if how.schedule == "multistep":
        return how.gamma ** sum(epoch >= at for at in how.milestones)
    return 1.0


def _wave(step: int, rising: int, total: int) -> float:
    """Half a cosine, from 1 after the warm-up to 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def warmup_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> CONFIGURED:
    """Linear warm-up over a share of the steps, then a cosine to zero; stepped per batch.

    The peak is the optimiser's own rate, reached at the end of the warm-up.
    """
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return _wave(step, rising, steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
