import open_clip
import pytest
import torch

from clipfh_lib.files import InputError
from clipfh_lib.learning import LearnedPrompts
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


@pytest.mark.parametrize("texts", [["hand " * 75, TEXTS[0]], TEXTS])  # whole, and cut after the end
def test_text_from_embeddings_is_encode_text_for_ordinary_tokens(encoder, texts):
    coded = prompts.tokens(texts)
    with torch.no_grad():
        whole = encoder.encode_text(coded)
        embedded = encoder.token_embedding(coded)
        found = prompts.encode_embedded(encoder, embedded, coded.argmax(dim=1))
        if coded[0, -1]:
            assert torch.equal(found, whole)
        torch.testing.assert_close(found, whole, rtol=0, atol=2e-6)
        other = prompts.encode_embedded(encoder, embedded, coded.argmax(dim=1) - 1)
    assert (other - whole).abs().max() > 0.1  # the end is where the feature is read


def test_what_stands_after_the_end_token_changes_nothing(encoder):
    coded = prompts.tokens(TEXTS)
    end = coded.argmax(dim=1)
    with torch.no_grad():
        embedded = encoder.token_embedding(coded)
        before = prompts.encode_embedded(encoder, embedded, end)
        embedded[0, end[0] + 1 :] += 1
        assert torch.equal(prompts.encode_embedded(encoder, embedded, end), before)
        embedded[0, end[0] - 1] += 1
        assert not torch.equal(prompts.encode_embedded(encoder, embedded, end), before)


# --- learned ------------------------------------------------------------------------------------

SIDES = ["dorsal_r", "palmar_l", "dorsal_r"]


def made(
    encoder, tokens=4, templates=("A photo of a {tokens} hand.",), start="normal", sides=SIDES
):
    how = LearnedPrompts(tokens=tokens, templates=list(templates), start=start)
    return prompts.PersonPrompts(encoder, how, sides)


def filled(module, encoder, text):
    """Put the embeddings of words into the learnable places, the same for all people."""
    coded = prompts.tokens([text])[0]
    words = coded[1 : int(coded.argmax())]
    with torch.no_grad():
        module.tokens.copy_(encoder.token_embedding(words))


def test_with_words_in_their_places_prompts_are_ordinary_sentences(encoder):
    templates = ["A {aspect} photo of a {tokens} hand, {side}.", "{tokens}"]
    module = made(encoder, 3, templates)
    filled(module, encoder, "very old big")
    said = {
        "dorsal_r": ["A dorsal photo of a very old big hand, right.", "very old big"],
        "palmar_l": ["A palmar photo of a very old big hand, left.", "very old big"],
    }
    with torch.no_grad():
        found = module(encoder, torch.tensor([1, 0]))
        for row, side in zip(found, ["palmar_l", "dorsal_r"], strict=True):
            each = prompts.embed(encoder, said[side], CPU)
            expected = torch.nn.functional.normalize(each.mean(dim=0), dim=0)
            torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_of_one_template_the_feature_keeps_its_norm(encoder):
    module = made(encoder, 2)
    filled(module, encoder, "old big")
    with torch.no_grad():
        found = module(encoder, torch.tensor([2]))
        whole = encoder.encode_text(prompts.tokens(["A photo of a old big hand."]))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_started_with_x_a_prompt_says_x(encoder):
    with torch.no_grad():
        found = made(encoder, 4, start="X").features(encoder)
        whole = encoder.encode_text(prompts.tokens(["A photo of a X X X X hand."]))
    torch.testing.assert_close(found, whole.expand(3, -1), rtol=1e-5, atol=1e-5)


def test_started_at_random_prompts_are_small_and_of_the_seed(encoder):
    how = LearnedPrompts(tokens=50)
    first, again, other = (prompts.PersonPrompts(encoder, how, SIDES, s).tokens for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert abs(first.std().item() - 0.02) < 0.001 and first.shape == (3, 50, 128)


def test_people_and_templates_have_features_of_their_own(encoder):
    one = made(encoder).features(encoder)
    assert torch.pdist(one).min() > 0.01
    other = made(encoder, templates=["The {tokens} hand of somebody."]).features(encoder)
    both = made(
        encoder, templates=["A photo of a {tokens} hand.", "The {tokens} hand of somebody."]
    )
    unit = torch.nn.functional.normalize
    assert (unit(one, dim=1) - unit(other, dim=1)).norm(dim=1).min() > 0.01
    mean = unit((unit(one, dim=1) + unit(other, dim=1)) / 2, dim=1)
    torch.testing.assert_close(both.features(encoder), mean, rtol=1e-5, atol=1e-5)


def test_features_of_some_people_are_theirs_among_all(encoder):
    module = made(encoder, templates=["a {aspect} {tokens} hand", "{tokens}"])
    whole = module.features(encoder)
    torch.testing.assert_close(module.features(encoder, batch=1), whole)
    with torch.no_grad():
        torch.testing.assert_close(module(encoder, torch.tensor([2, 0])), whole[[2, 0]])


def test_twelve_tokens_keep_the_end_token(encoder):
    """In the older scripts twelve context vectors were written over it."""
    module = made(encoder, 12, ["A photo of a {tokens}."])
    ids, end = module.ids[0, 0], int(module.end[0, 0])
    assert ids[end] == 49407 and end == 4 + 12 + 2 and (ids[end + 1 :] == 0).all()
    encoder.zero_grad()
    module(encoder, torch.tensor([0])).square().sum().backward()
    assert (module.tokens.grad[0].abs().sum(dim=1) > 0).all()  # all twelve are read
    assert (module.tokens.grad[1:] == 0).all()  # and nobody else's
    assert encoder.token_embedding.weight.grad[49407].abs().sum() > 0


def test_a_template_fills_77_tokens_but_not_one_more(encoder):
    made(encoder, 12, ["hand " * 63 + "{tokens}"])
    with pytest.raises(InputError, match="with 12 learned tokens is 78 long, 77 fit"):
        made(encoder, 12, ["hand " * 64 + "{tokens}"])


@pytest.mark.parametrize(
    "templates", [["no place"], ["{tokens} {tokens}"], ["{tokens} {pid}"], ["{tokens"], []]
)
def test_a_template_needs_one_place_for_its_tokens(templates):
    with pytest.raises(ValueError, match="templates"):
        LearnedPrompts(templates=templates)


def test_prompts_need_known_aspects_and_a_backbone_that_reads(encoder):
    with pytest.raises(InputError, match="names the aspect, which is 'all' here"):
        made(encoder, templates=["a {side} {tokens} hand"], sides=["all"])
    made(encoder, sides=["all"])
    tower = backbones.load(ModelParams(name="timm/mobilenetv2_035", weights="none"))[0]
    with pytest.raises(InputError, match="reads no text"):
        made(tower)


def test_learned_prompts_come_back_from_their_file_to_the_bit(encoder, tmp_path):
    module = made(encoder, templates=["a {aspect} {tokens} hand"])
    people = [(3, "dorsal_r"), (3, "palmar_l"), (9, "dorsal_r")]
    about = {"key": "k", "split_sha256": "s"}
    written = prompts.Learned(module.tokens, module.features(encoder), people, module.how, about)
    path = tmp_path / "prompts.safetensors"
    written = prompts.save(written, path)
    found = prompts.read(path)
    assert torch.equal(found.tokens, module.tokens) and found.people == people
    assert found.how == module.how and found.about == about
    assert found.sha256 == written.sha256 and len(found.sha256) == 64
    assert torch.equal(found.module(encoder).features(encoder), found.features)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no learned prompts"):
        prompts.read(path)
