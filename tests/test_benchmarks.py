"""Every benchmark at a small size; how fast anything is depends on the machine and is not asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {
    "metrics": "--percent 10 --repeats 1",
    "bootstrap": "--people 20 --resamples 1000 --repeats 1",
    "cam": "--pairs 4 --repeats 1",
    "big_gallery": "--queries 100 --rows 20000",
    "gallery_search": "--people 300 --queries 5 --repeats 1",
    "decode_cache": "--people 2 --images 2 --width 320 --repeats 1",
    "from_files": "--people 3 --images 2 --width 320 --repeats 1",
    "recall": "--texts 300 --each 30 --repeats 1",
    "reranking": "--percent 10 --repeats 1",
    "robustness": "--people 2 --images 2 --width 160 --canvas 64 --repeats 1",
    "start": "--repeats 1",
    "prompts": "--people 4 --images 16 --repeats 1",
    "joint": "--people 4 --images 12 --width 160 --steps 2 --large 0",
    "mining": "--captions 9000 --anchors 50 --repeats 1",
    "training": "--people 4 --images 12 --width 160 --steps 2 --large 0",
}
DEMO = "one.BACKBONE = 'demo'\n"  # ViT-B/16 takes its time
RANKS_PLUS_ONE = (
    "right = one.search.search\n"
    "one.search.search = lambda *a, **k: [f._replace(ranks=f.ranks + 1) for f in right(*a, **k)]"
)


def run(script, change, options=""):
    """A benchmark in a process of its own, after a change to it (`one`)."""
    code = f"from benchmarks import {script} as one\n{change}\none.main()"
    command = [sys.executable, "-c", code, *SMALL[script].split(), *options.split()]
    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=plain, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    "script, change",
    [
        ("metrics", "one.TIMES = 0"),
        ("bootstrap", "one.LIMIT = 0"),
        ("big_gallery", "one.LIMIT = 0"),
        ("gallery_search", "one.TIMES = 0"),
        ("decode_cache", "one.TIMES = 1e9"),
        ("from_files", "one.COLD = 1e9"),
        ("recall", "one.TIMES = 0"),
        ("reranking", "one.TARGETS = dict.fromkeys(one.TARGETS, 1e9)"),
        ("start", "one.PLAN = 0"),
        ("prompts", f"{DEMO}one.TIMES = 1e9"),
        ("cam", f"{DEMO}one.TIMES = 0"),
        ("robustness", "one.TIMES = 0"),
        ("mining", "one.SECONDS = one.MEGABYTES = 0"),
        ("training", "one.SMALL = one.GPU = 1e9"),
        ("joint", "one.SMALL = one.GPU = 1e9"),
    ],
)
def test_it_agrees_with_its_reference_and_a_missed_target_ends_with_1(script, change):
    done = run(script, change, "--check")
    assert "Traceback" not in done.stderr, done.stderr  # every script compares results first
    assert "MISSED" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize("limit, options", [(1e9, "--check"), (0, "")])
def test_a_met_target_and_a_missed_one_without_check_end_with_0(limit, options):
    done = run("bootstrap", f"one.LIMIT = {limit}", options)
    assert done.returncode == 0, done.stderr
    assert ("MISSED" in done.stdout) == (limit == 0)
    assert "OMP_NUM_THREADS 1," in done.stdout


@pytest.mark.parametrize(
    "script, change",
    [
        ("metrics", RANKS_PLUS_ONE),
        ("big_gallery", RANKS_PLUS_ONE),
        (
            "gallery_search",
            "right = one.index._highest\n"
            "one.index._highest = lambda scores, top: right(scores, top + 1)._replace(\n"
            "    similarity=right(scores, top + 1).similarity[:, 1:],\n"
            "    rows=right(scores, top + 1).rows[:, 1:])",
        ),
        ("recall", RANKS_PLUS_ONE),
        ("reranking", "right = one.published\none.published = lambda *a: 1 - right(*a)"),
        (
            "bootstrap",
            "right = one.intervals.interval\n"
            "one.intervals.interval = lambda *a: one.np.array(right(*a)) + 0.1",
        ),
        (
            "decode_cache",
            "right = one.reference\none.reference = lambda path: right(path)[:, ::-1]",
        ),
        (
            "mining",
            "right = one.mining.hard\n"
            "one.mining.hard = lambda *a: right(*a[:2], a[2] + 10**6, *a[3:])",
        ),
        ("cam", f"{DEMO}right = one.by_autograd\none.by_autograd = lambda *a: 1 - right(*a)"),
        ("robustness", "right = one.encoded\none.encoded = lambda *a: right(*a) + 1e-4"),
        ("prompts", f"{DEMO}right = one.expected\none.expected = lambda *a: right(*a) + 0.1"),
        (
            "joint",
            "right = one.training.fit\none.training.fit = lambda *a, **k: right(*a, **k) * 1.01",
        ),
        (
            "training",
            "right = one.training.fit\none.training.fit = lambda *a, **k: right(*a, **k) * 1.01",
        ),
        (
            "from_files",
            "right = one.each_trial_anew\n"
            "one.each_trial_anew = lambda *a: right(*a).assign(value=0.5)",
        ),
    ],
)
def test_a_result_that_differs_from_the_reference_is_no_figure(script, change):
    done = run(script, change)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    assert "ratio" not in done.stdout
