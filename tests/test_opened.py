"""A finished run that is opened again embeds as it did when it was trained."""

import numpy as np
import pytest
import tiny_clip
import torch
from torch import nn

from clipfh_lib import params, runs, studied
from clipfh_lib.data import splits
from clipfh_lib.files import InputError
from clipfh_lib.methods import fine_tuning, mba_net, prompt_sg
from clipfh_lib.models import backbones, branches
from clipfh_lib.studies import explaining, maps, opened

SMALL = {"data.draw.people": 10, "data.draw.images": 2, "data.draw.size": 48, "data.trials": 1}
SMALL |= {"data.aspects": ["dorsal_r"], "data.cut": "first_half", "model.weights": "none"}
BATCH = {"fit.people": 2, "fit.images": 2}
NOTEBOOKS = {fine_tuning: ("03_fine_tune", "fine_tune"), prompt_sg: ("06_prompt_sg", "prompt_sg")}
NOTEBOOKS |= {mba_net: ("09_mba_net", "mba_net")}


@pytest.fixture(scope="module", autouse=True)
def model(tmp_path_factory):
    """The name of a tiny CLIP."""
    return tiny_clip.config(tmp_path_factory.mktemp("config"))


def finished(module, model, wrap=None, **overrides):
    """A run of a method with random weights in all its parts, as if trained."""
    notebook, name = NOTEBOOKS[module]
    if module is mba_net:
        own, backbone = {**SMALL, **BATCH, "model.size": 48, **overrides}, "demo_cnn"
    else:
        own, backbone = {**SMALL, **BATCH, "model.name": model, **overrides}, "demo"
    p = params.read(name, "demo", backbone, "demo", 0, own)
    data = splits.prepare(p, "outputs")
    encoder, preprocess = backbones.load(p.model, p.seed)
    method, _ = module.make(encoder, preprocess, data, p)
    draw = torch.Generator().manual_seed(1)
    for tensor in method.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand(tensor.shape, generator=draw))
    run = runs.start(notebook, p, "outputs")
    (run.folder / "checkpoints").mkdir()
    heads = method.heads if wrap is None else wrap(method.heads)
    backbones.save(method.kept, run.folder / opened.BEST, "key", heads)
    run.record(weights_sha256=backbones.sha256(encoder))
    run.finish()
    return method.eval(), run.folder


def beside_prompts(heads):
    """As CLIP-ReID keeps its heads where prompts train on."""
    return nn.ModuleDict({"objective": heads, "prompts": nn.Linear(2, 2)})


def reopened(folder, **overrides):
    backbone = folder.name.split("-")[0]
    p = studied.read("robustness", "demo", backbone, "default", 0, overrides, of_run=str(folder))
    return opened.open(p, splits.prepare(p, "outputs"))


@torch.no_grad()
def test_the_feature_of_the_heads_comes_back(model):
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    after = {"neck": True, "feature_after_neck": True, "feature": ["last", "projected"]}
    levels = {"loss_id_levels": ["last", "projected"]}
    for module, wrap, own in [
        (fine_tuning, None, after | levels),
        (fine_tuning, None, {"neck": False, "feature_after_neck": False, "projection": 16}),
        (fine_tuning, beside_prompts, after | levels | {"fit.epochs": 3}),
        (prompt_sg, None, {"feature_after_neck": True}),
        (mba_net, None, {}),
    ]:
        method, folder = finished(module, model, wrap, **own)
        found = reopened(folder)
        expected = method.embedder().eval().encode_image(pixels)
        torch.testing.assert_close(found.embedder.encode_image(pixels), expected)
        plain = method.encoder.encode_image(pixels)
        assert torch.equal(found.encoder.encode_image(pixels), plain)
        assert plain.shape != expected.shape or not torch.allclose(plain, expected, atol=0.01)
        assert found.weights == "trained"
        if module is not prompt_sg:
            torch.testing.assert_close(found.logits(pixels), method.logits(pixels))


def test_maps_of_mba_net_are_of_its_shared_map_and_those_of_prompt_sg_of_its_vit(model):
    first, second = np.random.default_rng(0).integers(0, 256, (2, 2, 48, 48, 3), np.uint8)
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    for module in (mba_net, prompt_sg):
        found = reopened(finished(module, model)[1])
        spot, seen = maps.place(found), []
        hook = spot.layer.register_forward_hook(lambda *args, seen=seen: seen.append(args[2]))
        with torch.no_grad():
            found.embedder.encode_image(pixels)
            if module is mba_net:
                shared = branches.feature_map(found.encoder, pixels)
                torch.testing.assert_close(seen[0], shared)
                assert spot.grid == tuple(shared.shape[2:]) and not spot.tokens
            else:
                assert spot.layer is found.encoder.visual.transformer.resblocks[-1].ln_1
                assert spot.grid == (6, 6) and seen[0].shape[1] == 1 + 6 * 6
        hook.remove()
        methods = explaining.possible(["grad_cam", "rollout"], found)
        assert methods == ["grad_cam", "rollout"][: 1 + (module is prompt_sg)]
        for method in methods:
            heat = explaining.of_pairs(method, found, first, second, where="cpu")
            assert heat.shape == (2, 2, 48, 48) and np.isfinite(heat).all()
            assert not any(explaining.flat(side).all() for side in heat), (module, method)


def test_a_run_that_compares_the_encoders_own_feature_is_the_encoder(model):
    _, folder = finished(fine_tuning, model, neck=False, feature_after_neck=False)
    found = reopened(folder)
    assert found.embedder is found.encoder


def test_without_a_run_the_weights_are_the_backbones(model):
    p = studied.read("robustness", "demo", "demo", "default", 0, {**SMALL, "model.name": model})
    found = opened.open(p, splits.prepare(p, "outputs"))
    assert found.embedder is found.encoder and found.logits is None
    assert found.weights == "untrained"


def test_a_prompt_that_speaks_of_other_aspects_is_refused(model):
    _, folder = finished(prompt_sg, model)
    p = studied.read("robustness", "demo_hd", "demo", "default", 0, of_run=str(folder))
    with pytest.raises(InputError, match="PromptSG speaks of the aspects of demo"):
        opened.open(p, None)


def test_weights_that_were_changed_are_refused(model):
    _, folder = finished(fine_tuning, model)
    path = folder / opened.BEST
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="is not what its manifest says"):
        reopened(folder)
