"""What training changed, for reading."""

import pandas as pd

METRICS = ("rank1", "mAP")


def printed(compared: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """Points of rank-1 and mAP that the first weights are ahead, with their 95 % intervals.

    Args:
        compared: of `retrieval.compare`, the trained weights first.
        dataset: its name; of drawn hands the table says so.

    Returns:
        A row for each test aspect, gallery, `all` and `far`; a star where zero lies outside.
    """
    kept = compared[compared["metric"].isin(METRICS) & compared["subset"].isin(["all", "far"])]
    sure = (kept["low"] > 0) | (kept["high"] < 0)
    points = 100 * kept[["difference", "low", "high"]]
    said = [
        f"{value:+.1f} [{low:+.1f}, {high:+.1f}]{' *' * star}"
        for (value, low, high), star in zip(points.to_numpy(), sure, strict=True)
    ]
    rows = ["test_aspect", "gallery", "subset", "queries", "people"]
    wide = kept[rows].assign(metric=kept["metric"], said=said)
    shown = wide.pivot_table("said", rows, "metric", aggfunc="first", sort=False)[list(METRICS)]
    shown = shown.rename_axis(columns=None).reset_index()
    return shown.assign(remark="demo figures") if dataset.startswith("demo") else shown
