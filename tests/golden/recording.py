"""What composer answers today, as data: checks, models, public names and exit codes.

`python -m tests.golden.recording` writes the files anew. It keeps what it cannot build here, because a library of
another extra is missing.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import composer
from composer.cli.main import main
from composer.encoder_info import describe, reject_missing
from composer.terratorch.configs import reads_config
from composer.terratorch.factory import EncoderDecoderFactory
from tests.peers.combinations import (
    CHANNELS,
    PIXEL_WISE_COMBINATIONS,
    SCALAR_COMBINATIONS,
    SIDE,
    TEMPORAL_COMBINATIONS,
    call_of,
    frames_of,
)
from tests.wrong_specs import READ

FOLDER = Path(__file__).parent
SPECS = {path.stem: path for path in sorted((FOLDER.parents[1] / "specs").glob("*.yaml"))}
CONFIGS = {path.stem: path for path in sorted((FOLDER.parent / "terratorch_configs").glob("*.yaml"))}
LIBRARIES = {"smp/": "segmentation_models_pytorch", "mmseg/": "mmseg", "transformers/": "transformers"}
LIBRARIES["terratorch/"] = "terratorch"
SOURCES = ("mmseg", "transformers", "terratorch")

COMBINATIONS = {
    " ".join(one.values()): one
    for one in (*PIXEL_WISE_COMBINATIONS[::6], *SCALAR_COMBINATIONS[::6], *TEMPORAL_COMBINATIONS[::6])
    if one["encoder"] in ("resnet", "convnext", "vit", "swin")
}
"""A sample of the calls that are compared with TerraTorch: those whose backbone is timm's."""

GOOD, WRONG = "encoder: timm/resnet18\ndecoder: FCNDecoder\nhead: RegressionHead\n", "encoder: timm/resnet18\nhed: x\n"
COMMANDS = {
    "check good.yaml": 0,
    "check wrong.yaml": 1,
    "check missing.yaml": 2,
    "check good.yaml wrong.yaml": 1,
    "check --fix good.yaml": 0,
    "check --diff wrong.yaml": 1,
    "show good.yaml": 0,
    "show wrong.yaml": 1,
    "build good.yaml --no-pretrained": 0,
    "build good.yaml --max-parameters 1k": 1,
    "build wrong.yaml": 1,
    "run good.yaml": 2,
    "run good.yaml --image missing.png -o out.png": 2,
    "list necks": 0,
    "list nonsense": 2,
    "matrix --encoders timm/resnet18 --decoders FCNDecoder": 0,
    "import terratorch good.yaml": 1,
    "import smp missing": 1,
    "nonsense": 2,
}


def exit_code(command: str) -> int:
    """The exit code of a command in a folder that has a good spec and a wrong one."""
    with TemporaryDirectory() as folder, chdir(folder), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        Path("good.yaml").write_text(GOOD)
        Path("wrong.yaml").write_text(WRONG)
        try:
            return main(command.split())
        except SystemExit as left:
            return int(left.code or 0)


def check(text: str) -> Any:
    """What `check --format json` says of a text."""
    with TemporaryDirectory() as folder, chdir(folder), redirect_stdout(StringIO()) as out:
        Path("model.yaml").write_text(text, encoding="utf-8")
        main(["check", "--format", "json", "model.yaml"])
    return json.loads(out.getvalue())[0]


def import_config(stem: str) -> dict[str, Any]:
    """The lines of the spec of a TerraTorch config, or those that say why it has none, as where TerraTorch is not."""
    try:
        graph = reads_config(
            CONFIGS[stem].read_text(encoding="utf-8"), name=f"{stem}.yaml", describe=describe_without_terratorch
        ).graph
    except composer.SpecError as error:
        return {"refused": str(error).splitlines()}
    return {"spec": composer.write(graph).splitlines()}


def describe_without_terratorch(part: Any, channels: Any) -> Any:
    """What `describe` says where TerraTorch is not installed."""
    return reject_missing("terratorch", "terratorch") if part.source == "terratorch" else describe(part, channels)


def check_config(stem: str) -> list[str]:
    """The shapes of the outputs for images of 224 × 224, or the lines that say what is wrong with the spec."""
    try:
        graph = reads_config(CONFIGS[stem].read_text(encoding="utf-8"), name=f"{stem}.yaml").graph
    except composer.SpecError as error:
        return str(error).splitlines()
    typed = composer.infer(graph)
    return [str(typed.shape(end, height=224, width=224)) for end in typed.ends]


def _record_config(stem: str, known: dict[str, Any]) -> dict[str, Any]:
    found = import_config(stem)
    if "spec" in found:
        buildable = _is_buildable("\n".join(found["spec"]))
        found["check"] = check_config(stem) if buildable else known.get("check")
    return found


def public_names() -> dict[str, str]:
    """The signature of each public function, and of each class with its public methods."""
    return dict(sorted(_signatures()))


def _signatures() -> Any:
    for name in composer.__all__:
        value = getattr(composer, name)
        if callable(value):
            yield name, _signature(value)
        if inspect.isclass(value):
            methods = [(key, one) for key, one in vars(value).items() if not key.startswith("_") and callable(one)]
            yield from ((f"{name}.{key}", _signature(one)) for key, one in methods)


def _signature(function: Any) -> str:
    """The signature, without the addresses of objects that are defaults."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(function)))


def spec_model(name: str) -> dict[str, Any]:
    """The model of a spec with the weights of seed 0, and what it gives for fixed images."""
    model = composer.build(composer.read(SPECS[name]), seed=0, pretrained=False)
    height, width = model.typed.sizes.compute_padded_size(64, 96)
    images = {key: _image(one.feature.shape(2, height, width)) for key, one in model.graph.inputs}
    return _described(model, images if len(images) > 1 else next(iter(images.values())))


def factory_model(name: str) -> dict[str, Any]:
    """The same for a call of TerraTorch's factory."""
    one = COMBINATIONS[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        model = EncoderDecoderFactory().build_model(**call_of(one))
    return _described(model, _image((2, CHANNELS, *frames_of(one), SIDE, SIDE)))


def _image(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _described(model: nn.Module, images: Any) -> dict[str, Any]:
    state = model.state_dict()
    listed = "\n".join(f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in state.items())
    with torch.no_grad():
        out = model.eval()(images)
    return {
        "tensors": len(state),
        "names": hashlib.sha256(listed.encode()).hexdigest(),
        "weights": _figures(torch.cat([x.flatten().double() for x in state.values() if x.is_floating_point()])),
        "outputs": [
            {"shape": list(x.shape), **_figures(x.double())}
            for x in pytree.tree_leaves((out.output, dict(out.auxiliary_heads)))
        ],
    }


def _figures(x: Tensor) -> dict[str, Any]:
    """Mean, standard deviation, and eight elements at fixed places."""
    places = torch.linspace(0, x.numel() - 1, 8, dtype=torch.float64).long()
    return {
        "mean": x.mean().item(),
        "std": x.std(correction=0).item(),
        "elements": x.flatten()[places].tolist(),
    }


def read(kind: str) -> dict[str, Any]:
    """What was recorded."""
    path = FOLDER / f"{kind}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write(kind: str, found: dict[str, Any]) -> None:
    (FOLDER / f"{kind}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_buildable(text: str) -> bool:
    return all(find_spec(module) is not None for source, module in LIBRARIES.items() if source in text)


def record() -> None:
    """Write all files anew."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in SPECS.items()}
    checks = {name: check(text) for name, text in texts.items() if _is_buildable(text)}
    wrong = {name: check(text) for name, text in READ.items()}
    models = {name: spec_model(name) for name, text in texts.items() if _is_buildable(text)}
    _write("checks", dict(sorted({**read("checks"), **checks}.items())))
    _write("wrong", wrong)
    _write("models", dict(sorted({**read("models"), **models}.items())))
    _write("terratorch", {stem: _record_config(stem, read("terratorch").get(stem, {})) for stem in CONFIGS})
    _write("factory", {name: factory_model(name) for name in COMBINATIONS})
    _write("api", public_names())


if __name__ == "__main__":
    record()
