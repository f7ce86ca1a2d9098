"""Inside an image tower: levels, patches, blocks, what is frozen."""

import pytest
import torch
from torch import nn

from clipfh_lib.files import InputError
from clipfh_lib.learning import FitParams
from clipfh_lib.models import backbones, towers
from clipfh_lib.schema import ModelParams

CLIPS = ("demo_clip", "RN50-quickgelu")
SIZES = {"demo_clip": None, "RN50-quickgelu": 64, "timm/mobilenetv2_100": 64, "timm/resnet50": 64}


def network(name, **more):
    encoder, how = backbones.load(ModelParams(name=name, weights="none", size=SIZES[name], **more))
    images = torch.randn(2, 3, how.height, how.width, generator=torch.Generator().manual_seed(0))
    return encoder, images


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_the_last_level_is_bit_for_bit_what_the_encoder_gives(name):
    encoder, images = network(name)
    found = towers.levels(encoder, images)
    assert torch.equal(found["projected"], encoder.encode_image(images))
    assert {level: f.shape[1] for level, f in found.items()} == towers.widths(encoder)
    assert not any(module._forward_hooks for module in encoder.modules()), "no hook stays"


@torch.no_grad()
def test_levels_of_a_vit_are_those_of_a_forward_pass_written_out():
    encoder, images = network("demo_clip")
    visual = encoder.visual
    tokens = visual._embeds(images)
    for number, block in enumerate(visual.transformer.resblocks):
        if number == len(visual.transformer.resblocks) - 1:
            before = tokens[:, 1:].mean(dim=1)  # the demo CLIP pools its patches
        tokens = block(tokens)
    normed = visual.ln_post(tokens)
    found, patches = towers.levels_and_patches(encoder, images)
    assert list(found) == ["before", "last", "projected"]
    torch.testing.assert_close(found["before"], before)
    torch.testing.assert_close(found["last"], normed[:, 1:].mean(dim=1))
    torch.testing.assert_close(found["last"] @ visual.proj, found["projected"])
    torch.testing.assert_close(patches, normed[:, 1:] @ visual.proj)
    visual.pool_type = "tok"
    found = towers.levels(encoder, images)
    torch.testing.assert_close(found["last"], normed[:, 0])
    torch.testing.assert_close(found["last"] @ visual.proj, encoder.encode_image(images))


@torch.no_grad()
def test_levels_of_a_resnet_are_the_means_of_its_last_layers():
    encoder, images = network("RN50-quickgelu")
    visual = encoder.visual
    third = visual.layer3(visual.layer2(visual.layer1(visual.stem(images))))
    fourth = visual.layer4(third)
    found, patches = towers.levels_and_patches(encoder, images)
    torch.testing.assert_close(found["before"], third.mean(dim=(2, 3)))
    torch.testing.assert_close(found["last"], fourth.mean(dim=(2, 3)))
    assert patches.shape == (2, 4, 1024)
    pool = visual.attnpool
    place = fourth[1, :, 1, 0] + pool.positional_embedding[3]  # row 1, column 0 of 2 x 2
    torch.testing.assert_close(patches[1, 2], pool.c_proj(pool.v_proj(place)))


def test_a_plain_cnn_has_one_level_and_no_patches():
    encoder, images = network("timm/mobilenetv2_100")
    assert towers.widths(encoder) == {"projected": 1280}
    with pytest.raises(InputError, match="model.name: patches"):
        towers.levels_and_patches(encoder, images)


def test_measuring_widths_leaves_every_module_in_its_mode():
    encoder, _ = network("RN50-quickgelu")
    encoder.visual.layer4.train()
    before = [module.training for module in encoder.modules()]
    towers.widths(encoder)
    assert [module.training for module in encoder.modules()] == before


def trained(encoder):
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name, blocks", [("demo_clip", 4), ("RN50-quickgelu", 4)])
def test_what_is_frozen_is_frozen_and_nothing_else(name, blocks):
    encoder, _ = network(name)
    every = {n for n, _ in encoder.named_parameters()} - {"logit_scale"}
    image = {n for n in every if n.startswith("visual.")}
    projection = {n for n in image if n == "visual.proj" or ".attnpool.c_proj" in n}
    assert len(projection) == (1 if name == "demo_clip" else 2)
    towers.freeze(encoder, [])
    assert trained(encoder) == every
    towers.freeze(encoder, ["text"])
    assert trained(encoder) == image
    towers.freeze(encoder, ["text", "projection"])
    assert trained(encoder) == image - projection
    towers.freeze(encoder, ["text", "image"])
    assert trained(encoder) == set()
    towers.freeze(encoder, ["text"], 2)
    place = {"demo_clip": "visual.transformer.resblocks.", "RN50-quickgelu": "visual.layer"}[name]
    ends = ("2.", "3.") if name == "demo_clip" else ("3.", "4.")
    assert trained(encoder) == {n for n in image if n.startswith(tuple(place + e for e in ends))}
    assert len(towers.blocks(encoder)) == blocks
    with pytest.raises(InputError, match=f"fit.unfreeze_blocks is 5, .* {blocks} blocks"):
        towers.freeze(encoder, ["text"], 5)


def test_a_frozen_batch_norm_keeps_its_statistics_and_a_trained_one_does_not():
    encoder, images = network("RN50-quickgelu")
    encoder.train()
    towers.freeze(encoder, ["text"], 1)
    before = {name: value.clone() for name, value in encoder.named_buffers() if "running" in name}
    encoder.encode_image(images)
    moved = {n for n, v in encoder.named_buffers() if n in before and not torch.equal(v, before[n])}
    assert moved and all(name.startswith("visual.layer4.") for name in moved)


def test_blocks_are_freed_epoch_by_epoch():
    schedule = {0: 1, 3: 2, 5: 4}
    assert [towers.trained_blocks(schedule, epoch) for epoch in range(7)] == [1, 1, 1, 2, 2, 4, 4]
    assert towers.trained_blocks({2: 3}, 1) == 0 and towers.trained_blocks({2: 3}, 2) == 3
    assert towers.trained_blocks(3, 7) == 3 and towers.trained_blocks(None, 0) is None


@pytest.mark.parametrize("name", SIZES)
def test_the_table_of_parts_counts_every_parameter_once(name):
    encoder, _ = network(name)
    towers.freeze(encoder, ["text"], 1)
    heads = nn.ModuleDict({"id": nn.Linear(3, 5)})
    table = towers.parts(encoder, heads).set_index("part")
    assert table["parameters"].sum() == sum(p.numel() for p in encoder.parameters()) + 20
    assert (table["trained"] + table["frozen"] == table["parameters"]).all()
    count = len(towers.blocks(encoder))
    free = [part for part in table.index if table.loc[part, "trained"]]
    assert free == [f"image: block {count}", "head: id"]
    assert table.loc["head: id", "trained"] == 20


def test_depth_rises_from_the_stem_through_the_blocks_to_the_projection():
    encoder, _ = network("demo_clip")
    found = towers.depths(encoder)
    assert found["visual.conv1.weight"] == found["visual.positional_embedding"] == 0
    assert found["visual.transformer.resblocks.0.ln_1.weight"] == 1
    assert found["visual.transformer.resblocks.3.ln_1.weight"] == 4
    assert found["visual.ln_post.weight"] == found["visual.proj"] == 5
    assert not any(name.startswith(("text", "transformer")) for name in found)


def test_the_table_of_parts_says_which_epoch_frees_a_block_and_leaves_the_first_one_set():
    encoder, _ = network("demo_clip")
    fit = FitParams(epochs=9, lr=1, lr_heads=1, unfreeze_blocks={0: 1, 4: 3})
    towers.freeze(encoder, fit.frozen, 1)
    before = trained(encoder)
    table = towers.parts(encoder, None, fit).set_index("part")
    freed = table["from_epoch"].dropna().astype(int).to_dict()
    assert freed == {"image: block 4": 0, "image: block 3": 4, "image: block 2": 4}
    assert table.loc["image: block 3", "frozen"] == 0 < table.loc["image: block 3", "trained"]
    assert table.loc["image: block 1", "trained"] == 0 == table.loc["text", "trained"]
    assert trained(encoder) == before


def test_a_batch_norm_that_is_freed_later_begins_to_count_then():
    encoder, images = network("RN50-quickgelu")
    encoder.train()
    towers.freeze(encoder, ["text"], 1)
    towers.freeze(encoder, ["text"], 4)
    before = {name: value.clone() for name, value in encoder.named_buffers() if "running" in name}
    encoder.encode_image(images)
    moved = {n for n, v in encoder.named_buffers() if n in before and not torch.equal(v, before[n])}
    assert any(name.startswith("visual.layer1.") for name in moved)
    assert not any(name.startswith("visual.bn1") for name in moved), "the stem stays frozen"
    encoder.eval()
    towers.freeze(encoder, ["text"], 4)
    assert not any(module.training for module in encoder.modules()), "validation stays validation"
