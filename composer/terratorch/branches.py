"""Decoders with their heads, by task: the trunk of a call, and its auxiliary branches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import Attribute, evolve, field, frozen

from composer.adapters.decoders import GROUPS
from composer.adapters.mmseg.parts import MMSEG_HEAD_ARGUMENTS, UNSUPPORTED_HEADS, Mmseg
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS, Smp
from composer.errors import suggest
from composer.parts import DECODERS as BUILT_IN_DECODERS
from composer.parts import (
    ClassificationHead,
    Decoder,
    EmbeddingHead,
    Head,
    Part,
    RegressionHead,
    ScalarHead,
    SegmentationHead,
)
from composer.parts.validators import FINAL_ACTIVATIONS
from composer.terratorch.calls import Arguments, Diagnostics, construct, is_module, route_arguments

HEADS: dict[str, type[Head]] = {
    "segmentation": SegmentationHead,
    "regression": RegressionHead,
    "classification": ClassificationHead,
    "scalar_regression": ScalarHead,
    "embedding_generation": EmbeddingHead,
}
"""The head of each task."""

OWN_HEAD_FIELDS = ("batch_norm", "final_act", "kernel_size", "upsampling", "pooling")
"""The fields that no head of TerraTorch has, or only that for regression: the first two."""

PIXEL_WISE = ("segmentation", "regression")
EMBEDDING_TASK = "embedding_generation"


def _validate_name(_: object, __: Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= 60 or "." in value:
        raise ValueError(f"name must have from 1 to 60 characters, and no dot (got {value!r})")


def _convert_arguments(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"decoder_args must be a dict of arguments (got {value!r})")
    return value or {}


@frozen
class AuxiliaryHead:
    """An auxiliary branch: its name, its decoder (a name or a module), and arguments `decoder_…` and `head_…`."""

    name: str = field(validator=_validate_name)
    decoder: Any
    decoder_args: Mapping[str, Any] = field(default=None, converter=_convert_arguments)


def normalize_branch(name: str) -> str:
    """Return the name of an auxiliary head in a graph: `fcn-aux_1` becomes `fcn_aux_1`, and `_x` becomes `aux_x`.

    TerraTorch accepts any name without a dot; a node's name is letters, digits and _, and begins with a letter.
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"aux{'' if plain.startswith('_') else '_'}{plain}"


def iter_auxiliary_heads(entries: Any, report: Diagnostics) -> Iterator[tuple[str, AuxiliaryHead]]:
    """Yield the path and the fields of each valid auxiliary head: dicts, or objects of TerraTorch's class or ours.

    No two have the same name in the graph.
    """
    if not isinstance(entries, list | tuple):
        report.add_problem("aux_decoders", f"auxiliary heads are a list (got {entries!r}).", code="type")
        return
    labels = set()
    for position, entry in enumerate(entries):
        path, names = f"aux_decoders[{position}]", ("name", "decoder", "decoder_args")
        is_dict = isinstance(entry, Mapping)
        values = dict(entry) if is_dict else {name: getattr(entry, name) for name in names if hasattr(entry, name)}
        head = construct(AuxiliaryHead, Arguments(path, f"{path}.", values), report, "an auxiliary head")
        label = head and normalize_branch(head.name)
        if label in labels:
            # TerraTorch keeps the last head of a name, and builds the others for nothing.
            report.add_problem(f"{path}.name", f"there is a head {label!r} already.", "choose another name", "node")
        elif head is not None:
            labels.add(label)
            yield path, head


@frozen
class BranchBuilder:
    """Build the decoders and heads of one call. `outputs` is its argument for the number of predicted values."""

    task: str
    outputs: tuple[str, Any] | None
    head: Arguments
    report: Diagnostics

    def build_trunk(self, decoder: Any, arguments: Arguments) -> tuple[Part, ...]:
        """Build the decoder of a call and, unless it includes one, the head."""
        if self.outputs is not None and self.head.get(*self.outputs) != self.outputs[1]:
            name, value = self.outputs
            self.report.add_ignored(self.head, [name], f"{name}: {value} is given beside it")
        return self._build_branch("", decoder, arguments, self.head)

    def build_auxiliary(self, path: str, head: AuxiliaryHead) -> tuple[Part, ...]:
        """Build an auxiliary branch. Its head gets the arguments of the main one, as in TerraTorch."""
        within = f"{path}.decoder_args."
        arguments, rest = route_arguments("decoder_", f"{path}.decoder", None, head.decoder_args, within)
        own, rest = route_arguments("head_", path, None, rest, within)
        for name in rest:
            self.report.add_problem(f"{within}{name}", f"{name} was not used.", f"write decoder_{name}", "unused")
        parts = self._build_branch(f"aux.{normalize_branch(head.name)}.", head.decoder, arguments, own)
        if len(parts) == 2:
            fix = f"aux: {{{head.name}: {{head: …}}}} has arguments of its own"
            self.report.add_ignored(own, own, "auxiliary heads get the arguments of the main head", fix)
        return parts

    def _build_branch(self, branch: str, decoder: Any, arguments: Arguments, own: Arguments) -> tuple[Part, ...]:
        """Build a decoder and perhaps a head, for which the branch itself has the arguments `own`."""
        head = self.head
        if self.outputs is not None:
            name, value = self.outputs
            head = evolve(head.replace(**{name: value}), paths={**head.paths, name: name})
        self.report.origins |= {f"{branch}decoder": arguments, f"{branch}head": head}
        part = self._build_decoder(decoder, arguments)
        if part is not None and part.includes_head:
            label = decoder if isinstance(decoder, str) else type(decoder).__name__
            for name in own:
                self.report.add_problem(own.locate(name), f"{label} includes its head.", "leave it out", "unused")
            return (part,)
        built = _build_head(self.task, head, self.report)
        return tuple(entry for entry in (part, built) if entry is not None)

    def _build_decoder(self, decoder: Any, arguments: Arguments) -> Decoder | None:
        if isinstance(decoder, str):
            classes = {} if self.outputs is None else {"num_classes": self.outputs[1]}
            return _build_named_decoder(decoder, arguments, classes, self.report)
        if not is_module(decoder):
            message = f"a decoder is the name of one, or a module (got {decoder!r})."
            self.report.add_problem(arguments.owner, message, "decoder: FCNDecoder", "type")
            return None
        from composer.terratorch.live import ModuleDecoder

        self.report.add_ignored(arguments, arguments, "the decoder is made already")
        includes_head = bool(getattr(decoder, "includes_head", False))
        if includes_head:
            self.report.add_note(arguments.owner, "TerraTorch puts a second head behind this decoder.")
        return ModuleDecoder(decoder, includes_head=includes_head)


def get_output_names(task: str) -> tuple[str, str]:
    """Return the task's own argument for the number of predicted values, and the argument of the other tasks."""
    names = ("num_classes", "num_outputs")
    return (names[1], names[0]) if task in ("regression", "scalar_regression") else names


def _build_head(task: str, arguments: Arguments, report: Diagnostics) -> Head | None:
    """Build the head that TerraTorch builds for these arguments; None, with problems, where they are invalid."""
    name, other = get_output_names(task)
    if task == "scalar_regression" and name not in arguments:
        arguments = arguments.rename(**{other: name})
    if other in arguments and name not in arguments:
        fix = f"{name}: {arguments.get(other)}"
        report.add_problem(arguments.locate(other), f"{task} takes {name}, not {other}.", fix, "unused")
        return None
    if name not in arguments and task != "regression":
        report.add_problem(name, f"{task} needs {name}.", "say how many are to be predicted", "key")
        return None
    if task == "regression":
        if arguments.get("batch_norm") is False:
            fix = "RegressionHead: {batch_norm: false} does what it says"
            report.add_ignored(arguments, ["batch_norm"], "the head is built with batch norm", fix)
        activation = _parse_activation(arguments, report)
        arguments = arguments.drop("batch_norm", "final_act").replace(**activation)
    label, own = HEADS[task].__name__, [one for one in OWN_HEAD_FIELDS if one in arguments and task != "regression"]
    for argument in own:
        message = f"TerraTorch's {label} has no argument {argument!r}."
        report.add_problem(arguments.locate(argument), message, f"{label} in a spec has it", "unused")
    return construct(HEADS[task], arguments.drop(*own), report)


def _parse_activation(arguments: Arguments, report: Diagnostics) -> dict[str, str]:
    """Return the name of an activation: a path, `torch.nn.Sigmoid`, or a module. Nothing is imported."""
    act: Any = arguments.get("final_act")
    if act is None:
        return {}
    path = act if isinstance(act, str) else f"{type(act).__module__}.{type(act).__name__}"
    home, _, name = path.rpartition(".")
    known = (home == "torch.nn" or home.startswith("torch.nn.modules.")) and name in FINAL_ACTIVATIONS
    # A module with arguments of its own shows them. Softmax is over the channels.
    if known and (isinstance(act, str) or repr(act) in (repr(type(act)()), "Softmax(dim=1)")):
        return {"final_act": name}
    message = f"final_act is torch.nn.X (got {act!r}); nothing is imported or called by its name."
    fix = f"choose one of {', '.join(FINAL_ACTIVATIONS)}, or apply the function to the model's output"
    report.add_problem(arguments.locate("final_act"), message, fix)
    return {}


_DECODER_NAMES = (
    "FCNDecoder UperNetDecoder UNetDecoder IdentityDecoder LinearDecoder MLPDecoder ASPPSegmentationHead "
    "ASPPRegressionHead"
)

DECODERS = {decoder.__name__: decoder for decoder in BUILT_IN_DECODERS if decoder.__name__ in _DECODER_NAMES.split()}
"""The decoders of TerraTorch 1.2.11 that its factory can build, and two whose head it overlooks."""

UNUSABLE_DECODERS = ("ASPPHead", "ASPPModule", "SatMAEHead", "smp_DPT", "DPT")
"""What TerraTorch registers beside them, and its factory cannot build, or not run."""


def _build_named_decoder(
    full_name: str, arguments: Arguments, classes: Mapping[str, Any], report: Diagnostics
) -> Decoder | None:
    """Build the decoder that TerraTorch builds for a name; None, with a problem, where there is none.

    `classes` is the argument `num_classes` for a decoder that includes a head, where the number is known.
    """
    source, _, short = full_name.partition("_")
    own = short if source == "terratorch" else full_name
    named = short if source in ("smp", "mmseg") else full_name
    if own in UNUSABLE_DECODERS:
        report.add_problem(arguments.owner, f"TerraTorch cannot run {own}.", "decoder: FCNDecoder", "part")
        return None
    if own in DECODERS:
        return construct(DECODERS[own], _prepare_decoder(own, arguments, classes, report), report)
    if source not in ("terratorch", "mmseg") and named in SMP_DECODER_ARGUMENTS:
        return _build_smp_decoder(named, arguments, report)
    if source not in ("terratorch", "smp") and named in (*MMSEG_HEAD_ARGUMENTS, *UNSUPPORTED_HEADS):
        return _build_mmseg_head(named, arguments.replace(**classes), report)
    smp = (f"smp_{name}" for name in SMP_DECODER_ARGUMENTS)
    known = [*DECODERS, *smp, *(f"mmseg_{name}" for name in MMSEG_HEAD_ARGUMENTS)]
    report.add_problem(arguments.owner, f"TerraTorch has no decoder {full_name!r}.", suggest(full_name, known), "part")
    return None


def _prepare_decoder(name: str, arguments: Arguments, classes: Mapping[str, Any], report: Diagnostics) -> Arguments:
    """Return the arguments of a decoder of TerraTorch as the part has them."""
    if name == "MLPDecoder":
        reason, fix = "the layer is as wide as the input", "MLPDecoder in a spec, which reads it"
        report.add_ignored(arguments, ("channels", "out_dim"), reason, fix)
        return arguments.replace(channels=None, out_dim=None)
    if name == "ASPPSegmentationHead":
        return arguments.replace(**classes).drop("in_channels")
    if name == "LinearDecoder" and "num_classes" not in arguments:
        return arguments.replace(**classes)
    if name in ("LinearDecoder", "ASPPRegressionHead"):
        message = f"TerraTorch puts a second head behind {name}."
        report.add_note(arguments.owner, message, f"{name} without a head, in a spec")
        return arguments.replace(includes_head=False).drop("in_channels")
    return arguments


FIRST_MAP_SKIPPED = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer")
"""The decoders of smp that read other maps, the coarser ones, where the first map counts as level 0."""


def _build_smp_decoder(name: str, arguments: Arguments, report: Diagnostics) -> Decoder | None:
    """Build a decoder as smp's model does, which ignores unknown arguments and takes the first map for the image."""
    known = SMP_DECODER_ARGUMENTS[name]
    if "decoder_use_norm" in known:
        arguments = arguments.rename(decoder_use_batchnorm="decoder_use_norm")
    ignored = [argument for argument in arguments if argument not in known]
    for argument in ignored:
        fix = suggest(f"decoder_{argument}", (f"decoder_{other}" for other in known))
        report.add_ignored(arguments, [argument], f"smp's {name} has no such argument", fix)
    if name in FIRST_MAP_SKIPPED:
        message = "smp takes the first map for the image and never reads it; in TerraTorch it is the finest one."
        report.add_note(arguments.owner, message, f"smp/{name} without first_level: 0 uses it")
    return construct(Smp, arguments.drop(*ignored).replace(name=name, first_level=0), report, f"smp/{name}")


_UNUSED_ARGUMENTS = (
    *("loss_decode", "loss_se_decode", "use_se_loss", "ignore_index", "sampler", "threshold", "boundary_threshold"),
    *("feature_strides", "c1_in_channels"),
)
"""Arguments of mmseg's losses, and those that repeat what is known of the maps."""

_NORMS: Mapping[str | None, str | bool] = {None: False, "BN": "BN", "SyncBN": "BN", "GN": "GN"}


def _build_mmseg_head(name: str, arguments: Arguments, report: Diagnostics) -> Mmseg | None:
    """Build the head that TerraTorch builds: with mmseg's own defaults, which are a head without norms.

    An argument that mmseg requires has the default of the part, which is that of mmseg's configs.
    """
    if name in UNSUPPORTED_HEADS:
        reason, instead = UNSUPPORTED_HEADS[name]
        report.add_problem(arguments.owner, f"mmseg's {name}: {reason}.", f"decoder: mmseg_{instead}", "part")
        return None
    arguments = arguments.drop(*_UNUSED_ARGUMENTS)
    if name == "SegmenterMaskTransformerHead":
        # mmseg requires these too, and does not read them.
        arguments = arguments.drop("channels", "dropout_ratio", "align_corners")
    flat = _flatten_configs(name, arguments, report)
    return None if flat is None else construct(Mmseg, flat.replace(name=name), report, f"mmseg's {name}")


def _flatten_configs(name: str, arguments: Arguments, report: Diagnostics) -> Arguments | None:
    """Replace norm, activation and factorisation, which are dicts in mmseg, by plain arguments."""
    norm, act = arguments.get("norm_cfg") or {"type": None}, arguments.get("act_cfg") or {}
    if not isinstance(norm, Mapping) or norm.get("type") not in _NORMS or norm.get("num_groups", GROUPS) != GROUPS:
        message = f"a norm is BN, SyncBN, or GN in {GROUPS} groups (got {norm!r})."
        report.add_problem(arguments.locate("norm_cfg"), message, f"{arguments.format_path('norm_cfg')}: {{type: BN}}")
        return None
    if not isinstance(act, Mapping):
        message = f"an activation has a type (got {act!r})."
        report.add_problem(arguments.locate("act_cfg"), message, f"{arguments.format_path('act_cfg')}: {{type: ReLU}}")
        return None
    # mmseg draws `rand_init` at every forward; here the bases are drawn once.
    plain: dict[str, Any] = {k: v for k, v in dict(arguments.get("ham_kwargs") or {}).items() if k != "rand_init"}
    if "norm" in MMSEG_HEAD_ARGUMENTS[name]:
        plain["norm"] = _NORMS[norm.get("type")]
    if act:
        plain["act"] = act.get("type")
    if name == "STDCHead" and "num_convs" not in arguments:
        plain["num_convs"] = 2
    return arguments.drop("norm_cfg", "act_cfg", "ham_kwargs").replace(**plain)
