import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipfh_lib import params
from clipfh_lib.data import splits
from clipfh_lib.evaluation import naming
from clipfh_lib.files import InputError
from clipfh_lib.models import backbones

SAID = [
    f"{aspect} {side}, {worn}"
    for aspect in ("dorsal", "palmar")
    for side in ("right", "left")
    for worn in ("without", "with")
]
TEMPLATES = ["A {aspect} {side} hand {accessories} accessories", "{aspect} {side} {accessories}"]


def parameters(drawn, **overrides):
    overrides = {"data.root": str(drawn), "naming.templates": TEMPLATES, **overrides}
    return params.load("zero_shot", "demo", "demo_untrained", "default", 0, overrides)


def wanted_names(table):
    """What each image shall be named: the truth, but for every third one."""
    own = [
        f"{a.split('_')[0]} {'right' if a.endswith('_r') else 'left'}, {'with' if w else 'without'}"
        for a, w in zip(table["aspect"], table["accessories"], strict=True)
    ]
    other = [SAID[(SAID.index(name) * 3 + row) % 8] for row, name in enumerate(own)]
    return own, [other[row] if row % 3 == 0 else own[row] for row in range(len(own))]


SOLVED = {}  # one network for all tests that give the same names


def solved(p, table, root, names):
    key = (root, *table["path"], *names)
    if key not in SOLVED:
        SOLVED[key] = solve(p, table, root, names)
    return SOLVED[key]


def solve(p, table, root, names):
    """A CLIP whose image projection is solved for, so that each image gets the name we want."""
    encoder, how = backbones.load(p.model)
    own = image_transform_v2(PreprocessCfg(**encoder.visual.preprocess_cfg), is_train=False)
    pixels = torch.stack([own(Image.open(root / path)) for path in table["path"]])
    with torch.no_grad():
        proj, encoder.visual.proj = encoder.visual.proj, None
        features = encoder.encode_image(pixels).double()
        texts = []
        for name in SAID:
            aspect, side, worn = name.replace(",", "").split()
            words = {"aspect": aspect, "side": side, "accessories": worn}
            coded = open_clip.tokenize([template.format(**words) for template in TEMPLATES])
            each = encoder.encode_text(coded).double()
            texts.append((each / each.norm(dim=1, keepdim=True)).mean(dim=0))
        texts = torch.stack(texts)
        texts = texts / texts.norm(dim=1, keepdim=True)
        answers = torch.linalg.pinv(texts)[:, [SAID.index(name) for name in names]].T  # one-hot
        proj.copy_(torch.linalg.lstsq(features, answers, driver="gelsd").solution.float())
        encoder.visual.proj = proj
    return encoder, how


@pytest.fixture
def case(drawn):
    p = parameters(drawn)
    data = splits.prepare(p, "outputs")
    table = data.images[data.images["pid"].isin(data.test["pid"])]
    own, names = wanted_names(table)
    return p, data, table, own, names


@pytest.mark.parametrize("flip", ["none", "add"])  # a mirrored right hand is a left one
def test_names_are_counted_as_they_are_given(case, drawn, flip):
    p, data, table, own, names = case
    p = parameters(drawn, **{"embed.flip": flip})
    found = naming.name(*solved(p, table, data.root, names), data, p)
    assert list(found.confusion.index) == list(found.confusion.columns) == SAID
    counts = np.zeros((8, 8), int)
    for truth, name in zip(own, names, strict=True):
        counts[SAID.index(truth), SAID.index(name)] += 1
    np.testing.assert_array_equal(found.confusion.to_numpy(), counts)
    assert 0 < np.trace(counts) < counts.sum() == len(table)
    parts = [[one.replace(",", "").split() for one in each] for each in (own, names)]
    right = np.array(parts[0]) == np.array(parts[1])
    expected = {"named": right.all(axis=1).mean()}
    for column, part in enumerate(("aspect", "side", "accessories")):
        expected[f"named_{part}"] = right[:, column].mean()
    metrics = found.metrics.set_index("metric")
    assert metrics["value"].to_dict() == pytest.approx(expected)
    assert len(set(expected.values())) > 2
    assert found.trials.set_index("metric")["value"].to_dict() == pytest.approx(expected)
    assert (metrics["low"] < metrics["value"]).all() and (metrics["value"] < metrics["high"]).all()
    assert set(metrics["queries"]) == {len(table)} and set(metrics["people"]) == {3}
    assert set(metrics["weights"]) == {"untrained"} and set(metrics["direction"]) == {"image_text"}


def test_the_interval_resamples_people_as_often_as_the_parameters_say(case, drawn):
    p, data, table, _, names = case
    network = solved(p, table, data.root, names)
    ends = []
    for resamples in (7, 10_000):
        p = parameters(drawn, **{"evaluation.resamples": resamples})
        ends.append(naming.name(*network, data, p).metrics[["low", "high"]])
    assert not np.allclose(*ends)
    right = pd.DataFrame({"pid": table["pid"], "right": np.equal(*case[3:])})
    by_person = right.groupby("pid")["right"].mean()
    assert by_person.min() - 1e-6 <= ends[1]["low"][0] <= ends[1]["high"][0]
    assert ends[1]["high"][0] <= by_person.max() + 1e-6


def test_photographs_with_accessories_are_named_too(case):
    p, data, table, own, names = case
    found = naming.name(*solved(p, table, data.root, names), data, p)
    assert table["accessories"].sum() > 0
    assert found.confusion.loc[[s for s in SAID if s.endswith("with")]].to_numpy().sum() == (
        table["accessories"].sum()
    )
    assert not set(table["pid"]) & set(data.train["pid"])


def test_the_classifier_is_the_mean_of_the_templates(case):
    encoder, _ = backbones.load(case[0].model)
    rows = [naming.classifier(encoder, [template]) for template in TEMPLATES]
    both = naming.classifier(encoder, TEMPLATES)
    mean = rows[0] + rows[1]
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    assert np.abs(both - rows[0]).max() > 1e-3 and both.shape == (8, 128)


@pytest.mark.parametrize("template", ["A {hand}", "A {} hand", "A {aspect hand", "hand " * 80])
def test_a_template_that_cannot_be_used_is_refused(case, template):
    encoder, _ = backbones.load(case[0].model)
    with pytest.raises(InputError, match="naming.templates|longer than CLIP"):
        naming.classifier(encoder, [template])


def test_a_tower_without_text_gives_empty_tables_of_the_same_shape(case, drawn):
    _, data, *_ = case
    p = parameters(drawn, **{"model.name": "timm/mobilenetv2_035"})
    found = naming.name(*backbones.load(p.model), data, p)
    assert found.confusion.empty and list(found.confusion.columns) == SAID
    assert found.metrics.empty and found.trials.empty
    assert {"metric", "value", "low", "people"} <= set(found.metrics)
