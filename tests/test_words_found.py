"""Tables and figure of texts and images that search each other."""

import numpy as np
import pandas as pd
import pytest
from test_figures import cut_or_overlapping, legend
from test_figures import metrics as of_images
from test_text_image import simulated

from clipfh_lib.evaluation import text_image
from clipfh_lib.files import InputError
from clipfh_lib.reports import figures, matrices, tables, words_found


def metrics(dataset="demo", recipe="demo", noise=0.3, **run):
    """Of a run that searches by texts, trained and pretrained, beside its retrieval of images."""
    images, texts, found = simulated(people=20)
    worse = images + np.random.default_rng(1).standard_normal(images.shape).astype(np.float32)
    own = images + noise * np.random.default_rng(2).standard_normal(images.shape)
    parts = [
        text_image.evaluate(array.astype(np.float32), texts, found, name, resamples=200).metrics
        for array, name in ((own, "trained"), (worse, "pretrained"))
    ]
    who = {"dataset": dataset, "method": "text_to_image", "backbone": "demo", "recipe": recipe}
    who |= {"seed": 0, "notebook": "08_text_to_image", "run": f"demo-{recipe}-seed0"}
    rest = of_images().assign(**who).query("gallery == 'same_aspect'")
    parts = [part.assign(**who) for part in parts]
    return pd.concat([*parts, rest], ignore_index=True).assign(**run)


def test_a_table_has_a_row_for_each_direction_in_percent_with_intervals():
    own = metrics()
    shown = words_found.summary(own)
    assert shown["direction"].tolist() == ["text → image"] * 2 + ["image → text"] * 2
    assert shown["weights"].tolist() == ["trained", "pretrained"] * 2
    names = ["recall@1, %", "recall@5, %", "recall@10, %", "hit@1, %", "mAP, %", "NDCG@10, %"]
    assert set([*names, "median rank", "queries (units)"]) <= set(shown)
    rows = own.set_index(["direction", "weights", "metric"])
    for column, metric, scale in (("mAP, %", "mAP", 100), ("median rank", "median_rank", 1)):
        one = rows.loc[("text_image", "trained", metric)]
        ends = (scale * one[name] for name in ("value", "low", "high"))
        assert shown[column][0] == "{:.1f} [{:.1f}, {:.1f}]".format(*ends)
    assert shown["queries (units)"].tolist() == ["30 (30)"] * 2 + ["80 (20)"] * 2
    assert set(shown["remark"]) == {"demo figures"}
    assert "test aspect" not in shown and "gallery" not in shown


def test_weights_that_nobody_trained_stand_once_and_runs_beside_each_other():
    both = pd.concat([metrics(), metrics(recipe="info_nce", noise=0.9)], ignore_index=True)
    table = words_found.comparison(both)
    assert len(table) == 8
    shown = words_found.printed(table)
    hidden = {"ndcg@1": "NDCG@1", "ndcg@5": "NDCG@5", "hit@5": "hit@5"}  # a printed page is narrow
    assert set(hidden) <= set(table) and table[[*hidden]].notna().all(axis=None)
    assert not [name for name in shown if name.split(",")[0] in {*hidden, *hidden.values()}]
    said = shown[shown["direction"] == "text → image"][["recipe", "weights"]].to_numpy().tolist()
    assert said == [["demo", "trained"], ["demo", "pretrained"], ["info_nce", "trained"]]


def test_naming_and_retrieval_of_images_do_not_stand_there_and_nothing_is_a_line():
    own = metrics()
    naming = own[own["metric"] == "rank1"].assign(metric="named", direction="image_text")
    pd.testing.assert_frame_equal(
        words_found.comparison(own), words_found.comparison(pd.concat([own, naming]))
    )
    empty = words_found.comparison(pd.concat([of_images(), naming]))
    assert empty.empty and {"recall@1", "direction", "dataset"} <= set(empty)
    assert words_found.printed(empty).to_numpy().tolist() == [[words_found.NONE]]


def test_gains_are_points_with_a_star_where_zero_lies_outside():
    rows = [
        ("text_image", "recall@1", 0.1, 0.02, 0.2),
        ("text_image", "hit@1", 0.05, -0.01, 0.2),
        ("text_image", "mAP", -0.1, -0.2, -0.001),
        ("text_image", "ndcg@10", 0.0, -0.2, 0.2),
    ]
    compared = pd.DataFrame(rows, columns=["direction", "metric", "difference", "low", "high"])
    compared = pd.concat([compared, compared.assign(direction="image_text")], ignore_index=True)
    shown = words_found.gains(compared.assign(queries=12.0, people=3), "demo")
    assert shown["direction"].tolist() == ["text → image", "image → text"]
    first = shown.iloc[0]
    assert first["recall@1"] == "+10.0 [+2.0, +20.0] *" and first["hit@1"] == "+5.0 [-1.0, +20.0]"
    assert first["mAP"] == "-10.0 [-20.0, -0.1] *" and first["NDCG@10"] == "+0.0 [-20.0, +20.0]"
    assert (first["queries"], first["units"], first["remark"]) == (12, 3, "demo figures")
    assert "remark" not in words_found.gains(compared.assign(queries=1.0, people=1), "captions")


def test_the_figure_draws_the_values_with_their_intervals_a_row_for_each_data_set():
    both = pd.concat([metrics(), metrics("captions", "info_nce")], ignore_index=True)
    figure = words_found.recalls(both)
    assert figure.get_suptitle() == "data set demo (demo figures), captions"
    assert len(figure.axes) == 4 and cut_or_overlapping(figure) == []
    assert legend(figure) == [
        "demo trained", "demo pretrained", "info_nce trained", "info_nce pretrained"
    ]  # fmt: skip
    rows = both[(both["direction"] == "text_image") & (both["dataset"] == "demo")]
    rows = rows[rows["weights"] == "trained"].set_index("metric")
    for axes, kind in zip(figure.axes[:2], ("recall", "hit"), strict=True):
        line, _, (bars,) = axes.containers[0]
        names = [f"{kind}@{k}" for k in (1, 5, 10)]
        ends = [path[:, 1] for path in bars.get_segments()]
        drawn = np.column_stack([line.get_ydata(), ends])
        expected = rows.loc[names, ["value", "low", "high"]].to_numpy(float)
        np.testing.assert_allclose(drawn.astype(float), expected)
    other = words_found.recalls(both, direction="image_text")
    assert other.axes[0].get_ylabel() == "image → text\ndemo"
    turned = other.axes[0].containers[0][0].get_ydata().astype(float)
    assert not np.allclose(turned, figure.axes[0].containers[0][0].get_ydata().astype(float))


def test_reports_of_images_say_so_where_a_plan_searches_by_words_alone(tmp_path):
    own = metrics().query("direction != 'image_image'")
    path = tmp_path / "08_text_to_image" / "demo-demo-seed0"
    path.mkdir(parents=True)
    own.drop(columns=["notebook", "run"]).to_csv(path / "metrics.csv", index=False)
    (path / "params.yaml").write_text("dataset: demo\nrecipe: demo\nseed: 0\ndata: {}\n")
    (path / "manifest.json").write_text("{}")
    said = "no run searches images by images"
    curves = figures.cmc(tables.read_curves([path]))
    assert curves.axes[0].texts[0].get_text() == said and curves.get_suptitle() == ""
    assert figures.bars(own).axes[0].texts[0].get_text() == said
    shown = matrices.printed(matrices.train_by_test([path]))
    assert shown.to_numpy().tolist() == [[said]]
    assert len(tables.comparison(tables.read_runs([path]))) == 4  # each direction a row of its own


def test_the_figure_says_so_where_nothing_was_searched_by_words():
    figure = words_found.recalls(of_images(), dataset="hd")
    assert figure.axes[0].texts[0].get_text() == words_found.NONE
    with pytest.raises(InputError, match="no column dataset"):
        words_found.recalls(metrics().drop(columns="dataset"))
