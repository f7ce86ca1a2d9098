import pandas as pd

from clipfh_lib.reports import gains


def compared(**columns):
    rows = [
        ("all", "same_aspect", "all", "rank1", 0.1, 0.02, 0.2),
        ("all", "same_aspect", "all", "mAP", 0.051, -0.01, 0.1),
        ("all", "same_aspect", "far", "rank1", -0.1, -0.2, -0.0004),
        ("all", "same_aspect", "far", "mAP", 0.0, -0.2, 0.2),
        ("all", "same_aspect", "gap_1", "mAP", 0.5, 0.4, 0.6),
        ("all", "same_aspect", "all", "rank5", 0.5, 0.4, 0.6),
    ]
    names = ["test_aspect", "gallery", "subset", "metric", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=names).assign(queries=12.0, people=3)


def test_gains_are_points_with_a_star_where_zero_lies_outside():
    shown = gains.printed(compared(), "11k_dorsal_r")
    assert shown["subset"].tolist() == ["all", "far"] and "remark" not in shown
    assert shown["rank1"].tolist() == ["+10.0 [+2.0, +20.0] *", "-10.0 [-20.0, -0.0] *"]
    assert shown["mAP"].tolist() == ["+5.1 [-1.0, +10.0]", "+0.0 [-20.0, +20.0]"]


def test_gains_on_drawn_hands_say_so():
    assert set(gains.printed(compared(), "demo")["remark"]) == {"demo figures"}
