"""The literature's numbers, and our rows beside those that were measured in the same way."""

from pathlib import Path

import pandas as pd

from clipfh_lib.reports import tables

# Ours -> theirs. A run on 11k_all is tested per aspect on the people that the papers test.
DATASETS = {
    "11k_dorsal_r": "11k",
    "11k_dorsal_l": "11k",
    "11k_palmar_r": "11k",
    "11k_palmar_l": "11k",
    "11k_all": "11k",
    "hd": "hd",
}
# Queries per trial and people of the published protocol, by which a partial copy is known.
TESTED = {
    ("11k", "dorsal_r"): (971, 71),
    ("11k", "dorsal_l"): (988, 73),
    ("11k", "palmar_r"): (917, 71),
    ("11k", "palmar_l"): (948, 75),
    ("hd", "all"): (1992, 251),
}
SAME = ["family", "test_aspect", "gallery"]  # what must agree, beside the kind of AP
NUMBERS = ["rank1", "rank5", "rank10", "mAP", "mAP_trapezoid"]
COLUMNS = ["origin", "dataset", "test_aspect", "gallery", "method", "backbone", "recipe", "seed"]
COLUMNS += ["weights", "train_dataset", "train_aspect", *NUMBERS]
ENDS = [f"{name}_{end}" for name in NUMBERS for end in ("low", "high")]


def read() -> pd.DataFrame:
    """Published means over trials, fractions 0..1, each with its source; none was run by us.

    `average_precision` says what `mAP` is: `standard` (mean precision at the ranks of the matches)
    or `trapezoid` (the hand papers' code). `train_dataset` is empty for zero-shot. `dataset` is
    `11k` or `hd`; HD has test aspect `all` and gallery `default`, as in our results.
    """
    path = Path(__file__).resolve().parents[1] / "assets" / "published_results.csv"
    text = dict.fromkeys(["train_dataset", "train_aspect", "dataset", "note"], str)
    frame = pd.read_csv(path, dtype=text)
    return frame.fillna({"train_dataset": "", "train_aspect": "", "note": ""})


def why_not(row: pd.Series) -> str:
    """Why a row of ours has no published counterpart; empty if it may stand beside one.

    Args:
        row: of `tables.comparison`.
    """
    dataset = str(row["dataset"])
    if dataset.startswith("demo"):
        return "demo figures: drawn hands have no published counterpart"
    if "limited run" in str(row["remark"]):
        return "a limited run (data.limit) tests fewer images than the papers"
    if dataset not in DATASETS:
        return f"{dataset} is not the test set of the papers"
    if row["direction"] != "image_image":
        return f"{row['direction']}: the papers search images with images"
    if str(row["weights"]).endswith("_reranked"):
        return "re-ranked, which the papers' numbers are not"
    if str(row.get("notebook", "")) >= "10":
        return f"{row['notebook']} does not measure plain retrieval"
    expected = TESTED.get((DATASETS[dataset], row["test_aspect"]))
    if expected is None:
        return f"the papers report no test aspect {row['test_aspect']}"
    found = (round(float(row["queries"]), 2), int(row["people"]))
    if found != expected:
        return (
            f"not the published test set: {found[0]:g} queries of {found[1]} people per trial, "
            f"published {expected[0]} of {expected[1]}"
        )
    return ""


def beside(metrics: pd.DataFrame) -> pd.DataFrame:
    """All rows of ours, and after those of each protocol what was published for just that one.

    Only like stands beside like: same data set, test aspect and gallery, and a trapezoid average
    precision stands in the column `mAP_trapezoid`, never in `mAP`. Where no published number may
    stand beside a row, its `note` says why.

    Args:
        metrics: rows of metrics.csv, better from `tables.read_runs`, which knows limited runs.

    Returns:
        `origin` (`ours` or `published`), what names the row, fractions (ours with `_low` and
        `_high`), `source` and `note`. Empty is what was not measured or not reported.
    """
    ours = tables.comparison(metrics, NUMBERS)
    reasons = ours.apply(why_not, axis=1)
    family = ours["dataset"].map(DATASETS).where(reasons == "", "none")
    noted = ("not compared: " + reasons).where(reasons != "", "")
    ours = ours.assign(origin="ours", family=family, note=noted, source="this project")
    theirs = read().rename(columns={"dataset": "family"})
    theirs = theirs.assign(origin="published", dataset=theirs["family"])
    theirs["weights"] = (theirs["train_dataset"] != "").map({True: "trained", False: "pretrained"})
    theirs["mAP_trapezoid"] = theirs["mAP"].where(theirs["average_precision"] == "trapezoid")
    theirs["mAP"] = theirs["mAP"].where(theirs["average_precision"] == "standard")
    parts = []
    for group, rows in ours.groupby(SAME, sort=False):
        parts.append(rows)
        parts.append(theirs[(theirs[SAME] == list(group)).all(axis=1)])
    found = pd.concat([part for part in parts if len(part)], ignore_index=True)
    for text in ("recipe", "train_dataset", "train_aspect"):  # known of one side only
        found[text] = found.get(text, pd.Series(index=found.index, dtype=object)).fillna("")
    found = found.reindex(columns=[*COLUMNS, *ENDS, "source", "note"])
    return found.astype({"seed": "Int64"})
