"""The report of a plan: every number from run folders, no resource outside, the author's words."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from fake_runs import draw, finish, finished, plan, ranks, seal
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from clipfh_lib import files, runs
from clipfh_lib.files import InputError
from clipfh_lib.reports import (
    author,
    findings,
    html,
    photographs,
    pictured,
    report,
    tables,
    thesis,
)

TINY = "tiny"


def made(jobs, project, chosen=None, figures=("cmc",)):
    """The report of a plan whose 20 drew some figures."""
    folder = project / "outputs" / TINY / "20_compare"
    for name in figures:
        draw(folder, name)
    return report.of_plan(TINY, jobs, findings.of_plan(jobs, chosen), folder)


def text_of(page):
    """What a reader of a page sees, in one line; pictures' data are left out."""
    return re.sub(
        r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S))
    )


class Resources(HTMLParser):
    """All that a page would load, its scripts, its links."""

    def __init__(self):
        super().__init__()
        self.found, self.tags, self.ids = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster", "background"):
                self.found.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on"), f"{tag} runs {name}"


def test_a_page_holds_all_it_needs_and_its_contents_lead_somewhere(project):
    (project / f"params/plans/{TINY}.md").write_text(
        "## Observations\n![x](http://a.example/x.png) [y](https://b.example) "
        "<script src='http://c.example'></script><img src=x onerror=alert(1)>"
    )
    page = html.page(made(finished(project), project))
    seen = Resources()
    seen.feed(page)
    assert {"script", "link", "iframe", "object"}.isdisjoint(seen.tags)
    inside = [one for one in seen.found if re.match(r"data:image/(png|jpeg);base64,", one)]
    anchors = [one for one in seen.found if one.startswith("#")]
    assert len(inside) == 4 and len(inside) + len(anchors) == len(seen.found), seen.found
    assert {one[1:] for one in anchors} <= set(seen.ids) and len(anchors) > 8
    assert len(set(seen.ids)) == len(seen.ids)
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    assert "url(" not in style and "@import" not in style
    assert "y (https://b.example)" in text_of(page), "a link is its words and its address"


def test_figures_of_a_page_are_small_and_look_as_they_were_drawn(tmp_path):
    """Photographs three times, curves twice smaller than as PNG of 24 bits, 1600 pixels wide."""
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 12, (24, 40, 3)).repeat(50, 0).repeat(50, 1)
    grain = draw.normal(150, 3, (1200, 2000, 3)) + noise
    figure = Figure(figsize=(5, 3))
    lines = figure.subplots().plot(draw.random((60, 5)), linewidth=3)
    figure.savefig(tmp_path / "cmc.png", dpi=400)
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(tmp_path / "sample.png")
    for name, kind, less in (("cmc", "png", 0.5), ("sample", "jpeg", 0.34)):
        with Image.open(tmp_path / f"{name}.png") as image:
            before = image.convert("RGB").resize((1600, round(image.height * 0.8)))
        front, text = html.data_uri(tmp_path / f"{name}.png").split(",")
        assert front == f"data:image/{kind};base64"
        content, plain = base64.b64decode(text), io.BytesIO()
        before.save(plain, "PNG", optimize=True)
        assert len(content) < less * len(plain.getvalue())
        after = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)
        away = np.abs(after - np.asarray(before, float)).max(axis=2)
        assert away.mean() < 6 and (away > 48).mean() < 0.001, name
        if name == "cmc":
            assert (after[0, 0] >= 254).all(), "paper stays white"
            for line in lines:
                colour = np.array(to_rgb(line.get_color())) * 255
                assert (np.abs(after - colour).max(axis=2) < 12).sum() > 300, "no line is lost"


def test_a_number_changed_in_a_run_folder_changes_in_the_report(project):
    jobs = finished(project)
    before = text_of(html.page(made(jobs, project)))
    folder = jobs[2].folder
    metrics = pd.read_csv(folder / "metrics.csv")
    here = (metrics["metric"] == "rank1") & (metrics["subset"] == "all")
    here &= metrics["weights"] == "trained"
    old = f"{metrics.loc[here, 'value'].item() * 100:.1f} ± "
    metrics.loc[here, ["value", "sd", "low", "high"]] = 0.1234, 0.0123, 0.1111, 0.1357
    files.write_csv(folder / "metrics.csv", metrics)
    seal(folder)
    new, cell = made(jobs, project), "12.3 ± 1.2 [11.1, 13.6]"
    assert old in before and cell not in before
    assert cell in text_of(html.page(new))
    main = thesis.write(project / "thesis", new)
    assert r"12.3 $\pm$ 1.2 [11.1, 13.6]" in (main.parent / "tables/comparison.tex").read_text()


def test_other_numbers_of_the_report_come_from_the_folders_too(project):
    jobs = finished(project)
    page = text_of(html.page(made(jobs, project)))
    assert "1 min 01 s" in page and "c" * 12 in page and "5" * 64 in page
    assert "19.3% of queries" in page and "no double" not in page
    assert "demo: 1 files set aside" in page
    for folder, changed in ((jobs[1].folder, {"seconds": 125.2, "commit": "d" * 40}),):
        seal(folder, files.read_sealed(folder / "manifest.json") | changed)
    traps = pd.read_csv(jobs[0].folder / "traps.csv")
    traps["verdict"] = "nothing to do"
    files.write_csv(jobs[0].folder / "traps.csv", traps)
    seal(jobs[0].folder)
    page = text_of(html.page(made(jobs, project)))
    assert "2 min 05 s" in page and "The runs are of 2 states of the code" in page
    assert "No trap report" in page and "git checkout" not in page


def test_a_file_that_was_changed_by_hand_is_refused(project):
    jobs = finished(project)
    with (jobs[0].folder / "traps.csv").open("a") as file:
        file.write("bursts,none,0,0,0,look\n")
    with pytest.raises(InputError, match="traps.csv is not what its manifest says"):
        made(jobs, project)


def test_what_stands_and_what_does_not_is_listed_and_counted(project):
    jobs = finished(project)
    finish(jobs[2], ranks("trained", 0.42, 3), ranks("pretrained", 0.4, 1))
    page = text_of(html.page(made(jobs, project)))
    assert "Of 4 differences 0 stand and 4 do not" in page and "Stands:" not in page
    finish(jobs[2], ranks("trained", 0.95, 3), ranks("pretrained", 0.4, 1))
    page = text_of(html.page(made(jobs, project)))
    assert "Of 4 differences 4 stand and 0 do not" in page and "Does not stand:" not in page
    assert "Stands: demo, same_aspect: fine_tune against zero_shot/demo-default-seed0" in page


def few(table, people):
    return table[table["pid"] < people]


def test_what_too_few_people_cannot_decide_is_listed_apart(project):
    """Four differences of six people: the least p is 2/64, four times that is above 0.05."""
    jobs = finished(project)
    start = few(ranks("pretrained", 0.4, 1), 6)
    finish(jobs[1], start)
    finish(jobs[2], few(ranks("trained", 0.95, 3), 6), start)
    page = text_of(html.page(made(jobs, project)))
    assert "Of 4 differences 0 stand, 0 do not and 4 cannot be decided" in page
    assert "4 cannot be decided with 6 people: with 4 comparisons at once" in page
    assert "Cannot be decided: demo, same_aspect: fine_tune against" in page
    assert "Does not stand:" not in page and "(points, 6 people)" in page


def test_what_one_seed_and_uncorrected_bold_leave_out_is_said(project):
    jobs = finished(project)
    page = text_of(html.page(made(jobs, project)))
    assert "1 of 1 trainings were run with one seed." in page
    assert "not corrected for having been chosen as the first two" in page
    assert "all comparisons of a data set, split and direction" in page
    cell = {"notebook": "03_fine_tune", "dataset": "demo", "backbone": "demo", "recipe": "demo"}
    jobs = plan(project, {**cell, "seed": [0, 1]})
    for job in jobs:
        finish(job, ranks("trained", 0.9, 2))
    assert "with one seed" not in text_of(html.page(made(jobs, project)))


def test_a_chosen_run_is_what_the_others_are_tested_against(project):
    jobs = finished(project)
    said = made(jobs, project, jobs[2].folder)
    (tests,) = [t for section in said.sections for t in section.tables if t.name == "tests"]
    assert set(tests.numbers["reference"]) == {"03_fine_tune/demo-demo-seed0 trained"}
    assert "03_fine_tune/demo-demo-seed0 (where it tested nothing" in tests.caption


def test_a_plan_that_is_not_done_says_what_is_missing(project):
    jobs = plan(project)
    finish(jobs[1], ranks("pretrained", 0.4, 1))
    page = text_of(html.page(made(jobs, project)))
    assert "1 of 3 runs are complete" in page
    assert "03_fine_tune/demo-demo-seed0: not started" in page
    assert "No run of this plan has another to be tested against" in page
    with pytest.raises(InputError, match="no complete run"):
        findings.of_plan(plan(project, name="other", **{"data.trials": 3}))


# --- the author's sections -----------------------------------------------------------------------


def test_sections_nobody_wrote_are_marked_and_those_of_the_author_are_set(project):
    jobs = finished(project)
    empty = "not written yet: params/plans/tiny.md"
    assert text_of(html.page(made(jobs, project))).count(empty) == 3
    words = "## Observations\n\nIt *works* & **well**:\n\n- one\n- two\n\n# Next steps\n\n1. more\n"
    (project / f"params/plans/{TINY}.md").write_text(words)
    said = made(jobs, project)
    page = html.page(said)
    assert "It <em>works</em> &amp; <strong>well</strong>:" in page and "<li>two</li>" in page
    assert text_of(page).count(empty) == 1 and "<li>more</li>" in page
    main = thesis.write(project / "thesis", said).read_text()
    assert r"It \emph{works} \& \textbf{well}:" in main
    assert "\\begin{itemize}\n\\item one\n\\item two\n\\end{itemize}" in main
    assert "\\begin{enumerate}\n\\item more\n\\end{enumerate}" in main


def test_a_heading_that_no_report_shows_is_refused_by_name(project):
    (project / f"params/plans/{TINY}.md").write_text("## Conclusion\n\nlost\n")
    with pytest.raises(InputError, match="'Conclusion'; a report has Observations, Conclusions"):
        author.sections(TINY)


def test_every_plan_has_empty_sections_for_its_author(project):
    for path in (project / "params/plans").glob("*.yaml"):
        assert path.with_suffix(".md").is_file(), f"{path.stem} has no place for its author"
        assert list(author.sections(path.stem)) == list(author.SECTIONS)


# --- figures and photographs ---------------------------------------------------------------------

REAL = {"data.catalogue": "hands_11k", "data.root": "data/real", "data.draw": None}


def names(jobs, project):
    pictures, left = pictured.of_plan(
        [job.folder for job in jobs], project / "outputs" / TINY / "20_compare"
    )
    return {one.png.stem for one in pictures}, {name.rsplit("-", 1)[-1] for name in left}


@pytest.mark.parametrize(
    "data, may",
    [
        ({}, True),
        ({**REAL, "data.photographs": False}, False),
        ({**REAL, "data.photographs": True}, True),
    ],
)
def test_photographs_of_real_hands_stand_only_where_the_data_set_allows_it(project, data, may):
    jobs = finished(project, **data)
    for name in ("cmc", "failures-demo", "something_new"):
        draw(project / "outputs" / TINY / "20_compare", name)
    shown, left = names(jobs, project)
    holding = {"ranked_lists", "sample", "failures-demo", "something_new"}
    assert {"cmc", "split_sizes"} <= shown
    assert (holding & shown) == (holding if may else set())
    said = made(jobs, project)
    (cost,) = [table for s in said.sections for table in s.tables if table.name == "cost"]
    assert set(cost.shown["remark"]) == {"" if data else "demo figures"}, "not by its name"
    assert ("Demo figures" in said.subtitle) == (not data)
    page, main = html.page(said), thesis.write(project / "thesis", said)
    kept = {path.name for path in (main.parent / "figures").iterdir()}
    assert any("ranked-lists" in name for name in kept) == may
    assert ("Best and worst queries" in page) == may
    assert ("4 figures show photographs and are left out" in page) == (not may)


ENROLLED = [{"folder": "data/friends"}, {"table": "data/friends.csv"}]


@pytest.mark.parametrize("enrol", ENROLLED, ids=["folder", "table"])
@pytest.mark.parametrize("data", [{}, {**REAL, "data.photographs": True}], ids=["drawn", "allowed"])
def test_people_enrolled_from_elsewhere_stand_in_no_report_whatever_the_data_set_says(
    project, enrol, data
):
    cell = {"notebook": "12_identify", "dataset": "demo", "backbone": "demo", "recipe": "default"}
    zero = {**cell, "notebook": "02_zero_shot"}
    more = {f"enrol.{name}": value for name, value in enrol.items()}
    jobs = plan(project, zero, cell, {**cell, "overrides": more}, **data)
    for job, searched in zip(jobs, ([ranks("pretrained", 0.4, 1)], [], []), strict=True):
        finish(job, *searched, figures=["answers"])
    shown = [job.folder / "figures" / "answers.png" for job in jobs]
    pictures, left = pictured.of_plan([job.folder for job in jobs], project / "none")
    assert [one.png for one in pictures] == [shown[1]], "the test gallery's alone"
    assert len(left) == 1 and jobs[2].folder.name in left[0]
    assert ("Demo figures" in pictures[0].caption) == (not data)
    params = jobs[2].params.model_dump(mode="json")
    assert photographs.remark(params) == "" and not photographs.allowed(params)
    page = html.page(made(jobs, project, figures=()))
    assert "or since people were enrolled from a folder or a table: demo-12_identify" in page


def test_a_permission_counts_only_while_the_data_set_gives_it(project):
    """What the run was told, what the file says today, whether photographs may stand."""
    file = project / "params/datasets/hands.yaml"
    content = "data: {catalogue: hands_11k, root: data/real, aspects: [dorsal_r], photographs: %s}"
    data = {"catalogue": "hands_11k", "root": "data/real", "draw": None}
    for then, today, may in (
        (True, True, True), (True, False, False), (False, False, False), (False, True, True),
    ):  # fmt: skip
        file.write_text(content % str(today).lower())
        run = {"dataset": "hands", "data": {**data, "photographs": then}}
        assert photographs.allowed(run) == may, (then, today)
    elsewhere = {**data, "photographs": False, "root": "data/friends"}
    assert not photographs.allowed({"dataset": "hands", "data": elsewhere}), "of that folder alone"
    refused = {"data.photographs": False}
    run = {"dataset": "hands", "overrides": refused, "data": {**data, "photographs": False}}
    assert not photographs.allowed(run), "an override forbids what the file allows"
    file.unlink()
    assert photographs.allowed({"dataset": "hands", "data": {**data, "photographs": True}})
    assert not photographs.allowed({}) and not photographs.allowed(None)


def test_one_data_set_that_forbids_them_keeps_photographs_out_of_figures_of_all(project):
    cells = [
        {"notebook": "02_zero_shot", "dataset": name, "backbone": "demo", "recipe": "default"}
        for name in ("demo", "demo_hd")
    ]
    cells[1]["overrides"] = {"data.root": "data/real", "data.draw": None}
    jobs = plan(project, *cells)
    for job in jobs:
        finish(job, ranks("pretrained", 0.4, 1), figures=["ranked_lists"])
    for name in ("failures-demo", "failures-demo_hd", "worst"):
        draw(project / "outputs" / TINY / "20_compare", name)
    pictures, left = pictured.of_plan(
        [job.folder for job in jobs], project / "outputs" / TINY / "20_compare"
    )
    assert {one.name for one in pictures} == {
        "failures-demo",
        "demo-02_zero_shot-demo-default-seed0-ranked_lists",
    }
    assert "worst" in left and "failures-demo_hd" in left


def test_every_figure_of_a_notebook_is_known_to_hold_photographs_or_not():
    """A figure that is new fails here until somebody has looked at it."""
    holding = {
        "sample", "train_images", "ranked_lists", "negatives", "searched", "sentences", "failures",
        "conditions", "answers", "right_matches", "wrong_matches", "one_person",
        "before_and_after", "mean_maps",
    }  # fmt: skip
    found = set()
    for path in (files.project() / "notebooks").glob("*.ipynb"):
        found |= set(re.findall(r'save_figure\(f?\\"([a-z_0-9]+)', path.read_text()))
    found = {name.rstrip("_") for name in found}
    known = {name for name in found if not pictured.photographs.shown_in(name)}
    assert found <= known | holding, "see photographs.WITHOUT, else add it here"
    assert holding.isdisjoint(known) and len(known) > 10


def test_captions_say_demo_figures_and_name_the_run(project):
    jobs = finished(project)
    said = made(jobs, project)
    pictures = [one for section in said.sections for one in section.pictures]
    assert len(pictures) == 4
    assert all("Demo figures" in one.caption for one in pictures)
    (sheet,) = [one for one in pictures if one.png.stem == "ranked_lists"]
    assert "run 02_zero_shot/demo-default-seed0" in sheet.caption
    for table in [table for section in said.sections for table in section.tables]:
        for rows in (table.shown,):
            dataset = [name for name in rows if name in ("data set", "dataset")]
            if dataset and "remark" in rows:
                assert (rows["remark"] == "demo figures").all(), table.name
    limited = finished(project, **{"data.limit.people": 12})
    captions = [one.caption for s in made(limited, project).sections for one in s.pictures]
    assert captions and all("limited run" in caption for caption in captions)


def test_the_first_run_of_a_data_set_and_backbone_shows_its_pictures_and_no_other(project):
    base = {"notebook": "02_zero_shot", "dataset": "demo", "backbone": "demo"}
    jobs = plan(project, {**base, "recipe": ["default", "flip"]})
    for job in jobs:
        finish(job, ranks("pretrained", 0.4, 1), figures=["ranked_lists"])
    pictures, _ = pictured.of_plan([job.folder for job in jobs], project / "none")
    assert [one.name for one in pictures] == ["demo-02_zero_shot-demo-default-seed0-ranked_lists"]


def test_failures_are_of_a_run_that_trained(project):
    jobs = finished(project)
    kept = pd.DataFrame({"image_id": ["q000"], "path": ["a.jpg"], "pid": [0], "aspect": ["all"]})
    assert pictured.one_of_each([job.folder for job in jobs]) == {}, "no table of images is kept"
    for job in jobs[1:]:
        files.write_csv(job.folder / "embeddings.csv", kept)
        seal(job.folder)
    assert pictured.one_of_each([job.folder for job in jobs]) == {"demo": jobs[2].folder}
    assert pictured.one_of_each([jobs[1].folder]) == {"demo": jobs[1].folder}


def test_saved_tables_are_there_as_csv_markdown_and_latex(project):
    jobs = finished(project)
    run = runs.start("20_compare", TINY, "outputs")
    found = findings.of_plan(jobs)
    findings.save(run, found, TINY)
    for kind in ("csv", "md", "tex"):
        assert (run.folder / f"comparison.{kind}").is_file() and (
            run.folder / f"tests.{kind}"
        ).is_file()
    kept = pd.read_csv(run.folder / "comparison.csv")
    assert kept["rank1_sd"].notna().all() and (kept["rank1_low"] <= kept["rank1"]).all()
    assert "rank-1" in (run.folder / "comparison.md").read_text()
    assert (
        tables.need(pd.read_csv(run.folder / "tests.csv"), ["p", "p_holm", "stands"], "t") is None
    )
    run._lock.release(force=True)
