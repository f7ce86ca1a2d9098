import open_clip
import pytest
import torch

from clipfh_lib.files import InputError
from clipfh_lib.models import backbones, prompts
from clipfh_lib.schema import ModelParams

TEXTS = ["a hand", "A photo of a dorsal right hand with accessories, a ring on the thumb finger"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder():
    return backbones.load(ModelParams(name="demo_clip", weights="none"))[0]


def test_tokens_are_those_of_clips_tokeniser():
    assert torch.equal(prompts.tokens(TEXTS), open_clip.tokenize(TEXTS))
    assert prompts.tokens(TEXTS, 32).shape == (2, 32)


def test_a_text_fills_clips_77_tokens_but_not_one_more():
    longest = " ".join(["hand"] * 75)  # with start and end: 77
    row = prompts.tokens([longest])[0]
    assert (row == 320).sum() == 0 and row[-1] == 49407 and (row == row[1]).sum() == 75
    with pytest.raises(InputError, match="longer than CLIP's 77 tokens: 'hand"):
        prompts.tokens(["short", longest + " hand"])


def test_encode_gives_what_encode_text_gives(encoder):
    coded = prompts.tokens([*TEXTS, "hand " * 75])
    with torch.no_grad():
        whole = encoder.encode_text(coded)
        torch.testing.assert_close(prompts.encode(encoder, coded), whole)
        cut = prompts.encode(encoder, coded[:2])  # shorter: the rest is cut off
        torch.testing.assert_close(cut, whole[:2], rtol=1e-5, atol=1e-5)
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_encode_passes_gradients_only_to_tokens_up_to_the_end(encoder):
    coded = prompts.tokens(TEXTS[:1])
    encoder.zero_grad()
    prompts.encode(encoder, coded).square().sum().backward()
    reached = encoder.token_embedding.weight.grad.abs().sum(dim=1).nonzero().flatten()
    assert sorted(reached.tolist()) == sorted(set(coded[0, :4].tolist()))
    positions = encoder.positional_embedding.grad.abs().sum(dim=1)
    assert (positions[:4] > 0).all() and (positions[4:] == 0).all()


def test_embed_gives_unit_rows_in_order(encoder):
    found = prompts.embed(encoder, TEXTS, CPU)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(found[1:], prompts.embed(encoder, TEXTS[1:], CPU))


@pytest.mark.parametrize("name, reads", [("demo_clip", True), ("timm/mobilenetv2_035", False)])
def test_only_a_clip_reads_text(name, reads):
    assert prompts.reads_text(backbones.load(ModelParams(name=name, weights="none"))[0]) == reads


def test_a_text_tower_of_another_class_reads_text_too(encoder):
    """Some CLIPs of open_clip keep the text tower in `.text`."""
    config = open_clip.get_model_config("demo_clip")
    other = open_clip.model.CustomTextCLIP(**config).eval()
    parts = encoder.state_dict()
    own = {key.removeprefix("text."): key for key in other.state_dict()}
    other.load_state_dict({full: parts[short] for short, full in own.items()})
    assert prompts.reads_text(other)
    torch.testing.assert_close(prompts.embed(other, TEXTS, CPU), prompts.embed(encoder, TEXTS, CPU))
