"""The parts of PromptSG, each by itself."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clipfh_lib.files import InputError
from clipfh_lib.models import backbones, guidance, prompts
from clipfh_lib.schema import ModelParams

SAID = "A photo of a {word} hand."
TINY = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"vocab_size": 49408, "width": 64, "heads": 2, "layers": 2, "context_length": 20},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny_guidance.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return backbones.load(ModelParams(name=path.stem, weights="none"))[0]


def test_the_inversion_network_is_three_layers_and_a_batch_norm_of_the_size_of_words():
    torch.manual_seed(0)
    one = guidance.Inversion(32, 64, hidden=16, size=0.02)
    linear = [layer for layer in one.layers if isinstance(layer, nn.Linear)]
    shapes = [(layer.in_features, layer.out_features) for layer in linear]
    assert shapes == [(32, 16), (16, 16), (16, 64)]
    assert isinstance(one.layers[-1], nn.BatchNorm1d)
    words = one(torch.randn(50, 32))
    assert words.shape == (50, 64)
    spread = words.std(dim=0, correction=0)
    torch.testing.assert_close(spread, torch.full((64,), 0.02), rtol=0.05, atol=0)


def attended(block, query, patches):
    """The cross block, written out for one query and one head."""
    q = F.layer_norm(query, query.shape[-1:])
    k = F.layer_norm(patches, patches.shape[-1:])
    (wq, wk, wv), (bq, bk, bv) = (
        part.chunk(3) for part in (block.attention.in_proj_weight, block.attention.in_proj_bias)
    )
    share = ((q @ wq.T + bq) @ (k @ wk.T + bk).T / q.shape[-1] ** 0.5).softmax(dim=-1)
    out = block.attention.out_proj
    read = share @ (k @ wv.T + bv) @ out.weight.T + out.bias
    return read + block.mlp(F.layer_norm(read, read.shape[-1:])), share


def test_the_text_is_the_query_and_the_patches_are_keys_and_values():
    torch.manual_seed(1)
    block = guidance.CrossBlock(32, 1)
    query, patches = torch.randn(1, 32), torch.randn(9, 32)
    found = block(query[None], patches[None])[0]
    expected, share = attended(block, query, patches)
    torch.testing.assert_close(found, expected)
    assert share.shape == (1, 9) and share.min() > 0 and share.max() < 0.9


def test_the_text_decides_how_patches_are_read():
    torch.manual_seed(2)
    one = guidance.Interaction(64, cross_layers=2, self_layers=2).eval()
    texts, patches = torch.randn(3, 64), torch.randn(3, 10, 64)
    found = one(texts, patches)
    assert found.shape == (3, 64)
    gaps = {
        "text": found - one(texts.flip(0), patches),
        "patches": found - one(texts, patches.flip(0)),
    }
    for name, gap in gaps.items():
        assert gap[[0, 2]].norm(dim=1).min() > 0.5, name
    torch.testing.assert_close(found, one(texts, patches[:, torch.randperm(10)]))
    alone = one(texts[:1], patches[:1])  # no image looks at another
    torch.testing.assert_close(found[:1], alone)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_attention_to_patches_follows_the_text_and_not_only_the_sum_with_it(layers):
    """With one key the softmax is 1 and the wording changes nothing: here it does."""
    torch.manual_seed(3)
    one = guidance.Interaction(64, self_layers=layers).eval()
    patches = torch.randn(2, 10, 64)
    moved = []
    for text in torch.randn(2, 1, 64):
        first, second = one(text.expand(2, -1), patches)
        moved.append(first - second)
    assert (moved[0] - moved[1]).norm() > 0.1


@pytest.mark.parametrize("width, heads", [(32, 1), (192, 3), (512, 8), (1024, 16), (200, 2)])
def test_heads_are_as_wide_as_those_of_clip(width, heads):
    assert guidance.Interaction(width, self_layers=0).cross[0].attention.num_heads == heads


@pytest.mark.parametrize(
    "aspects, said",
    [
        (["dorsal_r"], "a {word} dorsal right hand"),
        (["dorsal_l", "dorsal_r"], "a {word} dorsal left or right hand"),
        (["dorsal_l", "palmar_l"], "a {word} dorsal or palmar left hand"),
        (["all"], "a {word} hand"),
        ([], "a {word} hand"),
    ],
)
def test_a_sentence_says_the_aspects_of_the_data_set(aspects, said):
    assert guidance.sentence("a {word} {aspect} {side} hand", aspects) == said


@pytest.mark.parametrize("said", [SAID, "{word}", "the hand: {word}!", "s{word}s hand", SAID * 2])
def test_a_word_of_the_vocabulary_in_the_slot_gives_what_encode_text_gives(encoder, said):
    if said == SAID * 2:
        with pytest.raises(InputError, match="longer than CLIP's 8 tokens"):
            guidance.slot(SAID, 8)
        return
    coded, place = guidance.slot(said, 20)
    held, end = prompts.tokens(["purple"])[0, 1:3]
    full = coded.clone()
    full[place] = held
    assert coded[place] == prompts.tokens(["x"])[0, 1] and coded[-1] == end
    words = encoder.token_embedding(held).expand(3, -1)
    found = guidance.composed(encoder, coded, place, words)
    expected = encoder.encode_text(F.pad(full, (0, 20 - len(full)))[None])
    torch.testing.assert_close(found, expected.expand(3, -1), atol=2e-5, rtol=2e-5)
    if said == SAID:
        plain = prompts.tokens(["A photo of a purple hand."], 20)
        assert torch.equal(full, plain[0, : len(full)])


def test_each_image_gets_its_own_word_and_a_gradient_through_the_frozen_text_encoder(encoder):
    encoder.requires_grad_(False)
    coded, place = guidance.slot(SAID, 20)
    words = (0.02 * torch.randn(3, 64)).requires_grad_()
    found = guidance.composed(encoder, coded, place, words)
    assert (found[0] - found[1]).norm() > 1e-3
    found[1].square().sum().backward()
    lengths = words.grad.norm(dim=1)
    assert lengths[1] > 1e-3 and lengths[0] == lengths[2] == 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_word_of_the_vocabulary_is_nearest_to_itself(encoder):
    said = prompts.tokens(["purple glove", "hand palm"])[:, 1:3]
    for place, expected in enumerate((["purple", "hand"], ["glove", "palm"])):
        own = 3 * encoder.token_embedding(said[:, place])
        found = guidance.nearest_words(encoder, own, 3)
        assert list(found) == ["word_1", "cosine_1", "word_2", "cosine_2", "word_3", "cosine_3"]
        assert found["word_1"].tolist() == expected
        assert found["cosine_1"].tolist() == pytest.approx([1, 1])
        assert (found["cosine_2"] >= found["cosine_3"]).all() and (found["cosine_2"] < 0.99).all()
        assert all(word.isalpha() for word in found["word_3"])
