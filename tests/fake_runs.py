"""Run folders of a small plan, written as runs write them but without a model."""

import functools
import io

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from clipfh_lib import files, plans
from clipfh_lib.evaluation import retrieval

PEOPLE, EACH = 20, 6
SPLIT = "5" * 64


def ranks(weights: str, hits: float, seed: int) -> pd.DataFrame:
    """Ranks of 20 people, 6 queries each, in two trials: right with a chance, else third."""
    draw = np.random.default_rng(seed)
    frames = []
    for trial in (0, 1):
        found = np.where(draw.random(PEOPLE * EACH) < hits, 1, 3)
        frames.append(
            pd.DataFrame(
                {
                    "weights": weights,
                    "direction": "image_image",
                    "test_aspect": "all",
                    "trial": trial,
                    "gallery": "same_aspect",
                    "query": [f"q{number:03}" for number in range(PEOPLE * EACH)],
                    "pid": np.repeat(np.arange(PEOPLE), EACH),
                    "rank": found,
                    "ranks": found.astype(str),
                    "gap": np.where(np.arange(PEOPLE * EACH) % 2, 3, 30),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def plan(project, *cells, name="tiny", against=None, **data):
    """Write a plan and give its runs; data are overrides of every cell, `data.photographs` say."""
    cells = cells or (
        {"notebook": "01_prepare_data", "dataset": "demo"},
        {"notebook": "02_zero_shot", "dataset": "demo", "backbone": "demo", "recipe": "default"},
        {"notebook": "03_fine_tune", "dataset": "demo", "backbone": "demo", "recipe": "demo"},
    )
    cells = [{**cell, "overrides": {**data, **cell.get("overrides", {})}} for cell in cells]
    content = {"cells": cells} | ({"against": against} if against else {})
    (project / f"params/plans/{name}.yaml").write_text(yaml.safe_dump(content))
    return plans.jobs(name, "outputs")


def finish(job, *tables, figures=(), made=None, **csv):
    """Complete a run: ranks.csv and metrics.csv of what it ranked, figures, further tables."""
    folder, params = job.folder, job.params.model_dump(mode="json")
    files.write_text(folder / "params.yaml", yaml.safe_dump(params))
    if tables:
        table = pd.concat(tables, ignore_index=True)
        who = {name: params[name] for name in ("dataset", "method", "backbone", "recipe", "seed")}
        files.write_csv(folder / "ranks.csv", table)
        files.write_csv(
            folder / "metrics.csv", retrieval.summarise(table, 200).metrics.assign(**who)
        )
    for name, table in csv.items():
        files.write_csv(folder / f"{name}.csv", table)
    for name in figures:
        draw(folder, name)
    seal(folder, {"params": params, **(made or {})})
    return folder


@functools.cache
def drawn(kind):
    """The bytes of a small figure."""
    held = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(held, format=kind)
    return held.getvalue()


def draw(folder, name):
    """A figure as PNG and PDF."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for kind in ("png", "pdf"):
        (folder / "figures" / f"{name}.{kind}").write_bytes(drawn(kind))


def seal(folder, made=None):
    """Write the manifest (anew) over what stands in the folder now."""
    old = folder / "manifest.json"
    made = made or files.read_sealed(old)
    made = {"notebook": folder.parent.name, "split_sha256": SPLIT, "commit": "c" * 40} | made
    made = {"clean": True, "seconds": 61.4, "peak_memory_mb": 1500.0, "versions": {}} | made
    held = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != old]
    made["files"] = {path.relative_to(folder).as_posix(): files.sha256(path) for path in held}
    files.write_sealed(old, made)


def prepared(job, figures=("sample", "split_sizes")):
    """A finished run of 01_prepare_data with one finding that wants attention."""
    images = pd.DataFrame({"image_id": ["a", "b", "c"], "pid": [1, 1, 2], "aspect": "dorsal_r"})
    split = images.assign(test_aspect="dorsal_r", role=["query", "gallery", "gallery"], trial=0)
    split["gallery"] = [None, "same_aspect", "same_aspect"]
    traps = pd.DataFrame(
        {
            "trap": ["bursts", "doubled files"],
            "finding": ["dorsal_r: 19.3% of queries within 1 file numbers", "no double"],
            "count": [3, 0],
            "people": [2, 0],
            "images": [3, 0],
            "verdict": ["look at far", "nothing to do"],
        }
    )
    aside = pd.DataFrame({"path": ["broken.jpg"], "row": [1], "reason": ["truncated"]})
    return finish(job, figures=figures, images=images, split=split, traps=traps, set_aside=aside)


def finished(project, **data):
    """A plan of three runs, all complete, fine-tuned well above zero-shot; and its jobs."""
    jobs = plan(project, **data)
    prepared(jobs[0])
    start = ranks("pretrained", 0.4, 1)
    finish(jobs[1], start, figures=["ranked_lists", "cmc"])
    finish(jobs[2], ranks("trained", 0.9, 2), start, figures=["train_images"])
    return jobs
