"""Knowing whether a model can be: a check, a fixed chain and a row of the matrix, beside the only other way.

That is to build the model, here with segmentation_models_pytorch, and to run it once: on the meta device, which is the
cheapest. What TerraTorch takes for the same, in bench_terratorch.py, is to be added to its import.
"""

import os
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import composer
from composer.compatibility import evaluate_pairs, list_decoder_names
from composer.encoder_info import describe
from composer.parts import PARTS

SPEC = Path(__file__).parent.parent / "specs" / "resnet50-upernet.yaml"
RUNS = 9

CHECK = f"from composer.__main__ import main; main(['check', {str(SPEC)!r}])"
BUILD = """
import torch
import segmentation_models_pytorch as smp
with torch.device("meta"):
    model = smp.UPerNet("resnet50", encoder_weights=None, classes=10)
    print(model(torch.empty(2, 3, 224, 224)).shape)
"""


def seconds_of(code):
    """Time on the processor of a fresh interpreter that runs `code`."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def compiled():
    """composer as pip leaves it, which compiles what it installs; the other side is installed."""
    package = str(Path(composer.__file__).parent)
    subprocess.run([sys.executable, "-m", "compileall", "-q", package], check=True)


def test_a_cold_check(note, request, compiled):
    """Fresh interpreters in turn: all that stands between a person and an answer."""
    pairs = [
        (seconds_of(CHECK), seconds_of(BUILD)) for _ in range(1 if request.config.option.benchmark_disable else RUNS)
    ]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    note("a cold check, against building and a meta forward", f"{ratio:.3f}   {ours:.2f} s against {theirs:.2f} s")


VIT = composer.chain(
    composer.Timm("vit_base_patch16_224"),
    composer.UNetDecoder(channels=[256, 128, 64, 32]),
    composer.SegmentationHead(num_classes=2),
)


@cache
def on_meta():
    """What it takes to build the same, fixed, and to run it on the meta device."""
    import torch

    fixed = composer.autofix(VIT)
    image = torch.empty(1, 3, 224, 224, device="meta")
    return lambda: composer.build(fixed, device="meta").eval()(image)


def test_a_fit(paired):
    """A deep ViT and a U-Net: the search, against building what it finds."""
    paired("fit, against a build on the meta device and a forward", lambda: composer.autofix(VIT), on_meta(), 40)


DECODERS = {name: PARTS[name] for name in list_decoder_names(PARTS)}


def test_a_row_of_the_matrix(benchmark):
    """A ViT beside all decoders, which the catalogue knows."""
    encoder = composer.Timm("vit_base_patch16_224")
    cells = benchmark(evaluate_pairs, encoder, DECODERS, describe)
    assert len(cells) == len(DECODERS)
