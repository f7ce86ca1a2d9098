import time

import numpy as np
import pandas as pd
import pytest
import torch
from open_clip import tokenize

from clipfh_lib import params, runs
from clipfh_lib.evaluation import asking, embeddings, text_image
from clipfh_lib.files import InputError
from clipfh_lib.methods import training
from clipfh_lib.models import backbones
from clipfh_lib.schema import EmbedParams, ModelParams


def make(
    drawn, seed=0, change=None, prompts=True, array=None, backbone="demo", method="zero_shot", **of
):
    """A run folder as 08_text_to_image leaves it, of the packaged CLIP, or of a change to it."""
    p = params.load(method, "demo", backbone, "demo", seed, {"data.root": str(drawn), **of})
    run = runs.start("02_zero_shot", p, "outputs")
    encoder, preprocess = backbones.load(p.model)
    if change is not None:
        change(encoder)
        path = run.folder / "checkpoints" / training.BEST
        path.parent.mkdir()
        backbones.save(encoder, path, "key")
    paths = sorted(path.relative_to(drawn).as_posix() for path in drawn.glob("Hands/*.jpg"))[:30]
    table = pd.DataFrame({"image_id": [p[-11:-4] for p in paths], "path": paths, "pid": 3})
    found = embeddings.extract(encoder, preprocess, table, drawn, EmbedParams(), where="cpu")
    if array is not None:
        found = found._replace(array=array)
    embeddings.save(found, run.folder)
    if prompts:
        said = [f"hand {number}" for number in range(29)]
        run.save_table(
            "prompts", pd.DataFrame({"image_id": table["image_id"][:29], "prompt": said})
        )
    run.finish()
    return run.folder, encoder, found


def by_hand(encoder, array, sentence):
    """Cosines, past our own functions but for the encoder."""
    with torch.no_grad():
        text = encoder.encode_text(tokenize([sentence]))[0].numpy()
    return array @ text / np.linalg.norm(array, axis=1) / np.linalg.norm(text)


def test_a_saved_run_answers_with_the_nearest_images_in_order(drawn):
    folder, encoder, found = make(drawn)
    answer = asking.open(folder).ask("  A dorsal\nright hand ", top=4)
    assert list(answer) == ["sentence", "rank", "image_id", "path", "similarity", "caption"]
    cosines = by_hand(encoder, found.array, "A dorsal right hand")
    nearest = np.argsort(-cosines)[:4]
    assert answer["image_id"].tolist() == found.table["image_id"].iloc[nearest].tolist()
    assert answer["path"].tolist() == found.table["path"].iloc[nearest].tolist()
    assert answer["rank"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(answer["similarity"], cosines[nearest], atol=1e-5)
    assert answer["caption"].tolist() == [f"hand {n}" if n < 29 else "" for n in nearest]
    assert len(asking.open(folder).ask("a hand", top=99)) == 30


def test_a_run_that_trained_is_asked_with_its_own_weights(drawn):
    def change(encoder):
        with torch.no_grad():
            encoder.text_projection.neg_()

    folder, encoder, found = make(drawn, seed=1, change=change, prompts=False)
    answer = asking.open(folder).ask("A palmar left hand")
    cosines = by_hand(encoder, found.array, "A palmar left hand")  # of the changed encoder
    assert (
        answer["image_id"].tolist()
        == found.table["image_id"].iloc[np.argsort(-cosines)[:5]].tolist()
    )
    assert set(answer["caption"]) == {""}


def test_an_answer_takes_well_under_a_second(drawn):
    draw = np.random.default_rng(0)
    gallery = asking.open(make(drawn, seed=2)[0])
    many = draw.standard_normal((100_000, gallery.images.shape[1]), dtype=np.float32)
    table = pd.DataFrame({"image_id": np.arange(len(many)), "path": "", "caption": ""})
    big = asking.Gallery(gallery.encoder, many, table, gallery.root)
    start = time.process_time()
    big.ask("a hand with a ring")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    "sentence, said",
    [("  \n", "empty: say what"), ("hand " * 90, "longer than CLIP's 77 tokens: 'hand hand")],
)
def test_what_cannot_be_asked_is_said(drawn, sentence, said):
    with pytest.raises(InputError, match=said):
        asking.open(make(drawn)[0]).ask(sentence)


def test_a_run_that_cannot_be_asked_is_refused_with_the_reason(drawn, tmp_path):
    with pytest.raises(InputError, match="no complete run"):
        asking.open(tmp_path)
    folder, *_ = make(drawn, seed=3, array=np.ones((30, 7), np.float32))
    with pytest.raises(InputError, match=r"have 7 numbers, texts \d+: ask a run"):
        asking.open(folder)
    folder, *_ = make(drawn, seed=4, backbone="timm_tiny", prompts=False)
    with pytest.raises(InputError, match="mobilenetv2_035 reads no text"):
        asking.open(folder)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"feature": ["last"]}, r"feature is \['last'\]"),
        ({"projection": 128}, "projection is 128"),
        (
            {"feature_after_neck": True, "neck": True, "loss_use_id": True},
            "feature_after_neck is True",
        ),
    ],
)
def test_a_run_that_compares_a_feature_of_its_heads_is_refused_by_the_field(drawn, changed, said):
    text = f": {said}, so what it compares .* ask a run that leaves"
    with pytest.raises(InputError, match=text) as error:
        asking.open(make(drawn, seed=5, method="joint", **changed)[0])
    assert "\n" not in str(error.value)


def test_a_joint_run_of_the_encoder_s_own_feature_is_asked(drawn):
    assert len(asking.open(make(drawn, seed=6, method="joint")[0]).ask("a hand")) == 5


@pytest.fixture(autouse=True)
def tower(project):
    """A backbone without text."""
    text = "model: {name: timm/mobilenetv2_035, weights: none}\n"
    (project / "params" / "backbones" / "timm_tiny.yaml").write_text(text)


def test_text_embeddings_are_those_of_open_clip_and_leave_the_encoder_as_it_was():
    encoder, _ = backbones.load(ModelParams(name="demo_clip", weights="none"))
    texts = ["a hand", "a hand " * 20, "the palm of a left hand", "a"]
    found = text_image.texts_of(encoder, texts, batch=2)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(encoder.encode_text(tokenize(texts)), dim=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert next(encoder.parameters()).device.type == "cpu"
    with pytest.raises(InputError, match="longer than CLIP's 77"):
        text_image.texts_of(encoder, ["hand " * 90])
