"""20_compare runs on folders alone, and ends in a report."""

import pandas as pd
import pytest
from fake_runs import finished
from test_notebooks import executed, found

pytestmark = pytest.mark.notebooks


def test_20_compare_ends_in_a_page_and_a_folder_for_latex(project):
    finished(project)
    (project / "params/plans/tiny.md").write_text("## Observations\n\nSeen by *me*.\n")
    cells = executed(project, "20_compare", {"plan": "tiny"})
    assert len(cells) - 1 <= 14, "papermill injects one"
    folder = project / "outputs/tiny/20_compare"
    made = set(found(folder)["files"])
    for name in ("comparison", "tests", "far", "train_by_test", "published", "cost"):
        assert f"{name}.csv" in made, name
    figures = ("cmc", "bars", "by_method", "det", "histories", "burst_gap", "embedded")
    assert {f"figures/{name}.pdf" for name in figures} <= made
    assert {"report.html", "thesis/main.tex", "thesis/captions.md"} <= made
    assert {"thesis/tables/comparison.tex", "thesis/figures/cmc.pdf"} <= made
    page = (folder / "report.html").read_text()
    assert "Seen by <em>me</em>." in page and "fine_tune" in page
    tests = pd.read_csv(folder / "tests.csv")
    assert tests["stands"].all() and (tests["remark"] == "demo figures").all()
