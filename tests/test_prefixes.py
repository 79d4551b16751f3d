"""Prefixes of the names in a checkpoint, found by what the network calls its own tensors."""

from __future__ import annotations

import pytest

from composer.tensors.matching import count_matches

WANTED = ("conv.weight", "conv.bias", "layers.0.conv.weight")


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        pytest.param(WANTED, {"": 3, "layers.0.": 1}, id="names as they are"),
        pytest.param([f"model.{name}" for name in WANTED], {"model.": 3, "model.layers.0.": 1}, id="one wrapper"),
        pytest.param(
            [f"{who}.backbone.{name}" for who in ("teacher", "student") for name in WANTED[:2]],
            {"student.backbone.": 2, "teacher.backbone.": 2},
            id="two networks",
        ),
        pytest.param([f"{'a.' * 8}conv.bias"], {"a." * 8: 1}, id="eight dots"),
        pytest.param([f"{'a.' * 300_000}conv.bias"], {}, id="hundreds of thousands of dots"),
        pytest.param(["conv.weight.scale", "other"], {}, id="nothing in common"),
    ],
)
def test_matches_are_counted_behind_each_prefix(given, counts):
    assert list(count_matches(given, WANTED).items()) == list(counts.items())


def test_a_name_of_a_million_parts_takes_no_time():
    """Tried at each of its dots, with all that is behind, it would take minutes."""
    assert count_matches([f"{'a.' * 10**6}conv.weight"], WANTED) == {}
