"""The backbones of transformers: `pip install '.[transformers]'`, then `python -m pytest -m transformers`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if find_spec("transformers") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items):
    """All that stands in this folder is of transformers; its own warnings are no errors of ours."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.transformers)
            item.add_marker(pytest.mark.filterwarnings("ignore"))
