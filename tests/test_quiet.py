"""Keeping an import to itself: what it draws, sets and says is as if it had not been."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings

import numpy as np
import pytest

from composer.process import guard_import

DRAWS = {"Python's": (random.seed, random.random), "numpy's": (np.random.seed, np.random.random)}


@pytest.mark.parametrize(("seed", "draw"), DRAWS.values(), ids=DRAWS)
def test_the_global_random_state_is_left_as_found(seed, draw):
    seed(3)
    expected = [draw(), draw()]
    seed(3)
    first = draw()
    with guard_import():
        seed(4)
        draw()
    assert [first, draw()] == expected


def test_it_is_left_as_found_where_an_import_fails():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    with pytest.raises(ImportError), guard_import():
        raise ImportError(random.random())
    assert random.random() == expected


def test_what_is_said_is_lost_and_the_environment_is_as_it_was(capfd, monkeypatch):
    monkeypatch.setenv("COMPOSER_TEST", "before")
    before = dict(os.environ)
    with guard_import():
        os.environ["COMPOSER_TEST"] = "after"
        os.environ["COMPOSER_OTHER"] = "new"
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("any").error("a log line")
        sys.stdout.write("a line\n")
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")
