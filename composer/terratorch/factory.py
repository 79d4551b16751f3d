"""The factory, with TerraTorch's signature."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from composer.building import build_modules
from composer.encoder_info import describe
from composer.errors import Problem
from composer.execution import compute_center_crop_box, compute_padding_for_size, crop
from composer.inference import TypedGraph, infer
from composer.model import Model, ModelOutput
from composer.parts import Encoder
from composer.terratorch.branches import EMBEDDING_TASK
from composer.terratorch.calls import Diagnostics, find_padding_notes
from composer.terratorch.factories import FACTORIES, FACTORY


class TerraTorchWarning(UserWarning):
    """An argument has another effect than it appears to have, here as in TerraTorch; the message names a substitute."""


class EncoderDecoderFactory:
    """TerraTorch's factory of the same name: it translates a call into a graph, checks that, and builds it."""

    def build_model(
        self,
        task: str,
        backbone: str | nn.Module | Encoder,
        decoder: str | nn.Module | None = None,
        backbone_kwargs: Mapping[str, Any] | None = None,
        decoder_kwargs: Mapping[str, Any] | None = None,
        head_kwargs: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        num_outputs: int | None = None,
        necks: Sequence[Mapping[str, Any]] | None = None,
        aux_decoders: Sequence[Any] | None = None,
        rescale: bool = True,  # noqa: FBT001, FBT002, the signature is TerraTorch's
        image_size_out: tuple[int, int] | None = None,
        peft_config: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> FactoryModel:
        """Build the model that TerraTorch 1.2.11 builds: with the same weights it has the same outputs.

        `task` is segmentation, regression, classification, scalar_regression or embedding_generation. `backbone` is a
        backbone of TerraTorch (`prithvi_eo_v2_300`), a network of timm (`timm_resnet50`, or `resnet50`), a module with
        `out_channels`, or an encoder of composer.
        `decoder` is a name of TerraTorch, smp or mmseg (`UperNetDecoder`, `smp_Unet`), or a module with
        `out_channels`. Arguments of the components are in their dicts, or begin with `backbone_`, `decoder_`,
        `head_`. `aux_decoders` are `AuxiliaryHead`s, TerraTorch's or these, or dicts of the same three names.

        The weights are drawn from one number of torch's generator: the same seed gives the same model.

        Warns with TerraTorchWarning of arguments that TerraTorch ignores or misreads. Raises SpecError, a ValueError,
        with all problems: unknown names, arguments that nothing uses, parts that do not fit.
        """
        call = {name: value for name, value in locals().items() if name not in ("self", "kwargs")} | kwargs
        return _build_model(FACTORY, task, call)


class PrithviModelFactory:
    """TerraTorch's factory of the same name, by keywords: a subclass is the factory of its own name."""

    def build_model(self, task: str, **call: Any) -> FactoryModel:
        """Build the model of a call, with the warnings and errors of EncoderDecoderFactory."""
        return _build_model(type(self).__name__, task, {"task": task, **call})


class SMPModelFactory(PrithviModelFactory):
    """TerraTorch's factory of the same name: whole models of smp, whose output has the size of the image."""


class TimmModelFactory(PrithviModelFactory):
    """TerraTorch's factory of the same name: networks of timm with their own classifier, where it is linear."""


def _build_model(factory: str, task: str, call: Mapping[str, Any]) -> FactoryModel:
    report = Diagnostics()
    translation = FACTORIES[factory](call, describe, report)
    _warn(translation.notes)
    with report.map_errors(translation.graph):
        typed = infer(translation.graph)
        seed = int(torch.randint(2**31, ()))
        model = FactoryModel(typed, build_modules(typed, seed=seed), task.lower(), translation.branches)
    _warn(find_padding_notes(typed, report))
    if model.task == EMBEDDING_TASK:
        model.freeze_encoder()
    if (peft_config := call.get("peft_config")) is not None:
        from composer.adapters.peft import apply_peft

        model.encoder = apply_peft(model.get_submodule("encoder"), peft_config)
    return model


def _warn(notes: Iterable[Problem]) -> None:
    for note in notes:
        fix = f" ({note.fix})" if note.fix else ""
        warnings.warn(f"{note.place.path}: {note.message}{fix}", TerraTorchWarning, stacklevel=4)


class FactoryModel(Model):
    """A model that replaces one of TerraTorch: in its tasks, and in code that was written for it.

    Its outputs are TerraTorch's: for regression a map of one channel has no channel axis, which TerraTorch's losses
    expect, and an embedding is a list of tensors. A class channel is never dropped. Auxiliary heads have the names of
    the call; `branches` maps branches of the graph to those names where they differ.
    """

    def __init__(
        self, typed: TypedGraph, modules: Mapping[str, nn.Module], task: str, branches: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(typed, modules)
        self.task = task
        self.branches = dict(branches or {})

    def forward(self, image: Tensor | Mapping[str, Tensor], **kwargs: Any) -> Any:
        """Return a `ModelOutput`, or a list of tensors for an embedding.

        Several images are given by the names of their modalities, and a single one may be. `image_size`, (height,
        width) in pixels, crops the output where `image_size_out` does not. Other keyword arguments go to the encoder.
        An image of one frame may have an axis for it, or none. Raises TypeError for an argument that the encoder does
        not take.
        """
        size = kwargs.pop("image_size", None)
        if isinstance(image, Mapping) and len(image) == len(self.graph.inputs) == 1:
            (image,) = image.values()
        takes_frames = self.graph.inputs[0][1].frames is not None
        if isinstance(image, Tensor) and image.dim() == 5 and image.shape[2] == 1 and not takes_frames:
            image = image.squeeze(2)
        out = super().forward(image, **kwargs)
        if self.task == EMBEDDING_TASK:
            return list(out.output)
        heads = {
            self.branches.get(name, name): self._convert_to_terratorch(x, size)
            for name, x in out.auxiliary_heads.items()
        }
        return ModelOutput(self._convert_to_terratorch(out.output, size), heads)

    def _convert_to_terratorch(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        if size is not None and self.graph.rescale and self.graph.crop is None and x.dim() == 4:
            x = self._crop_to_image_size(x, *map(int, size))
        return x.squeeze(1) if self.task == "regression" and x.shape[1] == 1 else x

    def _crop_to_image_size(self, x_BCHW: Tensor, rows: int, columns: int) -> Tensor:
        """Return the center of the output that is left without the padding of the image."""
        frame = compute_padding_for_size((x_BCHW.shape[-2], x_BCHW.shape[-1]), self.typed, self._unit)
        kept = (min(rows, frame.size[0]), min(columns, frame.size[1]))
        top, left, height, width = compute_center_crop_box(frame, kept)
        return crop(x_BCHW, top - frame.before[0], left - frame.before[1], height, width)

    def freeze_encoder(self) -> None:
        """Freeze the encoder: with its own `freeze` where it has one, which may leave prompts or adapters trainable.

        Elsewhere its BatchNorm statistics do not change either; in TerraTorch they do.
        """
        own = getattr(self.get_submodule("encoder"), "freeze", None)
        if callable(own):
            own()
        else:
            self.freeze("encoder")

    def freeze_decoder(self) -> None:
        """Freeze the decoder, with its BatchNorm statistics."""
        self.freeze("decoder")

    def freeze_head(self) -> None:
        """Freeze the head, unless the decoder includes it."""
        if "head" in self._modules:
            self.freeze("head")
