"""The law for timm's networks, drawn anew each time: what is said of them without timm is what they give."""

from __future__ import annotations

import os
import random

import pytest
import timm

import composer
from bench.census.census import CPU_NETWORKS
from bench.census.holding import verify_network
from composer.adapters.timm import catalogue

SEED = os.environ["COMPOSER_SAMPLE"]
"""Set for the whole run, and told in its first lines, by tests/conftest.py."""

SAMPLE = sorted(
    random.Random(SEED).sample([name for name in catalogue.list_networks() if not name.startswith(CPU_NETWORKS)], k=20)
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_network_gives_what_is_said_of_it(name):
    found = verify_network(name)

    assert found.wrong is None
    assert len(found.sizes) + bool(found.alone) >= 2, "at its own size, and at others where it can be made for them"


def test_what_is_not_as_said_is_found(monkeypatch):
    """A catalogue that is wrong by one channel."""
    entry = catalogue.find_entry("test_resnet")
    monkeypatch.setattr(catalogue, "find_catalogue_info", lambda *part: wider(catalogue.lookup(entry, *part)))
    composer.encoder_info._describe_cached.cache_clear()

    try:
        found = verify_network("test_resnet")
    finally:
        composer.encoder_info._describe_cached.cache_clear()

    assert found.wrong.startswith("at 224 × 224 it gives [(1, 32, 112, 112), ")
    assert "and [(1, 33, 112, 112), " in found.wrong


def wider(facts):
    from attrs import evolve

    return evolve(facts, features=[evolve(f, channels=f.channels + 1) for f in facts.features])


def test_every_network_is_in_the_catalogue():
    assert catalogue.get_catalogue_version() == "1.0.31"
    assert (
        catalogue.list_networks() == tuple(timm.list_models()) or timm.__version__ != catalogue.get_catalogue_version()
    )
