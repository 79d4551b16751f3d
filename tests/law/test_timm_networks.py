"""The law for timm's networks, drawn anew each time: what is said of them without timm is what they give."""

from __future__ import annotations

import os
import random

import pytest
import timm

import composer
from composer import catalogue
from composer.adapters.timm.census import ON_THE_CPU
from composer.adapters.timm.holding import held

SEED = os.environ["COMPOSER_SAMPLE"]
"""Set for the whole run, and told in its first lines, by tests/conftest.py."""

SAMPLE = sorted(
    random.Random(SEED).sample([name for name in catalogue.names() if not name.startswith(ON_THE_CPU)], k=40)
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_network_gives_what_is_said_of_it(name):
    found = held(name)

    assert found.wrong is None
    assert len(found.sizes) + bool(found.alone) >= 2, "at its own size, and at others where it can be made for them"


def test_what_is_not_as_said_is_found(monkeypatch):
    """A catalogue that is wrong by one channel."""
    entry = catalogue.entry("test_resnet")
    monkeypatch.setattr(
        composer.facts, "known_facts", lambda part, channels: wider(catalogue.answer(entry, part, channels))
    )
    composer.facts._remembered.cache_clear()

    try:
        found = held("test_resnet")
    finally:
        composer.facts._remembered.cache_clear()

    assert found.wrong.startswith("at 224 × 224 it gives [(1, 32, 112, 112), ")
    assert "and [(1, 33, 112, 112), " in found.wrong


def wider(facts):
    from attrs import evolve

    return evolve(facts, features=[evolve(f, channels=f.channels + 1) for f in facts.features])


def test_every_network_is_in_the_catalogue():
    assert catalogue.stamp() == "1.0.31"
    assert catalogue.names() == tuple(timm.list_models()) or timm.__version__ != catalogue.stamp()
