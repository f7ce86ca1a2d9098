import pandas as pd
import pytest

from clipfh_lib.reports import published

QUERIES = {"dorsal_r": (971, 71), "palmar_l": (948, 75), "all": (1992, 251)}


def row(dataset="11k_dorsal_r", aspect="dorsal_r", gallery="same_aspect", **other):
    """Two rows of metrics.csv, rank1 and mAP, of the published test set unless told otherwise."""
    queries, people = QUERIES[aspect]
    frame = pd.DataFrame(
        {"dataset": dataset, "test_aspect": aspect, "gallery": gallery, "method": "zero_shot"}
        | {"backbone": "vit_b16", "recipe": "default", "seed": 0, "weights": "pretrained"}
        | {"subset": "all", "direction": "image_image", "metric": ["rank1", "mAP", "mAP_trapezoid"]}
        | {"value": [0.71, 0.79, 0.75], "low": 0.6, "high": 0.8, "sd": 0.01}
        | {"queries": float(queries), "people": people}
    )
    return frame.assign(**other)


def test_published_rows_have_a_source_and_fractions_and_say_which_average_precision_they_mean():
    rows = published.read()
    assert len(rows) == 74
    assert (rows["source"].str.len() > 10).all()
    assert rows["average_precision"].isin(["standard", "trapezoid"]).all()
    numbers = rows[["rank1", "rank5", "rank10", "mAP"]]
    assert numbers["rank1"].notna().all() and numbers["mAP"].notna().all()
    assert numbers.max().max() < 1 and numbers.min().min() > 0.2
    assert rows["trials"].isin([9, 10]).all()  # means over trials, no single one
    # trapezoid was measured in the gallery of all aspects or on HD, standard in that of one aspect
    kinds = rows.groupby("average_precision")["gallery"].unique()
    assert list(kinds["standard"]) == ["same_aspect"]
    assert set(kinds["trapezoid"]) == {"all_aspects", "default"}


@pytest.mark.parametrize(
    "method, aspect, gallery, backbone, train, rank1, mean_ap",
    [  # anchors, read again in the papers' tables
        ("MBA-Net", "dorsal_r", "all_aspects", "ResNet-50", "11k", 0.9745, 0.9798),
        ("MBA-Net", "all", "default", "ResNet-50", "hd", 0.9512, 0.9554),
        ("ABD-Net", "all", "default", "ResNet-50", "11k", 0.7122, 0.7386),
        ("CLIP zero-shot", "dorsal_r", "same_aspect", "ViT-B/16", "", 0.7142, 0.7898),
        ("CLIP zero-shot", "dorsal_r", "all_aspects", "ViT-B/16", "", 0.7044, 0.7431),
        ("CLIP-FH joint v5", "dorsal_r", "same_aspect", "ViT-B/16", "11k", 0.8818, 0.9220),
        ("CLIP-FH PromptSG v8", "dorsal_r", "same_aspect", "ViT-B/16", "11k", 0.8586, 0.8999),
    ],
)
def test_published_numbers_are_the_papers(method, aspect, gallery, backbone, train, rank1, mean_ap):
    rows = published.read()
    rows = rows[(rows["method"] == method) & (rows["test_aspect"] == aspect)]
    rows = rows[(rows["gallery"] == gallery) & (rows["backbone"] == backbone)]
    rows = rows[rows["train_dataset"] == train]
    assert rows[["rank1", "mAP"]].to_numpy().tolist() == [[rank1, mean_ap]]


def test_only_like_stands_beside_like():
    table = published.beside(pd.concat([row(), row("hd", "all", "default")], ignore_index=True))
    theirs = table[table["origin"] == "published"]
    places = set(zip(theirs["dataset"], theirs["test_aspect"], theirs["gallery"], strict=True))
    assert places == {("11k", "dorsal_r", "same_aspect"), ("hd", "all", "default")}
    assert "MBA-Net" not in set(theirs.loc[theirs["dataset"] == "11k", "method"])
    assert list(table["origin"])[:2] == ["ours", "published"]  # each protocol's rows together
    ours = table[table["origin"] == "ours"]
    assert ours["rank1"].tolist() == [0.71, 0.71] and set(ours["note"]) == {""}


def test_a_trapezoid_average_precision_never_stands_in_the_column_of_the_standard_one():
    table = published.beside(row(gallery="all_aspects"))
    net = table[table["method"] == "MBA-Net"].iloc[0]
    assert net["mAP_trapezoid"] == 0.9798 and pd.isna(net["mAP"])
    table = published.beside(row(gallery="same_aspect"))
    joint = table[(table["method"] == "CLIP-FH joint v5") & (table["backbone"] == "ViT-B/16")]
    joint = joint.iloc[0]
    assert joint["mAP"] == 0.922 and pd.isna(joint["mAP_trapezoid"])


@pytest.mark.parametrize(
    "frame, why",
    [
        (row("demo"), "demo figures"),
        (row("demo_hd", "all", "default"), "demo figures"),
        (row(limited=True), "limited run"),
        (row("11k_sample"), "11k_sample is not the test set"),
        (row("folders"), "folders is not the test set"),
        (row(queries=300.0), "300 queries of 71 people per trial, published 971 of 71"),
        (row(people=40), "971 queries of 40 people"),
        (row("11k_all", "all"), "no test aspect all"),
        (row(direction="text_image"), "text_image"),
        (row(notebook="10_robustness", run="x"), "10_robustness does not measure"),
    ],
)
def test_what_was_not_measured_on_the_published_test_set_stands_alone_and_says_why(frame, why):
    table = published.beside(frame)
    assert list(table["origin"]) == ["ours"]
    assert table["note"].iloc[0].startswith("not compared: ") and why in table["note"].iloc[0]


def test_a_run_on_all_aspects_is_compared_aspect_by_aspect():
    table = published.beside(row("11k_all", "palmar_l"))
    theirs = table[table["origin"] == "published"]
    assert set(theirs["test_aspect"]) == {"palmar_l"} and len(theirs) == 2


def test_re_ranked_rows_stand_beside_no_published_ones():
    table = published.beside(pd.concat([row(), row(weights="pretrained_reranked")]))
    notes = table[table["origin"] == "ours"].set_index("weights")["note"]
    assert notes["pretrained"] == ""
    assert notes["pretrained_reranked"].startswith("not compared: re-ranked")
    alone = published.beside(row(weights="pretrained_reranked"))
    assert set(alone["origin"]) == {"ours"}
