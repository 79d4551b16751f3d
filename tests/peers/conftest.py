"""What compares composer with TerraTorch itself: `pip install '.[peers]'`, then `python -m pytest -m peers`."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if find_spec("terratorch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # It calls home when it is imported, and warns of what its own dependencies will change.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import terratorch  # noqa: F401


def pytest_collection_modifyitems(items):
    """All that stands in this folder is of the peers; their own warnings are no errors of ours."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.peers)
            item.add_marker(pytest.mark.filterwarnings("ignore"))
