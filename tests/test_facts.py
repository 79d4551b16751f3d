"""describe(): what it stores, where, and what it does where the cache is damaged or cannot be used."""

from __future__ import annotations

import json
import sys

import pytest
from attrs import evolve

import composer
from composer import encoder_info

PART = composer.Timm("test_resnet", out_indices=[1, 2], options={"drop_rate": 0.1})
"""An encoder that is not in the catalogue, because of its options."""

KNOWN = ((32, 4), (48, 8))


def describe_anew(part, channels=3):
    """Describe without the results of this process."""
    encoder_info._describe_cached.cache_clear()
    return composer.describe(part, channels)


def get_levels(found):
    assert isinstance(found, composer.EncoderInfo)
    return tuple((f.channels, int(f.stride)) for f in found.features)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder of its own for the cache."""
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    encoder_info._describe_cached.cache_clear()


@pytest.fixture
def forbid_probes(monkeypatch):
    return lambda: monkeypatch.setattr(encoder_info, "_probe_encoder", None)


def test_a_probed_encoder_is_read_from_disk(cache, forbid_probes):
    first = describe_anew(PART, 5)
    forbid_probes()
    assert describe_anew(PART, 5) == first
    assert (get_levels(first), first.channels) == (KNOWN, 5)


def test_the_source_of_weights_does_not_matter(cache, forbid_probes):
    describe_anew(PART)
    forbid_probes()
    assert get_levels(describe_anew(evolve(PART, pretrained=True))) == KNOWN


DAMAGED = {
    "empty": lambda text: "",
    "cut": lambda text: text[:50],
    "nothing": lambda text: "null",
    "a list": lambda text: "[]",
    "deep": lambda text: "[" * 100_000,
    "other fields": lambda text: json.dumps({**json.loads(text), "depth": 1}),
    "no feature": lambda text: json.dumps({**json.loads(text), "features": [1]}),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_replaced(cache, damage):
    describe_anew(PART)
    (file,) = cache.rglob("*.json")
    whole = file.read_text(encoding="utf-8")
    file.write_text(damage(whole), encoding="utf-8")
    assert get_levels(describe_anew(PART)) == KNOWN
    assert file.read_text(encoding="utf-8") == whole


def test_a_folder_that_cannot_be_written_to_is_not_an_error(cache):
    cache.write_text("not a folder", encoding="utf-8")
    assert get_levels(describe_anew(PART)) == KNOWN
    assert cache.read_text(encoding="utf-8") == "not a folder"


def test_a_rejection_is_not_stored(cache):
    assert isinstance(describe_anew(evolve(PART, out_indices=[9])), composer.Rejection)
    assert list(cache.rglob("*.json")) == []


def test_a_broken_library_is_a_problem_of_the_spec(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "composer.adapters.timm.modules", None)
    monkeypatch.delattr("composer.adapters.timm.modules", raising=False)
    encoder_info._describe_cached.cache_clear()
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(PART))
    (problem,) = caught.value.problems
    assert (problem.code, problem.place.path) == ("install", "encoder")
    assert problem.message.startswith("timm/test_resnet needs timm, which cannot be imported (got ")
    assert problem.fix == "pip install --force-reinstall timm torch torchvision"


def test_a_probe_may_take_the_free_memory(cache, monkeypatch):
    part = composer.Timm("sequencer2d_s", options={"layers": [1, 1, 1, 1]})
    monkeypatch.setattr("composer.limits.get_free_memory", lambda: 1000)
    assert describe_anew(part).got == "timm says AllocationLimitError: it comes to more than 1,000 bytes"
    monkeypatch.setattr("composer.limits.get_free_memory", lambda: None)
    assert [f.stride for f in describe_anew(part).features] == [7, 14, 14]


def test_a_version_is_found_without_a_dist_info_folder(tmp_path, monkeypatch):
    folder = tmp_path / "foolib-1.2.3.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: foolib\nVersion: 1.2.3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert (encoder_info._find_version("foolib"), encoder_info._find_version("barlib")) == ("1.2.3", None)
