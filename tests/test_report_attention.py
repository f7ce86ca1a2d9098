"""Figures of maps: each side where it belongs, a flat map in words, what checks found in print."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from clipfh_lib.files import InputError
from clipfh_lib.reports import attention, explained
from clipfh_lib.studies import maps

SIZE = (12, 16)


def table(number=2, kinds=None):
    rows = [
        {
            "test_aspect": "dorsal_r",
            "pid": 10 + n,
            "found_pid": 20 + n,
            "similarity": 0.5,
            "rank": 7,
        }
        for n in range(number)
    ]
    return pd.DataFrame(rows).assign(kind=kinds or "right")


def pictures(*shape):
    """Grey pictures, each of a shade of its own."""
    count = int(np.prod(shape))
    shades = np.linspace(40, 240, count).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (count, *SIZE, 3)).reshape(*shape, *SIZE, 3)


def peaks(*shape):
    """Maps with one peak, at a place of their own."""
    found = np.zeros((int(np.prod(shape)), *SIZE), np.float32)
    for number, one in enumerate(found):
        one[number % SIZE[0], number % SIZE[1]] = 1
    return found.reshape(*shape, *SIZE)


def texts(figure):
    return " | ".join(
        [figure.get_suptitle()]
        + [axes.get_title() for axes in figure.axes]
        + [axes.get_xlabel() for axes in figure.axes]
        + [text.get_text() for axes in figure.axes for text in axes.texts]
    )


def shown(axes):
    return np.asarray(axes.images[0].get_array())


def hottest(axes):
    """The place where a panel is most coloured."""
    return np.unravel_index(coloured(axes).argmax(), SIZE)


def coloured(axes):
    """How far each place is from the plain grey of the picture."""
    image = shown(axes)
    return np.abs(image - np.median(image, axis=(0, 1))).sum(axis=2)


def test_both_sides_of_every_pair_stand_beside_their_own_maps():
    pixels, heat = pictures(2, 3), {"grad_cam": peaks(2, 3), "a": peaks(2, 3), "b": peaks(2, 3)}
    figure = attention.pairs(table(3), pixels, heat, "demo")
    panels = np.array(figure.axes).reshape(6, 4)
    for pair in range(3):
        for side in (0, 1):
            row = panels[2 * pair + side]
            assert (shown(row[0]) == pixels[side, pair]).all()
            for axes, each in zip(row[1:], heat.values(), strict=True):
                peak = np.unravel_index(each[side, pair].argmax(), SIZE)
                assert hottest(axes) == peak
                assert axes.collections, "a line around the half of it, for a grey copy"
    said = texts(figure)
    assert "demo figures" in said and "Grad-CAM" in said and "person 22" in said


def test_baseline_and_trained_stand_in_one_row_of_a_pair():
    heat = {"trained": peaks(2, 2), "pretrained": peaks(2, 2)[:, ::-1]}
    figure = attention.pairs(table(), pictures(2, 2), heat, "11k_dorsal_r", said="Grad-CAM")
    row = [axes for axes in figure.axes if axes.images][:6]
    wanted = [None, heat["trained"][0, 0], heat["pretrained"][0, 0]]
    wanted += [None, heat["trained"][1, 0], heat["pretrained"][1, 0]]
    for axes, each in zip(row, wanted, strict=True):
        if each is not None:
            assert hottest(axes) == np.unravel_index(each.argmax(), SIZE)
    assert (shown(row[3]) == pictures(2, 2)[1, 0]).all()
    assert [axes.get_title() for axes in row] == [
        f"{side}\n{name}"
        for side in ("query", "found")
        for name in ("photograph", "trained", "pretrained")
    ]
    assert "demo" not in texts(figure) and "Grad-CAM" in texts(figure)


def test_a_flat_map_is_said_and_not_drawn():
    heat = peaks(2, 1)
    heat[0] = 0
    figure = attention.pairs(table(1), pictures(2, 1), {m: heat for m in "abc"}, "demo")
    panels = np.array(figure.axes).reshape(2, 4)
    for axes in panels[0, 1:]:
        assert attention.NOTHING in [text.get_text() for text in axes.texts]
        assert np.ptp(shown(axes), axis=2).max() < 1e-6, "the grey picture alone"
        assert not axes.collections
    assert attention.NOTHING not in [t.get_text() for axes in panels[1] for t in axes.texts]


def test_a_wrong_match_stands_beside_the_right_one():
    pixels, heat = pictures(2, 4), peaks(2, 4)
    rows = table(4, ["wrong", "missed"] * 2)
    figure = attention.wrong(rows, pixels, heat, "demo", said="HiResCAM")
    panels = np.array(figure.axes).reshape(2, 7)
    for line in (0, 1):
        wrong, missed = 2 * line, 2 * line + 1
        assert (shown(panels[line, 0]) == pixels[0, wrong]).all()
        places = {2: (0, wrong), 3: (1, wrong), 5: (0, missed), 6: (1, missed)}
        for column, place in places.items():
            assert hottest(panels[line, column]) == np.unravel_index(heat[place].argmax(), SIZE)
    assert "✗" in panels[0, 3].get_title() and "✓" in panels[0, 6].get_title()
    assert "rank 7" in panels[0, 6].get_xlabel() and "rank" not in panels[0, 3].get_xlabel()
    with pytest.raises(InputError, match="missed one"):
        attention.wrong(rows[::-1], pixels, heat, "demo")


@pytest.mark.parametrize("draw", ["pairs", "wrong"])
def test_no_pair_of_a_kind_is_said(draw):
    none = table(1)[:0]
    heat = peaks(2, 1)[:, :0]
    figure = getattr(attention, draw)(
        none, pictures(2, 1)[:, :0], {"a": heat} if draw == "pairs" else heat, "demo"
    )
    assert "no such pair" in texts(figure) or "no query" in texts(figure)


def test_pictures_and_maps_must_be_as_many_as_rows():
    with pytest.raises(InputError, match="3 maps and 2 pictures for 2 rows"):
        attention.pairs(table(2), pictures(2, 2), {"a": peaks(2, 3)}, "demo")
    with pytest.raises(InputError, match="no column similarity"):
        attention.pairs(table(2).drop(columns="similarity"), pictures(2, 2), {}, "demo")


def test_one_person_stands_above_the_maps_and_a_shorter_line_leaves_panels_empty():
    images = pd.DataFrame({"pid": [7] * 3, "aspect": "palmar_l"})
    lines = [
        ("cosine to the mean", images, pictures(3), peaks(3)),
        ("logit of the head", images[:2], pictures(2), peaks(2)),
    ]
    figure = attention.person(lines, "demo")
    panels = np.array(figure.axes).reshape(4, 3)
    assert hottest(panels[1, 2]) == (2, 2) and hottest(panels[3, 1]) == (1, 1)
    assert not panels[2, 2].images and not panels[3, 2].axison
    said = texts(figure)
    assert "palmar left" in said and "person 7" in said and "cosine to the" in said


def test_the_mean_map_of_an_aspect_is_that_of_its_images_without_flat_ones():
    aspects = ["palmar_l", "dorsal_r", "dorsal_r", "dorsal_r"]
    heat = np.zeros((4, *SIZE), np.float32)
    heat[0, 0, 0] = heat[1, 3, 3] = heat[2, 3, 3] = heat[2, 5, 5] = 1
    heat[3] = 1  # attention that is the same everywhere
    figure = attention.mean_maps(aspects, pictures(4), {"layer_cam": heat}, "demo")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["dorsal right\n3 images", "palmar left\n1 images"]
    assert hottest(figure.axes[0]) == (3, 3) and hottest(figure.axes[1]) == (0, 0)
    assert np.ptp(shown(figure.axes[0])[-1, -1]) < 1e-6, "a flat map colours nothing"
    strength = coloured(figure.axes[0])
    assert 0.1 < strength[5, 5] / strength[3, 3] < 0.95, "half as high"


def curves():
    rows = [
        {"map": name, "check": check, "share": share, "value": share * height}
        for name, height in (("random", 0.5), ("grad_cam", 0.8), ("rollout", 0.9))
        for check in ("deletion", "insertion")
        for share in (0, 0.5, 1)
    ]
    return pd.DataFrame(rows)


def test_removal_draws_every_map_beside_random_ones_in_its_own_line():
    figure = explained.removal(curves(), "demo")
    for axes in figure.axes[:2]:
        lines = {line.get_label(): line for line in axes.lines}
        assert set(lines) == {"random maps", "Grad-CAM", attention.named("rollout")}
        assert lines["Grad-CAM"].get_ydata()[-1] == 0.8
        looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
        assert len(looks) == 3
    assert "removed" in figure.axes[0].get_xlabel() and "demo figures" in texts(figure)


@pytest.mark.parametrize("name", ["rollout", "class_attention"])
def test_attention_is_marked_wherever_it_is_drawn(name):
    """The names of the study, so that none that is added goes without its mark."""
    assert name in maps.ATTENTION and len(maps.ATTENTION) == 2
    both, one = peaks(2, 2), peaks(2)
    alone = attention.named(name)
    rows = curves().replace({"map": {"rollout": name}})
    shares = of_energy().replace({"map": {"rollout": name}})
    wrongs = table(2, ["wrong", "missed"])
    for figure in [
        attention.pairs(table(), pictures(2, 2), {name: both, "grad_cam": both}, "demo"),
        attention.pairs(table(), pictures(2, 2), {name: both}, "demo"),
        attention.wrong(wrongs, pictures(2, 2), both, "demo", said=alone),
        attention.person([("a cosine", table(), pictures(2), one)], "demo", said=alone),
        attention.mean_maps(["dorsal_r"] * 2, pictures(2), {name: one}, "demo"),
        explained.removal(rows, "demo"),
        explained.energy(shares, "demo"),
    ]:
        figure.canvas.draw()
        words = " ".join(text.get_text() for text in figure.findobj(Text))
        assert "(ignores its target)" in " ".join(words.split())
    printed = explained.printed_energy(shares.assign(**dict.fromkeys(DIFFERENCE, 0.1), **COUNTS))
    assert printed["map"].str.endswith("(ignores its target)").sum() == 2


DIFFERENCE = ("difference", "difference_low", "difference_high")
COUNTS = {"images": 8, "people": 4, "flat": 0}


def of_energy():
    rows = [
        {"weights": weights, "map": name, "share": share, "low": share - 0.05, "high": share + 0.05}
        for weights, share in (("trained", 0.8), ("pretrained", 0.4))
        for name in ("grad_cam", "rollout")
    ]
    return pd.DataFrame(rows).assign(area=0.3)


def test_energy_draws_a_bar_for_each_weights_and_the_hands_area():
    figure = explained.energy(of_energy(), "demo")
    axes = figure.axes[0]
    assert sorted(bar.get_height() for bar in axes.patches) == [0.4, 0.4, 0.8, 0.8]
    assert axes.patches[-1].get_hatch(), "the second weights can be told in grey"
    (line,) = [each for each in axes.lines if each.get_label().startswith("the hand")]
    assert set(line.get_ydata()) == {0.3}


def test_printed_checks_and_energy_say_their_numbers():
    one = {"map": "grad_cam", "value": 0.25, "low": 0.2, "high": 0.3, "pairs": 9, "flat": 1}
    one |= {"difference": -0.1, "difference_low": -0.15, "difference_high": -0.05}
    rows = pd.DataFrame([one | {"check": "deletion"}, one | {"check": "other_gallery"}])
    says = pd.DataFrame({"map": ["grad_cam"], "says": ["passes all checks"]})
    line = explained.printed(rows, says).iloc[0]
    assert line["map"] == "Grad-CAM" and line["deletion, area"] == "0.25 [0.20, 0.30]"
    assert line["deletion, minus random maps"] == "-0.10 [-0.15, -0.05]"
    assert line["the checks say"] == "passes all checks" and line["flat"] == 1
    ends = {"difference": 0.5, "difference_low": 0.4, "difference_high": np.nan}
    told = of_energy().assign(**ends, images=8, people=4, flat=0)
    line = explained.printed_energy(told).iloc[0]
    assert line["on the hand, %"] == "80.0 [75.0, 85.0]" and line["hand's area, %"] == "30.0"
    assert line["difference"].startswith("+50.0")
