"""Optimiser groups and schedules."""

import math

import pytest
import torch
from torch import nn

from clipfh_lib.learning import FitParams, OptimParams
from clipfh_lib.models import backbones, heads, optimisers, towers
from clipfh_lib.schema import ModelParams

FIT = {"epochs": 10, "lr": 1e-3, "lr_heads": 1e-2}


@pytest.fixture(scope="module")
def encoder():
    return backbones.load(ModelParams(name="demo_clip", weights="none"))[0]


def groups(encoder, **fit):
    towers.freeze(encoder, ["text"])
    own = nn.ModuleDict({"id": heads.BNNeck(4, heads.Classifier(4, 3)), "c": heads.Centres(4, 3)})
    return optimisers.of_fit(encoder, own, FitParams(**{**FIT, **fit})), own


def test_every_trainable_parameter_stands_in_one_group_with_its_rate_and_decay(encoder):
    found, own = groups(encoder, weight_decay=0.2, lr_centres=0.5, bias_rate=2)
    names = {p: n for n, p in [*encoder.named_parameters(), *own.named_parameters()]}
    free = {p for p in names if p.requires_grad}
    there = [p for group in found for p in group["params"]]
    assert len(there) == len(set(there)) and set(there) == free
    assert own["id"].norm.bias not in set(there), "a BNNeck's bias stays 0"
    for group in found:
        for parameter in group["params"]:
            name = names[parameter]
            kind, _, biases = group["name"].partition("_")
            base = {"encoder": 1e-3, "heads": 1e-2, "centres": 0.5}[kind]
            assert bool(biases) == name.endswith("bias"), "the name of the peak that is logged"
            assert group["lr"] == base * (2 if name.endswith("bias") else 1), name
            spared = parameter.ndim < 2 or name.endswith(("positional_embedding", "centres"))
            assert group["weight_decay"] == (0 if spared else 0.2), name
    assert {group["name"] for group in found} == {"encoder", "encoder_biases", "heads", "centres"}
    assert found[0]["name"] == "encoder" and found[0]["lr"] == 1e-3, "the configured rate is logged"


def test_the_rate_falls_block_by_block_towards_the_input(encoder):
    found, _ = groups(encoder, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in found for p in group["params"]}
    of = {n: rates[id(p)] for n, p in encoder.named_parameters() if id(p) in rates}
    assert of["visual.proj"] == of["visual.ln_post.weight"] == 1e-3
    assert of["visual.transformer.resblocks.3.mlp.c_fc.weight"] == pytest.approx(0.5e-3)
    assert of["visual.transformer.resblocks.0.mlp.c_fc.weight"] == pytest.approx(1e-3 / 16)
    assert of["visual.conv1.weight"] == pytest.approx(1e-3 / 32)


def rates(steps=4, **how):
    weight = nn.Parameter(torch.zeros(2))
    how = OptimParams(epochs=5, **how)
    optimizer = optimisers.make([{"params": [weight], "lr": 0.1, "weight_decay": 0}], how)
    schedule = optimisers.scheduled(optimizer, how, steps)["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(5 * steps):
        found.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(2)
        optimizer.step()
        schedule.step()
    return found


def test_the_peak_of_every_schedule_is_the_configured_rate():
    assert rates(schedule="constant") == [0.1] * 20
    found = rates(schedule="cosine", warmup=1, warmup_from=0.2)
    assert found[:4] == pytest.approx([0.04, 0.06, 0.08, 0.1])
    wave = [0.05 * (1 + math.cos(math.pi * k / 16)) for k in range(16)]
    assert found[4:] == pytest.approx(wave)
    assert rates(schedule="cosine", lr_end=0.5)[-1] == pytest.approx(0.0503, abs=1e-4)
    assert rates(schedule="step", step=2, gamma=0.5)[::4] == [0.1, 0.1, 0.05, 0.05, 0.025]
    found = rates(schedule="multistep", milestones=[1, 4], gamma=0.1, warmup=1, warmup_from=0.01)
    assert found[0] < 0.03 and found[3] == 0.1
    assert found[4::4] == pytest.approx([0.01, 0.01, 0.01, 0.001])
    found = rates(schedule="onecycle", warmup=1)
    assert found[0] == pytest.approx(0.1 / 25) and max(found) == pytest.approx(0.1)
    assert found.index(max(found)) == 3, "a fifth of the steps"


@pytest.mark.parametrize("warmup, steps", [(5, 4), (9, 4), (9, 1)])
def test_a_warm_up_as_long_as_the_fit_leaves_one_step_to_fall(warmup, steps):
    found = rates(steps, schedule="onecycle", warmup=warmup)
    assert found.index(max(found)) == 5 * steps - 2 and max(found) == pytest.approx(0.1)


def test_optimisers_are_those_that_are_named():
    one = [{"params": [nn.Parameter(torch.zeros(2))], "lr": 0.1, "weight_decay": 0.3}]
    made = {
        kind: optimisers.make([dict(each) for each in one], OptimParams(epochs=1, optimizer=kind))
        for kind in ("adamw", "adam", "sgd")
    }
    assert [type(each).__name__ for each in made.values()] == ["AdamW", "Adam", "SGD"]
    assert made["adamw"].param_groups[0]["betas"] == (0.9, 0.999)
    assert made["sgd"].param_groups[0]["momentum"] == 0.9
    assert all(each.param_groups[0]["weight_decay"] == 0.3 for each in made.values())


def test_a_plateau_lowers_the_rate_when_its_measure_stands_still():
    weight = nn.Parameter(torch.zeros(2))
    for by, values in (("mAP", [0.5, 0.4, 0.4]), ("loss", [1.0, 1.2, 1.1])):
        how = OptimParams(epochs=5, schedule="plateau", step=1, gamma=0.5)
        optimizer = optimisers.make([{"params": [weight], "lr": 0.1}], how)
        assert list(optimisers.scheduled(optimizer, how, 4)) == ["optimizer"]
        schedule = optimisers.plateau(optimizer, how, by)
        for value in values:
            schedule.step(value)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
