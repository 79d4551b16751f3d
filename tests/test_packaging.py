"""The source distribution holds every file that the README's commands, the tests and CI need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("specs", "tests", "bench", "composer")
SETUP = "from setuptools import setup; setup()"
IGNORED = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "*.egg-info"
)


def test_the_source_distribution_holds_every_file(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=IGNORED)
    subprocess.run([sys.executable, "-c", SETUP, "--quiet", "sdist"], cwd=copy, check=True, capture_output=True)
    with tarfile.open(next(copy.glob("dist/*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    files = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}
    assert {name for name in files if "__pycache__" not in name and (ROOT / name).is_file()} <= packed
    assert {".ci/run", ".ruff.toml", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= packed
