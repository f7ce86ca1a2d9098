"""Attention by hand, the map of each kind of tower, and a last stage that keeps its size."""

import json

import open_clip
import pytest
import tiny_clip
import torch
import torch.nn.functional as F

from clipfh_lib.files import InputError
from clipfh_lib.learning import BranchParams
from clipfh_lib.models import backbones, branches
from clipfh_lib.schema import ModelParams

C, H, W = 6, 3, 4


def drawn_map(batch=2):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(batch, C, H, W, generator=draw, dtype=torch.float64, requires_grad=True)


def woken(attention, gamma=0.7):
    """With a strength, as if some of it had been learned."""
    attention = attention.double()
    with torch.no_grad():
        attention.gamma.fill_(gamma)
    return attention


def spatial(position=True, squeeze=3):
    torch.manual_seed(1)
    return woken(branches.SpatialAttention(C, (H, W), squeeze, position))


def tower(name, size=64):
    return backbones.load(ModelParams(name=name, weights="none", size=size))[0]


# --- attention ----------------------------------------------------------------------------------


def spatial_by_hand(attention, features):
    """Place by place, with the offsets written out."""
    linear = {
        part: F.conv2d(features, getattr(attention, part).weight, getattr(attention, part).bias)
        for part in ("query", "key", "value")
    }
    places = [(y, x) for y in range(H) for x in range(W)]
    rows = []
    for own in features, linear["query"], linear["key"], linear["value"]:
        rows.append([own[:, :, y, x] for y, x in places])
    found = torch.empty_like(features)
    for i, (y, x) in enumerate(places):
        scores = []
        for j, (other_y, other_x) in enumerate(places):
            key = rows[2][j]
            if attention.position:
                key = key + attention.height_pos_embed[other_y - y + H - 1]
                key = key + attention.width_pos_embed[other_x - x + W - 1]
            scores.append((rows[1][i] * key).sum(1) / key.shape[1] ** 0.5)
        share = torch.stack(scores, dim=1).softmax(dim=1)  # (B, N)
        seen = sum(share[:, [j]] * rows[3][j] for j in range(len(places)))
        found[:, :, y, x] = rows[0][i] + attention.gamma * seen
    return found


@pytest.mark.parametrize("position", [True, False])
def test_spatial_attention_is_what_loops_over_all_pairs_of_places_give(position):
    attention, features = spatial(position), drawn_map()
    ours, theirs = attention(features), spatial_by_hand(attention, features)
    torch.testing.assert_close(ours, theirs)
    assert (ours - features).abs().max() > 0.1, "the attention says something"
    inputs = [features, *attention.parameters()]
    assert len(inputs) == (8 if position else 6)
    slopes = [torch.autograd.grad(each.cos().sum(), inputs) for each in (ours, theirs)]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other)


def test_channel_attention_is_the_softmax_of_products_of_channels():
    attention, features = woken(branches.ChannelAttention()), drawn_map()
    ours, theirs = attention(features), []
    for image in features.flatten(2):
        for j in range(C):
            products = torch.stack([image[j] @ image[i] for i in range(C)]) / (H * W) ** 0.5
            share = products.exp() / products.exp().sum()
            theirs.append(image[j] + 0.7 * sum(share[i] * image[i] for i in range(C)))
    theirs = torch.stack(theirs).view_as(features)
    torch.testing.assert_close(ours, theirs)
    inputs = [features]
    slopes = [torch.autograd.grad(each.cos().sum(), inputs)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*slopes)


def test_only_position_encodings_know_how_places_lie():
    features = drawn_map().detach()
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(2))

    def shuffled(given):
        return given.flatten(2)[:, :, order].view_as(given)

    blind, seeing = spatial(position=False), spatial(position=True)
    torch.testing.assert_close(blind(shuffled(features)), shuffled(blind(features)))
    assert (seeing(shuffled(features)) - shuffled(seeing(features))).abs().max() > 0.01
    # of all channels the order says nothing: channel attention is alike under a shuffle of places
    channel = woken(branches.ChannelAttention())
    torch.testing.assert_close(channel(shuffled(features)), shuffled(channel(features)))


@pytest.mark.parametrize(
    "attention", [branches.ChannelAttention(), branches.SpatialAttention(C, (H, W))]
)
def test_an_attention_begins_as_if_it_were_not_there(attention):
    features = drawn_map().float()
    assert torch.equal(attention(features), features)
    slope = torch.autograd.grad(attention(features).square().sum(), attention.gamma)[0]
    assert slope.abs() > 0.01, "and can leave that start"


def test_a_branch_is_the_mean_over_places_reduced_and_normed():
    torch.manual_seed(0)
    net = branches.Branches(BranchParams(width=5, branches=["spatial", "global"]), C, (H, W))
    features = drawn_map(batch=4).float()
    found = net(features)
    assert list(found) == ["spatial", "global", "branches"]
    plain = F.linear(features.mean(dim=(2, 3)), net["global"].reduction.weight)
    wanted = (plain - plain.mean(0)) / (plain.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(found["global"], wanted)
    assert torch.equal(found["branches"], torch.cat([found["spatial"], found["global"]], dim=1))
    assert net.widths == {name: tensor.shape[1] for name, tensor in found.items()}


# --- the map of a tower -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, size, places",
    [
        ("timm/test_resnet", (64, 96), (2, 3)),
        ("timm/test_efficientnet", (64, 96), (2, 3)),
        ("timm/test_vit", 160, (10, 10)),  # patches of 16
        ("timm/swin_tiny_patch4_window7_224", 224, (7, 7)),  # channels last
    ],
)
@torch.no_grad()
def test_the_map_of_a_timm_tower_is_what_it_pools(name, size, places):
    encoder = tower(name, size)
    images = torch.randn(2, 3, *backbones.input_size(encoder))
    found = branches.feature_map(encoder, images)
    assert found.shape == (2, encoder.trunk.num_features, *places)
    pooled = found.mean(dim=(2, 3))
    if name == "timm/test_vit":  # pools its class token; its patches are those of its tokens
        tokens = encoder.trunk.forward_features(images)[:, 1:]
        assert torch.equal(found[:, :, 2, 3], tokens[:, 2 * 10 + 3])
    else:
        torch.testing.assert_close(pooled, encoder.encode_image(images), atol=1e-4, rtol=1e-4)


def clip_resnet(folder):
    """Let open_clip know a thin ResNet."""
    vision = {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1]}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    own = {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (folder / "branches_rn.json").write_text(json.dumps(own))
    open_clip.add_model_config(folder / "branches_rn.json")
    return tower("branches_rn")


def test_of_clips_resnet_the_map_is_layer_4_and_nothing_behind_it_is_reached(tmp_path):
    encoder = clip_resnet(tmp_path)
    kept = {}
    encoder.visual.layer4.register_forward_hook(lambda _, __, out: kept.update(out=out))
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 64)
        encoder.encode_image(images)
        wanted = kept["out"]
        assert torch.equal(branches.feature_map(encoder, images), wanted)
    encoder.train().token_embedding.requires_grad_(False)
    seen = branches.look(encoder)
    assert (seen.channels, seen.size) == tuple([wanted.shape[1], tuple(wanted.shape[2:])])
    outside = ("visual.attnpool.", "transformer.", "token_embedding.", "ln_final.", "text_proj")
    outside += ("logit_scale", "positional_embedding")
    for name, parameter in encoder.named_parameters():
        assert (name in seen.reached) != name.startswith(outside), name
        assert parameter.requires_grad == (name != "token_embedding.weight"), "as it was"
    assert encoder.training and encoder.visual.bn1.training, "as they were"


def test_a_backbone_without_a_map_is_told_which_ones_fit(tmp_path):
    encoder, _ = tiny_clip.load(tmp_path)
    with pytest.raises(InputError, match="model.name: .*timm/resnet50.*ResNet of CLIP"):
        branches.look(encoder)


@pytest.mark.parametrize(
    "name", ["timm/test_resnet", "timm/test_efficientnet", "timm/mobilenetv2_100", "timm/resnet10t"]
)
def test_a_last_stage_keeps_its_size_once(name):
    encoder = tower(name, 96)
    weights, plain = encoder.trunk.state_dict(), backbones.sha256(encoder)
    assert branches.look(encoder).size == (3, 3)
    branches.keep_last_size(encoder)
    assert branches.look(encoder).size == (6, 6)
    branches.keep_last_size(encoder)
    assert branches.look(encoder).size == (6, 6), "a second call finds it done"
    assert encoder.trunk.state_dict().keys() == weights.keys(), "a plain tower reads its weights"
    assert backbones.sha256(encoder) != plain, "and its embeddings are not taken for that one's"


def test_a_last_halving_that_is_not_known_is_left_alone(tmp_path):
    clip, _ = tiny_clip.load(tmp_path)
    for encoder in (tower("timm/test_convnext"), tower("timm/test_vit", 160), clip):
        with pytest.raises(InputError, match="net.last_stride 1 is known of ResNets"):
            branches.keep_last_size(encoder)
