"""The matrix beside mmseg, drawn anew each time: what fits is built and runs, what needs necks fails without them."""

from __future__ import annotations

import os

import pytest

from tests.law.cells import decoders, drawn, hold

HEADS = decoders("mmseg/*")


@pytest.mark.filterwarnings("ignore:When align_corners=True")
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("verdict", ["fits", "necks"])
def test_a_pair_is_what_is_said_of_it(verdict, number):
    hold(drawn(f"{os.environ['COMPOSER_SAMPLE']} {number}", verdict, HEADS))
