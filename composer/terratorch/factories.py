"""TerraTorch's factories: the graphs of the models that they build; those whose models are not imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from attrs import evolve

from composer.adapters.smp.parts import SmpEncoder
from composer.adapters.smp.translation import SMP_MODELS, build_graph
from composer.adapters.timm.catalogue import find_entry, list_networks
from composer.errors import suggest
from composer.graph import chain
from composer.inference import Describe
from composer.layouts import Image
from composer.parts import AggregateTokens, ClassificationHead, Timm
from composer.terratorch.calls import Arguments, Diagnostics, construct, route_arguments
from composer.terratorch.translation import Translation, translate

FACTORY = "EncoderDecoderFactory"

_RENAMED = {name: f"backbone_{name}" for name in ("bands", "pretrained", "num_frames")}
"""The arguments of PrithviModelFactory that it hands to the backbone, each with its name in EncoderDecoderFactory."""


def translate_prithvi_call(call: Mapping[str, Any], describe: Describe, report: Diagnostics) -> Translation:
    """Return the graph of the model of PrithviModelFactory, which calls EncoderDecoderFactory by other names.

    `in_channels` has no effect in TerraTorch: a Prithvi has as many channels as bands.
    """
    instead = f"model_factory: {FACTORY}, with backbone_bands in place of bands, and so on"
    backbone = call.get("backbone")
    if isinstance(backbone, str) and not backbone.startswith("prithvi_"):
        message = f"the backbones of PrithviModelFactory are named prithvi_… (got {backbone!r})."
        report.add_problem("backbone", message, instead, "part")
    channels = _count_bands("PrithviModelFactory", call, report)
    if call.get("in_channels") not in (None, channels):
        report.add_note("in_channels", f"TerraTorch ignores in_channels: the image has {channels} bands.")
    values = {"pretrained": True, "num_frames": 1, **call}
    for name in ("necks", "prepare_features_for_image_model"):
        if values.pop(name, None):
            report.add_problem(name, f"PrithviModelFactory takes no {name}.", instead, "unused")
    for name in ("in_channels", "backbone_in_chans", *_RENAMED.values()):
        if values.pop(name, None) is not None and name != "in_channels":
            fix = f"write {name.removeprefix('backbone_')}"
            report.add_note(name, f"TerraTorch ignores {name}: PrithviModelFactory sets it.", fix)
    report.aliases |= {new: report.locate(old).path for old, new in _RENAMED.items()}
    report.spellings |= {new: old for old, new in _RENAMED.items()}
    renamed = {_RENAMED.get(name, name): value for name, value in values.items() if value is not None}
    return translate(renamed, describe, report)


def _count_bands(factory: str, call: Mapping[str, Any], report: Diagnostics) -> int:
    bands = call.get("bands")
    if isinstance(bands, list | tuple):
        return len(bands)
    message = f"{factory} needs a list of bands (got {bands!r})."
    report.add_problem("bands", message, "bands: [BLUE, GREEN, RED, NIR_NARROW, SWIR_1, SWIR_2]", "key")
    return 0


def translate_smp_call(call: Mapping[str, Any], _: Describe, report: Diagnostics) -> Translation:
    """Return the graph of the model of SMPModelFactory: a whole model of smp, brought to the size of the image."""
    arguments, rest = route_arguments("smp_", "model", None, call)
    _note_ignored("SMPModelFactory", rest, ("model", "bands", *_ARGUMENTS), report)
    model, channels = str(call.get("model")), _count_bands("SMPModelFactory", call, report)
    if call.get("task") != "segmentation":
        fix = f"model_factory: {FACTORY}, decoder: smp_{model}"
        report.add_problem("task", f"SMPModelFactory builds models of segmentation (got {call['task']}).", fix, "part")
    if model not in SMP_MODELS:
        report.add_problem("model", f"smp has no model {model!r}.", suggest(model, SMP_MODELS), "part")
    report.raise_problems()
    named = {"encoder_name": "backbone", "in_channels": "in_channels", "classes": "num_classes"}
    values = {argument: call[name] for argument, name in named.items() if call.get(name) is not None}
    config = {"in_channels": channels, **values, **arguments.values}
    weights = config.get("encoder_weights", call.get("pretrained", True))
    if config.get("aux_params"):
        report.add_note("smp_aux_params", "TerraTorch drops the scores of the image; here they are an output.")
    report.origins |= {argument: Arguments(name, "") for argument, name in (*arguments.paths.items(), *named.items())}
    report.origins |= {
        "encoder": evolve(arguments, owner="backbone", paths={**arguments.paths, **_SMP_ENCODER_PATHS}),
        "decoder": arguments,
        "head": evolve(arguments, paths=_SMP_HEAD_PATHS),
        **dict.fromkeys(("input", "image"), Arguments("in_channels", "")),
    }
    with report.map_errors():
        graph = build_graph(model, config)
    (encoder,) = (node for node in graph.nodes if node.name == "encoder")
    assert isinstance(encoder.part, SmpEncoder | Timm)
    known = weights or False if isinstance(encoder.part, SmpEncoder) else bool(weights)
    built = evolve(encoder, part=evolve(encoder.part, pretrained=known))
    nodes = [built if node is encoder else node for node in graph.nodes]
    return Translation(evolve(graph, nodes=nodes, rescale=True), report.notes)


_SMP_ENCODER_PATHS = {
    "depth": "smp_encoder_depth",
    "output_stride": "smp_encoder_output_stride",
    "pretrained": "pretrained",
}
_SMP_HEAD_PATHS = {"num_classes": "num_classes", "final_act": "smp_activation", "upsampling": "smp_upsampling"}
_ARGUMENTS = ("task", "backbone", "in_channels", "num_classes", "pretrained")


def _note_ignored(factory: str, call: Mapping[str, Any], known: Sequence[str], report: Diagnostics) -> None:
    ignored = [name for name in call if name not in known and call[name]]
    report.add_ignored(Arguments("", "", call), ignored, f"{factory} never reads it")


_CLASS_TOKEN_NETWORKS = re.compile(r"(vit|deit3?)_[a-z]+_patch\d+(_clip)?_\d+")
"""The ViTs of timm whose classifier is a linear layer on the class token."""


def translate_timm_call(call: Mapping[str, Any], _: Describe, report: Diagnostics) -> Translation:
    """Return the graph of the model of TimmModelFactory: a network of timm with its own classifier.

    Parts give that classifier where it is a linear layer, on the class token or on the mean of the last map.
    """
    arguments, rest = route_arguments("backbone_", "backbone", None, call)
    _note_ignored("TimmModelFactory", rest, _ARGUMENTS, report)
    name, classes = str(call.get("backbone")), {"num_classes": call.get("num_classes"), "linear_after_pool": True}
    plain = name.partition(".")[0]
    entry = find_entry(plain) or {"family": None}
    is_resnet = entry["family"] == "resnet" and not plain.endswith("_pruned")
    fix = f"model_factory: {FACTORY}, backbone: timm_{name}, and a decoder such as IdentityDecoder"
    if call.get("task") != "classification":
        report.add_problem("task", f"TimmModelFactory builds classifiers alone (got {call['task']}).", fix, "part")
    elif entry["family"] is None:
        report.add_problem("backbone", f"timm has no network {plain!r}.", suggest(plain, list_networks()), "part")
    elif not is_resnet and not _CLASS_TOKEN_NETWORKS.fullmatch(plain):
        report.add_problem("backbone", f"the classifier of {plain} is more than a linear layer.", fix, "part")
    for option in arguments:
        if option != "img_size" and not option.endswith("_rate"):
            message = f"{option} may change the classifier, which is imported as it is without."
            report.add_problem(arguments.locate(option), message, fix, "unused")
    if isinstance(call.get("pretrained"), str):
        message = f"weights of torchgeo, and checkpoints, are not read here (got {call['pretrained']!r})."
        report.add_problem("pretrained", message, "pretrained: true")
    form = {"any_size": True} if is_resnet else {"tokens": True, "norm": True}
    fields = {"name": name, "out_indices": [-1], "pretrained": call.get("pretrained", True), **form}
    if "img_size" in arguments:
        fields["img_size"] = arguments.get("img_size")
    if "drop_rate" in arguments:
        # timm's dropout before its classifier.
        classes["dropout"] = arguments.get("drop_rate")
    options = arguments.drop("img_size", "drop_rate").values
    named = {"pretrained": "pretrained", "num_classes": "num_classes", "channels": "in_channels"}
    encoder = evolve(arguments, values={**fields, "options": options}, paths={**arguments.paths, **named})
    head = Arguments("num_classes", "", classes, {**named, "dropout": arguments.locate("drop_rate")})
    image = Arguments("in_channels", "", {"channels": call.get("in_channels")}, named)
    report.origins |= {"encoder": encoder, "head": head, "image": image}
    network, size = construct(Timm, encoder, report, f"timm/{name}"), construct(Image, image, report, "an image")
    classifier = construct(ClassificationHead, head, report)
    report.raise_problems()
    necks = () if is_resnet else (AggregateTokens(pooling="cls"),)
    assert network is not None
    assert classifier is not None
    return Translation(chain(network, *necks, classifier, input=size), report.notes)


FACTORIES: Mapping[str, Callable[[Mapping[str, Any], Describe, Diagnostics], Translation]] = MappingProxyType(
    {
        FACTORY: translate,
        "PrithviModelFactory": translate_prithvi_call,
        "SMPModelFactory": translate_smp_call,
        "TimmModelFactory": translate_timm_call,
    }
)
"""The factories whose models are imported."""

_CLAY = f"{FACTORY}, backbone: clay_v1_base"

UNSUPPORTED_FACTORIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "Clay1_5ModelFactory": (
            "it builds Clay 1.5 as a masked autoencoder, which downloads a teacher and gives losses and no features",
            _CLAY,
        ),
        "ClayModelFactory": ("it runs the code of a folder", _CLAY),
        "FullModelFactory": (
            "they are whole models, such as autoencoders",
            f"{FACTORY}, with the encoder of the model as backbone, and a decoder",
        ),
        "GenericModelFactory": ("they are backbones alone", f"{FACTORY}, with the same backbone, and a decoder"),
        "GenericUnetModelFactory": (
            "they have no head, and take the last feature for scores",
            f"{FACTORY}, backbone: UNet, decoder: IdentityDecoder",
        ),
        "ObjectDetectionModelFactory": (
            "they find boxes, which no head does",
            f"{FACTORY}, with the same backbone, and a decoder",
        ),
        "SatMAEModelFactory": ("it runs the code of a folder", f"{FACTORY}, backbone: timm_vit_large_patch16_224.mae"),
        "WxCModelFactory": ("they forecast weather", f"{FACTORY}, backbone: prithvi_eo_v2_300, and a decoder"),
    }
)
"""The other factories of TerraTorch 1.2.11, each with the reason and the nearest factory."""


def explain_unsupported_factory(name: str) -> tuple[str, str]:
    """Return the message and the fix for a factory whose models are not imported."""
    if name in UNSUPPORTED_FACTORIES:
        reason, instead = UNSUPPORTED_FACTORIES[name]
        return f"models of {name} are not imported: {reason}.", f"model_factory: {instead}"
    fix = f"model_factory: {FACTORY}; a model with several encoders is a spec with nodes"
    return f"TerraTorch 1.2.11 has no factory {name!r}.", fix
