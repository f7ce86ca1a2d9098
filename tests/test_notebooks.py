"""Every notebook runs from parameters to manifest, each once, on a few drawn people."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from clipfh_lib import files, params, runs
from clipfh_lib.evaluation import embeddings
from clipfh_lib.models import backbones

DRAW = {"data.draw.people": 12, "data.draw.images": 4, "data.draw.size": 64, "data.trials": 2}
pytestmark = pytest.mark.notebooks
SMALL = {**DRAW, "model.weights": "none", "evaluation.resamples": 200, "embed.batch": 16}
FIT = {**DRAW, "fit.batch_size": 16, "fit.epochs": 1}
# Of 20 people 10 are tested, 5 validate and 5 train: four aspects of each are 20 classes.
TRAIN = {**DRAW, "data.draw.people": 20, "evaluation.resamples": 200, "embed.batch": 16}
TRAIN |= {"fit.people": 4, "fit.images": 2, "fit.epochs": 2}


def command(*words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(words, capture_output=True, text=True, env=environment)


def executed(project, notebook: str, parameters: dict) -> list[dict]:
    """Inject the parameters and run all cells under nbval; gives the code cells' sources."""
    copy = project / "notebooks" / f"{notebook}_injected.ipynb"
    python = [sys.executable, "-m"]
    made = command(
        *python, "papermill", f"notebooks/{notebook}.ipynb", str(copy), "--prepare-only",
        "-y", yaml.safe_dump(parameters), "--no-progress-bar",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    plain = ["-q", "-n", "0", "-p", "no:cacheprovider"]  # cells need those before them
    answer = command(*python, "pytest", *plain, "--nbval-lax", str(copy))
    assert answer.returncode == 0, answer.stdout[-4000:]
    cells = json.loads(copy.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def found(folder) -> dict:
    made = runs.manifest(folder)
    for name, sha in made["files"].items():
        assert files.sha256(folder / name) == sha, name
    return made


def test_00_demo_clip_trains_evaluates_and_packs(project):
    executed(project, "00_demo_clip", {"dataset": "demo_clip", "recipe": "demo", "overrides": FIT})
    (folder,) = (project / "outputs/demo_clip/00_demo_clip").iterdir()
    made = found(folder)
    assert {"checkpoints/best.safetensors", "checkpoints/demo_clip.safetensors"} <= set(
        made["files"]
    )
    history = pd.read_csv(folder / "history.csv")
    assert len(history) == 1 and history["train/info_nce"].between(0.1, 10).all()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["weights"]) == {"trained", "untrained"}


def test_01_prepare_data_writes_the_tables_that_others_read(project):
    own = {**DRAW, "export.folder": "outputs/older", "export.how": "copy"}
    executed(project, "01_prepare_data", {"dataset": "demo", "overrides": own})
    assert {path.name for path in (project / "outputs/older/palmar_l").iterdir()} == {
        *("train_all", "train", "val"),
        *(f"{kind}{trial}{end}" for trial in (0, 1) for kind, end in
          (("query", ""), ("gallery", ""), ("gallery", "_all"))),
    }  # fmt: skip
    (folder,) = (project / "outputs/demo/01_prepare_data").iterdir()
    made = found(folder)
    tables = {"images.csv", "split.csv", "set_aside.csv", "traps.csv"}
    figures = {
        f"figures/{name}.{kind}" for name in ("sample", "split_sizes") for kind in ("pdf", "png")
    }
    assert tables | figures <= set(made["files"])
    split = pd.read_csv(folder / "split.csv")
    assert made["split_sha256"] == files.sha256(folder / "split.csv")
    assert set(split["role"]) == {"train", "val", "query", "gallery"}
    assert set(split["trial"].dropna()) == {0, 1}


def test_02_zero_shot_and_20_compare_end_in_a_table_with_intervals(project):
    cell = {"notebook": "02_zero_shot", "dataset": "demo", "backbone": "demo", "recipe": "default"}
    plan = {"cells": [{**cell, "overrides": SMALL}]}
    (project / "params/plans/tiny.yaml").write_text(yaml.safe_dump(plan))
    executed(project, "02_zero_shot", {"overrides": SMALL})
    (folder,) = (project / "outputs/demo/02_zero_shot").iterdir()
    made = found(folder)
    names = ("cmc", "det", "burst_gap", "naming", "ranked_lists")
    assert {f"figures/{name}.{kind}" for name in names for kind in ("pdf", "png")} <= set(
        made["files"]
    )
    assert made["parameters"] == 7_860_353, "as parts.csv of 03 has them, but its heads"
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["weights"]) == {"untrained", "pixels"}, "nothing was pretrained here"
    rank1 = metrics[(metrics["metric"] == "rank1") & metrics["subset"].isin(["all", "far"])]
    assert {"same_aspect", "all_aspects"} == set(rank1["gallery"])
    assert (rank1["low"] <= rank1["value"]).all() and (rank1["value"] <= rank1["high"]).all()
    ranks = pd.read_csv(folder / "ranks.csv")
    again = ranks[
        (ranks["weights"] == "pixels")
        & (ranks["gallery"] == "all_aspects")
        & (ranks["test_aspect"] == "palmar_l")
    ]
    mine = (again["rank"] == 1).groupby(again["trial"]).mean().mean()
    row = metrics[
        (metrics["weights"] == "pixels")
        & (metrics["gallery"] == "all_aspects")
        & (metrics["test_aspect"] == "palmar_l")
        & (metrics["subset"] == "all")
        & (metrics["metric"] == "rank1")
    ]
    assert row["value"].item() == pytest.approx(mine)

    executed(project, "20_compare", {"plan": "tiny"})
    folder = project / "outputs/tiny/20_compare"
    made = found(folder)
    tables = ("comparison.csv", "comparison.md", "comparison.tex", "published.csv")
    assert {*tables, "train_by_test.csv"} <= set(made["files"])
    table = pd.read_csv(folder / "comparison.csv")
    assert (table["remark"] == "demo figures").all()
    assert table["rank1_low"].notna().all()


def test_02_zero_shot_runs_where_there_are_no_file_numbers(project):
    draw = {"data.draw.people": 12, "data.draw.distractors": 3}
    own = {**SMALL, **draw, "evaluation.rerank.k1": 4}
    executed(project, "02_zero_shot", {"dataset": "demo_hd", "overrides": own})
    (folder,) = (project / "outputs/demo_hd/02_zero_shot").iterdir()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["gallery"]) == {"default", "enrolled"} and set(metrics["subset"]) == {"all"}
    assert "untrained_reranked" in set(metrics["weights"])
    fnir = metrics[metrics["metric"] == "fnir@1e-1"]
    assert set(fnir["gallery"]) == {"enrolled"} and fnir["value"].between(0, 1).all()
    names = ("burst_gap", "across_aspects", "scores", "open_set")
    made = found(folder)["files"]
    assert {f"figures/{name}.png" for name in names} <= set(made)
    notes = pd.read_csv(folder / "open_set_notes.csv")
    assert notes["reason"].str.contains("rule of 30").any(), "3 distractors are too few"


def trained(folder, losses: tuple[str, ...], *more: str) -> pd.DataFrame:
    """What every run that trains an encoder keeps; gives its history."""
    made = found(folder)
    names = {"parts.csv", "ranks.csv", "cmc.csv", "checkpoints/best.safetensors"}
    names |= {"checkpoints/last.ckpt", "embeddings.safetensors", "figures/curves.png"}
    assert names <= set(made["files"])
    assert made["peak_memory_mb"] > 100 and made["fit_seconds"] > 0
    assert made["weights_sha256"] and made["split_sha256"]
    assert made["best_epoch"] in (0, 1) and made["resumed_at"] == []
    parts = pd.read_csv(folder / "parts.csv")
    assert parts["trained"].sum() > 0 and parts["frozen"].sum() > 0
    assert (parts["parameters"] == parts["trained"] + parts["frozen"]).all()
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [0, 1]
    columns = ["train/loss", *(f"train/{name}" for name in losses), "val/mAP", "val/rank1"]
    assert history[columns].notna().all().all() and (history[columns].nunique() > 1).any()
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["weights"]) == {"trained", "pretrained", *more}
    rank1 = metrics[(metrics["metric"] == "rank1") & metrics["subset"].isin(["all", "far"])]
    assert {"same_aspect", "all_aspects"} == set(rank1["gallery"])
    assert (rank1["low"] <= rank1["value"]).all() and (rank1["value"] <= rank1["high"]).all()
    values = rank1.groupby("weights")["value"].apply(list)
    assert values["trained"] != values["pretrained"]
    return history


def test_03_fine_tune_trains_and_shows_what_it_gained(project):
    executed(project, "03_fine_tune", {"overrides": TRAIN})
    (folder,) = (project / "outputs/demo/03_fine_tune").iterdir()
    trained(folder, ("id", "triplet"))
    assert "gains.csv" in found(folder)["files"]

    cell = {"notebook": "03_fine_tune", "dataset": "demo", "backbone": "demo", "recipe": "demo"}
    plan = {"cells": [{**cell, "overrides": TRAIN}]}
    (project / "params/plans/tiny.yaml").write_text(yaml.safe_dump(plan))
    executed(project, "20_compare", {"plan": "tiny"})
    compared = project / "outputs/tiny/20_compare"
    assert {"seeds.csv", "differences.csv"} <= set(found(compared)["files"])
    row = pd.read_csv(compared / "differences.csv").iloc[0]
    gained = pd.read_csv(folder / "gains.csv")
    view = ["test_aspect", "gallery", "subset", "metric"]
    own = gained[(gained[view] == row[view]).all(axis=1)].iloc[0]
    assert (row["first"], row["second"]) == tuple(
        f"03_fine_tune/{folder.name} {weights}" for weights in ("trained", "pretrained")
    )
    assert row["difference"] == pytest.approx(own["difference"])


def test_04_learns_prompts_that_05_takes_and_the_control_exchanges(project):
    first = {key: value for key, value in TRAIN.items() if key.startswith("data.")}
    executed(project, "04_clip_reid_prompts", {"overrides": {**first, "fit.epochs": 2}})
    (folder,) = (project / "outputs/demo/04_clip_reid_prompts").iterdir()
    made = found(folder)
    names = {"checkpoints/prompts.safetensors", "nearest_words.csv", "similarity.csv", "parts.csv"}
    names |= {f"figures/{name}.{kind}" for name in ("similarity", "layout", "curves")
              for kind in ("pdf", "png")}  # fmt: skip
    assert names <= set(made["files"]) and "metrics.csv" not in made["files"]
    history = pd.read_csv(folder / "history.csv")
    assert (history[["train/i2t", "train/t2i"]].nunique() == 2).all()
    parts = pd.read_csv(folder / "parts.csv").set_index("part")["trained"]
    assert parts[parts > 0].index.str.startswith("head").all(), "both encoders are frozen"

    own = TRAIN | {"prompts.run": folder.relative_to(project).as_posix()}
    executed(project, "05_clip_reid_encoder", {"overrides": own})
    (plain,) = (project / "outputs/demo/05_clip_reid_encoder").iterdir()
    trained(plain, ("id", "triplet", "i2t"))
    assert found(plain)["prompts_sha256"] == made["prompts_sha256"]
    start = params.read("joint", "demo", "demo", "demo", 0, {"model.weights": str(plain)})
    encoder, _ = backbones.load(start.model)  # joint training may begin with these weights
    assert backbones.sha256(encoder) == found(plain)["weights_sha256"]
    assert embeddings.start_weights(start) == "warm_start"
    executed(project, "05_clip_reid_encoder", {"overrides": own | {"prompts.shuffle": True}})
    (other,) = set((project / "outputs/demo/05_clip_reid_encoder").iterdir()) - {plain}
    trained(other, ("id", "triplet", "i2t"))
    both = [pd.read_csv(run / "metrics.csv") for run in (plain, other)]
    values = [one[one["weights"] == "trained"]["value"].to_numpy() for one in both]
    assert (values[0] != values[1]).any(), "whose prompt it is makes a difference"
    exchanged = pd.read_csv(other / "exchanged.csv")
    assert exchanged["p"].notna().all() and len(exchanged)


def test_06_prompt_sg_trains_and_compares_both_sentences(project):
    executed(project, "06_prompt_sg", {"overrides": TRAIN})
    (folder,) = (project / "outputs/demo/06_prompt_sg").iterdir()
    more = "trained_fixed"
    history = trained(folder, ("id", "triplet"), more)
    assert history["train/supcon"].notna().all()
    assert {"words.csv", "sentences.csv"} <= set(found(folder)["files"])


def test_07_joint_training_shows_its_prompts_and_searches_by_them(project):
    own = TRAIN | {"vary.count": 1}
    executed(project, "07_joint_image_text", {"overrides": own})
    (folder,) = (project / "outputs/demo/07_joint_image_text").iterdir()
    made = found(folder)["files"]
    names = {"prompts.csv", "consistency.csv", "attributes.csv", "texts.csv", "words_gained.csv"}
    names |= {f"figures/{name}.png" for name in ("consistency", "train_images", "cmc", "det")}
    names |= {"history.csv", "checkpoints/best.safetensors", "parts.csv"}
    assert names <= set(made)
    history = pd.read_csv(folder / "history.csv")
    assert history[["train/supcon", "train/id", "train/logit_scale", "val/mAP"]].notna().all().all()
    metrics = pd.read_csv(folder / "metrics.csv")
    directions = {"image_image", "text_image", "image_text"}
    assert directions <= set(metrics["direction"])
    by_words = metrics[metrics["direction"] == "text_image"].pivot_table(
        "value", "metric", "weights", aggfunc="first"
    )
    assert by_words.loc["mAP", "trained"] != by_words.loc["mAP", "pretrained"]
    assert by_words.loc["recall@1", "trained"] <= by_words.loc["hit@1", "trained"]
    said = pd.read_csv(folder / "prompts.csv")
    assert said["prompt"].str.contains("hand").all() and said["prompt"].nunique() > 8

    # prompts of a file are those that are trained on: the same texts exchanged between images
    said["prompt"] = said["prompt"].iloc[::-1].to_numpy()
    said.to_csv(project / "mine.csv", index=False)
    executed(
        project,
        "07_joint_image_text",
        {"overrides": own | {"prompts.file": "mine.csv", "fit.epochs": 1}},
    )
    (other,) = set((project / "outputs/demo/07_joint_image_text").iterdir()) - {folder}
    given = pd.read_csv(other / "prompts.csv").set_index("image_id")["prompt"]
    assert given.equals(said.set_index("image_id")["prompt"])
    assert pd.read_csv(other / "history.csv")["train/supcon"][0] != history["train/supcon"][0]


def test_08_searches_by_sentences_compares_recipes_and_answers_one(project):
    own = {"data.draw.people": 20, "data.draw.images": 4, "data.draw.size": 64}
    own |= {"evaluation.resamples": 100, "fit.epochs": 2, "fit.batch_size": 3}  # others need four
    for recipe in ("info_nce", "demo"):
        executed(project, "08_text_to_image", {"recipe": recipe, "overrides": own})
    base = project / "outputs/demo_captions/08_text_to_image"
    (folder,) = base.glob("demo-demo-*")
    made = found(folder)
    names = {"prompts.csv", "texts.csv", "parts.csv", "gains.csv", "recipes.csv", "ranks.csv"}
    names |= {"checkpoints/best.safetensors", "embeddings.safetensors", "history.csv"}
    sheets = ("negatives", "curves", "recalls", "sentences")
    assert names | {f"figures/{name}.png" for name in sheets} <= set(made["files"])
    assert made["split_sha256"] and made["weights_sha256"] and made["best_epoch"] in (0, 1)
    history = pd.read_csv(folder / "history.csv")
    measures = ["train/loss", "train/accuracy", "val/mAP", "val/recall@1", "val/loss"]
    assert history[measures].notna().all().all() and history["train/loss"].nunique() == 2
    metrics = pd.read_csv(folder / "metrics.csv")
    assert set(metrics["direction"]) == {"text_image", "image_text"}
    values = metrics[metrics["metric"] == "mAP"].pivot(
        index="direction", columns="weights", values="value"
    )
    assert (values["trained"] != values["pretrained"]).all() and (values > 0.01).all().all()
    beside = pd.read_csv(folder / "recipes.csv")
    others = {"contrastive", "triplet", "info_nce", "random_negatives"}
    assert set(beside["recipe"]) == {"demo", *others}
    why = beside.dropna(subset="why").set_index("recipe")["why"]
    refused = "fit.batch_size 3 holds no anchor with negatives.count 3"
    assert why["contrastive"].startswith(refused) and why["triplet"].startswith("not run yet")
    gain = beside[(beside["compared"] == "gain") & (beside["direction"] == "text_image")]
    gain = gain[gain["metric"] == "mAP"].set_index("recipe")["difference"]
    assert set(gain.index) == {"demo", "info_nce"}
    own = values.loc["text_image"]
    assert gain["demo"] == pytest.approx(own["trained"] - own["pretrained"])
    there = beside[beside["compared"] == "lead"]
    assert set(there["recipe"]) == {"info_nce"}
    other = pd.read_csv(next(base.glob("demo-info_nce-*")) / "metrics.csv")
    row = there[(there["direction"] == "text_image") & (there["metric"] == "mAP")].iloc[0]
    theirs = other[(other["direction"] == "text_image") & (other["weights"] == "trained")]
    theirs = theirs.set_index("metric")["value"]["mAP"]
    assert row["difference"] == pytest.approx(values.loc["text_image", "trained"] - theirs)


def test_08_makes_the_words_of_hands_that_have_none(project):
    own = {"data.draw.people": 20, "data.draw.images": 4, "data.draw.size": 64}
    own |= {"evaluation.resamples": 100, "fit.epochs": 1, "fit.batch_size": 8}
    executed(project, "08_text_to_image", {"dataset": "demo", "overrides": own})
    (folder,) = (project / "outputs/demo/08_text_to_image").iterdir()
    said = pd.read_csv(folder / "prompts.csv")
    assert said["prompt"].str.contains("hand").all() and said["prompt"].nunique() == 4
    texts = pd.read_csv(folder / "texts.csv")
    assert texts["images"].sum() > 3 * len(texts), "many images share a text"


def test_in_shop_goes_from_zero_shot_over_fine_tuning_to_joint_training(project):
    draw = {"data.draw.people": 24, "data.draw.images": 6, "data.draw.size": 64}
    own = {**draw, "evaluation.resamples": 100}
    fit = {**own, "fit.epochs": 1, "fit.people": 4, "fit.images": 2}
    shown = {"dataset": "demo_inshop"}
    executed(project, "02_zero_shot", shown | {"overrides": own})
    executed(project, "03_fine_tune", shown | {"overrides": fit})
    (tuned,) = (project / "outputs/demo_inshop/03_fine_tune").iterdir()
    warm = fit | {"model.weights": tuned.relative_to(project).as_posix()}
    executed(project, "07_joint_image_text", shown | {"overrides": warm})
    start = {"02_zero_shot": "pretrained", "03_fine_tune": "pretrained"}
    for folder in (project / "outputs/demo_inshop").glob("0[237]*/*"):
        ranks = pd.read_csv(folder / "ranks.csv")
        metrics = pd.read_csv(folder / "metrics.csv")
        assert found(folder)["split_sha256"]
        assert set(ranks["trial"]) == {0} and set(ranks["gallery"]) == {"default"}
        weights = start.get(folder.parent.name, "warm_start")
        assert weights in set(metrics["weights"]) and metrics["queries"].min() > 0
        images = ranks[(ranks["direction"] == "image_image") & (ranks["weights"] == weights)]
        assert images["query"].is_unique and images["rank"].notna().all()


@pytest.mark.parametrize(
    "parameters, said",
    [
        ({"datset": "demo"}, "unknown parameter datset; nearest: dataset"),
        ({"dataset": "dmo"}, "no params/datasets/dmo.yaml; nearest: demo"),
        ({"overrides": {"data.trails": 1}}, "unknown key data.trails"),
        ({"dataset": "11k_dorsal_r"}, "HandInfo.csv"),
    ],
)
def test_a_mistake_is_one_clear_line_and_leaves_no_manifest(project, parameters, said):
    answer = command(
        sys.executable, "-m", "papermill", "notebooks/01_prepare_data.ipynb", "out.ipynb",
        "-y", yaml.safe_dump(parameters), "-k", "python3", "--no-progress-bar",
    )  # fmt: skip
    assert answer.returncode != 0
    shown = answer.stderr[answer.stderr.index("Exception encountered") :]
    lines = [line for line in shown.splitlines() if line.strip("- ")]
    assert len(lines) == 2, shown  # the cell, and what was wrong
    assert said in lines[1]
    assert not list(project.rglob("manifest.json"))
