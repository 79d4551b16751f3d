"""The same models by TerraTorch's factory and by ours: import, first model, build, forward pass, training step, memory.

Needs the extra `peers`. Ratios below 1 are in composer's favour.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import warnings
from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as F

import composer.terratorch

if find_spec("terratorch") is None:
    pytest.skip("needs the extra peers", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from terratorch.models import EncoderDecoderFactory as Theirs

# That images of odd sizes are padded is of no matter here.
pytestmark = pytest.mark.filterwarnings("ignore::composer.terratorch.TerraTorchWarning")

OURS = "from composer.terratorch import EncoderDecoderFactory"
THEIRS = "from terratorch.models import EncoderDecoderFactory"

PYRAMID = [{"name": "ReshapeTokensToImage"}, {"name": "LearnedInterpolateToPyramidal"}]
MODELS = {
    "resnet18 + FCN": {
        "task": "segmentation", "backbone": "timm_resnet18", "decoder": "FCNDecoder", "num_classes": 2,
    },
    "ViT-B + learned pyramid + UPerNet": {
        "task": "segmentation", "backbone": "timm_vit_base_patch16_224", "backbone_out_indices": [2, 5, 8, 11],
        "necks": PYRAMID, "decoder": "UperNetDecoder", "num_classes": 2,
    },
    "resnet50 + UNet": {
        "task": "segmentation", "backbone": "timm_resnet50", "decoder": "UNetDecoder",
        "decoder_channels": [256, 128, 64, 32, 16], "num_classes": 2,
    },
    "swin-T + UPerNet": {
        "task": "segmentation", "backbone": "timm_swin_tiny_patch4_window7_224",
        "necks": [{"name": "PermuteDims", "new_order": [0, 3, 1, 2]}], "decoder": "UperNetDecoder", "num_classes": 2,
    },
    "convnext-T + UNet": {
        "task": "regression", "backbone": "timm_convnext_tiny", "decoder": "UNetDecoder",
        "decoder_channels": [256, 128, 64, 32],
    },
    "resnet50, classification": {
        "task": "classification", "backbone": "timm_resnet50", "decoder": "IdentityDecoder", "head_dim_list": [256],
        "num_classes": 10,
    },
}  # fmt: skip
"""Calls of the factory, for images of 224 x 224."""

names = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Both models of a name, with equal weights, built once."""
    built = {}

    def of(name):
        if name not in built:
            built.clear()
            file = tmp_path_factory.mktemp("weights") / "weights.pt"
            theirs = Theirs().build_model(**MODELS[name])
            ours = composer.terratorch.EncoderDecoderFactory().build_model(**MODELS[name])
            torch.save(theirs.state_dict(), file)
            composer.load_weights(ours, file)
            built[name] = ours, theirs
        return built[name]

    return of


@names
def test_build(name, paired):
    """Both warm: what is found out about networks is known."""
    factory, other = composer.terratorch.EncoderDecoderFactory(), Theirs()
    paired(f"build, {name}", lambda: factory.build_model(**MODELS[name]), lambda: other.build_model(**MODELS[name]), 24)


@names
def test_forward(name, models, paired):
    """In eval mode, without gradients, two images at a time."""
    ours, theirs = (model.eval() for model in models(name))
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        paired(f"forward, {name}", lambda: ours(image).output, lambda: theirs(image).output, 30)


@names
def test_training_step(name, models, paired, benchmark):
    """Forwards, backwards and a step of SGD, two images at a time; every parameter takes a gradient, on both sides."""
    ours, theirs = map(_step, models(name))
    ratio = paired(f"training step, {name}", ours, theirs, 15)
    benchmark.extra_info.update(torch=torch.__version__, **ratio._asdict())
    benchmark.pedantic(ours, rounds=3)


def _step(model):
    model.train().requires_grad_()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    image = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        output = model(image).output
    is_regression = output.dim() == 3
    target = torch.rand_like(output) if is_regression else torch.randint(output.shape[1], output[:, 0].shape)

    def step():
        optimiser.zero_grad()
        output = model(image).output
        loss = F.mse_loss(output, target) if is_regression else F.cross_entropy(output, target)
        loss.backward()
        optimiser.step()

    step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    return step


@pytest.mark.parametrize("what", ["import", "first model"])
def test_a_fresh_process(what, note, request):
    """Time on the processor of a new interpreter, from its start to its end."""
    call = f"; EncoderDecoderFactory().build_model(**{MODELS['resnet18 + FCN']!r})" if what == "first model" else ""
    rounds = 1 if request.config.getoption("benchmark_disable") else 5
    ratios = []
    for _ in range(rounds):
        ours, theirs = (_fresh(f"{line}{call}")[0] for line in (OURS, THEIRS))
        ratios.append((ours / theirs, ours, theirs))
    note(f"{what}, resnet18 + FCN", _said(ratios, "s"))


@names
def test_peak_memory(name, note, request):
    """The most memory that a new process held: import, build, three training steps."""
    program = (
        f"; import torch; m = EncoderDecoderFactory().build_model(**{MODELS[name]!r}); torch.set_num_threads(1)\n"
        "o = torch.optim.SGD(m.parameters(), lr=1e-4)\n"
        "for _ in range(3):\n"
        "    o.zero_grad(); m(torch.rand(2, 3, 224, 224)).output.square().mean().backward(); o.step()\n"
    )
    rounds = 1 if request.config.getoption("benchmark_disable") else 3
    ratios = []
    for _ in range(rounds):
        ours, theirs = (_fresh(f"{line}{program}")[1] / 1e9 for line in (OURS, THEIRS))
        ratios.append((ours / theirs, ours, theirs))
    note(f"peak memory, {name}", _said(ratios, "GB"))


def _fresh(program):
    """Seconds on the processor, and bytes held at most, of a new interpreter that runs `program`."""
    tell = (
        "\nimport json, resource\nused = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program + tell],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    seconds, most = json.loads(run.stdout.splitlines()[-1])
    # Linux counts in kilobytes, macOS in bytes.
    return seconds, most * (1 if sys.platform == "darwin" else 1024)


def _said(ratios, unit):
    values = [ratio for ratio, _, _ in ratios]
    mine, theirs = (statistics.median(column) for column in list(zip(*ratios, strict=True))[1:])
    return (
        f"{statistics.median(values):.3f}  ({min(values):.3f} to {max(values):.3f})"
        f"   {mine:.2f} {unit} against {theirs:.2f} {unit}"
    )
