"""Translate smp's models into graphs, and name their tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import evolve

from composer.adapters.smp.parts import RENAMED_PREFIXES, SMP_DECODER_ARGUMENTS, Smp
from composer.encoder_info import describe
from composer.errors import Place, Source, SpecError, suggest
from composer.graph import Graph, Shared
from composer.parts import Part, Timm
from composer.parts.rules import Rejection
from composer.parts.validators import MAX_LEVELS
from composer.spec.reader import reads
from composer.spec.writer import dump
from composer.spec.yaml import build_error, read_text

_COMMON: Mapping[str, Any] = MappingProxyType(
    {"encoder_name": "resnet34", "encoder_depth": 5, "encoder_weights": "imagenet", "in_channels": 3, "classes": 1}
    | {"activation": None, "aux_params": None}
)
_VIT = "tu-vit_base_patch16_224.augreg_in21k"

SMP_MODELS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        **dict.fromkeys(("Unet", "UnetPlusPlus", "MAnet", "Linknet"), _COMMON),
        "FPN": {**_COMMON, "upsampling": 4},
        "PSPNet": {**_COMMON, "encoder_depth": 3, "upsampling": 8},
        "DeepLabV3": {**_COMMON, "encoder_output_stride": 8, "upsampling": None},
        "DeepLabV3Plus": {**_COMMON, "encoder_output_stride": 16, "upsampling": 4},
        "PAN": {**_COMMON, "encoder_output_stride": 16, "upsampling": 4},
        "UPerNet": {**_COMMON, "upsampling": 4},
        "Segformer": {**_COMMON, "upsampling": 4},
        "DPT": {**_COMMON, "encoder_name": _VIT, "encoder_depth": 4, "encoder_output_indices": None},
    }
)
"""The models of smp 0.6, each with the arguments that its decoder does not take, and the defaults that matter."""

_OLD_NAMES = {
    **dict.fromkeys(("decoder_use_batchnorm", "psp_use_batchnorm"), "decoder_use_norm"),
    "upscale_mode": "decoder_interpolation",
}
"""Arguments of smp before 0.5, each with its name since."""

_ACTIVATIONS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "logsoftmax": "LogSoftmax", "identity": None}
_ACTIVATIONS |= dict.fromkeys(("softmax", "softmax2d"), "Softmax")


def read_folder(folder: str | os.PathLike[str]) -> Graph:
    """Return the graph of the model whose config `save_pretrained` wrote into a folder.

    Raises SpecError for a folder without the config of such a model, and as `build_graph` does.
    """
    file = os.path.join(folder, "config.json")
    try:
        config = json.loads(read_text(file))
        name = config.pop("_model_class")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        message = "there is no config of smp here, which names its _model_class."
        fix = "name a folder that model.save_pretrained(FOLDER) of smp wrote"
        raise build_error("file", message, Place("", file), fix) from None
    return build_graph(str(name), config, file)


def build_graph(name: str, arguments: Mapping[str, Any], file: str | None = None) -> Graph:
    """Return the graph of `segmentation_models_pytorch.NAME(**arguments)`, from its image to its activation.

    The weights of the encoder are left out: those of the model replace them. With `aux_params` the scores of an image
    are the auxiliary output `classification`. smp is not imported, and `infer` may still reject the graph. `file` is
    named in problems. Raises SpecError for an unknown model or encoder, and for arguments that no part has.
    """
    if name not in SMP_MODELS:
        raise build_error("part", f"smp has no model {name!r}.", Place("", file), suggest(name, SMP_MODELS))
    try:
        graph = reads(dump(translate(name, arguments)))
    except SpecError as error:
        # Lines and columns would be those of the text, which nobody sees.
        raise SpecError(evolve(problem, place=Place(problem.place.path, file)) for problem in error.problems) from None
    return evolve(graph, source=Source(file))


def translate(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a model of smp as plain data. Raises SpecError for values that cannot be translated."""
    given = {argument: list(value) if isinstance(value, tuple) else value for argument, value in arguments.items()}
    for old, new in _OLD_NAMES.items():
        if (value := given.pop(old, None)) is not None:
            given[new] = value
    values = {argument: given.pop(argument, default) for argument, default in SMP_MODELS[name].items()}
    decoder = {argument: given.pop(argument) for argument in SMP_DECODER_ARGUMENTS[name] if argument in given}
    for argument in ("encoder_depth", "encoder_output_stride"):
        if type(number := values.get(argument, 1)) is not int or not 1 <= number <= MAX_LEVELS:
            raise _build_value_error(argument, f"a whole number from 1 to {MAX_LEVELS}", number)
    auxiliary = values["aux_params"] or {}
    if not isinstance(auxiliary, Mapping):
        raise _build_value_error("aux_params", "a mapping or null", auxiliary)
    if auxiliary and name == "DPT":
        fix = "set it to null, and pool the tokens with AggregateTokens, in a graph of nodes"
        raise _build_value_error("aux_params", "null for DPT, whose encoder gives tokens", auxiliary, fix)
    stride = _compute_stride(name, values)
    head = _translate_head(name, values, decoder, stride)
    branch = {"decoder": "IdentityDecoder", "head": {"ClassificationHead": _translate_auxiliary(auxiliary)}}
    return {
        "input": {"channels": values["in_channels"]},
        "encoder": _translate_encoder(name, values, given),
        "decoder": {f"smp/{name}": decoder},
        "head": {"SegmentationHead": head},
        "aux": {"classification": branch} if auxiliary else {},
        # smp returns what its factor gives, whatever the resolution.
        "rescale": head["upsampling"] == stride,
    }


def _build_value_error(argument: str, expected: str, got: object, fix: str | None = None) -> SpecError:
    return build_error("value", f"{argument} must be {expected} (got {got!r}).", Place(argument), fix)


def _compute_stride(name: str, values: Mapping[str, Any]) -> int:
    """Return the stride of what a decoder gives."""
    deepest: int = 2 ** values["encoder_depth"]
    strides = {"DPT": 2, "FPN": deepest // 8, "PSPNet": deepest}
    strides["DeepLabV3"] = min(deepest, values.get("encoder_output_stride", deepest))
    return strides.get(name, 4 if "upsampling" in values else 1)


def _translate_head(name: str, values: Mapping[str, Any], decoder: Mapping[str, Any], stride: int) -> dict[str, Any]:
    head = {"num_classes": values["classes"], "final_act": _translate_activation(values)}
    if name == "DPT":
        width = decoder.get("decoder_fusion_channels", SMP_DECODER_ARGUMENTS[name]["decoder_fusion_channels"])
        return {**head, "channel_list": [width], "batch_norm": True, "dropout": 0.1, "upsampling": 2}
    factor = values.get("upsampling", 1)
    wide = name in ("Unet", "UnetPlusPlus", "MAnet", "PSPNet", "PAN")
    return {**head, "kernel_size": 3 if wide else 1, "upsampling": stride if factor is None else factor}


def _translate_auxiliary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the head of `aux_params`. An unknown name stays, and is no field."""
    fields = {"dropout": 0.2, "linear_after_pool": True, "final_act": _translate_activation(values)}
    names = {"classes": "num_classes"}
    fields |= {names.get(key, key): value for key, value in values.items() if key != "activation"}
    return {**fields, "pooling": "mean" if fields.get("pooling", "avg") == "avg" else fields["pooling"]}


def _translate_activation(values: Mapping[str, Any]) -> Any:
    """Return the name of an activation; one without a counterpart stays, and is none of a head."""
    activation = values.get("activation")
    return _ACTIVATIONS.get(str(activation), activation)


def _translate_encoder(name: str, values: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the encoder of a model. `options` are the arguments that smp passes on to timm."""
    encoder, depth, stride = str(values["encoder_name"]), values["encoder_depth"], values.get("encoder_output_stride")
    fields = {} if stride in (None, 32) else {"output_stride": stride}
    prefix = next((prefix for prefix in RENAMED_PREFIXES if encoder.startswith(prefix)), None)
    if prefix is None:
        return {f"smp/{encoder}": {"depth": depth, **fields, **options}}
    network = f"{RENAMED_PREFIXES[prefix]}{encoder.removeprefix(prefix)}"
    info = describe(Timm(network.removeprefix("timm/")), 3)
    if isinstance(info, Rejection):
        raise build_error(info.code, f"{network} {info.expected} (got {info.got}).", Place("encoder_name"), info.fix)
    if name == "DPT":
        uniform = [int((info.levels or 0) / depth * level) - 1 for level in range(1, depth + 1)]
        fields |= {"tokens": True, "out_indices": values["encoder_output_indices"] or uniform}
    else:
        levels = zip(dict(info.arguments)["out_indices"], info.features, strict=True)
        fields["out_indices"] = [index for index, f in levels if 2 <= (f.stride or 0) <= 2**depth]
    # composer sets `dynamic_img_size` wherever there is such a switch.
    fields |= {"img_size": options["img_size"]} if "img_size" in options else {}
    options = {key: value for key, value in options.items() if key not in ("dynamic_img_size", "img_size")}
    return {network: {**fields, "options": options}}


_LAYERS: Mapping[tuple[str, str], tuple[str, ...]] = {
    # The second is the last layer of DPT's head, which begins with a convolution and its norm.
    ("SegmentationHead", "head.2"): ("segmentation_head.0", "segmentation_head.head.4"),
    ("SegmentationHead", "head.0.0.0"): ("segmentation_head.head.0",),
    ("SegmentationHead", "head.0.0.1"): ("segmentation_head.head.1",),
    ("ClassificationHead", "head.2"): ("classification_head.3",),
}


def list_tensor_names(part: Part | Shared, within: str) -> tuple[str, ...]:
    """Return the names in a state dict of smp that a tensor may have, whose name within its node is `within`."""
    if isinstance(part, Smp):
        return (f"decoder.{within.removeprefix('_smp_decoder.')}",)
    layer, _, parameter = within.rpartition(".")
    return tuple(f"{other}.{parameter}" for other in _LAYERS.get((type(part).__name__, layer), ()))
