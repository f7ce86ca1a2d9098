import numpy as np
import pandas as pd
import pytest

from clipfh_lib.files import InputError
from clipfh_lib.reports import export, tables

RATES = {"pretrained": 0.723, "untrained": 0.3, "pixels": 0.4}


def metrics(dataset="demo", weights=tuple(RATES), galleries=("same_aspect",), shift=0.0, **run):
    """Rows of metrics.csv: rank1 as in RATES, mAP 0.1 above, far rank1 0.2 below."""
    rows = []
    for gallery in galleries:
        for name in weights:
            for subset, metric, plus, queries, people in (
                ("all", "rank1", 0.0, 140.0, 20),
                ("all", "mAP", 0.1, 140.0, 20),
                ("all", "eer", -0.2, 140.0, 20),
                ("far", "rank1", -0.2, 61.5, 18),
                ("gap_11_50", "rank1", -0.15, 40.0, 12),
                ("gap_1", "rank1", 0.2, 30.0, 20),
            ):
                value = RATES[name] + shift + plus
                rows.append(
                    {"dataset": dataset, "test_aspect": "dorsal_r", "method": "zero_shot"}
                    | {"backbone": "demo", "recipe": "demo", "seed": 0, "weights": name}
                    | {"gallery": gallery, "subset": subset, "direction": "image_image"}
                    | {"metric": metric, "value": value, "sd": 0.01}
                    | {"low": value - 0.072, "high": value + 0.067}
                    | {"queries": queries, "people": people}
                )
    return pd.DataFrame(rows).assign(**run)


def folder(path, frame, limit="null", complete=True):
    path.mkdir(parents=True)
    frame.to_csv(path / "metrics.csv", index=False)
    (path / "params.yaml").write_text(f"dataset: demo\ndata:\n  limit: {limit}\n")
    if complete:
        (path / "manifest.json").write_text("{}")
    return path


# --- run folders -------------------------------------------------------------------------------


def test_only_complete_runs_are_read_and_the_others_are_listed_with_the_reason(tmp_path):
    done = folder(tmp_path / "02_zero_shot" / "demo-demo-seed0", metrics())
    limited = folder(
        tmp_path / "02_zero_shot" / "rn50-demo-seed0", metrics(), "{people: 3, images: null}"
    )
    cut = folder(tmp_path / "02_zero_shot" / "cut-demo-seed0", metrics(), complete=False)
    runs = [done, limited, cut, tmp_path / "02_zero_shot" / "never-demo-seed0"]
    read = tables.read_runs(runs)
    assert list(read["run"].unique()) == ["demo-demo-seed0", "rn50-demo-seed0"]
    assert set(read["notebook"]) == {"02_zero_shot"}
    assert read.groupby("run")["limited"].all().to_dict() == {
        "demo-demo-seed0": False,
        "rn50-demo-seed0": True,
    }
    listed = tables.incomplete(runs).set_index("run")["why"]
    assert list(listed.index) == ["02_zero_shot/cut-demo-seed0", "02_zero_shot/never-demo-seed0"]
    assert "manifest.json" in listed.iloc[0] and "no such folder" in listed.iloc[1]


def test_no_complete_run_is_one_line_that_says_so(tmp_path):
    with pytest.raises(InputError, match="no complete run with metrics.csv in 1 folders"):
        tables.read_runs([folder(tmp_path / "a" / "b", metrics(), complete=False)])


def test_curves_of_runs_are_read_with_what_names_each_run(tmp_path):
    runs = []
    for number, limit in enumerate(("null", "{people: 3}")):
        path = folder(tmp_path / "02_zero_shot" / f"demo-demo-seed{number}", metrics(), limit)
        params = f"dataset: demo\nmethod: zero_shot\nbackbone: b{number}\nseed: {number}\n"
        (path / "params.yaml").write_text(f"{params}data:\n  limit: {limit}\n")
        curve = pd.DataFrame({"weights": "pixels", "gallery": "default", "rank": [1, 2]})
        curve.to_csv(path / "cmc.csv", index=False)
        runs.append(path)
    read = tables.read_curves([*runs, tmp_path / "02_zero_shot" / "none-demo-seed0"])
    assert read["backbone"].tolist() == ["b0", "b0", "b1", "b1"]
    assert read["seed"].tolist() == [0, 0, 1, 1] and set(read["dataset"]) == {"demo"}
    assert read["limited"].tolist() == [False, False, True, True]
    assert tables.read_curves(runs, "det").empty
    with pytest.raises(InputError, match="no complete run with det.csv in 1 folders"):
        tables.read_curves([tmp_path / "02_zero_shot" / "none-demo-seed0"], "det")


def test_overrides_are_told_in_words_and_printed_for_the_name_of_the_run(tmp_path):
    plain = folder(tmp_path / "05_clip_reid_encoder" / "demo-demo-seed0", metrics())
    name = "demo-demo-seed0-0a1b2c3d"
    other = folder(tmp_path / "05_clip_reid_encoder" / name, metrics(shift=0.01))
    with (other / "params.yaml").open("a") as file:
        file.write("overrides: {prompts.shuffle: true, model.weights: outputs/x/best}\n")
    table = tables.comparison(tables.read_runs([plain, other]))
    assert set(table["overrides"]) == {"", "model.weights: best, prompts.shuffle: true"}
    shown = tables.printed(table)
    assert {"run", "notebook"}.isdisjoint(shown) and "overrides" in shown
    told = tables.printed(table.assign(overrides=""))
    assert set(told["run"]) == {"demo-demo-seed0", name}, "else nothing would tell them apart"


def test_what_every_run_measures_again_is_kept_once_and_what_was_trained_always(tmp_path):
    both = []
    for number, method in enumerate(("fine_tune", "prompt_sg")):
        own = pd.concat([metrics(), metrics(weights=("pretrained",)).assign(weights="trained")])
        at = tmp_path / f"0{number}" / "demo-demo-seed0"
        both.append(folder(at, own.assign(method=method, seed=number)))
    table = tables.comparison(tables.read_runs(both))
    assert len(table) == 8
    once = tables.once(table)
    assert sorted(once["weights"]) == ["pixels", "pretrained", "trained", "trained", "untrained"]
    changed = table.assign(far_rank1=table["far_rank1"] + 0.001 * (table["method"] == "prompt_sg"))
    assert len(tables.once(changed)) == 8, "other numbers are another measurement"


# --- comparison --------------------------------------------------------------------------------


def test_a_comparison_has_one_row_per_weights_and_gallery_with_the_numbers_of_the_rows():
    source = metrics(galleries=("all_aspects", "same_aspect"))
    table = tables.comparison(source)
    assert list(zip(table["gallery"], table["weights"], strict=True)) == [
        (gallery, name) for gallery in ("same_aspect", "all_aspects") for name in RATES
    ]
    first = table.iloc[0]
    assert (first["rank1"], first["rank1_low"], first["rank1_high"]) == pytest.approx(
        (0.723, 0.651, 0.790)
    )
    assert first["mAP"] == pytest.approx(0.823) and first["far_rank1"] == pytest.approx(0.523)
    assert (first["queries"], first["people"]) == (140, 20)
    assert (first["far_queries"], first["far_people"]) == (61.5, 18)
    assert "mINP" not in table  # nobody measured it


def test_an_average_precision_of_texts_never_stands_among_those_of_images():
    texts = metrics().assign(direction="text_image", value=0.01)
    both = tables.comparison(pd.concat([metrics(), texts]))
    pd.testing.assert_frame_equal(both, tables.comparison(metrics()))
    alone = tables.comparison(pd.concat([metrics(), texts]), ["mAP"], ["text_image"])
    assert set(alone["direction"]) == {"text_image"} and (alone["mAP"] == 0.01).all()


def test_what_one_run_did_not_measure_is_empty_and_not_zero():
    other = metrics(backbone="rn50")
    both = pd.concat([metrics(), other[other["metric"] != "eer"]], ignore_index=True)
    table = tables.comparison(both).set_index(["backbone", "weights"])
    assert table.loc[("demo", "pixels"), "eer"] == pytest.approx(0.2)
    assert np.isnan(table.loc[("rn50", "pixels"), "eer"])


def test_rows_of_frames_that_were_put_together_with_equal_index_are_not_doubled():
    both = pd.concat([metrics(), metrics(backbone="rn50")])  # each with index 0, 1, 2, …
    assert len(tables.ordered(both)) == len(both)
    assert len(tables.comparison(both)) == 6


def test_the_same_run_read_twice_is_refused():
    with pytest.raises(InputError, match="rank1 stands twice for demo, .*pretrained"):
        tables.comparison(pd.concat([metrics(), metrics()]))


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="no column gallery, low; it has dataset"):
        tables.comparison(metrics().drop(columns=["gallery", "low"]))


@pytest.mark.parametrize(
    "dataset, limited, said",
    [
        ("demo", False, "demo figures"),
        ("demo_hd", True, "demo figures; limited run"),
        ("11k_dorsal_r", True, "limited run"),
        ("11k_dorsal_r", False, ""),
    ],
)
def test_drawn_hands_and_limited_runs_are_named_in_every_row(dataset, limited, said):
    table = tables.comparison(metrics(dataset, limited=limited))
    assert set(table["remark"]) == {said}
    assert ("remark" in tables.printed(table)) == bool(said)


def test_a_summary_is_in_percent_with_one_decimal_and_interval():
    shown = tables.summary(metrics())
    assert shown.loc[0, "rank-1, %"] == "72.3 [65.1, 79.0]"
    assert shown.loc[0, "far rank-1, %"] == "52.3 [45.1, 59.0]"
    assert shown.loc[0, "queries (people)"] == "140 (20)"
    assert shown.loc[0, "far queries (people)"] == "62 (18)"
    assert {"data set", "weights", "test aspect", "gallery"} <= set(shown)
    assert "backbone" not in shown and "seed" not in shown  # the same in every row


def test_a_median_rank_is_printed_as_a_rank_and_not_as_percent():
    ranks = metrics().query("metric == 'rank1' and subset == 'all'")
    ranks = ranks.assign(metric="median_rank", value=3.0, low=2.0, high=4.5)
    shown = tables.summary(ranks, ["median_rank"])
    assert shown["median rank"].iloc[0] == "3.0 [2.0, 4.5]"


def test_burst_gaps_are_in_their_order_with_people():
    table = tables.burst_gaps(metrics(weights=["pixels"]))
    assert list(table["gap"]) == ["1", "11–50"]
    assert list(table["rank1"]) == pytest.approx([0.6, 0.25])
    assert list(table["people"]) == [20, 12]
    with pytest.raises(InputError, match="no rows by burst gap"):
        tables.burst_gaps(metrics().query("subset == 'all'"))


def test_labels_are_as_short_as_they_can_be_and_still_tell_runs_apart():
    assert set(tables.labels(metrics())) == set(RATES)
    both = pd.concat([metrics(), metrics(backbone="rn50")], ignore_index=True)
    assert set(tables.labels(both)) == {
        "demo pretrained", "demo untrained", "rn50 pretrained", "rn50 untrained", "pixels"
    }  # fmt: skip
    runs = ["demo-demo-seed0", "demo-demo-seed0-0a1b2c3d"]
    overridden = pd.concat([metrics(run=run) for run in runs], ignore_index=True)
    assert "pretrained (0a1b2c3d)" in set(tables.labels(overridden))


# --- data --------------------------------------------------------------------------------------


def test_counts_are_per_aspect_and_accessories():
    images = pd.DataFrame(
        {"pid": [1, 1, 2, 2, 2], "accessories": [0, 1, 0, 0, 1]}
        | {"aspect": ["palmar_l", "palmar_l", "dorsal_r", "dorsal_r", "palmar_l"]}
    )
    table = tables.counts(images, "demo")
    assert list(table.index) == ["dorsal_r", "palmar_l", "all"]
    assert table.columns.name == "demo figures"
    assert table.loc["palmar_l"].tolist() == [1, 1, 2, 2, 3, 2]
    assert table.loc["all"].tolist() == [3, 2, 2, 2, 5, 2]


def split():
    """Two aspects of 2 train people, 1 val, 2 tested, person 5 with one image; ten trials."""
    rows = []
    for aspect, other in (("dorsal_r", "palmar_r"), ("palmar_r", "dorsal_r")):
        for pid, role in ((1, "train"), (2, "train"), (3, "val")):
            for k in range(3):
                rows.append((f"{aspect}{pid}{k}", pid, aspect, None, role, None, None))
        for trial in range(10):
            one = trial % 3
            for k in range(3):
                if k != one:
                    rows.append((f"{aspect}4{k}", 4, aspect, aspect, "query", trial, None))
            for pid, k in ((4, one), (5, 0)):
                image = f"{aspect}{pid}{k}"
                for gallery in ("same_aspect", "all_aspects"):
                    rows.append((image, pid, aspect, aspect, "gallery", trial, gallery))
                shifted = pid + 11_000_000
                rows.append((image, shifted, aspect, other, "gallery", trial, "all_aspects"))
    columns = ["image_id", "pid", "aspect", "test_aspect", "role", "trial", "gallery"]
    return pd.DataFrame(rows, columns=columns)


def test_split_sizes_are_those_of_one_trial():
    table = tables.split_sizes(split())
    assert list(table.index) == ["dorsal_r", "palmar_r"]
    row = table.loc["dorsal_r"]
    assert (row["train images"], row["train people"]) == (6, 2)
    assert (row["val images"], row["val people"]) == (3, 1)
    assert (row["query images"], row["query people"]) == (2, 1)
    assert (row["gallery same_aspect images"], row["gallery all_aspects images"]) == (2, 4)
    assert (row["trials"], row["people without query"]) == (10, 1)


def test_a_data_set_without_aspects_has_one_row():
    table = tables.split_sizes(
        split()
        .query("aspect == 'dorsal_r' and test_aspect != 'palmar_r'")
        .assign(
            test_aspect=lambda s: s["test_aspect"].where(s["test_aspect"].isna(), "all"),
            gallery=lambda s: s["gallery"].where(s["gallery"].isna(), "default"),
        )
    )
    assert list(table.index) == ["all"]
    assert (table.loc["all", "train images"], table.loc["all", "query images"]) == (6, 2)


def test_what_was_set_aside_is_counted_by_reason_most_frequent_first():
    frame = pd.DataFrame(
        {"path": ["a", "b", "c"], "row": 1, "reason": ["empty", "broken", "broken"]}
    )
    table = tables.set_aside_summary(frame)
    assert table.to_dict("list") == {
        "reason": ["broken", "empty"], "files": [2, 1], "for example": ["b", "a"]
    }  # fmt: skip


def test_a_sample_takes_people_from_all_over_the_ids_and_several_pictures_of_each():
    rows = [(f"{p}{k}", p, "palmar_r") for p in range(1, 10) for k in range(3)]
    images = pd.DataFrame([*rows, ("x", 99, "palmar_r")], columns=["image_id", "pid", "aspect"])
    picked = tables.sample(images, people=3, each=2)
    assert list(picked["image_id"]) == ["10", "12", "50", "52", "90", "92"]


def test_extreme_queries_are_of_different_people_and_the_worst_come_last_in_the_ranking():
    ranks = pd.DataFrame(
        {"query": list("abcdef"), "pid": [1, 1, 2, 3, 3, 4], "rank": [1, 1, 1, 9, 30, 2]}
        | {"gap": [3, 40, 12, 5, 5, 5], "trial": 0, "weights": "pixels"}
    )
    ranks["rank"] = ranks["rank"].astype("Int64")
    found = tables.extreme_queries(ranks, 2)
    assert list(zip(found["kind"], found["query"], strict=True)) == [
        ("best", "b"), ("best", "c"), ("worst", "e"), ("worst", "f")
    ]  # fmt: skip
    with pytest.raises(InputError, match="trial has 0, 1"):
        tables.extreme_queries(pd.concat([ranks, ranks.assign(trial=1)]))


def test_the_first_ranking_is_one_and_its_pictures_are_those_it_names():
    ranks = pd.DataFrame(
        {"weights": ["a", "a", "b"], "direction": "image_image", "test_aspect": "all"}
        | {"gallery": "default", "trial": [0, 1, 0], "query": ["q", "r", "s"]}
        | {"top_1": ["x", "y", "z"], "top_2": ["w", None, "w"]}
    )
    one = tables.first_ranking(ranks)
    assert one["query"].tolist() == ["q"]
    images = pd.DataFrame({"image_id": list("qrswxyz")})
    assert tables.pictured(one, images)["image_id"].tolist() == ["q", "w", "x"]
    assert tables.pictured(ranks[1:2], images)["image_id"].tolist() == ["r", "y"]


# --- export ------------------------------------------------------------------------------------


def test_markdown_keeps_the_columns_apart_whatever_is_in_a_cell():
    text = export.to_markdown(pd.DataFrame({"a|b": ["x|y\nz", None], "n": [1, 2]}))
    assert text == "| a\\|b | n |\n| --- | --- |\n| x\\|y z | 1 |\n|  | 2 |\n"


SIGNS = r"_ % & # $ { } ~ ^ \ – ok"


def test_latex_escapes_cells_headings_and_caption_once():
    frame = pd.DataFrame({f"head {SIGNS}": [f"[1] {SIGNS}", "* second"], "n": [1.5, -2.0]})
    text = export.to_latex(frame, caption=f"cap {SIGNS}", label="tab:one")
    escaped = r"\_ \% \& \# \$ \{ \} \textasciitilde{} \textasciicircum{} "
    escaped += r"\textbackslash{} \textendash{} ok"
    for front in ("head ", "{}[1] ", r"\caption{cap "):  # a bracket after a row's end is no option
        assert front + escaped in text
    assert "{}* second" in text and r"\label{tab:one}" in text
    assert [r in text for r in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    assert r"\begin{tabular}{lr}" in text and "-2.000" in text


def test_latex_puts_what_all_rows_share_into_the_caption():
    text = export.to_latex(tables.summary(metrics()), caption="Results")
    assert "remark: demo figures" in text.split(r"\label")[0].split(r"\begin{tabular}")[0]
    assert text.count("demo figures") == 1


def test_the_printed_rows_are_the_pooled_ones_or_those_of_the_one_aspect_that_is_tested():
    frame = pd.DataFrame(
        {
            "dataset": ["demo", "demo", "11k_dorsal_r", "hd"],
            "test_aspect": ["dorsal_r", "all", "dorsal_r", "all"],
        }
    )
    found = tables.chief(frame)
    assert found.values.tolist() == [["demo", "all"], ["11k_dorsal_r", "dorsal_r"], ["hd", "all"]]


def test_a_number_that_rests_on_too_few_pairs_gets_a_dagger_and_a_remark():
    notes = pd.DataFrame(
        [("pretrained", "dorsal_r", "same_aspect", "rank1", "9 pairs; the rule of 30 asks for 30")],
        columns=["weights", "test_aspect", "gallery", "metric", "reason"],
    )
    plain = tables.summary(metrics(), ["rank1", "mAP"])
    shown = tables.summary(metrics(), ["rank1", "mAP"], notes).set_index("weights")
    assert shown.loc["pretrained", "rank-1, %"] == "72.3 [65.1, 79.0] †"
    assert shown.loc["pretrained", "remark"] == "demo figures; † too few pairs or errors"
    assert shown.loc["pixels", "remark"] == "demo figures"
    assert not plain.astype(str).apply(lambda column: column.str.contains("†")).any().any()
    elsewhere = tables.summary(metrics(), ["mAP"], notes)
    pd.testing.assert_frame_equal(elsewhere, tables.summary(metrics(), ["mAP"]))


def test_a_data_set_without_an_open_set_shows_why():
    notes = pd.DataFrame({"metric": ["fnir"], "reason": ["no distractors"]})
    assert tables.of_open_set(metrics().iloc[:0], notes) is notes
    frame = metrics().assign(metric=lambda rows: rows["metric"].replace("rank1", "fnir@1e-1"))
    assert "fnir@1e-1, %" in tables.of_open_set(frame, notes.iloc[:0])
