"""Maps against the gradients and products that they are made of, worked out by hand."""

import cv2
import numpy as np
import pytest
import tiny_clip
import torch
from open_clip.model import CLIP, CLIPVisionCfg
from torch import nn
from torch.nn import functional as F

from clipfh_lib import studied
from clipfh_lib.data import transforms
from clipfh_lib.evaluation import embeddings
from clipfh_lib.files import InputError
from clipfh_lib.learning import BranchParams
from clipfh_lib.models import backbones, branches
from clipfh_lib.models.backbones import Preprocess
from clipfh_lib.schema import ModelParams
from clipfh_lib.studies import explaining, maps
from clipfh_lib.studies.opened import Opened

HOW = Preprocess(24, 32, "bicubic", (0.5,) * 3, (0.3,) * 3)


class TinyCnn(nn.Module):
    """A map of 3 x 4 places, pooled."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(6, 5, 3, 2, 1), nn.Tanh())
        self.out = nn.Linear(5, 4)

    def encode_image(self, images):
        return self.out(self.last(self.first(images)).square().mean(dim=(2, 3)))


class Wrapped(nn.Module):
    """Heads around an encoder, as MBA-Net and PromptSG have them."""

    def __init__(self, encoder, width):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 7)

    def encode_image(self, images):
        return self.head(self.encoder.encode_image(images)).tanh()


@pytest.fixture
def cnn():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = TinyCnn()
        return Opened(Wrapped(encoder, 4).eval(), encoder.eval(), HOW, "untrained", None)


@pytest.fixture
def vit(tmp_path):
    encoder, preprocess = tiny_clip.load(tmp_path, layers=3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Opened(Wrapped(encoder, 32).eval(), encoder, preprocess, "untrained", None)


def pictures(network, number, seed=0):
    shape = (number, network.preprocess.height, network.preprocess.width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def inputs(network, pixels):
    return transforms.normalise(pixels, network.preprocess.mean, network.preprocess.std)


def by_hand(method, activations, slopes):
    """(C, h, w) twice -> (h, w), from the formulas of the three papers."""
    if method == "grad_cam":
        total = sum(s.mean() * a for a, s in zip(activations, slopes, strict=True))
    elif method == "hires_cam":
        total = sum(s * a for a, s in zip(activations, slopes, strict=True))
    else:
        total = sum(s.clamp(min=0) * a for a, s in zip(activations, slopes, strict=True))
    return total.clamp(min=0).detach().numpy()


def as_drawn(positive, height, width):
    """A map at the size of the picture, of least 0 and greatest 1; one that is flat is 0."""
    if np.ptp(positive) == 0:
        return np.zeros((height, width))
    found = cv2.resize((positive - positive.min()) / np.ptp(positive), (width, height))
    return (found - found.min()) / np.ptp(found)


def cosine_slopes(network, activations, rest, other):
    """Slopes of the cosine to `other` at activations of one image, by autograd."""
    activations = activations.detach().requires_grad_()
    found = F.cosine_similarity(rest(activations), other, dim=1).sum()
    return torch.autograd.grad(found, activations)[0][0]


@pytest.mark.parametrize("method", maps.CAMS)
def test_a_cam_of_a_pair_is_the_formula_on_slopes_by_autograd(cnn, method):
    first, second = pictures(cnn, 5), pictures(cnn, 5, seed=1)
    ours = explaining.of_pairs(method, cnn, first, second, batch=4)  # two pairs at a time, then one
    sides = inputs(cnn, first), inputs(cnn, second)
    assert ours.shape == (2, 5, 24, 32) and ours.dtype == np.float32

    def rest(activations):
        pooled = activations.square().mean(dim=(2, 3))
        return cnn.embedder.head(cnn.encoder.out(pooled)).tanh()

    for side in (0, 1):
        for number in range(5):
            image, other = (each[number : number + 1] for each in (sides[side], sides[1 - side]))
            activations = cnn.encoder.last(cnn.encoder.first(image))
            with torch.no_grad():
                against = cnn.embedder.encode_image(other)
            slopes = cosine_slopes(cnn, activations, rest, against)
            wanted = by_hand(method, activations[0].detach(), slopes)
            np.testing.assert_allclose(ours[side, number], as_drawn(wanted, 24, 32), atol=2e-4)
    assert (~explaining.flat(ours.reshape(-1, 24, 32))).sum() >= 7, "there is much to agree on"


def test_a_cam_of_a_vit_lies_on_its_patches_and_follows_its_target(vit):
    pixels = pictures(vit, 3)
    ours = explaining.of_pairs("grad_cam", vit, pixels[:2], pixels[[2, 0]])
    visual, seen = vit.encoder.visual, {}
    layer = visual.transformer.resblocks[-1].ln_1
    hook = layer.register_forward_hook(lambda _, __, out: seen.update(out=out))
    unit = F.normalize(vit.embedder.encode_image(inputs(vit, pixels)), dim=1)
    slopes = torch.autograd.grad(unit[0] @ unit[2].detach(), seen["out"])[0][0, 1:]
    hook.remove()
    patches = [each.T.reshape(64, 6, 6) for each in (seen["out"][0, 1:].detach(), slopes)]
    wanted = as_drawn(by_hand("grad_cam", *patches), 48, 48)
    np.testing.assert_allclose(ours[0, 0], wanted, atol=1e-4)
    again = explaining.of_pairs("grad_cam", vit, pixels[:1], pixels[1:2])
    assert np.abs(again[0, 0] - ours[0, 0]).max() > 0.05, "another image, another map"


def test_the_output_of_a_vits_last_block_would_give_no_map(vit):
    """Why the place is the block's first norm; and such a map is called flat."""
    block = maps.Place(vit.encoder.visual.transformer.resblocks[-1], (6, 6), True)
    images = inputs(vit, pictures(vit, 2))
    found = maps.cam("grad_cam", explaining.ToEachOther(vit.embedder), images, block)
    assert explaining.flat(found).all() and not found.any()
    own = maps.cam("grad_cam", explaining.ToEachOther(vit.embedder), images, maps.place(vit))
    assert not explaining.flat(own).any()


@pytest.mark.parametrize("logits", [False, True])
def test_a_cam_of_an_identity_logit_is_that_of_its_class_or_of_the_persons_mean(cnn, logits):
    pixels, draw = pictures(cnn, 3), torch.Generator().manual_seed(0)
    vectors, targets = torch.randn(3, 7, generator=draw), torch.tensor([4, 0, 6])
    if logits:
        score = explaining.ToPeople(cnn.encoder, cnn.embedder.encode_image, targets)
    else:
        score = explaining.ToVectors(cnn.embedder, vectors)
    ours = explaining.of_images("grad_cam", cnn, pixels, score)
    activations = cnn.encoder.last(cnn.encoder.first(inputs(cnn, pixels)))
    made = cnn.embedder.head(cnn.encoder.out(activations.square().mean(dim=(2, 3)))).tanh()
    wanted = made[range(3), targets] if logits else F.cosine_similarity(made, vectors, dim=1)
    slopes = torch.autograd.grad(wanted.sum(), activations)[0]
    for number in range(3):
        each = by_hand("grad_cam", activations[number].detach(), slopes[number])
        np.testing.assert_allclose(ours[number], as_drawn(each, 24, 32), atol=2e-4)
    assert not explaining.flat(ours).all()


def test_maps_leave_the_network_as_it_was(vit):
    before = backbones.sha256(vit.embedder)
    vit.encoder.visual.conv1.weight.requires_grad_(False)
    pixels = pictures(vit, 2)
    for method in (*maps.CAMS, *maps.ATTENTION):
        explaining.of_pairs(method, vit, pixels[:1], pixels[1:])
    assert backbones.sha256(vit.embedder) == before
    assert all(weight.grad is None for weight in vit.embedder.parameters())
    assert not vit.encoder.visual.conv1.weight.requires_grad
    assert vit.embedder.head.weight.requires_grad
    hooks = [m for m in vit.embedder.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks
    assert (explaining.of_pairs("grad_cam", vit, pixels[:1], pixels[1:]) <= 1).all()


# --- attention ----------------------------------------------------------------------------------


def test_rollout_is_the_product_of_the_mixed_layers_worked_by_hand():
    """Two layers, two tokens: 0.5 A + 0.5 I, the later one in front."""
    first = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])
    second = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    # 0.5 A + 0.5 I: [[.75, .25], [0, 1]] and [[1, 0], [.25, .75]]; second times first:
    wanted = [[[0.75, 0.25], [0.1875, 0.8125]]]
    torch.testing.assert_close(maps.rolled_out([first, second]), torch.tensor(wanted))


def test_attention_is_the_softmax_of_queries_and_keys_and_changes_no_embedding(vit):
    images = inputs(vit, pictures(vit, 2))
    before = vit.embedder.encode_image(images)
    block, seen = vit.encoder.visual.transformer.resblocks[1], {}
    hook = block.ln_1.register_forward_hook(lambda _, __, out: seen.update(out=out))
    layers = maps.attention(vit, images)
    hook.remove()
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    queries, keys, _ = (seen["out"] @ weight.T + bias).chunk(3, dim=2)
    queries, keys = (each.reshape(2, 37, 4, 16).transpose(1, 2) for each in (queries, keys))
    wanted = (queries @ keys.transpose(2, 3) / 4).softmax(dim=3).mean(dim=1)
    assert len(layers) == 3
    torch.testing.assert_close(layers[1], wanted.detach(), atol=1e-6, rtol=1e-4)
    assert torch.equal(vit.embedder.encode_image(images), before)


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("method", maps.ATTENTION)
def test_attention_is_read_in_the_rows_of_the_tokens_that_are_pooled(tmp_path, pool, method):
    keys = {"pool_type": pool, "name": f"tiny_{pool}"}
    encoder, preprocess = tiny_clip.load(tmp_path, **keys)
    network = Opened(encoder, encoder, preprocess, "untrained", None)
    images = inputs(network, pictures(network, 2))
    layers = maps.attention(network, images)
    eye = torch.eye(37)
    matrix = layers[-1]
    if method == "rollout":
        matrix = (0.5 * layers[1] + 0.5 * eye) @ (0.5 * layers[0] + 0.5 * eye)
    rows = matrix[:, 0] if pool == "tok" else matrix[:, 1:].mean(dim=1)
    wanted = rows[:, 1:].reshape(2, 6, 6)
    wanted = [cv2.resize(each, (48, 48)) for each in wanted.numpy()]
    ours = maps.attention_maps(method, network, images)
    np.testing.assert_allclose(ours, [each / each.max() for each in wanted], atol=1e-5)


def test_methods_that_a_backbone_does_not_allow_are_left_out(cnn, vit):
    every = [*maps.CAMS, *maps.ATTENTION]
    assert explaining.possible(every, vit) == every
    assert explaining.possible(every, cnn) == [*maps.CAMS]
    with pytest.raises(InputError, match="take grad_cam"):
        explaining.possible(["rollout"], cnn)


# --- places and networks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, where",
    [
        ("timm/mobilenetv2_100", "trunk.bn2"),
        ("timm/vit_tiny_patch16_224", "trunk.blocks.11.norm1"),
        ("demo_clip", "visual.transformer.resblocks.3.ln_1"),
    ],
)
def test_the_place_of_a_backbone_is_its_last_map(name, where):
    encoder, preprocess = backbones.load(ModelParams(name=name, weights="none", size=96))
    found = maps.place(Opened(encoder, encoder, preprocess, "untrained", None))
    assert found.layer is encoder.get_submodule(where)
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    other = torch.ones(1, encoder.encode_image(image).shape[1])
    heat = maps.cam("layer_cam", explaining.ToVectors(encoder, other), image, found)
    assert heat.shape == (1, 96, 96) and np.ptp(heat) == pytest.approx(1, abs=1e-3)


def test_the_place_of_clips_resnet_is_layer_4():
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    encoder = CLIP(16, CLIPVisionCfg(**vision), text).eval()
    how = HOW._replace(height=64, width=64)
    found = maps.place(Opened(encoder, encoder, how, "untrained", None))
    assert found == (encoder.visual.layer4, (2, 2), False)


def test_a_backbone_without_places_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 2)

        def encode_image(self, images):
            return self.out(images.mean(dim=(2, 3)))

    network = Opened(Flat(), Flat(), HOW, "untrained", None)
    with pytest.raises(InputError, match="no map of places"):
        maps.place(network)


def test_random_weights_are_drawn_for_encoder_and_heads_and_the_network_stays(vit):
    p = studied.read("attention", "demo", "demo", "demo")
    p = p.model_copy(update={"model": ModelParams(name="tiny_clip", weights="none")})
    before = backbones.sha256(vit.embedder)
    fresh = explaining.randomised(vit, p)
    assert backbones.sha256(vit.embedder) == before
    assert fresh.embedder.encoder is fresh.encoder, "the heads stand on the random encoder"
    assert not torch.equal(fresh.embedder.head.weight, vit.embedder.head.weight)
    pairs = zip(fresh.encoder.visual.parameters(), vit.encoder.visual.parameters(), strict=True)
    changed = [not torch.equal(a, b) for a, b in pairs if b.ndim > 1]
    assert all(changed) and changed
    assert backbones.sha256(explaining.randomised(vit, p).embedder) == backbones.sha256(
        fresh.embedder
    )


def test_random_weights_leave_nothing_of_what_mba_nets_branches_learned():
    """Gammas and position encodings are in no layer of torch's, and were once left as they were."""
    shape = BranchParams(branches=["global", "channel", "spatial"], width=6)
    made = branches.Branches(shape, 16, (3, 4))
    with torch.no_grad():
        for number, weight in enumerate(made.parameters()):
            weight.copy_(torch.linspace(1.5, 2.5 + number, weight.numel()).view_as(weight))

    class Embedder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.branches = encoder, made

    p = studied.read("attention", "demo", "demo", "demo")
    p = p.model_copy(update={"model": ModelParams(name="demo_clip", weights="none")})
    encoder, preprocess = backbones.load(p.model)
    network = Opened(Embedder(), encoder, preprocess, "trained", None)
    fresh = explaining.randomised(network, p).embedder.branches
    before, after = dict(made.named_parameters()), dict(fresh.named_parameters())
    assert {"channel.attention.gamma", "spatial.attention.width_pos_embed"} <= set(before)
    for name, weight in before.items():
        assert not (after[name] == weight).any(), name
    own, drawn = (w["spatial.attention.width_pos_embed"] for w in (before, after))
    assert 0.5 < drawn.square().mean() / own.square().mean() < 2
    assert drawn.mean().abs() < own.mean() / 2


def test_the_baseline_of_zero_shot_is_untrained():
    p = studied.read("attention", "demo", "demo", "demo")
    network = explaining.baseline(p)
    own, _ = backbones.load(p.model)
    assert network.weights == "untrained" and network.embedder is network.encoder
    pixels = pictures(network, 2)
    ours, theirs = (each.encode_image(inputs(network, pixels)) for each in (network.encoder, own))
    assert (embeddings.unit(ours) - embeddings.unit(theirs)).abs().max() > 0.01
