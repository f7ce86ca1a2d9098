"""The sheet shows every answer where it belongs, and says of drawn hands that they are drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from clipfh_lib.files import InputError
from clipfh_lib.reports import identified, style


def answers():
    rows = [
        ("p/one.jpg", 1, "1051", 0.93, "a", "1051"),
        ("p/one.jpg", 2, "1052", 0.61, "b", "1051"),
        ("p/two.jpg", 1, "1052", 0.55, "b", "nobody here"),
        ("p/two.jpg", 2, "a name that is far too long", 0.31, "c", "nobody here"),
    ]
    columns = ["query", "rank", "person", "similarity", "image", "answer"]
    return pd.DataFrame(rows, columns=columns)


def pictures(count):
    """Each of one colour: the first 0, the next 10, ..."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * 10 + np.zeros(
        (1, 6, 8, 3), np.uint8
    )


def shown(figure, columns):
    """Colour of the picture, frame and captions of each panel, row by row."""
    found = []
    for axes in figure.axes:
        image = int(axes.images[0].get_array().flat[0]) if axes.images else None
        texts = [text.get_text() for text in axes.texts]
        frame = to_hex(axes.spines["left"].get_edgecolor()) if axes.axison else None
        found.append((image, frame, axes.get_xlabel(), texts))
    return [found[start : start + columns] for start in range(0, len(found), columns)]


def test_a_sheet_has_a_row_for_each_query_with_its_answer_and_the_nearest_people():
    figure = identified.sheet(
        answers(), pictures(2), pictures(4) + 100, 0.6, "demo", truth={"p/two.jpg": "1099"}
    )
    one, two = shown(figure, 4)
    assert [panel[0] for panel in one] == [0, None, 100, 110]
    assert [panel[0] for panel in two] == [10, None, 120, 130]
    assert one[0][2] == "one.jpg" and one[1][3] == ["person\n1051"]
    assert two[1][3] == ["nobody here\n(is 1099)"]
    assert [panel[2] for panel in one[2:]] == ["1051\n0.930", "1052\n0.610"]
    assert two[3][2] == "a name that is …\n0.310"
    blue, red = style.BLUE.lower(), style.VERMILION.lower()
    assert [panel[1] for panel in (*one[2:], *two[2:])] == [blue, blue, red, red]
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles == ["query", "named from\n0.600 on", "rank 1", "rank 2"]
    assert "demo figures" in figure.get_suptitle()


def test_without_pictures_of_the_enrolled_their_names_stand_there_and_without_a_threshold_no_mark():
    figure = identified.sheet(answers(), pictures(2), dataset="11k", limited=True)
    one, _ = shown(figure, 4)
    assert one[2][3] == ["1051"] and one[2][2] == "0.930"
    assert {panel[1] for panel in one if panel[1]} == {"#000000"}
    assert figure.axes[1].get_title() == "no threshold"
    assert "demo" not in figure.get_suptitle() and "limited run" in figure.get_suptitle()


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(InputError, match="3 pictures, there must be one for each query"):
        identified.sheet(answers(), pictures(3), dataset="demo")
    with pytest.raises(InputError, match="2 pictures, there must be one for each row"):
        identified.sheet(answers(), pictures(2), pictures(2), dataset="demo")
    with pytest.raises(InputError, match="no image could be read"):
        identified.sheet(answers()[:0], pictures(0), dataset="demo")
    with pytest.raises(InputError, match="no column answer"):
        identified.sheet(answers().drop(columns="answer"), pictures(2), dataset="demo")
    with pytest.raises(InputError, match="pass dataset"):
        identified.sheet(answers(), pictures(2))


def test_an_empty_gallery_is_drawn_as_nobody():
    nobody = answers()[::2].assign(person="", similarity=np.nan, rank=1, answer="nobody here")
    one, two = shown(identified.sheet(nobody, pictures(2), bar=0.5, dataset="demo"), 3)
    assert one[1][3] == two[1][3] == ["nobody here"] and one[2][1] is None


def test_rates_are_printed_in_percent_with_what_was_allowed():
    columns = ["metric", "value", "low", "high", "searches", "people"]
    rates = pd.DataFrame(
        [("fnir", 0.5, 0.4, 0.61, 80, 9), ("fpir", 0.125, 0.1, 0.2, 16, 4)], columns=columns
    )
    table = identified.printed(rates, 0.1, "demo_hd")
    assert table["searches that end with"].tolist() == [
        "enrolled person not named (fnir)", "stranger named (fpir)"
    ]  # fmt: skip
    assert table["percent [95 %]"].tolist() == ["50.0 [40.0, 61.0]", "12.5 [10.0, 20.0]"]
    assert table["allowed"].tolist() == ["", "10"]
    assert table["searches (people)"].tolist() == ["80 (9)", "16 (4)"]
    assert set(table["remark"]) == {"demo figures"}
    assert "remark" not in identified.printed(rates, 0.1, "11k")
    assert "no image" in identified.printed(rates[:0], 0.1).iloc[0, 0]
