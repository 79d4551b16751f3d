"""What the README of composer.terratorch shows is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import composer
from composer.cli.main import main
from composer.terratorch.factory import EncoderDecoderFactory

README = Path(composer.__file__).parent / "terratorch" / "README.md"
TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


CONFIG, SPEC = blocks("yaml")
(ADAPTERS,) = blocks("python")


def test_the_python_gives_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks("pycon")), {}, README.name, str(README), 0)

    result = doctest.DocTestRunner().run(test)

    assert (result.failed, result.attempted) == (0, 8)


def test_the_config_is_the_call_above(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^python -m composer (.*)$", "\n".join(blocks("sh")), flags=re.MULTILINE)
    (tmp_path / "CONFIG.yaml").write_text(CONFIG, encoding="utf-8")

    assert main(command.split()) == 0
    assert capsys.readouterr().err.splitlines()[0].startswith("CONFIG.yaml:1:1: note[note] trainer")
    assert (tmp_path / "SPEC.yaml").read_text(encoding="utf-8") in TEXT


def test_the_spec_with_a_backbone_of_terratorchs_is_read():
    (encoder, _) = composer.reads(SPEC).nodes

    assert (type(encoder.part).source, encoder.part.name) == ("terratorch", "prithvi_eo_v2_300")


def test_adapters_are_merged():
    pytest.importorskip("peft")
    shown = {"EncoderDecoderFactory": EncoderDecoderFactory}

    exec(compile(ADAPTERS, README.name, "exec"), shown)

    assert not [name for name, _ in shown["model"].named_parameters() if "lora" in name]


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150
