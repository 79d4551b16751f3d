"""What builds mmseg's heads: `pip install '.[mmseg,test]'`, then `python -m pytest -m mmseg`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if find_spec("mmseg") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items):
    """All that stands in this folder needs mmseg."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.mmseg)
