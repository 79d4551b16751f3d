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
from composer.layouts import CHANNELS_LAST
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

_DEFAULT_FIX = "leave it out, or give it a value that smp and composer both take"


def read_folder(folder: str | os.PathLike[str]) -> Graph:
    """Return the graph of the model whose config `save_pretrained` wrote into a folder.

    Raises SpecError for a folder without the config of such a model, and as `build_graph` does.
    """
    file = os.path.join(folder, "config.json")
    try:
        config = json.loads(read_text(file))
        name = config.pop("_model_class")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        message = "smp saved no model in this folder: its config.json, with a _model_class, cannot be read."
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
        problems = [evolve(p, place=Place(p.place.path, file), fix=p.fix or _DEFAULT_FIX) for p in error.problems]
        raise SpecError(problems) from None
    return evolve(graph, source=Source(file))


def translate(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a model of smp as plain data. Raises SpecError for values that cannot be translated."""
    given, defaults = (
        {key: list(value) if isinstance(value, tuple) else value for key, value in mapping.items()}
        for mapping in (arguments, SMP_DECODER_ARGUMENTS[name])
    )
    for old, new in _OLD_NAMES.items():
        if (value := given.pop(old, None)) is not None:
            given[new] = value
    values = {argument: given.pop(argument, default) for argument, default in SMP_MODELS[name].items()}
    decoder = {key: value for key, default in defaults.items() if (value := given.pop(key, default)) != default}
    for argument in ("encoder_depth", "encoder_output_stride"):
        if type(number := values.get(argument, 1)) is not int or not 1 <= number <= MAX_LEVELS:
            message = f"{argument} must be a whole number from 1 to {MAX_LEVELS} (got {number!r})."
            raise build_error("value", message, Place(argument))
    auxiliary = values["aux_params"] or {}
    if not isinstance(auxiliary, Mapping) or (auxiliary and name == "DPT"):
        message = f"aux_params must be a mapping, and null for DPT, whose encoder gives tokens (got {auxiliary!r})."
        fix = "set it to null; in a graph of nodes, AggregateTokens pools tokens for a ClassificationHead"
        raise build_error("value", message, Place("aux_params"), fix)
    stride = _compute_stride(name, values)
    head = _translate_head(name, values, decoder, stride)
    branch = {"decoder": "IdentityDecoder", "head": {"ClassificationHead": _translate_auxiliary(auxiliary)}}
    return {
        "input": {"channels": values["in_channels"]},
        **_translate_encoder(name, values, given),
        "decoder": {f"smp/{name}": decoder},
        "head": {"SegmentationHead": head},
        "aux": {"classification": branch} if auxiliary else {},
        # smp returns what its factor gives, whatever the resolution.
        "rescale": head["upsampling"] == stride,
    }


def _compute_stride(name: str, values: Mapping[str, Any]) -> int:
    """Return the stride of what a decoder gives."""
    last: int = min(2 ** values["encoder_depth"], values.get("encoder_output_stride", 32))
    strides = {"DPT": 2, "FPN": last // 8, "PSPNet": last, "DeepLabV3": last}
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
    given = {key: value for key, value in values.items() if key not in ("classes", "activation")}
    own = {"num_classes": values.get("classes"), "final_act": _translate_activation(values)}
    fields = {"dropout": 0.2, "linear_after_pool": True, **given, **own}
    return {**fields, "pooling": "mean"} if given.get("pooling", "avg") == "avg" else fields


def _translate_activation(values: Mapping[str, Any]) -> Any:
    """Return the name of an activation; one without a counterpart stays, and is rejected by the head."""
    return _ACTIVATIONS.get(str(values.get("activation")), values.get("activation"))


def _translate_encoder(name: str, values: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the encoder of a model, and its necks. `options` are the arguments that smp passes on to timm."""
    encoder, depth, stride = str(values["encoder_name"]), values["encoder_depth"], values.get("encoder_output_stride")
    fields = {} if stride in (None, 32) else {"output_stride": stride}
    prefix = next((old for old in RENAMED_PREFIXES if encoder.startswith(old) and encoder != old), None)
    if prefix is None:
        return {"encoder": {f"smp/{encoder}": {"depth": depth, **fields, **options}}}
    network = f"{RENAMED_PREFIXES[prefix]}{encoder.removeprefix(prefix)}"
    # timm's wrapper keeps layers that the plain network loses, and so does smp's state dict.
    info = describe(Timm(network.removeprefix("timm/"), features_only=name != "DPT"), 3)
    if isinstance(info, Rejection):
        raise build_error(info.code, f"{network} {info.expected} (got {info.got}).", Place("encoder_name"), info.fix)
    if name == "DPT":
        uniform = [int((info.levels or 0) / depth * level) - 1 for level in range(1, depth + 1)]
        fields |= {"tokens": True, "out_indices": values["encoder_output_indices"] or uniform}
    else:
        levels = zip(dict(info.arguments)["out_indices"], info.features, strict=True)
        fields |= {"features_only": True, "out_indices": [i for i, f in levels if 2 <= (f.stride or 0) <= 2**depth]}
    # composer sets `dynamic_img_size` wherever there is such a switch.
    fields |= {key: options[key] for key in ("img_size", "output_stride") if key in options}
    options = {key: value for key, value in options.items() if key not in (*fields, "dynamic_img_size")}
    necks = [{"PermuteDims": {"new_order": [0, 3, 1, 2]}}] if info.features[0].axes == CHANNELS_LAST else []
    return {"encoder": {network: {**fields, "options": options}}, "necks": necks}


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
