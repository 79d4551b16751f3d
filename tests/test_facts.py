"""describe(): what it remembers, where, and what it does about a memory that is damaged or not to be had."""

from __future__ import annotations

import json
import os

import pytest
from attrs import evolve

import composer
from composer import encoder_info as facts

PART = composer.Timm("test_resnet", out_indices=[1, 2], options={"drop_rate": 0.1})
"""An encoder that the catalogue says nothing of, because of its options."""

KNOWN = ((32, 4), (48, 8))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, on disk and in the process."""
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path / "cache"))
    facts._describe_cached.cache_clear()
    yield tmp_path / "cache"
    facts._describe_cached.cache_clear()


@pytest.fixture
def no_probe(monkeypatch):
    """From now on nothing may be probed."""

    def probed(*_):
        raise AssertionError("what is known was probed again")

    return lambda: (facts._describe_cached.cache_clear(), monkeypatch.setattr(facts, "_probe_encoder", probed))


def levels(found):
    assert isinstance(found, composer.EncoderInfo)
    return tuple((f.channels, int(f.stride)) for f in found.features)


def test_what_was_probed_is_read_from_disk(cache, no_probe):
    first = composer.describe(PART, 5)
    no_probe()

    assert composer.describe(PART, 5) == first
    assert levels(first) == KNOWN
    assert first.channels == 5


def test_where_weights_come_from_is_no_question_of_its_own(cache, no_probe):
    composer.describe(PART, 3)
    no_probe()

    assert levels(composer.describe(evolve(PART, pretrained=True), 3)) == KNOWN


DAMAGED = {
    "empty": lambda text: "",
    "cut": lambda text: text[:50],
    "another format": lambda text: json.dumps({**json.loads(text), "format": 0}),
    "another question": lambda text: json.dumps({**json.loads(text), "key": {}}),
    "no facts": lambda text: json.dumps({**json.loads(text), "info": None}),
    "a list": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
    "a list that is empty": lambda text: json.dumps(
        {**json.loads(text), "info": {**json.loads(text)["info"], "patch": []}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_written_anew(cache, damage):
    composer.describe(PART, 3)
    (file,) = cache.rglob("*.json")
    whole = file.read_text(encoding="utf-8")
    file.write_text(damage(whole), encoding="utf-8")
    facts._describe_cached.cache_clear()

    assert levels(composer.describe(PART, 3)) == KNOWN
    assert file.read_text(encoding="utf-8") == whole


def test_a_pipe_in_the_cache_is_not_waited_for(cache):
    composer.describe(PART, 3)
    (file,) = cache.rglob("*.json")
    file.unlink()
    os.mkfifo(file)
    facts._describe_cached.cache_clear()

    assert levels(composer.describe(PART, 3)) == KNOWN


def test_a_folder_that_cannot_be_written_to_is_no_error(cache):
    cache.write_text("a file, and no folder", encoding="utf-8")

    assert levels(composer.describe(PART, 3)) == KNOWN
    assert cache.read_text(encoding="utf-8") == "a file, and no folder"


def test_a_refusal_is_not_kept_on_disk(cache):
    assert isinstance(composer.describe(evolve(PART, out_indices=[9]), 3), composer.Rejection)
    assert list(cache.rglob("*.json")) == []


def test_a_broken_install_is_an_error_of_the_spec(cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "composer.adapters.timm.modules", None)
    monkeypatch.delattr("composer.adapters.timm.modules", raising=False)

    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(PART))

    (problem,) = caught.value.problems
    assert (problem.code, problem.place.path) == ("install", "encoder")
    assert problem.message.startswith("timm/test_resnet needs timm, which cannot be imported (got ")
    assert problem.fix == "pip install --force-reinstall timm torch torchvision"


def test_a_network_that_is_probed_may_take_the_memory_that_is_free(cache, monkeypatch):
    """No number is fixed: on a machine with more memory, larger networks are probed."""
    part = composer.Timm("sequencer2d_s", options={"layers": [1, 1, 1, 1]})
    monkeypatch.setattr("composer.limits.get_free_memory", lambda: 1000)
    refused = composer.describe(part, 3)
    facts._describe_cached.cache_clear()
    monkeypatch.setattr("composer.limits.get_free_memory", lambda: None)
    found = composer.describe(part, 3)
    assert refused.got == "timm says AllocationLimitError: it comes to more than 1,000 bytes"
    assert [f.stride for f in found.features] == [7, 14, 14]
