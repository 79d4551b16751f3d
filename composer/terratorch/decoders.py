"""TerraTorch's decoders and mmseg heads as parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, frozen

from composer.adapters.mmseg.contracts import GN_GROUPS
from composer.adapters.mmseg.parts import MMSEG_HEAD_ARGUMENTS, UNSUPPORTED_HEADS, Mmseg
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS, Smp
from composer.errors import suggest
from composer.parts import DECODERS as BUILT_IN_DECODERS
from composer.parts import Decoder, Part
from composer.terratorch.calls import Arguments, Diagnostics, build_head, construct_part, is_module, route_arguments

_DECODER_NAMES = (
    "FCNDecoder UperNetDecoder UNetDecoder IdentityDecoder LinearDecoder MLPDecoder ASPPSegmentationHead "
    "ASPPRegressionHead"
)

DECODERS = {decoder.__name__: decoder for decoder in BUILT_IN_DECODERS if decoder.__name__ in _DECODER_NAMES.split()}
"""The decoders of TerraTorch 1.2.11 that its factory can build, and two whose head it overlooks."""

_DPT_REASON = "a decoder that smp makes for an encoder of its own alone; composer's smp/DPT takes any ViT"

UNUSABLE_DECODERS = {
    "ASPPHead": "a base class, which the factory cannot build",
    "ASPPModule": "a layer, which the factory cannot build",
    "SatMAEHead": "a head of masked autoencoders, which needs more than features",
    "smp_DPT": _DPT_REASON,
    "DPT": _DPT_REASON,
}
"""What TerraTorch registers beside them, and cannot build or run, each with the reason."""

MMSEG_HEADS = (*MMSEG_HEAD_ARGUMENTS, *UNSUPPORTED_HEADS)
"""The heads of mmseg, with those that composer does not support."""


@frozen
class DecoderRequest:
    """A decoder by name, the path of that name, its arguments, and the number of values to predict, where known."""

    name: str
    path: str
    arguments: Arguments
    outputs: int | None

    def add_classes(self) -> Arguments:
        """Return the arguments with the number of classes, for a decoder that includes a head."""
        return self.arguments if self.outputs is None else self.arguments.replace(num_classes=self.outputs)


def build_decoder(request: DecoderRequest, report: Diagnostics) -> Decoder | None:
    """Build the decoder that TerraTorch builds for a name; None, with a problem, where there is none."""
    source, _, short = request.name.partition("_")
    own = short if source == "terratorch" else request.name
    named = short if source in ("smp", "mmseg") else request.name
    if own in UNUSABLE_DECODERS:
        report.add_problem(request.path, f"{own} is {UNUSABLE_DECODERS[own]}.", "decoder: FCNDecoder", "part")
        return None
    if own in DECODERS:
        prepare = _DECODER_PREPARERS.get(own)
        return construct_part(DECODERS[own], prepare(request, report) if prepare else request.arguments, report)
    if source not in ("terratorch", "mmseg") and named in SMP_DECODER_ARGUMENTS:
        return _build_smp_decoder(named, request, report)
    if source not in ("terratorch", "smp") and named in MMSEG_HEADS:
        return _build_mmseg_head(named, request, report)
    smp = (f"smp_{name}" for name in SMP_DECODER_ARGUMENTS)
    known = [*DECODERS, *smp, *(f"mmseg_{name}" for name in MMSEG_HEAD_ARGUMENTS)]
    message = f"TerraTorch has no decoder {request.name!r}."
    report.add_problem(request.path, message, suggest(request.name, known), "part")
    return None


def _prepare_linear(request: DecoderRequest, report: Diagnostics) -> Arguments:
    # TerraTorch adds a head to a decoder that includes one; it can build this one only with its own num_classes.
    if "num_classes" not in request.arguments:
        return request.add_classes()
    report.add_note(
        request.arguments.locate("num_classes"),
        "TerraTorch puts a head of its own behind this decoder, which ends in class scores already.",
        "LinearDecoder without decoder_num_classes gives the scores themselves",
    )
    return request.arguments.replace(includes_head=False)


def _prepare_aspp_segmentation(request: DecoderRequest, _: Diagnostics) -> Arguments:
    return request.add_classes().drop("in_channels")


def _prepare_aspp_regression(request: DecoderRequest, report: Diagnostics) -> Arguments:
    report.add_note(
        request.path,
        "TerraTorch puts a regression head behind this one, from its output to the output.",
        "decoder: {ASPPRegressionHead: …} without a head",
    )
    return request.arguments.replace(includes_head=False).drop("in_channels")


def _prepare_mlp(request: DecoderRequest, report: Diagnostics) -> Arguments:
    for name in ("channels", "out_dim"):
        if name in request.arguments:
            report.add_note(
                request.arguments.locate(name),
                f"TerraTorch ignores {name}; the layer is as wide as the input.",
                f"MLPDecoder: {{{name}: {request.arguments.get(name)}}} does what it says",
            )
    return request.arguments.replace(channels=None, out_dim=None)


_DECODER_PREPARERS: dict[str, Callable[[DecoderRequest, Diagnostics], Arguments]] = {
    "LinearDecoder": _prepare_linear,
    "MLPDecoder": _prepare_mlp,
    "ASPPSegmentationHead": _prepare_aspp_segmentation,
    "ASPPRegressionHead": _prepare_aspp_regression,
}

FIRST_MAP_SKIPPED = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer")
"""The decoders of smp that read other maps, the coarser ones, where the first map counts as level 0."""


def _build_smp_decoder(name: str, request: DecoderRequest, report: Diagnostics) -> Decoder | None:
    """Build a decoder as smp's model does, which ignores unknown arguments and takes the first map for the image."""
    known, arguments = SMP_DECODER_ARGUMENTS[name], request.arguments
    if "decoder_use_norm" in known:
        arguments = arguments.rename(decoder_use_batchnorm="decoder_use_norm")
    ignored = [argument for argument in arguments if argument not in known]
    for argument in ignored:
        message = f"smp's decoder {name} has no argument {argument!r}, and its model swallows it."
        doubled = f"decoder_decoder_{argument}"
        meant = f"write {doubled}" if f"decoder_{argument}" in known else None
        fix = meant or suggest(argument, (f"decoder_{other}" for other in known))
        report.add_note(arguments.locate(argument), message, fix)
    if name in FIRST_MAP_SKIPPED:
        report.add_note(
            request.path,
            "smp takes the first map for the image itself and never looks at it, and in TerraTorch it is the finest.",
            f"smp/{name} without first_level: 0 uses it",
        )
    return construct_part(Smp, arguments.drop(*ignored).replace(name=name, first_level=0), report, f"smp/{name}")


REQUIRED_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "ANNHead": ("channels", "project_channels"),
    "DAHead": ("channels", "pam_channels"),
    "DepthwiseSeparableASPPHead": ("channels", "c1_channels"),
    "EMAHead": ("channels", "ema_channels", "num_bases", "num_stages"),
    "ISAHead": ("channels", "isa_channels"),
    "SegmenterMaskTransformerHead": ("num_layers", "num_heads", "embed_dims"),
}
"""The arguments without a default in mmseg's class, where these are not `channels` alone."""

UNUSED_ARGUMENTS = (
    *("loss_decode", "loss_se_decode", "use_se_loss", "ignore_index", "sampler", "threshold", "boundary_threshold"),
    *("feature_strides", "c1_in_channels"),
)
"""Arguments of mmseg's losses, and those that repeat what is known of the maps."""

NORMS = {"BN": "BN", "SyncBN": "BN", "GN": "GN"}


def _build_mmseg_head(name: str, request: DecoderRequest, report: Diagnostics) -> Mmseg | None:
    """Build the head that TerraTorch builds: with mmseg's own defaults, which are a head without norms."""
    path, arguments = request.path, request.add_classes()
    if name in UNSUPPORTED_HEADS:
        reason, instead = UNSUPPORTED_HEADS[name]
        message = f"mmseg's {name} cannot be had: {reason}."
        report.add_problem(path, message, f"decoder: mmseg_{instead}", "part")
        return None
    required = REQUIRED_ARGUMENTS.get(name, ("channels",))
    missing = next((argument for argument in required if argument not in arguments), None)
    if missing is not None:
        usual = MMSEG_HEAD_ARGUMENTS[name][missing] or (12 if missing == "num_heads" else 768)
        report.add_problem(path, f"mmseg's {name} needs {missing}.", f"decoder_{missing}: {usual}", "key")
        return None
    if name in ("EncHead", "DAHead") and arguments.get("use_se_loss", True):
        message = f"TerraTorch fails on {name}, which gives several outputs; here it gives the first of them."
        report.add_note(path, message)
    arguments = arguments.drop(*UNUSED_ARGUMENTS)
    if name == "SegmenterMaskTransformerHead":
        # mmseg requires these too, and does not read them.
        arguments = arguments.drop("channels", "dropout_ratio", "align_corners")
    flat = _flatten_configs(name, arguments, report)
    return None if flat is None else construct_part(Mmseg, flat.replace(name=name), report, f"mmseg's {name}")


def _flatten_configs(name: str, arguments: Arguments, report: Diagnostics) -> Arguments | None:
    """Replace norm, activation and factorisation, which are dicts in mmseg, by plain arguments."""
    norm, act = arguments.get("norm_cfg"), arguments.get("act_cfg")
    if norm is not None and not _is_norm(norm):
        message = f"a norm is BN, SyncBN, or GN in {GN_GROUPS} groups (got {norm!r})."
        report.add_problem(arguments.locate("norm_cfg"), message, "decoder_norm_cfg: {type: BN}")
        return None
    if act is not None and not isinstance(act, Mapping):
        message = f"an activation has a type (got {act!r})."
        report.add_problem(arguments.locate("act_cfg"), message, "decoder_act_cfg: {type: ReLU}")
        return None
    # mmseg draws `rand_init` at every forward; here the bases are drawn once.
    plain: dict[str, Any] = {k: v for k, v in dict(arguments.get("ham_kwargs") or {}).items() if k != "rand_init"}
    if "norm" in MMSEG_HEAD_ARGUMENTS[name]:
        plain["norm"] = False if norm is None else NORMS[norm["type"]]
    if act is not None:
        plain["act"] = act.get("type")
    if name == "STDCHead" and "num_convs" not in arguments:
        plain["num_convs"] = 2
    return arguments.drop("norm_cfg", "act_cfg", "ham_kwargs").replace(**plain)


def _is_norm(norm: Any) -> bool:
    return isinstance(norm, Mapping) and norm.get("type") in NORMS and norm.get("num_groups", GN_GROUPS) == GN_GROUPS


@frozen
class BranchBuilder:
    """Build the decoders and heads of one call. `outputs` is its argument for the number of predicted values."""

    task: str
    outputs: tuple[str, Any] | None
    head: Arguments
    report: Diagnostics

    def build_trunk(self, decoder: Any, arguments: Arguments) -> tuple[Part, ...]:
        """Build the decoder of a call and, unless it includes one, the head."""
        if self.outputs is not None:
            name, value = self.outputs
            if self.head.get(name, value) != value:
                message = f"TerraTorch takes {name}: {value}, which is given beside it."
                self.report.add_note(self.head.locate(name), message)
        return self._build_branch(decoder, "decoder", arguments, self.head)

    def build_auxiliary(self, head: Mapping[str, Any], path: str) -> tuple[Part, ...]:
        """Build an auxiliary branch. Its head gets the arguments of the main one, as in TerraTorch."""
        within = f"{path}.decoder_args"
        arguments, rest = route_arguments("decoder_", None, head["decoder_args"], within)
        own, rest = route_arguments("head_", None, rest, within)
        for name in rest:
            message = f"{name} was passed but not used: an argument begins with decoder_ or head_."
            self.report.add_problem(f"{within}.{name}", message, f"write decoder_{name}", "unused")
        parts = self._build_branch(head["decoder"], f"{path}.decoder", arguments, own)
        for name in own if len(parts) == 2 else ():
            self.report.add_note(
                own.locate(name),
                f"TerraTorch makes auxiliary heads with the arguments of the main head, and ignores head_{name}.",
                f"aux: {{{head['name']}: {{head: …}}}} has arguments of its own",
            )
        return parts

    def _build_branch(self, decoder: Any, path: str, arguments: Arguments, own: Arguments) -> tuple[Part, ...]:
        """Build a decoder and perhaps a head, for which the branch itself has the arguments `own`."""
        part = self._build_decoder(decoder, path, arguments)
        if part is not None and part.includes_head:
            label = decoder if isinstance(decoder, str) else type(decoder).__name__
            for name in own:
                message = f"{label} includes a head, so there is none for {name}."
                self.report.add_problem(own.locate(name), message, "leave it out", "unused")
            return (part,)
        head = self.head
        if self.outputs is not None:
            name, value = self.outputs
            head = evolve(head.replace(**{name: value}), paths={**head.paths, name: name})
        built = (part, build_head(self.task, head, self.report))
        return tuple(entry for entry in built if entry is not None) if part is not None else ()

    def _build_decoder(self, decoder: Any, path: str, arguments: Arguments) -> Decoder | None:
        if isinstance(decoder, str):
            outputs = None if self.outputs is None else self.outputs[1]
            return build_decoder(DecoderRequest(decoder, path, arguments, outputs), self.report)
        if not is_module(decoder):
            message = f"a decoder is the name of one, or a module (got {decoder!r})."
            self.report.add_problem(path, message, "decoder: FCNDecoder", "type")
            return None
        from composer.terratorch.live import build_module_decoder

        for name in arguments:
            self.report.add_note(arguments.locate(name), f"TerraTorch ignores {name}: the decoder is made already.")
        return build_module_decoder(decoder, path, self.report)
