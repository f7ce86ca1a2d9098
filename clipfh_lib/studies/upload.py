"""The upload widget of 12_identify: pictures are handed over, the result sheet appears below."""

import io
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipfh_lib.studies import vectors
from clipfh_lib.studies.identify import Identifier

LINES = 20  # pictures of one hand-over; a sheet of more cannot be read
HEIGHT = 120  # pixels of a picture in the sheet
DPI = 110
Draw = Callable[[pd.DataFrame, np.ndarray], Figure]


def widget(identifier: Identifier, draw: Draw, top: int = 5) -> ipywidgets.VBox:
    """A button to choose image files, and below it who they are.

    What is handed over is embedded and forgotten: it is written to a folder that goes at once, and
    to no cache. It also stands where nothing is shown, as under papermill.

    Args:
        identifier: who is asked.
        draw: answers and pictures (Q, H, W, 3) uint8 -> a figure, e.g. `identified.sheet`.
        top: people named for a picture.
    """
    chosen = ipywidgets.FileUpload(
        accept="image/*", multiple=True, description="images of hands", layout={"width": "16em"}
    )
    said, sheet = ipywidgets.HTML(_line("Choose one image or several.")), ipywidgets.VBox()

    def answer(change: dict) -> None:
        """Ask for what was chosen; a mistake is told in the widget, where one looks."""
        if not change["new"]:
            return
        try:
            figure, lines = ask(identifier, change["new"], draw, top)
        except Exception as error:  # in a callback it would be lost in the log
            figure, lines = None, [f"{type(error).__name__}: {error}"]
        said.value = "".join(map(_line, lines))
        sheet.children = [] if figure is None else [_picture(figure)]
        chosen.value = ()  # the same file can be chosen again, and no pixels stay in the notebook

    chosen.observe(answer, names="value")
    return ipywidgets.VBox([chosen, said, sheet])


def ask(
    identifier: Identifier, uploaded: Sequence[dict], draw: Draw, top: int = 5
) -> tuple[Figure | None, list[str]]:
    """Identify what an upload holds.

    Args:
        identifier: who is asked.
        uploaded: `name` and `content` (bytes) of each file, as of `ipywidgets.FileUpload`.
        draw: answers and pictures -> a figure.
        top: people named for a picture.

    Returns:
        The sheet, none where no file could be read; and a line for each file.
    """
    left = len(uploaded) - LINES
    with tempfile.TemporaryDirectory() as name:
        root, paths = Path(name), []
        for number, file in enumerate(uploaded[:LINES]):
            folder = root / str(number)  # two files may have one name
            folder.mkdir()
            own = Path(file["name"].replace("\\", "/")).name or "image"
            (folder / own).write_bytes(bytes(file["content"]))
            paths.append(f"{number}/{own}")
        found, aside = identifier.identify(root, paths, top)
        seen = list(found["query"].unique())
        pictures = vectors.pictures(root, seen, HEIGHT)
    first = found[found["rank"] == 1]
    lines = [
        f"{path.partition('/')[2]}: {answer} (nearest: {person}, {similarity:.3f})"
        for path, answer, person, similarity in first[
            ["query", "answer", "person", "similarity"]
        ].to_numpy()
    ]
    lines += [f"{path.partition('/')[2]}: {reason}" for path, reason in aside.to_numpy()]
    lines += [f"{left} more files were passed over; hand over {LINES} at a time"] * (left > 0)
    return (draw(found, pictures) if len(found) else None), lines


def _line(text: str) -> str:
    return f"<div>{escape(text)}</div>"


def _picture(figure: Figure) -> ipywidgets.Image:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, bbox_inches="tight")
    return ipywidgets.Image(value=content.getvalue(), format="png", layout={"max_width": "100%"})
