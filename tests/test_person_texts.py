import numpy as np
import pandas as pd
import pytest
import torch

from clipfh_lib.evaluation import person_texts
from clipfh_lib.models import backbones, prompts
from clipfh_lib.schema import ModelParams

PEOPLE = [(3, "dorsal_r"), (3, "palmar_l"), (8, "dorsal_r")]


@pytest.fixture(scope="module")
def encoder():
    return backbones.load(ModelParams(name="demo_clip", weights="none"))[0]


def test_a_token_that_is_a_word_finds_that_word(encoder):
    coded = prompts.tokens(["very old hands", "broad thumb nail", "a nail scar"])[:, 1:4]
    coded[2, 1], coded[2, 2] = prompts.VOCABULARY - 2, prompts.VOCABULARY - 1  # start and end
    with torch.no_grad():
        tokens = encoder.token_embedding(coded) * 1.0001
    found = person_texts.nearest_words(encoder, tokens, PEOPLE)
    assert found[["pid", "aspect"]].drop_duplicates().values.tolist() == [list(p) for p in PEOPLE]
    assert found["token"].tolist() == [1, 2, 3] * 3
    assert found["word"].tolist()[:7] == "very old hands broad thumb nail a".split()
    assert (found["distance"][:7] < 1e-3).all() and (found["length"] > 0.05).all()
    lengths = tokens.flatten(0, 1).norm(dim=1).numpy()
    np.testing.assert_allclose(found["length"], lengths, rtol=1e-5)
    assert (found["distance"][7:] > 0.05).all()  # those two are no words


def test_the_nearest_word_is_nearest_of_all(encoder):
    tokens = torch.randn(3, 2, 128, generator=torch.Generator().manual_seed(0)) * 0.02
    found = person_texts.nearest_words(encoder, tokens, PEOPLE)
    table = encoder.token_embedding.weight[:-2].detach()
    apart = (tokens.flatten(0, 1)[:, None] - table[None]).norm(dim=2)
    np.testing.assert_allclose(found["distance"], apart.amin(dim=1).numpy(), rtol=1e-3)


def test_own_text_counts_images_that_are_nearest_to_their_person():
    texts = np.eye(3)
    images = np.array([[2, 0, 0], [0, 0.1, 0], [1, 0.9, 0], [0, 1, 0], [0.2, 0.3, 0.4], [0, 1, 1]])
    targets = np.array([0, 1, 1, 2, 2, 2])  # right, right, wrong; wrong, right, a tie
    found = person_texts.own_text(images, texts, targets, PEOPLE).set_index("aspect")
    assert found.loc["dorsal_r", "rank1"] == pytest.approx(2 / 4)
    assert found.loc["palmar_l", "rank1"] == pytest.approx(1 / 2)
    assert found.loc["all", "rank1"] == pytest.approx(3 / 6)
    assert (found["rank5"] == 1).all() and (found["chance"] == 1 / 3).all()
    assert found["images"].tolist() == [4, 2, 6] and found["people"].tolist() == [2, 1, 3]
    one = person_texts.own_text(images[:1], texts[:1], targets[:1], PEOPLE[:1])
    assert one["aspect"].tolist() == ["dorsal_r"]


def test_a_constant_text_finds_nobody():
    """The text feature of the older scripts: read at the start token, the same for everybody."""
    draw = np.random.default_rng(0)
    images, targets = draw.normal(size=(30, 4)), np.arange(30) % 3
    found = person_texts.own_text(images, np.ones((3, 4)), targets, PEOPLE)
    assert (found["rank1"] == 0).all()


def test_similarities_are_cosines_of_each_two_people():
    texts = np.array([[2.0, 0], [0, 3], [1, 1]])
    found = person_texts.similarities(texts, PEOPLE)
    key = ["pid", "aspect", "other_pid", "other_aspect"]
    value = found.set_index(key)["value"]
    assert len(value) == 9
    assert value[(3, "dorsal_r", 3, "palmar_l")] == pytest.approx(0)
    assert value[(3, "palmar_l", 8, "dorsal_r")] == pytest.approx(np.sqrt(0.5))
    assert value[(8, "dorsal_r", 3, "palmar_l")] == pytest.approx(np.sqrt(0.5))
    assert value[(8, "dorsal_r", 8, "dorsal_r")] == pytest.approx(1)


def test_a_layout_puts_texts_beside_their_images_and_is_of_its_seed():
    draw = np.random.default_rng(1)
    centres = draw.normal(size=(12, 16))
    people = [(pid, "dorsal_r") for pid in range(12)]
    targets = np.repeat(np.arange(12), 5)
    images = centres[targets] + 0.1 * draw.normal(size=(60, 16)) + 7.0  # in another part of space
    found = person_texts.layout(images, centres - 7.0, targets, people, seed=3)
    assert found["kind"].value_counts().to_dict() == {"text": 12, "images": 12}
    place = {k: v[["x", "y"]].to_numpy() for k, v in found.groupby("kind")}
    apart = np.linalg.norm(place["text"][:, None] - place["images"][None], axis=2)
    assert (apart.argmin(axis=1) == np.arange(12)).mean() > 0.8
    again = person_texts.layout(images, centres - 7.0, targets, people, seed=3)
    pd.testing.assert_frame_equal(found, again)
    assert person_texts.layout(images[:10], centres[:2], targets[:10], people[:2]).empty
