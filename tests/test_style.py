"""Widths, letters, colours and files of figures: what a printed page asks of them."""

import re
import zlib
from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from clipfh_lib import runs
from clipfh_lib.reports import figures, pictures, style

# Rows of linear RGB -> what a dichromat sees. Machado et al., A Physiologically-based Model for
# Simulation of Color Vision Deficiency, IEEE TVCG 2009, table 1, severity 1.
SEEN = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
XYZ = [  # of linear sRGB
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]


def lab(colour: str, by: str = "normal") -> np.ndarray:
    """CIE L*a*b* (D65) of "#RRGGBB" as it is seen."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    rgb = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(XYZ) @ np.clip(np.array(SEEN[by]) @ rgb, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_formula_knows_white_grey_and_what_a_dichromat_confuses():
    assert lab("#FFFFFF") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("#777777") == pytest.approx([50.03, 0, 0], abs=0.02)
    red, green = "#D00000", "#6E6E00"
    assert np.linalg.norm(lab(red) - lab(green)) > 60
    assert np.linalg.norm(lab(red, "deuteranopia") - lab(green, "deuteranopia")) < 25


@pytest.mark.parametrize("by", SEEN)
def test_colours_are_told_apart_by_all_readers(by):
    colours = [look[0] for look in style.LOOKS] + [style.GREY]
    assert len(set(colours)) == style.MOST + 1
    apart = {
        pair: np.linalg.norm(lab(pair[0], by) - lab(pair[1], by))
        for pair in combinations(colours, 2)
    }
    assert min(apart.values()) > 12, min(apart, key=apart.get)


def test_neighbouring_series_differ_in_grey_and_every_two_by_line_and_marker():
    light = [lab(look[0])[0] for look in style.LOOKS]
    around = [*light, light[0]]  # after seven the colours come again
    assert all(abs(one - other) > 11 for one, other in pairwise(around))
    assert max(light) < 75  # none is lost on white paper
    assert len({str(look[1]) for look in style.LOOKS}) == len(style.LOOKS)
    assert len({look[2] for look in style.LOOKS}) == len(style.LOOKS)
    for first, second in [("trained", "pretrained"), ("pretrained", "untrained")]:
        pair = style.WEIGHTS[first][0], style.WEIGHTS[second][0]
        assert abs(lab(pair[0])[0] - lab(pair[1])[0]) > 11


def curves(runs: int = 1, galleries=("same_aspect", "all_aspects")) -> pd.DataFrame:
    methods = ["zero_shot", "fine_tune", "clip_reid_encoder", "prompt_sg", "joint", "mba_net"]
    rows = []
    for number in range(runs):
        who = {"dataset": "11k_sample", "method": methods[number % 6], "recipe": "default"}
        who |= {"backbone": f"tower_{number // 6}", "seed": 0, "run": f"r{number}"}
        for gallery in galleries:
            values = {rank: 1 - 0.5 / (rank + number) for rank in range(1, 21)}
            rows += [{**who, "gallery": gallery, "rank": k, "value": v} for k, v in values.items()]
    return pd.DataFrame(rows).assign(weights="trained", test_aspect="all")


def test_a_single_panel_takes_one_text_column_several_take_two_and_stack_in_one():
    assert style.COLUMN * 25.4 == pytest.approx(88) and style.WIDTH * 25.4 == pytest.approx(180)
    alone, two = figures.cmc(curves(galleries=["default"])), figures.cmc(curves())
    assert (alone.get_figwidth(), two.get_figwidth()) == (style.COLUMN, style.WIDTH)
    stacked = figures.cmc(curves(), width=style.COLUMN)
    assert stacked.get_figwidth() == style.COLUMN
    places = [axes.get_subplotspec().rowspan.start for axes in stacked.axes]
    assert places == [0, 1] and len({axes.get_title() for axes in stacked.axes}) == 2
    assert stacked.get_figheight() > 1.6 * two.get_figheight()


def test_of_more_curves_than_colours_the_first_of_each_method_are_drawn_by_backbone():
    many = pd.concat([curves(12), curves(12).assign(recipe="other", run="later", value=0.99)])
    figure = figures.cmc(many)
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes]
    assert [title.split(",")[0] for title in titles] == ["tower_0"] * 2 + ["tower_1"] * 2
    assert [len(axes.get_lines()) for axes in figure.axes] == [6] * 4
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "zero_shot trained", "fine_tune trained", "clip_reid_encoder trained",
        "prompt_sg trained", "joint trained", "mba_net trained",
    ]  # fmt: skip
    said = figure.get_suptitle().replace("\n", " ")
    assert said.endswith("the first run of each backbone and method, 12 of 24 curves")
    drawn = [line.get_ydata()[0] for line in figure.axes[0].get_lines()]
    assert drawn == pytest.approx([1 - 0.5 / (1 + number) for number in range(6)])
    few = figures.cmc(many[many["backbone"] == "tower_0"].head(80))
    assert "first run" not in few.get_suptitle()


def saved(tmp_path, figure):
    run = runs.start("02_zero_shot", "test", tmp_path)
    run.save_figure("one", figure)
    return SimpleNamespace(**{end: run.folder / "figures" / f"one.{end}" for end in ("pdf", "png")})


def streams(pdf) -> bytes:
    """A PDF's bytes, and what its compressed streams hold."""
    content = pdf.read_bytes()
    parts = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    opened = []
    for part in parts:
        try:
            opened.append(zlib.decompress(part))
        except zlib.error:
            opened.append(part)
    return content + b"".join(opened)


@pytest.mark.parametrize("width", [style.COLUMN, style.WIDTH])
def test_a_saved_figure_has_its_width_300_dpi_letters_as_truetype_and_no_pixels(tmp_path, width):
    files = saved(tmp_path, figures.cmc(curves(3), width=width))
    with Image.open(files.png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert image.width == pytest.approx(width * 300, abs=1)
    content = streams(files.pdf)
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", content)
    assert float(box[1]) == pytest.approx(width * 72, abs=0.1)
    assert b"/Subtype /Type0" in content and b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"/Subtype /Image" not in content


def test_pictures_are_the_only_pixels_in_a_pdf(tmp_path):
    table = pd.DataFrame({"pid": [1, 2], "aspect": "dorsal_r", "dataset": "demo"})
    shown = np.zeros((2, 9, 12, 3), np.uint8)
    content = streams(saved(tmp_path, pictures.image_grid(table, shown)).pdf)
    assert content.count(b"/Subtype /Image") == 2 and b"/Type3" not in content


def test_no_letter_is_smaller_than_seven_points():
    figure = figures.cmc(curves(12))
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) >= style.SMALL == 7
    small = {key: size for key, size in style.STYLE.items() if key.endswith("size") and size < 7}
    assert set(small) == {"lines.markersize"}
