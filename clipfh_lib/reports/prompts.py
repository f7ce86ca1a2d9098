"""Learned prompts -> tables and Figures: nearest words, how alike they are, where they lie."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipfh_lib.reports import style, tables
from clipfh_lib.reports.style import styled

NAMED = 40  # people at the most whose numbers are written into a figure
LOOKS = {"text": "^", "images": "o"}
SAID = {"text": "text of a person", "images": "mean of the person's images"}


def words(found: pd.DataFrame, people: int = 12) -> pd.DataFrame:
    """The words nearest to the tokens, to read: a row for each of the first people.

    Args:
        found: of `person_texts.nearest_words`.
        people: rows at the most.
    """
    tables.need(found, ["pid", "aspect", "token", "word", "distance"], "words")
    said = found["word"] + " (" + found["distance"].map("{:.2f}".format) + ")"
    wide = found.assign(said=said).pivot(index=["pid", "aspect"], columns="token", values="said")
    wide.columns = [f"X{token}" for token in wide.columns]
    return wide.reset_index().head(people)


def own_text(found: pd.DataFrame, dataset: str = "") -> pd.DataFrame:
    """`person_texts.own_text` to read, in percent."""
    shown = found.assign(
        **{name: found[name].map("{:.1%}".format) for name in ("rank1", "rank5", "chance")}
    ).rename(columns=tables.WORDS)
    remark = tables.remark(dataset)
    return shown.assign(remark=remark) if remark else shown


@styled
def similarity(found: pd.DataFrame, dataset: str | None = None, limited: bool = False) -> Figure:
    """How alike the texts of each two people are: a square, ordered by aspect, then by person.

    Args:
        found: of `person_texts.similarities`.
        dataset: the data set's name.
        limited: data.limit was set; the figure says so.
    """
    tables.need(found, ["pid", "aspect", "other_pid", "other_aspect", "value"], "similarities")
    own, other = ["aspect", "pid"], ["other_aspect", "other_pid"]
    square = found.pivot(index=own, columns=other, values="value")
    square = square.sort_index().sort_index(axis=1)
    figure = style.new(found, dataset, limited, 5.2)
    axes = figure.subplots()
    value = square.to_numpy(float)
    apart = value[~np.eye(len(value), dtype=bool)]
    low = min(0.0, float(apart.min())) if len(apart) else 0.0
    shown = axes.imshow(value, cmap="Blues", vmin=low, vmax=1)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("cosine of two people's text features")
    aspects = list(square.index.get_level_values("aspect"))
    if len(value) <= NAMED:
        names = [str(pid) for pid in square.index.get_level_values("pid")]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=style.SMALL)
        axes.set_yticks(range(len(names)), names, fontsize=style.SMALL)
        axes.set(xlabel="person", ylabel="person")
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    starts = [row for row, aspect in enumerate(aspects) if row == 0 or aspects[row - 1] != aspect]
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="black", lw=0.6)
        axes.axvline(start - 0.5, color="black", lw=0.6)
    if len(starts) > 1 and len(value) > NAMED:
        middles = (np.array(starts) + np.array([*starts[1:], len(aspects)]) - 1) / 2
        said = [style.ASPECTS.get(aspects[start], aspects[start]) for start in starts]
        axes.set_xticks(middles, said)
        axes.set_yticks(middles, said, rotation=90, va="center")
        axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(apart):
        axes.set_title(f"two people's texts: {apart.mean():.2f} on average")
    return figure


@styled
def layout(found: pd.DataFrame, dataset: str | None = None, limited: bool = False) -> Figure:
    """Each person's text and mean image in a plane, joined by a line; a colour for each aspect.

    Args:
        found: of `person_texts.layout`.
        dataset: the data set's name.
        limited: data.limit was set; the figure says so.
    """
    tables.need(found, ["pid", "aspect", "kind", "x", "y"], "layout")
    if found.empty:
        return style.saying(found, dataset, limited, "fewer than three people: nothing to lay out")
    figure = style.new(found, dataset, limited, 4.6)
    axes = figure.subplots()
    names = tables.aspects(found["aspect"])
    looks = dict(zip(names, style.LOOKS, strict=False))
    ends = {kind: rows.set_index(["pid", "aspect"]) for kind, rows in found.groupby("kind")}
    text, images = ends["text"], ends["images"].reindex(ends["text"].index)
    axes.plot([text["x"], images["x"]], [text["y"], images["y"]], color="0.8", lw=0.6, zorder=1)
    for name in names:
        for kind, marker in LOOKS.items():
            rows = found[(found["aspect"] == name) & (found["kind"] == kind)]
            filled = {"color": looks[name][0]} if kind == "text" else {
                "facecolors": "none", "edgecolors": looks[name][0]
            }  # fmt: skip
            spoken = style.ASPECTS.get(name, name)
            label = f"{SAID[kind]}, {spoken}" if len(names) > 1 else SAID[kind]
            axes.scatter(rows["x"], rows["y"], s=16, marker=marker, lw=0.8, label=label, **filled)
    if len(text) <= NAMED:
        for (pid, _), row in text.iterrows():
            axes.annotate(
                str(pid),
                (row["x"], row["y"]),
                (3, 2),
                textcoords="offset points",
                fontsize=style.SMALL,
            )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title("t-SNE of text and image features: near is alike, far apart says little")
    style.legend_below(figure, 2)
    return figure
