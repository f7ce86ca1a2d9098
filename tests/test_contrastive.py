import json

import numpy as np
import open_clip
import pytest
import torch

from clipfh_lib import params, runs, schema
from clipfh_lib.data import captions, catalogues, demo_hands
from clipfh_lib.evaluation import embeddings
from clipfh_lib.methods import contrastive, training
from clipfh_lib.models import backbones, optimisers, prompts

TINY = {  # as the demo CLIP, small enough for seconds
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny_contrastive.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Twenty drawn people, those who train and those who are never seen."""
    root = tmp_path_factory.mktemp("people") / "11k"
    demo_hands.write_11k(root, people=20, images=2, size=64, seed=11)
    table = catalogues.read(schema.DataParams(catalogue="hands_11k", root=str(root))).images
    first = table["pid"].isin(sorted(table["pid"].unique())[:10])
    return root, table[first].reset_index(drop=True), table[~first].reset_index(drop=True)


def fit(people, tiny, seed=0, epochs=15, lr=2e-3, encoder=None):
    root, train, _ = people
    fit = {"fit.epochs": epochs, "fit.lr": lr, "fit.batch_size": 16, "model.name": tiny}
    p = params.load("demo_clip", "demo", "demo_untrained", "demo", seed, fit | {"device": "cpu"})
    made, how = backbones.load(p.model, seed)
    encoder = encoder or made
    make = contrastive.loader(train, root, how, p)
    method = contrastive.Contrastive(encoder, how, p.fit, steps=len(make(0)) * epochs)
    run = runs.start("00_demo_clip", p, "outputs")
    history = training.fit(method, make, run, {"fit": "of a test"}, p.fit, p.device)
    return run, encoder, how, history


def own_caption_wins(encoder, how, people):
    """Share of other images' captions that are further from an image than its own: 0.5 is chance.

    Of people who did not train, with words that were not drawn in training.
    """
    root, _, unseen = people
    found = embeddings.extract(encoder, how, unseen, root, schema.EmbedParams(), where="cpu")
    texts = prompts.embed(encoder, captions.varied(unseen, 99, 0), torch.device("cpu")).numpy()
    scores = found.array / np.linalg.norm(found.array, axis=1, keepdims=True) @ texts.T
    return (scores < np.diag(scores)[:, None]).sum() / (len(scores) * (len(scores) - 1))


@pytest.mark.parametrize("lr, learns", [(2e-3, True), (1e-9, False)])  # the control must not learn
def test_captions_of_people_it_never_saw_are_found_after_the_fit(people, tiny, lr, learns):
    encoder, how = backbones.load(schema.ModelParams(name=tiny, weights="none"))
    before = own_caption_wins(encoder, how, people)
    run, encoder, how, history = fit(people, tiny, lr=lr)
    gained = own_caption_wins(encoder, how, people) - before  # 0.15 to 0.19 over three seeds
    assert abs(before - 0.5) < 0.06
    assert (gained > 0.08) == learns and (abs(gained) < 0.001) == (not learns)
    loss, right = history["train/info_nce"], history["train/accuracy"]
    assert (loss.iloc[-1] < loss.iloc[0] - 0.3) == learns
    assert (right.iloc[-1] > 2 / 16) == learns  # chance is 1 / 16
    logged = ["train/info_nce", "train/accuracy", "train/logit_scale"]
    assert list(history) == ["epoch", "lr", *logged]


def test_all_of_both_towers_is_trained(people, tiny):
    before, _ = backbones.load(schema.ModelParams(name=tiny, weights="none"))
    _, encoder, _, _ = fit(people, tiny, epochs=1)
    start = dict(before.named_parameters())
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, start[name]) != parameter.requires_grad, name
    rows = (encoder.token_embedding.weight != before.token_embedding.weight).any(dim=1)
    words = captions.varied(people[1], 0, 0)
    assert set(rows.nonzero().flatten().tolist()) <= set(prompts.tokens(words).unique().tolist())
    assert rows.sum() > 50


def test_unused_rows_of_the_token_table_and_vectors_do_not_decay(people, tiny):
    encoder, how = backbones.load(schema.ModelParams(name=tiny, weights="none"))
    method = contrastive.Contrastive(
        encoder, how, schema.ContrastiveFit(epochs=1, batch_size=2, lr=0.1, weight_decay=0.5), 10
    )
    optimizer = method.configure_optimizers()["optimizer"]
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in encoder.named_parameters():
        spared = parameter.ndim < 2 or name == "token_embedding.weight"
        assert decay[id(parameter)] == (0 if spared else 0.5), name


def test_the_scale_never_passes_that_of_clip(people, tiny):
    encoder, _ = backbones.load(schema.ModelParams(name=tiny, weights="none"))
    with torch.no_grad():
        encoder.logit_scale.fill_(7.0)  # e to the 7 is 1097
    _, _, _, history = fit(people, tiny, epochs=1, encoder=encoder)
    assert history["train/logit_scale"].tolist() == [100.0]


def test_words_stand_beside_their_image_and_differ_by_epoch(people, tiny):
    root, train, _ = people
    p = params.load(
        "demo_clip", "demo", "demo_untrained", "demo", 3, {"fit.batch_size": 16, "model.name": tiny}
    )
    _, how = backbones.load(p.model)
    make = contrastive.loader(train, root, how, p)
    first, again, second = make(0), make(0), make(1)
    said = {epoch: prompts.tokens(captions.varied(train, 3, epoch)) for epoch in (0, 1)}
    for loader, epoch in ((first, 0), (second, 1), (again, 0)):  # made before, read in any order
        for batch in loader:
            assert torch.equal(batch.texts, said[epoch][batch.rows])
            assert batch.pids.tolist() == train["pid"].iloc[batch.rows.tolist()].tolist()
            assert batch.pixels.shape == (16, 48, 48, 3)
    assert not torch.equal(next(iter(first)).rows, next(iter(second)).rows)


def test_a_finished_run_gives_its_weights_to_others(people, tiny):
    run, encoder, _, _ = fit(people, tiny, epochs=1)
    run.finish()
    found, _ = backbones.load(schema.ModelParams(name=tiny, weights=str(run.folder)), seed=5)
    assert backbones.sha256(found) == backbones.sha256(encoder)


def test_every_trainable_parameter_stands_in_one_group_and_only_matrices_decay():
    encoder, _ = backbones.load(schema.ModelParams(name="demo_clip", weights="none"))
    encoder.visual.proj.requires_grad_(False)
    decayed, rest = optimisers.groups(encoder, 0.2, ("token_embedding.weight",))
    assert decayed["weight_decay"] == 0.2 and rest["weight_decay"] == 0
    names = {p: name for name, p in encoder.named_parameters() if p.requires_grad}
    there = [names[p] for p in [*decayed["params"], *rest["params"]]]
    assert sorted(there) == sorted(names.values()) and "visual.proj" not in there
    assert len(there) > 80
    spared = {names[p] for p in rest["params"]}
    assert {"token_embedding.weight", "logit_scale", "visual.class_embedding"} <= spared
    for name in names.values():
        if name.endswith("bias") or ".ln_" in name or "ln_final" in name:
            assert name in spared, name
    assert {"visual.conv1.weight", "text_projection", "positional_embedding"}.isdisjoint(spared)
