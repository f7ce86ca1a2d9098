"""What all tests share: a project of their own to write into, and a few drawn hands."""

import os
import shutil
from pathlib import Path

# Before torch is imported. Tiny networks gain nothing by a second thread, and on a busy machine one
# waits for the other: a fit of 6 s took 30 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

from clipfh_lib.data import demo_hands  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def project(tmp_path_factory, monkeypatch):
    """The working folder is a project of the test's own: its outputs/ and data/ start empty."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("params", "notebooks"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    (folder / "clipfh_lib").symlink_to(REPOSITORY / "clipfh_lib")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Root of a small data set in the layout of 11k Hands: 6 people; do not change it."""
    root = tmp_path_factory.mktemp("drawn") / "11k"
    demo_hands.write_11k(root, people=6, images=4, size=64, seed=7)
    return root
