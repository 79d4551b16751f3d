"""What the source distribution holds: all that is needed to run the README's commands and the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = "from setuptools import setup; setup()"
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "*.egg-info"
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The files of the source distribution, relative to its root."""
    copy = tmp_path_factory.mktemp("dist") / "copy"
    shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
    subprocess.run([sys.executable, "-c", SETUP, "--quiet", "sdist"], cwd=copy, check=True, capture_output=True)
    with tarfile.open(next(copy.glob("dist/*.tar.gz"))) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.mark.parametrize("folder", ["specs", "tests", "bench", "composer"])
def test_the_source_distribution_holds_every_file(packed, folder):
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert {name for name in written if "__pycache__" not in name} <= packed


def test_the_source_distribution_holds_what_ci_runs(packed):
    assert {".ci/run", ".ruff.toml", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= packed
