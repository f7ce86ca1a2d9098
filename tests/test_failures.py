"""What runs kept -> the worst queries with their pictures, and places of embeddings in a plane."""

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from clipfh_lib import files
from clipfh_lib.data import images
from clipfh_lib.files import InputError
from clipfh_lib.reports import embedded, failures, figures

DATA = {"catalogue": "hands_11k", "aspects": ["dorsal_r"]}


def seal(folder, **facts):
    kept = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    files.write_sealed(folder / "manifest.json", {"files": kept, **facts})
    return folder


def ranking(query, pid, rank, ranks=None, aspect="dorsal_r", trial=0, weights="trained", **more):
    row = {"weights": weights, "direction": "image_image", "test_aspect": aspect, "trial": trial}
    row |= {"gallery": "same_aspect", "query": query, "pid": pid, "rank": rank}
    row |= {"ranks": str(ranks or rank), "gap": 1}
    return row | {f"top_{place}": f"g{place}" for place in range(1, 11)} | more


def kept_run(folder, ranks, data=DATA, method="fine_tune", vectors=None, dataset="demo", **facts):
    """A complete run of 12 people with 4 images each, of whom the galleries hold g1 … g10."""
    folder.mkdir(parents=True)
    who = {"method": method, "backbone": "demo", "recipe": "demo", "seed": 0, "dataset": dataset}
    (folder / "params.yaml").write_text(yaml.safe_dump({**who, "data": data}))
    names = [f"p{pid}_{number}" for pid in range(12) for number in range(3)]
    names += [f"g{place}" for place in range(1, 13)]
    pids = [*np.repeat(range(12), 3), *range(12)]
    table = pd.DataFrame({"image_id": names, "pid": pids, "aspect": "dorsal_r"})
    files.write_csv(folder / "embeddings.csv", table.assign(path="Hands/" + table["image_id"]))
    files.write_csv(folder / "ranks.csv", pd.DataFrame(ranks))
    save_file({"embeddings": vectors(table) if vectors else np.ones((48, 4), np.float32)},
              folder / "embeddings.safetensors")  # fmt: skip
    return seal(folder, **facts)


def beside(run, rows):
    """The prepared data that a run was measured on; gives its hash."""
    folder = run.parents[1] / "01_prepare_data" / "seed0"
    folder.mkdir(parents=True)
    columns = ["image_id", "pid", "aspect", "test_aspect", "role", "trial", "gallery"]
    split = pd.DataFrame(rows, columns=columns).assign(distractor=False)
    files.write_csv(folder / "split.csv", split)
    return files.sha256(folder / "split.csv")


def test_the_worst_queries_are_of_different_people_with_what_won_and_what_was_right(tmp_path):
    ranks = [
        ranking("p3_0", 3, 1),
        ranking("p4_0", 4, 4),
        ranking("p5_0", 5, 30),
        ranking("p5_1", 5, 29),
        ranking("p5_0", 5, 1, trial=1),
        ranking("p6_0", 6, 7, weights="pretrained"),
        ranking("p7_0", 7, 9, gallery="all_aspects"),
    ]
    run = tmp_path / "demo" / "03_fine_tune" / "demo-demo-seed0"
    gallery = [
        ("g5", 4, "dorsal_r", "dorsal_r", "gallery", 0, "same_aspect"),
        ("g6", 5, "dorsal_r", "dorsal_r", "gallery", 1, "same_aspect"),  # of another trial
        ("g7", 5, "palmar_r", "dorsal_r", "gallery", 0, "same_aspect"),  # his other hand
        ("g8", 5, "dorsal_r", "dorsal_r", "gallery", 0, "same_aspect"),
    ]
    kept_run(run, ranks, split_sha256=beside(run, gallery))
    found = failures.worst(run)
    assert found["query"].tolist() == ["p5_0", "p4_0"]
    assert found["right"].tolist() == ["g8", "g4"]  # of the split, and of the fourth place
    assert found["wrong"].tolist() == ["g1", "g1"] and found["wrong_pid"].tolist() == [0, 0]
    assert found["rank"].tolist() == [30, 4]
    assert found[["trials", "of"]].to_numpy().tolist() == [[1, 2], [1, 1]]
    assert found["right_path"].tolist() == ["Hands/g8", "Hands/g4"]
    assert failures.worst(run, 1)["query"].tolist() == ["p5_0"]
    assert failures.worst(run, gallery="all_aspects")["query"].tolist() == ["p7_0"]
    with pytest.raises(InputError, match="no gallery default; there is same_aspect, all_aspects"):
        failures.worst(run, gallery="default")
    (run.parents[1] / "01_prepare_data" / "seed0" / "split.csv").write_text("another")
    assert failures.worst(run)["right"].isna().tolist() == [True, False]


def test_a_changed_file_is_refused_and_a_run_without_ranks_has_no_failures(tmp_path):
    run = kept_run(tmp_path / "demo" / "x" / "run", [ranking("p3_0", 3, 2)])
    (run / "ranks.csv").write_text((run / "ranks.csv").read_text() + "\n")
    with pytest.raises(InputError, match="not what its manifest says"):
        failures.worst(run)
    (run / "ranks.csv").unlink()
    (run / "manifest.json").unlink()
    assert failures.worst(run).empty and failures.worst(seal(run)).empty


def test_photographs_are_read_only_where_they_may_be_shown(tmp_path, drawn):
    hands = sorted(path.name for path in (drawn / "Hands").iterdir())[:3]
    row = {
        f"{role}_path": f"Hands/{name}" for role, name in zip(failures.ROLES, hands, strict=True)
    }
    found = pd.DataFrame([row, {**row, "right_path": None}])
    allowed = {**DATA, "root": str(drawn), "photographs": True}
    shown = failures.photographs(kept_run(tmp_path / "a" / "b" / "c", [], allowed), found)
    expected = images.thumbnails(drawn, [f"Hands/{name}" for name in hands])
    assert (shown[0] == expected).all() and (shown[1, [0, 2]] == expected[[0, 2]]).all()
    assert (shown[1, 1] == 255).all() and expected.std() > 10
    hidden = {**allowed, "photographs": False}
    assert failures.photographs(kept_run(tmp_path / "d" / "e" / "f", [], hidden), found) is None
    gone = {**allowed, "root": str(tmp_path / "nowhere")}
    assert failures.photographs(kept_run(tmp_path / "g" / "h" / "i", [], gone), found) is None


def of_people(spread):
    """Embeddings that lie around a direction of their person's own."""

    def vectors(table):
        draw = np.random.default_rng(0)
        centres = draw.normal(size=(12, 8))
        return (centres[table["pid"]] + spread * draw.normal(size=(48, 8))).astype(np.float32)

    return vectors


def together(rows):
    """How often the nearest other place in the plane is of the same person."""
    places = rows[["x", "y"]].to_numpy()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag([np.inf] * len(rows))
    return (rows["pid"].to_numpy()[apart.argmin(axis=1)] == rows["pid"].to_numpy()).mean()


def test_planes_show_the_same_people_and_tell_a_good_run_from_a_poor_one(tmp_path):
    ranks = [ranking(f"p{pid}_0", pid, 1) for pid in range(2, 12)]  # 0 and 1 are not tested
    poor = kept_run(tmp_path / "demo" / "02" / "a", ranks, vectors=of_people(5), method="zero_shot")
    good = kept_run(tmp_path / "demo" / "03" / "b", ranks, vectors=of_people(0.1))
    again = kept_run(tmp_path / "demo" / "03" / "c", ranks, vectors=of_people(0.1))
    other = kept_run(tmp_path / "hd" / "04" / "d", ranks, method="joint", dataset="hd")
    half = tmp_path / "demo" / "05" / "unfinished"
    found = embedded.lay_out([half, poor, good, again, other], people=6)
    assert found["run"].unique().tolist() == ["a", "b"]
    assert found["label"].unique().tolist() == ["zero_shot trained", "fine_tune trained"]
    parts = [part.reset_index(drop=True) for _, part in found.groupby("run")]
    assert parts[0]["image_id"].equals(parts[1]["image_id"]) and len(parts[0]) == 6 * 4
    assert parts[0]["pid"].unique().tolist() == [2, 3, 4, 5, 6, 7] and set(found["of"]) == {10}
    assert together(parts[1]) > 0.8 > 0.4 > together(parts[0])
    pd.testing.assert_frame_equal(found, embedded.lay_out([poor, good], people=6))
    assert len(figures.embedded(found).axes) == 2
    assert embedded.lay_out([half]).empty and embedded.lay_out([]).empty
