"""Published configs, each as the model of TerraTorch and as ours with the weights of its checkpoint."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import terratorch.tasks
import torch
import yaml
from attrs import field, frozen
from jsonargparse._loaders_dumpers import yaml_load
from terratorch.models.model import AuxiliaryHead
from torch import Tensor, nn

import composer
from composer.terratorch import EncoderDecoderFactory
from composer.terratorch.configs import reads_config

CONFIGS = Path(__file__).parents[1] / "terratorch_configs"

Sizes = Sequence[tuple[int, int]]

CELLS_OF_16: Sizes = ((64, 64), (64, 96), (50, 61))
"""A square, an oblong and an odd image, for patches of 16 pixels, which TerraTorch pads to 32."""
CELLS_OF_14: Sizes = ((56, 56), (56, 84), (50, 45))
CELLS_OF_13: Sizes = ((52, 52), (52, 78), (41, 50))
UPRIGHT: Sizes = ((64, 64), (96, 64), (61, 50))
"""For necks, which know the size of the image. The hook of a backbone takes 6 × 4 cells for 4 × 6."""

WHOLE_64: Sizes = ((64, 64), (50, 64), (51, 61))
"""For networks that take one size alone, to which TerraTorch happens to pad these."""
WHOLE_128: Sizes = ((128, 128), (128, 256))
"""For networks that TerraTorch does not pad for."""


@frozen(kw_only=True)
class Case:
    """A config, with the arguments of a smaller network of the same structure.

    `theirs` are arguments that only TerraTorch needs; None leaves one out. A `single` encoder computes in single
    precision, whatever that of its weights.
    """

    smaller: Mapping[str, Any] = field(factory=dict)
    theirs: Mapping[str, Any] = field(factory=dict)
    sizes: Sizes = CELLS_OF_16
    single: bool = False


PRITHVI = {"backbone_embed_dim": 48, "backbone_num_heads": 3}
SWIN = {"backbone_embed_dim": 16, "backbone_depths": [1, 1, 2, 1], "backbone_num_heads": [1, 2, 2, 4]}
CONVNEXT = {"backbone_depths": [1, 1, 2, 1], "backbone_dims": [16, 32, 48, 64]}
RESNET = {"backbone_layers": [1, 1, 1, 1]}
TINY = {"backbone": "terramind_v1_tiny"}
TINY_NECKS = [
    {"name": "SelectIndices", "indices": [2, 5, 8, 11]},
    {"name": "ReshapeTokensToImage", "remove_cls_token": False},
    {"name": "LearnedInterpolateToPyramidal"},
]
SATLAS = {
    "backbone": "satlas_swin_t_sentinel2_si_ms",
    "necks": [{"name": "PermuteDims", "new_order": [0, 3, 1, 2]}, {"name": "ReshapeTokensToImage"}],
}
"""With the neck without which TerraTorch's model fails at its first image."""
V1_100 = {"backbone": "prithvi_eo_v1_100"}
DOFA = {"backbone": "dofa_small_patch16_224", "backbone_img_size": 64}

WITHOUT_WEIGHTS = {
    **dict.fromkeys(("pretrained", "backbone_pretrained"), False),
    **dict.fromkeys(("backbone_ckpt_path", "backbone_pretrained_cfg_overlay")),
}
"""TerraTorch's models have random weights; ours are built without published ones."""


@frozen(eq=False)
class Pair:
    """The model of TerraTorch, and ours with its weights, both in eval mode; and what `load_weights` said."""

    theirs: nn.Module
    ours: composer.Model
    report: str

    def draw_images(self, size: tuple[int, int]) -> dict[str, Tensor]:
        """Draw an image of this size for each input of the graph."""
        generator = torch.Generator().manual_seed(2)
        shapes = {
            name: (2, image.channels, *([image.frames] if image.frames else []), *size)
            for name, image in self.ours.graph.inputs
        }
        return {name: torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}

    def run_theirs(self, images: Mapping[str, Tensor], **extras: Tensor) -> dict[str, Tensor]:
        """Return TerraTorch's outputs by name. It takes several images by modality."""
        by_modality = {modality: images[name] for modality, name in self.ours.graph.nodes[0].named}
        return run_model(self.theirs, by_modality if len(images) > 1 else images, extras)

    def run_ours(self, images: Mapping[str, Tensor], **extras: Tensor) -> dict[str, Tensor]:
        """Return our outputs by name."""
        return run_model(self.ours, images, extras)


@torch.no_grad()
def run_model(model: nn.Module, images: Mapping[str, Tensor], extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # TerraMind draws what it thinks of, from a seed of Python's.
    random.seed(3)
    (image, *others) = images.values()
    out = model(dict(images) if others else image, **extras)
    return {"output": out.output, **(out.auxiliary_heads or {})}


def build_pair(stem: str, case: Case, file: Path, *, with_adapters: bool = False) -> Pair:
    """Build both models of a config. TerraTorch's checkpoint goes through `file`, as Lightning writes it.

    A spec has no adapters; with them, ours is the model of our factory.
    """
    config = yaml_load((CONFIGS / f"{stem}.yaml").read_text(encoding="utf-8"))
    init = config["model"]["init_args"]
    arguments = init["model_args"]
    arguments.update(case.smaller)
    text = yaml.safe_dump(config)
    arguments.update({name: value for name, value in WITHOUT_WEIGHTS.items() if name in arguments} | case.theirs)
    if with_adapters:
        call = {"task": "segmentation", "aux_decoders": init["aux_heads"], **arguments}
        ours: composer.Model = EncoderDecoderFactory().build_model(**call)
    else:
        arguments.pop("peft_config", None)
        ours = composer.build(reads_config(text).graph, pretrained=False)
    theirs = build_task(config["model"]).model.eval()
    stir(theirs)
    torch.save({"state_dict": {f"model.{name}": value for name, value in theirs.state_dict().items()}}, file)
    report = composer.load_weights(ours, file)
    file.unlink()
    # In single precision the order of sums shows, which is that of memory: TerraTorch's maps of tokens are transposed.
    for model in (theirs.double(), ours.double().eval()):
        if case.single:
            use_single_precision(model.encoder)
    return Pair(theirs, ours, str(report))


def use_single_precision(encoder: nn.Module) -> None:
    """Run an encoder in single precision inside a model in double precision."""
    encoder.float()
    encoder.register_forward_pre_hook(lambda _, images: tuple(image.float() for image in images))
    encoder.register_forward_hook(lambda _, __, features: [feature.double() for feature in features])


def build_task(model: Mapping[str, Any]) -> Any:
    """Build the task of a config, as Lightning does."""
    init = dict(model["init_args"])
    init["model_args"] = {name: value for name, value in init["model_args"].items() if value is not None}
    heads = [AuxiliaryHead(**head.get("init_args", head)) for head in init.pop("aux_heads", None) or []]
    if heads:
        init["aux_heads"] = heads
    task = getattr(terratorch.tasks, model["class_path"].rpartition(".")[2])
    torch.manual_seed(0)
    return task(**{name: value for name, value in init.items() if name in inspect.signature(task).parameters})


def stir(model: nn.Module) -> None:
    """Move every number off the value that it starts from: norms of one and biases of zero hide what is mixed up."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)


def compute_error(theirs: Tensor, ours: Tensor) -> float:
    """Return the largest difference, relative to the largest value. TerraTorch drops the axis of a single channel."""
    if theirs.dim() < ours.dim():
        ours = ours.squeeze(1)
    assert ours.shape == theirs.shape
    assert torch.isfinite(theirs).all()
    return float((theirs - ours).abs().max() / theirs.abs().max())
