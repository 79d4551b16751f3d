"""The factory, with TerraTorch's signature."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from composer.building import build_modules
from composer.encoder_info import describe
from composer.errors import SpecError
from composer.execution import compute_center_crop_box, compute_padding_for_size
from composer.inference import infer
from composer.model import Model, ModelOutput
from composer.modules.layers import crop
from composer.parts import Encoder
from composer.terratorch.calls import EMBEDDING_TASK
from composer.terratorch.problems import FactoryCall, find_padding_note
from composer.terratorch.translation import Translation, translate
from composer.typed_graph import TypedGraph, explain_too_small


class TerraTorchWarning(UserWarning):
    """TerraTorch does otherwise than a call says, and so does the model; the message names the option that would."""


@frozen
class AuxiliaryHead:
    """An auxiliary branch: its name, its decoder, and arguments of both that begin with `decoder_` and `head_`."""

    name: str
    decoder: str | nn.Module
    decoder_args: Mapping[str, Any] | None = None


class EncoderDecoderFactory:
    """TerraTorch's factory of the same name: a call is translated into a graph, which is inferred and built."""

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
        """The model that TerraTorch 1.2.11 builds for these arguments: the same numbers from the same weights.

        `task` is segmentation, regression, classification, scalar_regression or embedding_generation. `backbone` is a
        network of timm (`timm_resnet50`, or `resnet50`), a module with `out_channels`, used as it is, or an encoder
        of composer's. `decoder` is the name of one of TerraTorch's or smp's (`UperNetDecoder`, `smp_Unet`), or a module
        with `out_channels`. Arguments of the components stand in their dicts, or begin with `backbone_`, `decoder_`,
        `head_`. `aux_decoders` are `AuxiliaryHead`s, TerraTorch's or ours, or dicts of the same three names.

        The weights are drawn from a seed that torch's generator gives, which is the one number taken from it: seeded
        alike, the same model comes out.

        Warns, with TerraTorchWarning, where TerraTorch does not do what an argument says. Raises SpecError, a
        ValueError, with all that is wrong: unknown names, arguments that nothing uses, parts that do not fit.
        """
        call = {name: value for name, value in locals().items() if name not in ("self", "kwargs")} | kwargs
        translation = translate(call, describe)
        for note in translation.notes:
            repair = f" ({note.repair})" if note.repair else ""
            warnings.warn(f"{note.place.path}: {note.message}{repair}", TerraTorchWarning, stacklevel=2)
        mapping = FactoryCall(call, translation.graph)
        try:
            model = build_factory_model(translation, task.lower())
        except SpecError as error:
            raise SpecError(map(mapping.map_problem, error.problems)) from None
        padding = find_padding_note(model.typed)
        if padding is not None:
            note = mapping.map_problem(padding)
            warnings.warn(f"{note.place.path}: {note.message}", TerraTorchWarning, stacklevel=2)
        if peft_config is not None:
            from composer.adapters.peft import apply_peft

            model.encoder = apply_peft(model.get_submodule("encoder"), peft_config)
        return model


def build_factory_model(translation: Translation, task: str) -> FactoryModel:
    """A graph, built into a model with TerraTorch's manners for a task. Raises SpecError where it cannot be."""
    typed = infer(translation.graph)
    seed = int(torch.randint(2**31, ()))
    model = FactoryModel(typed, build_modules(typed, seed=seed), task, translation.branches)
    if task == EMBEDDING_TASK:
        model.freeze_encoder()
    return model


class FactoryModel(Model):
    """A model that stands where one of TerraTorch's stands: in its tasks, and in code that was written for it.

    Its output is TerraTorch's: for regression a map of one channel loses that axis, which TerraTorch's losses expect,
    and an embedding is a list of tensors. A class channel is never dropped. Auxiliary heads have the names that the
    caller gave them; `branches` has those that a graph cannot call so.
    """

    def __init__(
        self, typed: TypedGraph, modules: Mapping[str, nn.Module], task: str, branches: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(typed, modules)
        self.task = task
        self.branches = dict(branches or {})

    def forward(self, image: Tensor | Mapping[str, Tensor], **kwargs: Any) -> Any:
        """A `ModelOutput`, or a list of tensors for an embedding.

        `image_size` crops the output to so many pixels, where the graph does not say how many. Other keyword arguments
        go to the encoder. An image of one frame may have an axis for it, or none. Raises TypeError for an argument
        that the encoder does not take.
        """
        size = kwargs.pop("image_size", None)
        self._check_crop(image)
        out = super().forward(self._drop_single_frame(image), **kwargs)
        if self.task == EMBEDDING_TASK:
            return list(out.output)
        leaving = [self._convert_to_terratorch(x, size) for x in (out.output, *out.auxiliary_heads.values())]
        names = [self.branches.get(name, name) for name in out.auxiliary_heads]
        return ModelOutput(leaving[0], dict(zip(names, leaving[1:], strict=True)))

    def _check_crop(self, image: Tensor | Mapping[str, Tensor]) -> None:
        """Refuse an image that is smaller than `image_size_out`, by the name that the call has for it."""
        crop = self.graph.crop
        if crop is None or not isinstance(image, Tensor) or image.dim() < 2:
            return
        height, width = image.shape[-2:]
        if height < crop[0] or width < crop[1]:
            raise ValueError(
                explain_too_small(crop, height, width).replace("leave crop out", "leave image_size_out out")
            )

    def _drop_single_frame(self, image: Tensor | Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
        """An image of one frame is a still, to a network that takes stills."""
        one_frame = isinstance(image, Tensor) and image.dim() == 5 and image.shape[2] == 1
        return image.squeeze(2) if one_frame and self._inputs[0].dims == 4 else image  # type: ignore[union-attr]

    def _convert_to_terratorch(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        if size is not None and self.graph.rescale and self.graph.crop is None and x.dim() == 4:
            x = self._crop_to_image_size(x, *map(int, size))
        return x.squeeze(1) if self.task == "regression" and x.shape[1] == 1 else x

    def _crop_to_image_size(self, x_BCHW: Tensor, rows: int, columns: int) -> Tensor:
        """The centre of the output, as it lies in the padded one."""
        frame = compute_padding_for_size((x_BCHW.shape[-2], x_BCHW.shape[-1]), self.typed, self._unit)
        kept = (min(rows, frame.size[0]), min(columns, frame.size[1]))
        top, left, height, width = compute_center_crop_box(frame, kept)
        return crop(x_BCHW, top - frame.before[0], left - frame.before[1], height, width)

    def freeze_encoder(self) -> None:
        """Freeze the encoder: with its own `freeze` where it has one, which may leave prompts or adapters trainable.

        Elsewhere its statistics stand still too, which in TerraTorch they do not.
        """
        own = getattr(self.get_submodule("encoder"), "freeze", None)
        if callable(own):
            own()
        else:
            self.freeze("encoder")

    def freeze_decoder(self) -> None:
        """Freeze the decoder, and the drift of its statistics."""
        self.freeze("decoder")

    def freeze_head(self) -> None:
        """Freeze the head; a decoder that includes one has none to freeze."""
        if "head" in self._modules:
            self.freeze("head")
