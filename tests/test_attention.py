"""Notebook 11 from parameters to manifest, on a few drawn people."""

import pandas as pd
import pytest
from safetensors.numpy import load_file
from test_notebooks import DRAW, executed, found

pytestmark = pytest.mark.notebooks
SMALL = {**DRAW, "data.draw.people": 16, "evaluation.resamples": 200, "embed.batch": 16}
SMALL |= {"methods": ["layer_cam", "rollout"], "pairs": 2, "wrong": 1, "images": 2, "shown": 1}
SMALL |= {"removal.steps": 3, "removal.random": 1}


def test_11_attention_draws_maps_and_says_what_they_are_worth(project):
    executed(project, "11_attention", {"overrides": SMALL})
    (folder,) = (project / "outputs/demo/11_attention").iterdir()
    made = found(folder)
    names = ("right_matches", "wrong_matches", "before_and_after", "one_person", "mean_maps")
    names += ("energy", "removal")
    assert {f"figures/{name}.{kind}" for name in names for kind in ("pdf", "png")} <= set(
        made["files"]
    )
    pairs = pd.read_csv(folder / "pairs.csv")
    kept = load_file(folder / "maps.safetensors")
    assert set(kept) == {
        f"{weights}.{name}"
        for weights in ("pretrained", "untrained")
        for name in ("layer_cam", "rollout")
    }
    assert all(each.shape == (2, len(pairs), 28, 28) for each in kept.values())
    assert kept["pretrained.layer_cam"].max() > 0.5
    checked = pd.read_csv(folder / "faithfulness.csv").set_index(["map", "check"])
    assert checked.loc[("rollout", "other_gallery"), "value"] == pytest.approx(1)
    assert checked.loc[("layer_cam", "other_gallery"), "value"] < 0.99
    assert set(checked["method"]) == {"zero_shot"} and set(checked["weights"]) == {"pretrained"}
    says = pd.read_csv(folder / "verdicts.csv").set_index("map")["says"]
    assert "ignores its target" in says["rollout"]
    energy = pd.read_csv(folder / "energy.csv").set_index(["weights", "map"])
    assert energy.loc[("pretrained", "layer_cam"), "difference"] > 0, "on the hand, not beside it"
    assert energy["area"].between(0.1, 0.6).all()
