"""What composer answered when this was recorded is what it answers now.

Where an answer changes on purpose, `python -m tests.golden.recording` renews the files, in a commit of its own.
"""

from __future__ import annotations

import pytest

from tests.golden import recording


def spec_params(kind):
    """The recorded specs, with the marker of the library that each needs."""
    return [pytest.param(name, id=name, marks=_marks(name)) for name in recording.read(kind)]


def _marks(name):
    text = recording.SPECS[name].read_text(encoding="utf-8")
    return [getattr(pytest.mark, source) for source in recording.SOURCES if f"{source}/" in text]


def close(recorded):
    """The same data, whose numbers may differ as they do between processors and numbers of threads."""
    if isinstance(recorded, dict):
        return {key: close(value) for key, value in recorded.items()}
    if isinstance(recorded, list) and any(isinstance(entry, dict) for entry in recorded):
        return [close(entry) for entry in recorded]
    return pytest.approx(recorded, rel=1e-4, abs=1e-5) if isinstance(recorded, float | list) else recorded


def test_every_spec_is_recorded():
    assert recording.read("checks").keys() == recording.read("models").keys() == recording.SPECS.keys()


@pytest.mark.parametrize("name", spec_params("checks"))
def test_checks_of_specs(name):
    assert recording.check(recording.SPECS[name].read_text(encoding="utf-8")) == recording.read("checks")[name]


@pytest.mark.parametrize("name", recording.TEXTS)
def test_checks_of_wrong_specs(name):
    assert recording.check(recording.TEXTS[name]) == recording.read("wrong")[name]


@pytest.mark.parametrize("name", spec_params("models"))
def test_models_of_specs(name):
    assert recording.spec_model(name) == close(recording.read("models")[name])


@pytest.mark.parametrize("name", recording.COMBINATIONS)
def test_models_of_calls(name):
    assert recording.factory_model(name) == close(recording.read("factory")[name])


def test_public_names():
    assert recording.public_names() == recording.read("api")


@pytest.mark.parametrize(("command", "code"), recording.COMMANDS.items(), ids=recording.COMMANDS)
def test_exit_codes(command, code):
    assert recording.exit_code(command) == code
