"""TerraTorch's factories: the graphs of the models that they build; those whose models are not imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve

from composer.adapters.smp.parts import SmpEncoder
from composer.adapters.smp.translation import SMP_MODELS, build_graph
from composer.adapters.timm.catalogue import find_entry
from composer.errors import suggest
from composer.graph import chain
from composer.inference import Describe
from composer.parts import AggregateTokens, Head, Timm
from composer.terratorch.calls import Arguments, Diagnostics, route_arguments
from composer.terratorch.translation import Translation, translate

FACTORY = "EncoderDecoderFactory"


def translate_prithvi_call(call: Mapping[str, Any], describe: Describe, report: Diagnostics) -> Translation:
    """Return the graph of the model of PrithviModelFactory, which calls EncoderDecoderFactory by other names.

    `in_channels` has no effect in TerraTorch: a Prithvi has as many channels as bands.
    """
    instead = f"model_factory: {FACTORY}, with backbone_bands in place of bands, and so on"
    if isinstance(name := call.get("backbone"), str) and not name.startswith("prithvi_"):
        message = f"the backbones of PrithviModelFactory are named prithvi_… (got {name!r})."
        report.add_problem("backbone", message, instead, "part")
        report.raise_problems()
    channels = _count_bands(call, report)
    if call.get("in_channels") not in (None, channels):
        report.add_note("in_channels", f"TerraTorch ignores in_channels: the image has {channels} bands.")
    names = {name: f"backbone_{name}" for name in ("bands", "pretrained", "num_frames")}
    ignored = [name for name in ("backbone_in_chans", *names.values()) if call.get(name) is not None]
    report.add_ignored(Arguments("", "", call), ignored, "PrithviModelFactory sets it")
    rest = {name: value for name, value in call.items() if name not in ("in_channels", *ignored)}
    return translate(_rename({"pretrained": True, "num_frames": 1, **rest}, names, report), describe, report)


def _rename(call: Mapping[str, Any], names: Mapping[str, str], report: Diagnostics) -> dict[str, Any]:
    """Return a call with arguments by the names of EncoderDecoderFactory, and report these by the names of the call."""
    report.aliases |= {new: report.locate(old).path for old, new in names.items()}
    report.spellings |= {new: old for old, new in names.items()}
    return {names.get(name, name): value for name, value in call.items() if value is not None}


def _count_bands(call: Mapping[str, Any], report: Diagnostics) -> int:
    bands = call.get("bands")
    if isinstance(bands, list | tuple):
        return len(bands)
    fix = "bands: [BLUE, GREEN, RED, NIR_NARROW, SWIR_1, SWIR_2]"
    report.add_problem("bands", f"the factory needs a list of bands (got {bands!r}).", fix, "key")
    return 0


_CLASS_TOKEN_NETWORKS = re.compile(r"(vit|deit3?)_[a-z]+_patch\d+(_clip)?_\d+")
"""The ViTs of timm whose classifier is a linear layer on the class token."""

_CLASSIFIER_ARGUMENTS = {"in_channels": "backbone_in_chans", "pretrained": "backbone_pretrained"}


def translate_timm_call(call: Mapping[str, Any], describe: Describe, report: Diagnostics) -> Translation:
    """Return the graph of the model of TimmModelFactory: a network of timm with its own classifier.

    Parts give that classifier where it is a linear layer, on the class token or on the mean of the last map. Elsewhere
    it is a model of EncoderDecoderFactory, whose call names the arguments.
    """
    known = ("task", "backbone", "num_classes", *_CLASSIFIER_ARGUMENTS)
    ignored = [n for n in call if n not in known and not n.startswith("backbone_") and call[n] is not None]
    report.add_ignored(Arguments("", "", call), ignored, "TimmModelFactory never reads it")
    name = str(call.get("backbone"))
    plain = name.partition(".")[0]
    is_resnet = (find_entry(plain) or {"family": "resnet"})["family"] == "resnet" and not plain.endswith("_pruned")
    fix = f"model_factory: {FACTORY}, backbone: timm_{name}, and a decoder such as IdentityDecoder"
    if call["task"] != "classification":
        report.add_problem("task", f"TimmModelFactory builds classifiers alone (got {call['task']}).", fix, "part")
    elif not is_resnet and not _CLASS_TOKEN_NETWORKS.fullmatch(plain):
        report.add_problem("backbone", f"the classifier of {plain} is more than a linear layer.", fix, "part")
    for option in (option for option in call if option.startswith("backbone_")):
        if option != "backbone_img_size" and not option.endswith("_rate"):
            report.add_problem(option, f"a classifier with {option} is not imported.", fix, "unused")
    report.raise_problems()
    # timm's dropout is that before its classifier.
    names = {**_CLASSIFIER_ARGUMENTS, "backbone_drop_rate": "head_dropout"}
    model = {"pretrained": True, "in_channels": None, **call, "backbone": f"timm_{name}", "decoder": "IdentityDecoder"}
    model = {name: value for name, value in model.items() if name == "decoder" or name not in ignored}
    graph = translate({**_rename(model, names, report), "head_linear_after_pool": True}, describe, report).graph
    network, *_, classifier = (node.part for node in graph.nodes)
    assert isinstance(network, Timm)
    assert isinstance(classifier, Head)
    necks = () if is_resnet else (AggregateTokens(pooling="cls"),)
    network = evolve(network, features_only=False, out_indices=[-1], any_size=is_resnet)
    network = network if is_resnet else evolve(network, tokens=True, norm=True)
    return Translation(chain(network, *necks, classifier, input=graph.inputs[0][1]), report.notes)


_SMP_NODES = {
    "encoder": "backbone",
    "decoder": "model",
    "head": "model",
    "input": "in_channels",
    "image": "in_channels",
}
_SMP_PATHS = {"depth": "smp_encoder_depth", "num_classes": "num_classes", "final_act": "smp_activation"}
"""The arguments that nodes of smp's models, and their fields, are made of."""


def translate_smp_call(call: Mapping[str, Any], _: Describe, report: Diagnostics) -> Translation:
    """Return the graph of the model of SMPModelFactory: a whole model of smp, brought to the size of the image."""
    arguments, rest = route_arguments("smp_", "model", None, call)
    known = ("task", "backbone", "model", "bands", "in_channels", "num_classes", "pretrained")
    ignored = [name for name in rest if name not in known and rest[name] is not None]
    report.add_ignored(Arguments("", "", rest), ignored, "SMPModelFactory never reads it")
    model, channels = str(call.get("model")), _count_bands(call, report)
    if call["task"] != "segmentation":
        fix = f"model_factory: {FACTORY}, decoder: smp_{model}"
        report.add_problem("task", f"SMPModelFactory builds models of segmentation (got {call['task']}).", fix, "part")
    if model not in SMP_MODELS:
        report.add_problem("model", f"smp has no model {model!r}.", suggest(model, SMP_MODELS), "part")
    report.raise_problems()
    if arguments.get("aux_params"):
        report.add_note("smp_aux_params", "TerraTorch drops the scores of the image; here they are an output.")
    named = {"encoder_name": "backbone", "in_channels": "in_channels", "classes": "num_classes"}
    values = {argument: call[name] for argument, name in named.items() if call.get(name) is not None}
    config = {"in_channels": channels, **values, **arguments.values}
    whole = evolve(arguments, paths={**arguments.paths, **_SMP_PATHS})
    report.origins |= {node: evolve(whole, owner=owner) for node, owner in _SMP_NODES.items()}
    report.origins |= {argument: Arguments(name, "") for argument, name in {**arguments.paths, **named}.items()}
    with report.map_errors():
        graph = build_graph(model, config)
    encoder, *others = graph.nodes
    assert isinstance(encoder.part, SmpEncoder | Timm)
    weights = config.get("encoder_weights", call.get("pretrained", True)) or False
    part = evolve(encoder.part, pretrained=weights if isinstance(encoder.part, SmpEncoder) else bool(weights))
    return Translation(evolve(graph, nodes=[evolve(encoder, part=part), *others], rescale=True), report.notes)


FACTORIES: Mapping[str, Callable[[Mapping[str, Any], Describe, Diagnostics], Translation]] = {
    FACTORY: translate,
    "PrithviModelFactory": translate_prithvi_call,
    "SMPModelFactory": translate_smp_call,
    "TimmModelFactory": translate_timm_call,
}
"""The factories whose models are imported."""

UNSUPPORTED_FACTORIES: Mapping[str, tuple[str, str]] = {
    "Clay1_5ModelFactory": ("Clay 1.5 is an autoencoder there, without features", "backbone: clay_v1_base"),
    "ClayModelFactory": ("it runs the code of a folder", "backbone: clay_v1_base"),
    "FullModelFactory": ("it adds no decoder", "with the encoder of the model as backbone, and a decoder"),
    "GenericModelFactory": ("it adds no decoder", "with the same backbone, and a decoder"),
    "GenericUnetModelFactory": ("it adds no head", "backbone: UNet, decoder: IdentityDecoder"),
    "ObjectDetectionModelFactory": ("no head finds boxes", "with the same backbone, and a decoder"),
    "SatMAEModelFactory": ("it runs the code of a folder", "backbone: timm_vit_large_patch16_224.mae"),
    "WxCModelFactory": ("its network is another package's", "backbone: prithvi_eo_v2_300"),
}
"""The other factories of TerraTorch 1.2.11, each with the reason and the nearest call of EncoderDecoderFactory."""
