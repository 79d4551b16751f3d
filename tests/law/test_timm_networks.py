"""The law for timm's networks, drawn anew each time: what the catalogue says of them is what they give."""

from __future__ import annotations

import os
import random

import pytest
import timm
from attrs import evolve

import composer
from bench.census.census import CPU_NETWORKS
from bench.census.holding import verify_network
from composer.adapters.timm import catalogue
from composer.parts.encoders import Timm

SEED = os.environ["COMPOSER_SAMPLE"]
"""Set for the whole run, and shown in its first lines, by tests/conftest.py."""

MAX_PARAMETERS = 20_000_000
"""Of a network in the default run: the time on the meta device grows with the number of modules."""

NAMES = [name for name in catalogue.list_networks() if not name.startswith(CPU_NETWORKS)]
SMALL = [name for name in NAMES if catalogue.find_entry(name)["parameters"] < MAX_PARAMETERS]
SAMPLE = random.Random(SEED).sample(SMALL, k=6)
SLOW_SAMPLE = [pytest.param(name, marks=pytest.mark.slow) for name in random.Random(SEED).sample(NAMES, k=60)]


@pytest.mark.parametrize("name", [*SAMPLE, *SLOW_SAMPLE])
def test_a_network_gives_what_is_said_of_it(name):
    found = verify_network(name)

    assert found.wrong is None
    assert len(found.sizes) + bool(found.alone) >= 2, "at its own size, and at others where it can be made for them"


def test_what_is_not_as_said_is_found(monkeypatch):
    """A catalogue that is wrong by one channel."""
    info = composer.describe(Timm("test_resnet"), 3)
    wider = evolve(info, features=[evolve(f, channels=f.channels + 1) for f in info.features])
    monkeypatch.setattr(catalogue, "find_catalogue_info", lambda *_: wider)
    composer.encoder_info._describe_cached.cache_clear()

    found = verify_network("test_resnet")

    composer.encoder_info._describe_cached.cache_clear()
    assert found.wrong.startswith("at 224 × 224 it gives [(1, 32, 112, 112), ")
    assert "and [(1, 33, 112, 112), " in found.wrong


def test_every_network_is_in_the_catalogue():
    assert catalogue.get_catalogue_version() == "1.0.31"
    assert timm.__version__ != "1.0.31" or catalogue.list_networks() == tuple(timm.list_models())
