"""What the command line says before torch is loaded: that a spec is wrong, and which version this is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import composer

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from composer.__main__ import main; sys.exit(main())"
PROBLEMS = {
    "a misspelled part": "encoder: timm/resnet18\ndecoder: UperNetDecodr\n",
    "parts that do not fit": (
        "encoder: {timm/vit_tiny_patch16_224: {tokens: true}}\ndecoder: {FCNDecoder: {channels: 8}}\n"
        "head: {SegmentationHead: {num_classes: 2}}\n"
    ),
    "two problems": "encoder: timm/resnet\ndecoder: UNotDecoder\n",
}


def run(*arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("text", PROBLEMS.values(), ids=PROBLEMS)
def test_build_says_what_check_says(tmp_path, text):
    file = tmp_path / "spec.yaml"
    file.write_text(text, encoding="utf-8")

    checked, built = run("check", str(file)), run("build", str(file))

    assert "error[" in checked.stdout
    assert (built.returncode, built.stdout, built.stderr) == (checked.returncode, "", checked.stdout)


def test_version():
    told = run("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"composer {composer.__version__}\n", "")


def test_the_version_is_that_of_the_distribution():
    from setuptools.config.setupcfg import read_configuration

    assert read_configuration(Path(__file__).parents[1] / "setup.cfg")["metadata"]["version"] == composer.__version__
