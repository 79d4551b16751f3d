"""The command line checks a spec and prints its version before it imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from setuptools.config.setupcfg import read_configuration

import composer

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from composer.__main__ import main; sys.exit(main())"
SPECS = {
    "unknown names": "encoder: timm/resnet\ndecoder: UNotDecoder\n",
    "parts that do not fit": "encoder: {timm/vit_tiny_patch16_224: {tokens: true}}\ndecoder: FCNDecoder\n",
}


def run(*arguments):
    found = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True)
    return found.returncode, found.stdout, found.stderr


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
def test_build_prints_the_problems_of_check(tmp_path, text):
    file = tmp_path / "spec.yaml"
    file.write_text(text, encoding="utf-8")
    code, problems, _ = run("check", str(file))
    assert "error[" in problems
    assert run("build", str(file)) == (code, "", problems)


def test_the_version_is_that_of_the_distribution():
    version = read_configuration(Path(__file__).parents[1] / "setup.cfg")["metadata"]["version"]
    assert version == composer.__version__
    assert run("--version") == (0, f"composer {version}\n", "")
