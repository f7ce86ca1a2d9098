from statistics import NormalDist

import matplotlib.colors as colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from clipfh_lib.files import InputError
from clipfh_lib.reports import figures, panels, pictures, style

GAPS = ["gap_1", "gap_2", "gap_3_5", "gap_6_10", "gap_11_50", "gap_51_up"]


def metrics(dataset="demo", weights=("pretrained", "untrained", "pixels"), **run):
    rows = []
    for gallery in ("same_aspect", "all_aspects"):
        for place, name in enumerate(weights):
            values = {("all", "rank1"): 0.7, ("all", "mAP"): 0.8, ("all", "eer"): 0.123}
            values |= {("far", "eer"): 0.3, ("far", "rank1"): 0.4, ("far", "mAP"): 0.5}
            values |= {(gap, "rank1"): 0.8 - 0.1 * i for i, gap in enumerate(GAPS)}
            for (subset, metric), value in values.items():
                value -= 0.1 * place
                rows.append(
                    {"dataset": dataset, "test_aspect": "dorsal_r", "method": "zero_shot"}
                    | {"backbone": "demo", "recipe": "demo", "seed": 0, "weights": name}
                    | {"gallery": gallery, "subset": subset, "direction": "image_image"}
                    | {"metric": metric, "value": value, "low": value - 0.05}
                    | {"high": value + 0.08, "queries": 50.0, "people": 30 - len(subset)}
                )
    return pd.DataFrame(rows).assign(**run)


def curves(weights=("pretrained", "untrained", "pixels"), **run):
    rows = [
        (name, "all", gallery, rank, 1 - (0.5 + 0.1 * i) / rank)
        for gallery in ("same_aspect", "all_aspects")
        for i, name in enumerate(weights)
        for rank in range(1, 51)
    ]
    frame = pd.DataFrame(rows, columns=["weights", "test_aspect", "gallery", "rank", "value"])
    return frame.assign(low=frame["value"] - 0.03, high=frame["value"] + 0.03, **run)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def cut_or_overlapping(figure: Figure) -> list[str]:
    """Texts that leave the page, lie on one another or are too small, as they are drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, page = canvas.get_renderer(), figure.bbox
    texts = [figure._suptitle, *(text for one in figure.legends for text in one.get_texts())]
    for axes in figure.axes:
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            ends = sorted(axis.get_view_interval())
            shown = [t for t in axis.get_major_ticks() if ends[0] <= t.get_loc() <= ends[1]]
            texts += [tick.label1 for tick in shown if tick.label1.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text().strip()]
    letters = [text for text in figure.findobj(Text) if text.get_text().strip()]
    bad = [f"small: {text}" for text in letters if text.get_fontsize() < style.SMALL]
    bad += [f"cut: {text}" for text, box in boxes if not (box.x0 >= -1 and box.x1 <= page.x1 + 1)]
    bad += [f"cut: {text}" for text, box in boxes if not (box.y0 >= -1 and box.y1 <= page.y1 + 1)]
    for i, (text, box) in enumerate(boxes):
        for other, second in boxes[:i]:
            wide = min(box.x1, second.x1) - max(box.x0, second.x0)
            tall = min(box.y1, second.y1) - max(box.y0, second.y0)
            if wide > 1 and tall > 1:
                bad.append(f"overlap: {text!r} {other!r}")
    return bad


# --- what all figures share --------------------------------------------------------------------


def counts():
    aspects = ["dorsal_r", "palmar_r"]
    return pd.DataFrame([[90, 10], [0, 0]], index=aspects, columns=aspects)


def det_curves():
    threshold = np.linspace(-3, 3, 50)
    rates = {"far": 1 / (1 + np.exp(2 * threshold)), "frr": 1 / (1 + np.exp(2 - 2 * threshold))}
    frames = [
        pd.DataFrame({"weights": name, "test_aspect": "dorsal_r", "gallery": gallery, **rates})
        for gallery in ("same_aspect", "all_aspects")
        for name in ("pretrained", "pixels")
    ]
    return pd.concat(frames).assign(threshold=1.0)


def score_counts(galleries=("same_aspect", "all_aspects"), weights=("pretrained", "pixels")):
    edges = np.linspace(-0.5, 1, 61)
    frames = []
    for gallery in galleries:
        for name in weights:
            for kind, middle in (("mated", 0.8), ("non-mated", 0.4), ("distractor", 0.1)):
                if kind != "distractor" or gallery != "same_aspect":
                    count = (1e5 * np.exp(-(((edges[:-1] - middle) / 0.1) ** 2))).astype(int)
                    bins = {"low": edges[:-1], "high": edges[1:], "count": count}
                    who = {"weights": name, "test_aspect": "dorsal_r", "gallery": gallery}
                    frames.append(pd.DataFrame({**who, "kind": kind, **bins}))
    return pd.concat(frames, ignore_index=True)


def thresholds():
    who = {"weights": "pretrained", "test_aspect": "dorsal_r", "gallery": "same_aspect"}
    return pd.DataFrame({**who, "far": [0.1, 0.01, 0.001], "threshold": [0.3, 0.6, 0.7]})


def search_curves(**run):
    threshold = np.linspace(-3, 3, 50)
    fpir = 1 / (1 + np.exp(2 * threshold))
    frames = [
        pd.DataFrame({"weights": name, "fpir": fpir, "fnir": missed + (1 - missed) * (1 - fpir)})
        for name, missed in (("pretrained", 0.1), ("pixels", 0.4))
    ]
    where = {"test_aspect": "all", "gallery": "enrolled", "threshold": 1.0}
    return pd.concat(frames, ignore_index=True).assign(**where, **run)


def search_metrics():
    where = {"test_aspect": "all", "gallery": "enrolled", "subset": "all", "weights": "pretrained"}
    return pd.DataFrame(
        [("fnir@1e-2", 0.9, 0.8, 0.95), ("fnir@1e-1", 0.7, 0.06, 0.75), ("val_fnir@1e-1", 0, 0, 0)],
        columns=["metric", "value", "low", "high"],
    ).assign(**where)


def history():
    epochs = np.arange(12)
    return pd.DataFrame(
        {"epoch": epochs, "train/loss": 3 / (epochs + 1), "train/triplet": 1 / (epochs + 1)}
        | {"train/accuracy": 1 - 1 / (epochs + 1), "train/logit_scale": 15.0, "val/loss": 2.0}
        | {"val/mAP": 1 - 0.5 / (epochs + 1), "lr": 1e-5 * (epochs + 1), "seconds": 2.0}
    )


def split():
    rows = [(f"t{i}", i, "dorsal_r", None, "train", None, None) for i in range(5)]
    rows += [("q", 9, "dorsal_r", "dorsal_r", "query", t, None) for t in range(2)]
    rows += [("g", 9, "dorsal_r", "dorsal_r", "gallery", t, "same_aspect") for t in range(2)]
    columns = ["image_id", "pid", "aspect", "test_aspect", "role", "trial", "gallery"]
    return pd.DataFrame(rows, columns=columns)


def table_of_pictures():
    aspects = ["dorsal_r"] * 5 + ["palmar_l"] * 3
    return pd.DataFrame({"image_id": list("abcdefgh"), "pid": 1048, "aspect": aspects})


def shades(number):
    return np.stack([np.full((9, 12, 3), 20 * i, np.uint8) for i in range(number)])


def sentences():
    """Four pictures that one sentence found and three of another, whose gallery ends there."""
    long = "A dorsal right hand with a ring on the index finger, dark skin, red nail polish, " * 3
    rows = [(f"{long}.", "best", 1, rank, 0.9 - rank / 10, rank in (1, 3)) for rank in range(1, 5)]
    rows += [("A palm", "worst", 3, rank, 0.5 - rank / 10, rank == 3) for rank in range(1, 4)]
    names = ["sentence", "kind", "first", "rank", "similarity", "right"]
    return pd.DataFrame(rows, columns=names)


def ranks():
    """One query, whose right image is at rank 2; another whose right ones are at 1 and 4."""
    frame = pd.DataFrame(
        {"query": ["a", "b"], "pid": [1048, 1049], "rank": [2, 1], "ranks": ["2", "1 4"]}
        | {"gallery": "same_aspect", "kind": ["worst", "best"]}
    )
    found = dict(zip("top_1 top_2 top_3 top_4".split(), "cdef", strict=True))
    return frame.assign(**found)


FRAMED = [  # (figure, its frame): none of them has a column dataset
    (figures.cmc, curves()),
    (figures.det, det_curves()),
    (figures.scores, score_counts()),
    (figures.open_set, search_curves()),
    (figures.confusion, counts()),
    (figures.split_sizes, split()),
    (figures.training_curves, history()),
    (lambda frame, **k: pictures.image_grid(frame, shades(8), **k), table_of_pictures()),
    (lambda frame, **k: pictures.ranked_lists(frame, table_of_pictures(), shades(8), **k), ranks()),
    (lambda frame, **k: pictures.searched(frame, shades(7), **k), sentences()),
]
NAMES = [
    "cmc",
    "det",
    "scores",
    "open_set",
    "confusion",
    "split_sizes",
    "training_curves",
    "grid",
    "ranked",
    "searched",
]


@pytest.mark.parametrize("draw, frame", FRAMED, ids=NAMES)
def test_a_figure_says_demo_figures_and_limited_run_and_is_refused_without_a_data_set(draw, frame):
    drawn = draw(frame, dataset="demo_hd", limited=True)
    assert type(drawn) is Figure and drawn.get_figwidth() in (style.COLUMN, style.WIDTH)
    said = drawn._suptitle.get_text().replace("\n", " ")
    assert said == "data set demo_hd (demo figures; limited run)"
    assert draw(frame, dataset="hd")._suptitle.get_text() == "data set hd"
    with pytest.raises(InputError, match="pass dataset="):
        draw(frame)


@pytest.mark.parametrize("draw, frame", FRAMED, ids=NAMES)
def test_no_text_is_cut_or_lies_on_another(draw, frame):
    assert cut_or_overlapping(draw(frame, dataset="11k_palmar_l")) == []


@pytest.mark.parametrize("draw", [figures.bars, figures.burst_gap])
def test_figures_of_metrics_take_the_data_set_from_the_rows(draw):
    figure = draw(metrics("demo", limited=True))
    assert figure._suptitle.get_text() == "data set demo (demo figures; limited run)"
    assert cut_or_overlapping(figure) == []


def test_weights_have_looks_that_differ_in_colour_and_in_grey():
    looks = style.looks(list(style.WEIGHTS))
    for part in ("color", "linestyle", "marker"):
        assert len({str(look[part]) for look in looks.values()}) == len(style.WEIGHTS)
    runs = [f"run {number}" for number in range(len(style.LOOKS))]
    several = style.looks([*runs, "pixels"])
    assert len({str(look) for look in several.values()}) == len(style.LOOKS) + 1
    assert several["pixels"] == looks["pixels"]


# --- retrieval ---------------------------------------------------------------------------------


def test_cmc_draws_the_values_with_their_bands_in_a_panel_per_gallery():
    figure = figures.cmc(curves(), dataset="demo", ranks=10)
    assert [axes.get_title() for axes in figure.axes] == [
        "all aspects together, gallery of the same aspect",
        "all aspects together, gallery of all aspects",
    ]
    first = figure.axes[0]
    assert legend(figure) == ["pretrained", "untrained", "pixels"]
    drawn = first.get_lines()[1]
    assert drawn.get_xdata().tolist() == list(range(1, 11))
    assert drawn.get_ydata() == pytest.approx([1 - 0.6 / k for k in range(1, 11)])
    assert len(first.collections) == 3  # bands
    assert first.collections[1].get_paths()[0].get_extents().y0 == pytest.approx(0.4 - 0.03)


def test_cmc_of_several_runs_tells_them_apart_and_draws_equal_pixels_once():
    who = {"method": "zero_shot", "recipe": "demo", "seed": 0, "dataset": "demo"}
    both = pd.concat([curves(backbone=name, **who) for name in ("demo", "timm_mobilenetv2")])
    figure = figures.cmc(both)
    assert sorted(legend(figure)) == [
        "demo pretrained", "demo untrained", "pixels",
        "timm_mobilenetv2 pretrained", "timm_mobilenetv2 untrained",
    ]  # fmt: skip
    assert len(figure.axes[0].get_lines()) == 5
    assert cut_or_overlapping(figure) == []


def test_pixels_that_differ_between_runs_are_both_drawn():
    who = {"method": "zero_shot", "backbone": "demo", "recipe": "demo", "dataset": "demo"}
    both = [curves(["pixels"], run=run, seed=0, **who) for run in ("whole", "limited")]
    both[1]["value"] -= 0.1
    assert legend(figures.cmc(pd.concat(both))) == ["pixels (whole)", "pixels (limited)"]


def test_bars_show_all_and_far_with_their_intervals_and_hatch_the_far_ones():
    figure = figures.bars(metrics())
    first = figure.axes[0]
    whole, far = first.patches[:3], first.patches[3:]
    assert [bar.get_width() for bar in whole] == pytest.approx([0.7, 0.6, 0.5])
    assert [bar.get_width() for bar in far] == pytest.approx([0.4, 0.3, 0.2])
    assert {bar.get_hatch() for bar in far} == {"////"}
    assert {bar.get_hatch() for bar in whole}.isdisjoint({"////"})
    ends = first.collections[0].get_segments()[0][:, 0]
    assert ends == pytest.approx([0.65, 0.78])
    assert [text.get_text() for text in first.texts][:3] == ["70.0", "60.0", "50.0"]
    names = [text.get_text() for text in first.get_yticklabels()]
    assert names == ["pretrained", "untrained", "pixels"]
    assert "same aspect" in first.get_title(loc="left")


def test_bars_never_mix_galleries():
    figure = figures.bars(metrics(), gallery="all_aspects")
    assert len(figure.axes[0].patches) == 6
    assert "gallery of all aspects" in figure.axes[0].get_title(loc="left")
    with pytest.raises(InputError, match="no gallery default; there is same_aspect, all_aspects"):
        figures.bars(metrics(), gallery="default")


def test_burst_gap_draws_each_gap_with_its_people():
    figure = figures.burst_gap(metrics(weights=["pixels"]))
    axes = figure.axes[0]
    line = axes.get_lines()[0]
    assert line.get_ydata() == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    texts = [text.get_text() for text in axes.get_xticklabels()]
    missing = metrics(weights=["pixels"]).query("subset != 'gap_6_10'")
    broken = figures.burst_gap(missing).axes[0].get_lines()[0].get_ydata()
    assert np.isnan(np.asarray(broken, float)).tolist() == [
        i == 3 for i in range(6)
    ]  # no line over what is not there
    assert texts[0] == "1\n(25)" and texts[5] == "51+\n(21)"


def test_data_sets_have_panels_of_their_own_and_are_named_with_what_must_be_said():
    hd = curves().query("gallery == 'same_aspect'").assign(gallery="default", dataset="hd")
    both = pd.concat([curves(dataset="demo", limited=True), hd.assign(limited=False)])
    figure = figures.cmc(both)
    assert figure._suptitle.get_text() == "data set demo (demo figures; limited run), hd"
    assert [axes.get_title() for axes in figure.axes] == [
        "demo, all aspects together,\ngallery of the same aspect",
        "demo, all aspects together,\ngallery of all aspects",
        "hd",
    ]
    assert [len(axes.get_lines()) for axes in figure.axes] == [3, 3, 3]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "rank k", "rank k"]
    assert cut_or_overlapping(figure) == []


def test_bars_of_several_data_sets_show_each_in_its_first_gallery():
    hd = metrics("hd").query("gallery == 'same_aspect'").assign(gallery="default")
    figure = figures.bars(pd.concat([metrics("demo"), hd.assign(test_aspect="all")]))
    titles = [axes.get_title(loc="left") for axes in figure.axes[::2]]
    assert titles == ["demo, dorsal right, gallery of the same aspect", "hd"]
    assert [len(axes.patches) for axes in figure.axes] == [6, 6, 6, 6]
    assert cut_or_overlapping(figure) == []


# --- verification and naming -------------------------------------------------------------------


def test_det_marks_the_point_where_both_errors_are_equal_and_quotes_the_measured_eer():
    figure = figures.det(det_curves(), metrics(), dataset="demo")
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["pretrained, EER 12.3 %", "pixels, EER -7.7 %"]
    curve = axes.get_lines()[0]
    assert len(curve.get_markevery()) == 1 and curve.get_marker() == "s"
    x, y = (data[curve.get_markevery()[0]] for data in (curve.get_xdata(), curve.get_ydata()))
    assert abs(x - y) < 0.15 and (abs(curve.get_xdata() - curve.get_ydata()) >= abs(x - y)).all()
    middle = curve.get_xdata()[np.abs(det_curves()["far"][:50].to_numpy() - 0.5).argmin()]
    assert middle == pytest.approx(0, abs=0.1)  # a rate of one half is the deviate zero


def test_det_of_weights_that_make_no_error_is_an_empty_panel():
    perfect = det_curves().assign(far=0.0, frr=0.0)
    figure = figures.det(perfect, dataset="demo")
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines()[:2]] == [0, 0]
    assert len(figure.axes) == 2 and cut_or_overlapping(figure) == []


def test_scores_have_a_row_of_panels_per_weights_and_each_kind_its_own_hundred_percent():
    figure = figures.scores(score_counts(), dataset="demo")
    assert [axes.get_title() for axes in figure.axes] == [
        "pretrained, gallery of the same aspect", "pretrained, gallery of all aspects",
        "pixels, gallery of the same aspect", "pixels, gallery of all aspects",
    ]  # fmt: skip
    assert legend(figure) == ["mated", "non-mated", "distractor"]
    assert [len(axes.patches) for axes in figure.axes] == [2, 3, 2, 3]
    for step in figure.axes[1].patches:
        values, edges, _ = step.get_data()
        assert sum(values) == pytest.approx(1) and len(edges) == 61
    peaks = [
        step.get_data().edges[step.get_data().values.argmax()] for step in figure.axes[1].patches
    ]
    assert peaks == pytest.approx([0.8, 0.4, 0.1])
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", *["cosine similarity"] * 2]
    far = figures.scores(score_counts(), dataset="demo", distance="euclidean")
    assert far.axes[-1].get_xlabel() == "minus the Euclidean distance"


def test_scores_leave_no_more_than_stray_ones_to_the_left():
    figure = figures.scores(score_counts(["default"]), dataset="demo_hd")
    assert len(figure.axes) == 2 and figure.axes[0].get_title() == "pretrained"
    left, right = figure.axes[0].get_xlim()
    kept = score_counts(["default"], ["pretrained"]).query("kind == 'distractor' and low >= @left")
    whole = score_counts(["default"], ["pretrained"]).query("kind == 'distractor'")["count"].sum()
    assert 0.99 < kept["count"].sum() / whole <= 1 and -0.3 < left < 0 and right > 1


def test_kinds_of_scores_differ_in_colour_in_grey_and_by_hatch():
    for part in zip(*style.KINDS.values(), strict=True):
        assert len({str(look) for look in part}) == 3


def test_thresholds_stand_in_the_panel_of_their_weights_and_gallery():
    figure = figures.scores(score_counts(), thresholds(), dataset="demo")
    lines = [[line.get_xdata()[0] for line in axes.get_lines()] for axes in figure.axes]
    assert lines == [[0.6, 0.7], [], [], []]
    assert legend(figure) == [
        "mated", "non-mated", "distractor",
        "threshold at FAR 1 % of val people", "threshold at FAR 0.1 % of val people"
    ]  # fmt: skip
    assert len({str(dashes) for dashes in style.FARS.values()}) == 2
    assert cut_or_overlapping(figure) == []


def test_scores_show_pooled_aspects_alone_where_there_are_any():
    both = [score_counts(), score_counts().assign(test_aspect="all", count=7)]
    figure = figures.scores(pd.concat(both), dataset="demo")
    assert len(figure.axes) == 4
    assert figure.axes[0].patches[0].get_data().values == pytest.approx([1 / 60] * 60)


def test_open_set_draws_curves_and_the_measured_points_with_their_intervals():
    figure = figures.open_set(search_curves(), search_metrics(), dataset="demo_hd")
    (axes,) = figure.axes
    assert axes.get_title() == ""  # it has one gallery, as a figure of `default`
    names = ["pretrained", "pixels", "mean of the trials, with its 95 % interval"]
    assert sorted(legend(figure)) == sorted(names)
    curve = next(line for line in axes.get_lines() if line.get_label() == "pretrained")
    half = np.abs(search_curves()["fpir"][:50].to_numpy() - 0.5).argmin()
    assert curve.get_xdata()[::-1][half] == pytest.approx(0, abs=0.1)
    assert (np.diff(curve.get_xdata()) >= 0).all() and (np.diff(curve.get_ydata()) <= 0).all()
    deviate = NormalDist().inv_cdf
    points = [box for box in axes.containers if len(box[0].get_xdata())]
    assert [box[0].get_ydata()[0] for box in points] == pytest.approx([deviate(0.9), deviate(0.7)])
    assert [box[0].get_xdata()[0] for box in points] == pytest.approx(
        [deviate(0.01), deviate(0.1)], abs=0.05
    )
    ends = [box[2][0].get_segments()[0][:, 1] for box in points]
    assert ends[0] == pytest.approx([deviate(0.8), deviate(0.95)])
    assert ends[1] == pytest.approx([deviate(0.06), deviate(0.75)])
    low, high = axes.get_ylim()
    assert deviate(0.03) < low < deviate(0.06) and deviate(0.95) < high  # what is drawn lies inside
    assert cut_or_overlapping(figure) == []


def test_open_set_of_several_runs_draws_equal_pixels_once_and_others_apart():
    who = {"method": "zero_shot", "recipe": "demo", "seed": 0, "dataset": "demo_hd"}
    runs = [search_curves(backbone=name, run=f"of_{name}", **who) for name in ("demo", "rn50")]
    runs = [run.assign(threshold=range(100)) for run in runs]
    figure = figures.open_set(pd.concat(runs))
    assert sorted(legend(figure)) == ["demo pretrained", "pixels", "rn50 pretrained"]
    assert cut_or_overlapping(figure) == []
    runs[1]["fnir"] -= 0.01
    names = ["demo pretrained", "pixels (of_demo)", "pixels (of_rn50)", "rn50 pretrained"]
    assert sorted(legend(figures.open_set(pd.concat(runs)))) == names


def test_open_set_says_where_there_is_none_and_draws_no_error_at_all():
    figure = figures.open_set(search_curves()[:0], search_metrics()[:0], dataset="demo")
    assert "no open set" in figure.axes[0].texts[0].get_text()
    perfect = search_curves().assign(fnir=0.0)
    none = search_metrics().assign(value=0.0, low=0.0, high=0.04)
    figure = figures.open_set(perfect, none, dataset="demo_hd")
    point = next(box for box in figure.axes[0].containers if len(box[0].get_xdata()))
    low, high = figure.axes[0].get_ylim()
    assert low < point[0].get_ydata()[0] < high
    assert cut_or_overlapping(figure) == []


def test_confusion_shows_shares_of_a_row_and_counts_and_no_share_of_nothing():
    figure = figures.confusion(counts(), dataset="demo")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["90.0 %\n90", "10.0 %\n10", "–\n0", "–\n0"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "dorsal right", "palmar right"
    ]  # fmt: skip


# --- splits, training, pictures ----------------------------------------------------------------


def test_split_sizes_draws_the_numbers_of_the_table():
    figure = figures.split_sizes(split(), dataset="demo")
    assert legend(figure) == ["train", "validation", "query", "gallery, same aspect"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [5, 0, 1, 1]


def test_training_curves_have_a_panel_for_each_unit():
    """The scale of the logits, about 15, would press losses and accuracies flat."""
    figure = figures.training_curves(history(), dataset="demo")
    found = {
        axes.get_title(): [text.get_text() for text in axes.get_legend().get_texts()]
        for axes in figure.axes
    }
    assert found == {
        "training loss": ["loss", "triplet"],
        "training accuracy": ["accuracy"],
        "validation loss": ["loss"],
        "validation accuracy": ["mAP"],
        "other quantities": ["logit_scale"],
        "learning rate": ["lr"],
    }
    drawn = figure.axes[0].get_lines()[0]
    assert drawn.get_ydata() == pytest.approx(history()["train/loss"])
    assert figure.axes[0].get_ylim()[1] < 4
    assert [axes.get_ylim() for axes in figure.axes[1:4:2]] == [(0, 1.02)] * 2
    with pytest.raises(InputError, match="nothing to draw"):
        figures.training_curves(history()[["epoch"]], dataset="demo")


def test_losses_and_rates_of_very_different_sizes_are_told_apart_on_a_logarithmic_axis():
    more = {"train/center": history()["train/loss"] * 50, "lr/heads": history()["lr"] * 100}
    figure = figures.training_curves(history().assign(**more), dataset="demo")
    axes = {each.get_title(): each for each in figure.axes}
    for title in ("training loss", "learning rate"):
        assert axes[title].get_yscale() == "log"
        for line in axes[title].get_lines():
            low, high = axes[title].get_ylim()
            assert low < line.get_ydata().max() < high
    names = [text.get_text() for text in axes["learning rate"].get_legend().get_texts()]
    assert names == ["encoder", "heads"]
    assert axes["validation loss"].get_yscale() == "linear"
    assert cut_or_overlapping(figure) == []


@pytest.mark.parametrize("quantities, shape", [(2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
def test_training_curves_of_few_quantities_stand_in_a_row_of_many_in_two(quantities, shape):
    names = ["train/loss", "train/accuracy", "val/loss", "val/mAP", "lr"][:quantities]
    figure = figures.training_curves(history()[["epoch", *names]], dataset="demo")
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == shape
    assert len(figure.axes) == quantities and cut_or_overlapping(figure) == []


def test_a_sample_sheet_shows_every_picture_in_its_group_with_its_caption():
    figure = pictures.image_grid(table_of_pictures(), shades(8), dataset="demo", columns=4)
    shown = [axes.images[0].get_array()[0, 0, 0] // 20 for axes in figure.axes if axes.images]
    assert shown == list(range(8))
    rows = {axes.get_subplotspec().rowspan.start for axes in figure.axes}
    assert rows == {0, 1, 2}  # five dorsal ones take two rows
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words.count("person 1048") == 8 and "palmar\nleft" in words
    with pytest.raises(InputError, match="7 pictures for 8 rows"):
        pictures.image_grid(table_of_pictures(), shades(7), dataset="demo")


def test_ranked_lists_mark_right_and_wrong_by_colour_sign_and_line_rank_1_first():
    figure = pictures.ranked_lists(ranks(), table_of_pictures(), shades(8), dataset="demo")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_array()[0, 0, 0] // 20 for axes in drawn] == [
        0,
        2,
        3,
        4,
        5,
        1,
        2,
        3,
        4,
        5,
    ]
    assert [axes.get_title() for axes in drawn[:5]] == [
        "query",
        *(f"rank {k}" for k in range(1, 5)),
    ]
    signs = [axes.get_xlabel()[0] for axes in drawn]
    assert signs == ["w", *"✗✓✗✗", "b", *"✓✗✗✓"]
    assert drawn[0].get_xlabel() == "worst\nperson 1048\nright at rank 2"
    for axes, sign in zip(drawn, signs, strict=True):
        spine = axes.spines["left"]
        blue = colors.to_hex(spine.get_edgecolor()) == style.BLUE.lower()
        assert blue == (sign == "✓")
        assert (spine.get_linestyle() == "-") == (sign != "✗")


def test_a_sheet_of_sentences_shows_what_they_found_with_similarity_and_what_was_right():
    figure = pictures.searched(sentences(), shades(7), dataset="demo")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_array()[0, 0, 0] // 20 for axes in drawn] == list(range(7))
    signs = ["✓ 0.80", "✗ 0.70", "✓ 0.60", "✗ 0.50", "✗ 0.40", "✗ 0.30", "✓ 0.20"]
    assert [axes.get_xlabel() for axes in drawn] == signs
    for axes, sign in zip(drawn, signs, strict=True):
        spine = axes.spines["left"]
        blue = colors.to_hex(spine.get_edgecolor()) == style.BLUE.lower()
        assert blue == (spine.get_linestyle() == "-") == (sign[0] == "✓")
    assert [axes.get_title() for axes in drawn[:4]] == [f"rank {rank}" for rank in range(1, 5)]
    said = [axes.texts[0].get_text() for axes in figure.axes if axes.texts]
    assert said[0].startswith("best, right at rank 1:\n“A dorsal right hand") and "…" in said[0]
    assert said[1] == "worst, right at rank 3:\n“A palm”"
    asked = sentences()[:4].drop(columns=["kind", "first", "right"])
    plain = pictures.searched(asked, shades(7)[:4], dataset="demo")
    assert [axes.get_xlabel() for axes in plain.axes if axes.images] == [
        "0.80",
        "0.70",
        "0.60",
        "0.50",
    ]


def test_bars_leave_out_texts_that_search_images():
    both = pd.concat([metrics(), metrics().assign(direction="text_image", value=0.01)])
    one, other = figures.bars(both), figures.bars(metrics())
    for mixed, alone in zip(one.axes, other.axes, strict=True):
        assert [p.get_width() for p in mixed.patches] == [p.get_width() for p in alone.patches]


def test_ranked_lists_say_which_ranking_they_show():
    one = ranks().assign(weights="pixels", test_aspect="dorsal_r")
    figure = pictures.ranked_lists(one, table_of_pictures(), shades(8), dataset="demo")
    assert figure.get_suptitle() == (
        "data set demo (demo figures), pixels, dorsal right, gallery of the same aspect"
    )


def test_ranked_lists_leave_places_empty_where_the_gallery_ends():
    short = ranks().assign(top_4=None)
    figure = pictures.ranked_lists(short, table_of_pictures(), shades(8), dataset="demo")
    assert sum(bool(axes.images) for axes in figure.axes) == 8


def test_a_ranked_image_without_a_picture_is_named():
    with pytest.raises(InputError, match="no row f"):
        pictures.ranked_lists(ranks(), table_of_pictures()[:5], shades(5), dataset="demo")


def test_weights_look_alike_whether_or_not_others_stand_beside_them():
    plain = style.looks(["pretrained", "untrained", "pixels"])
    more = style.looks(["pretrained", "pretrained_reranked", "untrained", "pixels"])
    assert all(more[label] == look for label, look in plain.items())
    assert len({str(look) for look in more.values()}) == 4


def test_each_of_fifteen_labels_has_a_look_of_its_own():
    found = style.looks([f"run {number}" for number in range(15)])
    assert len({str(look) for look in found.values()}) == 15
    seven = [found[f"run {number}"] for number in range(7)]
    assert len({look["color"] for look in seven}) == 7


def test_rows_without_re_ranking_of_two_recipes_are_drawn_once():
    def of(recipe, weights, value):
        ranks = pd.DataFrame({"rank": [1, 2, 3], "value": [value, value + 0.1, 0.9]})
        names = {"dataset": "demo", "method": "zero_shot", "backbone": "demo", "seed": 0}
        place = {"test_aspect": "all", "gallery": "default", "run": f"demo-{recipe}-seed0"}
        return ranks.assign(**names, **place, recipe=recipe, weights=weights)

    frame = pd.concat(
        [
            of("default", "pretrained", 0.3),
            of("rerank", "pretrained", 0.3),
            of("rerank", "pretrained_reranked", 0.4),
            of("flip", "pretrained", 0.35),
        ]
    )
    labels = list(panels.series(frame)["label"].unique())
    assert labels == ["default pretrained", "rerank pretrained_reranked", "flip pretrained"]
    again = frame.assign(seed=[0] * 3 + [1] * 9)
    assert panels.series(again)["label"].nunique() == 3, "no seed is in pretrained weights"
    again["weights"] = again["weights"].str.replace("pre", "")
    assert panels.series(again)["label"].nunique() == 4


def test_where_nothing_can_be_named_the_figure_says_so(recwarn):
    figure = figures.confusion(pd.DataFrame(0, index=[], columns=["a", "b"]), "demo_hd")
    assert "nothing to name" in figure.axes[0].texts[0].get_text() and not recwarn.list


def test_the_start_that_each_method_measures_again_is_drawn_once_and_equal_names_are_told_apart():
    def of(notebook, method, weights, value, overrides="", tail=""):
        ranks = pd.DataFrame({"rank": [1, 2, 3], "value": [value, value + 0.1, 0.9]})
        names = {"dataset": "demo", "method": method, "backbone": "demo", "seed": 0}
        place = {"test_aspect": "all", "gallery": "default", "run": f"demo-demo-seed0{tail}"}
        more = {"recipe": "demo", "weights": weights, "overrides": overrides}
        return ranks.assign(**names, **place, **more, notebook=notebook)

    frame = pd.concat(
        [
            of("02_zero_shot", "zero_shot", "pretrained", 0.3),
            of("03_fine_tune", "fine_tune", "pretrained", 0.3),
            of("03_fine_tune", "fine_tune", "trained", 0.5),
            of("05_clip_reid_encoder", "clip_reid_encoder", "trained", 0.6),
            of("05_clip_reid_encoder", "clip_reid_encoder", "trained", 0.4,
               "prompts.shuffle: true", "-0a1b2c3d"),
        ]
    )  # fmt: skip
    assert list(panels.series(frame)["label"].unique()) == [
        "zero_shot pretrained",
        "fine_tune trained",
        "clip_reid_encoder trained",
        "clip_reid_encoder trained (prompts.shuffle: true)",
    ]


# --- several runs over each other --------------------------------------------------------------

METHODS = ("zero_shot", "fine_tune", "clip_reid_encoder")


def of_runs(frame, methods=METHODS, **more):
    """The same rows as by several runs, the later the better."""
    parts = [
        frame.assign(method=name, recipe="demo", run=f"of_{name}", value=frame["value"] + 0.02 * i)
        for i, name in enumerate(methods)
    ]
    names = {"dataset": "demo", "backbone": "demo", "seed": 0}
    return pd.concat(parts, ignore_index=True).assign(**{**names, **more})


def test_one_number_of_each_run_stands_in_a_line_of_its_own_with_its_interval():
    found = of_runs(metrics(weights=["pretrained"])).drop(columns=["low", "high"])
    found = found.assign(low=found["value"] - 0.05, high=found["value"] + 0.08)
    figure = figures.by_method(found)
    (axes,) = figure.axes
    whole, far = axes.containers
    assert whole[0].get_xdata() == pytest.approx([0.8, 0.82, 0.84])
    assert far[0].get_xdata() == pytest.approx([0.5, 0.52, 0.54])
    assert whole[2][0].get_segments()[1][:, 0] == pytest.approx([0.77, 0.9])
    assert (whole[0].get_ydata() < far[0].get_ydata()).all()
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [f"{name} pretrained" for name in METHODS]
    assert legend(figure)[0] == "all queries" and "mAP" in axes.get_xlabel()
    lines = [line for line in axes.get_lines() if len(set(line.get_ydata())) == 1]
    assert len([line for line in lines if list(line.get_xdata()) == [0, 1]]) == 2  # part methods
    with pytest.raises(InputError, match="no gallery default"):
        figures.by_method(found, gallery="default")


def test_forty_runs_can_be_read_in_one_figure_of_either_width():
    methods = [f"method_number_{number}" for number in range(40)]
    found = of_runs(metrics(weights=["trained"]), methods)
    for width in (style.COLUMN, style.WIDTH):
        figure = figures.by_method(found, width=width)
        assert len(figure.axes[0].get_yticklabels()) == 40
        assert figure.get_figheight() < 15 and cut_or_overlapping(figure) == []


def test_burst_gaps_of_several_runs_are_told_apart():
    figure = figures.burst_gap(of_runs(metrics(weights=["trained"])))
    assert legend(figure) == [f"{name} trained" for name in METHODS]
    lines = [box[0].get_ydata() for box in figure.axes[0].containers]
    assert [line[0] for line in lines] == pytest.approx([0.8, 0.82, 0.84])
    assert cut_or_overlapping(figure) == []


def test_histories_of_runs_share_a_panel_for_each_quantity_and_none_without():
    frames = [
        history().assign(method=name, recipe="demo", run=f"of_{name}", dataset="demo")
        for name in METHODS[1:]
    ]
    frames[1]["val/mAP"] = np.nan
    frames[1]["train/loss"] += 1
    other = history().assign(method="fine_tune", recipe="demo", run="b", dataset="hd")
    told = pd.concat([*frames, other.drop(columns="val/loss")]).assign(backbone="demo", seed=0)
    figure = figures.histories(told)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "demo, loss of training", "demo, loss of validation", "demo, mAP of validation",
        "hd, loss of training", "hd, mAP of validation",
    ]  # fmt: skip
    assert [len(axes.get_lines()) for axes in figure.axes] == [2, 2, 1, 1, 1]
    assert legend(figure) == ["fine_tune", "clip_reid_encoder"]
    first = figure.axes[0].get_lines()
    assert first[1].get_ydata() == pytest.approx(first[0].get_ydata() + 1)
    assert cut_or_overlapping(figure) == []
    empty = figures.histories(told.assign(**{"train/loss": np.nan}), ["train/loss"])
    assert "no run" in empty.axes[0].texts[0].get_text()


def conditions():
    who = {"test_aspect": "all", "gallery": "same_aspect", "subset": "all", "metric": "rank1"}
    rows = [{"kind": "clean", "condition": "clean", "severity": 0, "side": "none", "value": 0.9}]
    for kind, name, loss in (("lighting", "darker", 0.1), ("noise", "noise", 0.05)):
        for side, more in (("query", 1), ("gallery", 1.5)):
            rows += [
                {"kind": kind, "condition": name, "severity": grade, "side": side}
                | {"value": 0.9 - loss * more * grade}
                for grade in range(1, 6)
            ]
    frame = pd.DataFrame(rows).assign(**who, weights="trained")
    return frame.assign(low=frame["value"] - 0.02, high=frame["value"] + 0.02)


def test_severity_curves_begin_at_the_untouched_images_a_panel_for_each_condition():
    table = pd.concat([of_runs(conditions()), of_runs(conditions(), dataset="hd", backbone="b")])
    figure = figures.severity(table)
    assert [axes.get_title() for axes in figure.axes] == ["lighting: darker", "noise"]
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == [f"{name} trained" for name in METHODS]
    assert lines[0].get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
    assert lines[1].get_ydata() == pytest.approx([0.92, 0.82, 0.72, 0.62, 0.52, 0.42])
    said = "data set demo (demo figures), rank-1, queries corrupted"
    assert figure.get_suptitle() == said and cut_or_overlapping(figure) == []
    searched = figures.severity(table, side="gallery", dataset="hd")
    assert searched.axes[0].get_lines()[0].get_ydata()[1] == pytest.approx(0.75)
    assert searched.get_suptitle() == "data set hd, rank-1, gallery images corrupted"
    none = figures.severity(table[:0])
    assert "no run studies" in none.axes[0].texts[0].get_text()


def layout(runs=2):
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"pid": np.repeat(np.arange(10), 4), "image_id": np.arange(40).astype(str)})
    parts = [
        rows.assign(label=name, run=name, x=draw.normal(size=40), y=draw.normal(size=40))
        for name in METHODS[:runs]
    ]
    return pd.concat(parts).assign(dataset="demo", aspect="dorsal_r", of=50, perplexity=13.0)


def test_embedded_people_have_a_look_of_their_own_in_a_plane_for_each_run():
    figure = figures.embedded(layout())
    assert [axes.get_title() for axes in figure.axes] == list(METHODS[:2])
    assert legend(figure) == [f"person {pid}" for pid in range(10)]
    first = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in first}) == 10
    assert first[3].get_xdata() == pytest.approx(layout()["x"].iloc[12:16])
    said = figure.get_suptitle().replace("\n", " ")
    assert "10 of 50 people" in said and "perplexity 13" in said and "demo figures" in said
    assert cut_or_overlapping(figure) == []
    assert figures.embedded(layout(1)).get_figwidth() == style.COLUMN
    assert "no run kept" in figures.embedded(layout()[:0]).axes[0].texts[0].get_text()


def failed(number=3):
    names = ["query", "right", "wrong"]
    rows = [{name: f"{name}{i}" for name in names} | {"rank": 9 - i} for i in range(number)]
    more = {"query_pid": 4, "wrong_pid": 7, "trials": 2, "of": 3, "weights": "trained"}
    return pd.DataFrame(rows).assign(**more, gallery="same_aspect", dataset="demo")


def test_failures_show_the_query_a_right_image_and_the_wrong_one_that_won():
    shown = shades(9).reshape(3, 3, 9, 12, 3)
    figure = figures.failures(failed(), shown)
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_array()[0, 0, 0] // 20 for axes in drawn] == list(range(9))
    said = [axes.get_xlabel().replace("\n", ", ") for axes in drawn[:3]]
    assert said == [
        "person 4, missed in 2 of 3", "✓ a right image, first at rank 9", "✗ person 7, at rank 1",
    ]  # fmt: skip
    assert [axes.get_title() for axes in drawn[:3]] == ["query", "right", "won"]
    assert cut_or_overlapping(figure) == []
    hidden = figures.failures(failed(), None)
    assert "may not be shown" in hidden.axes[0].texts[0].get_text().replace("\n", " ")
    assert not any(axes.images for axes in hidden.axes)
    with pytest.raises(InputError, match="for 2 rows"):
        figures.failures(failed(2), shown)


@pytest.mark.parametrize("width", [style.COLUMN, style.WIDTH])
@pytest.mark.parametrize(
    "draw, frame",
    [
        (figures.cmc, curves(dataset="11k_palmar_l")),
        (figures.det, det_curves().assign(dataset="11k_palmar_l")),
        (figures.open_set, search_curves(dataset="11k_palmar_l")),
        (figures.burst_gap, metrics("11k_palmar_l")),
        (figures.training_curves, history().assign(dataset="11k_palmar_l")),
        (figures.severity, of_runs(conditions())),
        (figures.embedded, layout()),
    ],
    ids="cmc det open_set burst_gap training severity embedded".split(),
)
def test_a_figure_can_be_read_on_one_text_column_and_on_two(draw, frame, width):
    figure = draw(frame, width=width)
    assert figure.get_figwidth() == width and cut_or_overlapping(figure) == []
