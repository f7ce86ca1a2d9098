import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.numpy import load_file

from clipfh_lib import files, params, runs
from clipfh_lib.data import splits
from clipfh_lib.evaluation import embeddings
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones
from clipfh_lib.schema import EmbedParams, ModelParams

TOWER = "timm/mobilenetv2_035"


@pytest.fixture(scope="module", params=["demo_clip", TOWER])
def backbone(request):
    return backbones.load(ModelParams(name=request.param, weights="none"))


@pytest.fixture(scope="module")
def clip():
    return backbones.load(ModelParams(name="demo_clip", weights="none"))


@pytest.fixture
def table(drawn):
    paths = sorted(path.relative_to(drawn).as_posix() for path in drawn.glob("Hands/*.jpg"))[:21]
    return pd.DataFrame({"image_id": [p[-11:-4] for p in paths], "path": paths, "pid": 3})


@pytest.fixture
def encoded(monkeypatch):
    """Paths of the images that were encoded, call by call."""
    calls, real = [], embeddings.encode

    def spy(encoder, preprocess, data, *rest):
        calls.append(list(data.table["path"]))
        return real(encoder, preprocess, data, *rest)

    monkeypatch.setattr(embeddings, "encode", spy)
    return calls


def extract(backbone, table, root, resize="clip", **embed):
    return embeddings.extract(
        *backbone, table, root, EmbedParams(**embed), resize, workers=1, where="cpu"
    )


def forget():
    shutil.rmtree(files.cache() / "embeddings")


def test_embeddings_are_those_of_the_encoder_behind_its_own_preprocessing(clip, table, drawn):
    encoder, _ = clip
    shown = table.sample(frac=1, random_state=0)
    found = extract(clip, shown, drawn)
    own = image_transform_v2(PreprocessCfg(**encoder.visual.preprocess_cfg), is_train=False)
    with torch.inference_mode():
        expected = encoder.encode_image(
            torch.stack([own(Image.open(drawn / path)) for path in shown["path"]])
        )
    assert found.array.dtype == np.float32
    np.testing.assert_allclose(found.array, expected, rtol=1e-5, atol=2e-6)
    assert found.array.std(axis=0).max() > 1e-3  # of different images
    pd.testing.assert_frame_equal(found.table, shown.reset_index(drop=True))


def test_an_image_is_encoded_once(clip, table, drawn, encoded):
    first = extract(clip, table[:9], drawn)
    again = extract(clip, table[8::-1], drawn)
    np.testing.assert_array_equal(again.array, first.array[::-1])
    extract(clip, table[4:14].drop(columns="image_id"), drawn)  # another data set, shared images
    paths = table["path"].tolist()
    assert encoded == [paths[:9], paths[9:14]]


@pytest.mark.parametrize(
    "change", [{"resize": "squash"}, {"flip": "add"}, {"precision": "bf16"}, "weights", "file"]
)
def test_what_decides_an_embedding_has_its_own_place_in_the_cache(
    clip, table, drawn, encoded, change, tmp_path
):
    shutil.copytree(drawn / "Hands", tmp_path / "Hands")
    table = table[:3]
    before = extract(clip, table, tmp_path).array
    if change == "weights":
        other = backbones.load(ModelParams(name="demo_clip", weights="none"), seed=1)
        after = extract(other, table, tmp_path).array
    elif change == "file":
        shutil.copy(drawn / "Hands" / Path(table["path"][2]).name, tmp_path / table["path"][0])
        os.utime(tmp_path / table["path"][0], ns=(1, 1))
        after = extract(clip, table, tmp_path).array
        np.testing.assert_array_equal(after[0], before[2])
        np.testing.assert_array_equal(after[1:], before[1:])
    else:
        after = extract(clip, table, tmp_path, **change).array
    count = 1 if change == "file" else 3
    assert [len(call) for call in encoded] == [3, count]
    assert (after[0] != before[0]).any()
    np.testing.assert_array_equal(extract(clip, table[1:], tmp_path).array, before[1:])
    assert len(encoded) == 2  # the others are still there


def test_a_folder_is_the_same_by_any_way_that_leads_to_it(clip, table, drawn, encoded, project):
    (project / "link").symlink_to(drawn)
    extract(clip, table[:2], drawn)
    extract(clip, table[:2], Path("link"))
    extract(clip, table[:2], str(project / "link"))
    assert len(encoded) == 1


def test_an_embedding_does_not_depend_on_what_else_is_encoded_or_was_cached(backbone, table, drawn):
    whole = extract(backbone, table, drawn).array
    forget()
    extract(backbone, table[3:4], drawn)
    extract(backbone, table[[False, True, True] * 7], drawn)
    np.testing.assert_array_equal(extract(backbone, table, drawn).array, whole)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batch_size_changes_nothing_that_matters(backbone, table, drawn, batch):
    reference = extract(backbone, table, drawn, batch=8).array
    forget()
    other = extract(backbone, table, drawn, batch=batch).array
    assert np.abs(other - reference).max() <= 1e-5 * np.abs(reference).max()


def test_a_few_images_do_not_pay_for_a_whole_batch(clip, table, drawn, monkeypatch):
    encoder, seen = clip[0], []
    forward = encoder.encode_image
    monkeypatch.setattr(encoder, "encode_image", lambda x: seen.append(len(x)) or forward(x))
    extract(clip, table[:3], drawn, batch=64)
    extract(clip, table[3:14], drawn, batch=64)
    assert seen == [8, 8, 8]


@pytest.mark.parametrize("place", [0.0, 0.1, 0.6, 0.999])
def test_a_flipped_bit_in_the_cache_is_found_and_made_good(
    clip, table, drawn, encoded, caplog, place
):
    before = extract(clip, table[:4], drawn).array
    (path,) = (files.cache() / "embeddings").iterdir()
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(extract(clip, table[:4], drawn).array, before)
    assert len(encoded) == 2 and "damaged and made again" in caplog.text
    extract(clip, table[:4], drawn)
    assert len(encoded) == 2


def test_a_flip_adds_the_unit_embedding_of_the_mirror_image(clip, table, drawn, tmp_path):
    how = clip[1]
    for name in table["path"][:5]:
        with Image.open(drawn / name) as image:  # at the network's size, so that nothing is resized
            image = image.resize((how.width, how.height))
            image.save(tmp_path / f"{Path(name).stem}.png")
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
                tmp_path / f"{Path(name).stem}_mirror.png"
            )
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    shown = pd.DataFrame({"path": names, "pid": 0})
    plain = extract(clip, shown, tmp_path).array
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    both = extract(clip, shown, tmp_path, flip="add").array
    np.testing.assert_allclose(both[::2], plain[::2] + plain[1::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[::2], both[1::2], rtol=1e-5, atol=1e-6)  # a mirror's mirror
    assert np.abs(both[::2] / 2 - plain[::2]).max() > 1e-3


def test_half_precision_stays_close(backbone, table, drawn):
    full = extract(backbone, table, drawn).array
    half = extract(backbone, table, drawn, precision="bf16").array
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999 and (full != half).any() and half.dtype == np.float32


def test_the_encoder_is_left_in_eval_mode_with_its_weights(clip, table, drawn):
    encoder, how = clip
    before = backbones.sha256(encoder)
    encoder.train()
    extract((encoder, how), table[:2], drawn)
    assert not encoder.training and backbones.sha256(encoder) == before


@pytest.mark.parametrize(
    "path, words", [("Hands/absent.jpg", "missing"), ("../up.jpg", "leaves the folder")]
)
def test_an_image_that_is_not_there_is_named(clip, table, drawn, path, words):
    table = pd.concat([table[:2], table[:1].assign(path=path)])
    with pytest.raises(InputError, match=f"{path}.*{words}"):
        extract(clip, table, drawn)


def test_no_images_and_no_device_are_said(clip, table, drawn):
    with pytest.raises(InputError, match="no images to embed"):
        extract(clip, table[:0], drawn)
    assert embeddings.device("cpu") == torch.device("cpu")
    absent = "cuda" if not torch.cuda.is_available() else "mps"
    with pytest.raises(InputError, match=f"there is no {absent} here"):
        embeddings.device(absent)
    assert embeddings.device("auto").type in ("cpu", "cuda", "mps")


def test_a_folder_without_labels_can_be_embedded(clip, project, caplog, monkeypatch):
    root = project / "photographs"
    monkeypatch.chdir(project / "notebooks")  # a relative path starts at the project all the same
    for name in ("b.JPG", "a.png", "deep/er/a.jpeg", ".hidden/x.png", "deep/._a.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (len(name) * 9, 5, 100)).save(root / name, format="png")
    (root / "notes.txt").write_text("no picture")
    (root / "broken.png").write_text("no picture either")
    table = embeddings.folder(Path("photographs"), ["jpg", ".jpeg", "PNG"])
    assert table["path"].tolist() == ["a.png", "b.JPG", "deep/er/a.jpeg"]
    assert table["image_id"].is_unique and set(table["pid"]) == {-1}
    assert "left out: broken.png: no image" in caplog.text
    assert extract(clip, table, Path("photographs")).array.shape == (3, 128)
    with pytest.raises(InputError, match=r"no image \(.webp\) in"):
        embeddings.folder(root, ["webp"])


def test_what_is_saved_is_read_with_plain_libraries(clip, table, drawn, tmp_path):
    found = extract(clip, table, drawn)
    embeddings.save(found, tmp_path)
    np.testing.assert_array_equal(
        load_file(tmp_path / "embeddings.safetensors")["embeddings"], found.array
    )
    rows = pd.read_csv(tmp_path / "embeddings.csv", dtype={"image_id": str})
    pd.testing.assert_frame_equal(rows, table[["image_id", "path", "pid"]], check_dtype=False)


def test_what_a_run_saved_is_read_back_as_it_was_and_not_otherwise(clip, table, drawn, tmp_path):
    p = params.load("zero_shot", "demo", "demo", "default")
    run = runs.start("02_zero_shot", p, tmp_path)
    shown = table.assign(image_id=["=1", "0012", "NA", *table["image_id"][3:]], aspect="dorsal_r")
    found = extract(clip, shown, drawn)
    embeddings.save(found, run.folder)
    with pytest.raises(InputError, match="no complete run"):
        embeddings.read(run.folder)
    run.finish()
    again = embeddings.read(run.folder)
    np.testing.assert_array_equal(again.array, found.array)
    pd.testing.assert_frame_equal(again.table, shown[["image_id", "path", "pid", "aspect"]])
    for name in ("embeddings.csv", "embeddings.safetensors"):
        content = (run.folder / name).read_bytes()
        (run.folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(InputError, match=f"{name} is not what its manifest says; run it again"):
            embeddings.read(run.folder)
        (run.folder / name).write_bytes(content)


def test_two_who_write_the_cache_at_once_lose_nothing(clip, table, drawn, monkeypatch):
    real, calls = embeddings.encode, []

    def meanwhile(*arguments):
        calls.append(1)
        if len(calls) == 1:  # what another process would do while this one encodes
            extract(clip, table[5:9], drawn)
        return real(*arguments)

    monkeypatch.setattr(embeddings, "encode", meanwhile)
    extract(clip, table[:5], drawn)
    assert len(calls) == 2
    extract(clip, table[:9], drawn)
    assert len(calls) == 2, "all nine are kept"


@pytest.mark.parametrize("trained", [True, False])
def test_the_floors_stand_beside_the_encoder(drawn, encoded, tmp_path, trained):
    other, _ = backbones.load(ModelParams(name="demo_clip", weights="none"), seed=5)
    path = str(backbones.save(other, tmp_path / "other.safetensors", "key")) if trained else "none"
    overrides = {"data.root": str(drawn), "model.weights": path, "device": "cpu"}
    p = params.load("zero_shot", "demo", "demo_untrained", "default", 0, overrides)
    data = splits.prepare(p, "outputs")
    rows = embeddings.with_floors(*backbones.load(p.model, p.seed), data, p)
    names = ["pretrained", "untrained", "pixels"] if trained else ["untrained", "pixels"]
    assert [row.weights for row in rows] == names
    assert len(encoded) == len(names) - 1
    ids = {*data.test["image_id"], *data.val["image_id"]}
    for _, found in rows:
        assert len(found.array) == len(found.table) == len(ids)
        assert set(found.table["image_id"]) == ids
        assert len(np.unique(found.array.round(5), axis=0)) > 0.9 * len(ids)
    assert rows[-1].embeddings.array.shape[1] == 768
    untrained = extract(
        backbones.load(ModelParams(name="demo_clip", weights="none"), p.seed),
        rows[0].embeddings.table,
        data.root,
        resize=p.data.resize,
    )
    np.testing.assert_array_equal(rows[-2].embeddings.array, untrained.array)


def test_the_weights_of_a_run_folder_are_called_trained(tmp_path, project):
    (project / "outputs" / "some_run").mkdir(parents=True)
    (tmp_path / "file.safetensors").touch()
    cases = {"none": "untrained", "openai": "pretrained", "outputs/some_run": "trained"}
    for weights, name in {**cases, str(tmp_path / "file.safetensors"): "pretrained"}.items():
        overrides = {"model.weights": weights}
        p = params.load("zero_shot", "demo", "vit_b16", "default", 0, overrides)
        assert embeddings.first_weights(p) == name


def test_the_log_tells_every_tenth_of_the_way(clip, table, drawn, caplog, monkeypatch):
    monkeypatch.setattr(embeddings, "CPU_BATCH", 1)
    with caplog.at_level("INFO", logger="clipfh_lib"):
        extract(clip, table[:20], drawn)
    said = [line for line in caplog.messages if "are encoded" in line]
    assert len(said) == 10 and said[0].endswith("2 of 20 are encoded")
