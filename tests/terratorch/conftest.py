"""The backbones of TerraTorch: `pip install '.[test,terratorch]'`, then `python -m pytest -m terratorch`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if find_spec("terratorch") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items):
    """All that stands in this folder is of TerraTorch; its own warnings are no errors of ours."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.terratorch)
            item.add_marker(pytest.mark.filterwarnings("ignore"))
