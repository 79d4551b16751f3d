"""`list` and `explain`: print the names and fields of parts, and the meaning of error codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING

from composer.adapters.timm.catalogue import get_catalogue_version, list_networks
from composer.cli.terminal import UsageError, build_table, log, print_text, render
from composer.encoder_info import LIBRARIES, get_adapter
from composer.errors import suggest
from composer.parts import KINDS, PART_REGISTRY, Part
from composer.parts.registry import UnusableError
from composer.spec.schema import OPTIONS, get_fields
from composer.spec.writer import dump

if TYPE_CHECKING:
    from rich.console import RenderableType

PLURALS = {f"{kind}s": kind for kind in KINDS}

UNLISTED_SOURCES = ("timm", "transformers")
"""Sources with more names than a registry lists."""


def print_parts(kind: str, pattern: str | None) -> None:
    """Print the parts of a kind, such as `necks`, with their fields; for a pattern of encoders, names only.

    Raises UsageError where nothing matches.
    """
    is_pattern = kind == "encoders" and pattern is not None and pattern not in list_parts(kind)[0]
    names = find_encoder_names(pattern or "") if is_pattern else []
    if is_pattern:
        _log_notes(pattern or "", names)
    print_text("\n".join(names) or render(*describe_parts(kind, pattern)))
    if kind == "encoders" and pattern is None:
        print_text("python -m composer list encoders 'timm/*resnet*' lists names.")


def describe_parts(kinds: str, pattern: str | None) -> list[RenderableType]:
    """Return names, purpose, and fields with their defaults of the parts of a kind that match `pattern`.

    Names that cannot be used come last, with the reason. Raises UsageError where nothing else matches.
    """
    from rich.padding import Padding
    from rich.text import Text

    parts, unusable = list_parts(kinds)
    matching = {name: part for name, part in parts.items() if is_match(name, pattern)}
    reasons = [why for name, why in unusable.items() if is_match(name, pattern)]
    if not matching:
        names = ", ".join(dict.fromkeys(re.sub("/.*", "/…", name) for name in parts))
        raise UsageError("\n".join(reasons) or f"no {PLURALS[kinds]} is named {pattern!r}; there are {names}")
    lines: list[RenderableType] = []
    # Names that differ in size only are described together.
    alike = groupby(
        matching, lambda name: (_describe_part(matching[name], name), *_format_fields(matching[name], name))
    )
    for (purpose, *fields), names_of_size in alike:
        arguments = Text("".join(f"  {field}\n" for field in fields), "dim")
        lines += [Text("\n".join(names_of_size), "bold cyan"), Padding(purpose, (0, 0, 0, 4)), arguments]
    sources = dict.fromkeys(part.source for part in matching.values() if part.source in LIBRARIES)
    return [*lines, *map(_describe_installation, filter(None, sources)), *reasons]


def is_match(name: str, pattern: str | None) -> bool:
    """Return whether a name matches the pattern, ignoring case; without a pattern, any does."""
    return pattern is None or fnmatchcase(name.lower(), pattern.lower())


def list_parts(kinds: str) -> tuple[dict[str, type[Part]], dict[str, str]]:
    """Return the parts of a kind by name, and by name why others cannot be used.

    Those are the parts of any kind whose package is broken, and names that a source knows and does not support.
    """
    parts: dict[str, type[Part]] = {}
    unusable: dict[str, str] = {}
    for name in PART_REGISTRY:
        try:
            part = PART_REGISTRY[name]
        except UnusableError as error:
            unusable[name] = f"{error} {error.fix}"
            continue
        if issubclass(part, KINDS[PLURALS[kinds]]):
            parts[f"{name}NAME" if name.endswith("/") else name] = part
            for other, (reason, instead) in part.refused.items():
                better = instead if "/" in instead else f"{part.source}/{instead}"
                unusable[f"{part.source}/{other}"] = f"{part.source}/{other} cannot be had: {reason}. Use {better}."
    return parts, unusable


def _format_fields(part: type[Part], name: str) -> list[str]:
    """Return the fields with their defaults, as a spec writes them: `dropout: 0.0`."""
    fields = {key: field for key, field in get_fields(part).items() if not (part.source and key == "name")}
    defaults = part.defaults.get(name.partition("/")[2])
    if defaults is None:
        defaults = {key: field.attribute.default for key, field in fields.items()}
    lines = []
    for key, default in defaults.items():
        if isinstance(default, tuple):
            default = dict(default) if fields[key].wanted is OPTIONS else list(default)
        lines.append(f"{key} (required)" if fields[key].required else dump({key: default}).rstrip("\n"))
    return lines


def _describe_part(part: type[Part], name: str) -> str:
    """Return the line of a source on this name, or else the first line of the part's docstring."""
    return part.names[name.partition("/")[2]] if part.names else (part.__doc__ or "").strip().split("\n")[0]


def _describe_installation(source: str) -> str:
    """Return in one line the library that a source needs, and whether it is installed."""
    library = LIBRARIES[source]
    state = "is installed" if library.is_installed() else f"is not installed: pip install {library.requirement}"
    return f"{source}/… needs {library.package}, which {state}"


def find_encoder_names(pattern: str) -> list[str]:
    """Return the names of encoders that match `pattern`, as a spec writes them: `timm/resnet50`.

    transformers is imported where the pattern may match one of its names; timm has a catalogue.
    """
    names = [name for source in UNLISTED_SOURCES if _is_possible(pattern, source) for name in _list_source(source)]
    names += [name for name in list_parts("encoders")[0] if name.removesuffix("/NAME") not in UNLISTED_SOURCES]
    return [name for name in names if is_match(name, pattern)]


def _list_source(source: str) -> list[str]:
    """List all names of a source where they can be found out."""
    library = LIBRARIES[source]
    if source == "timm" and library.format_versions() in (None, f"timm-{get_catalogue_version()}"):
        return [f"timm/{name}" for name in list_networks()]
    return [f"{source}/{name}" for name in get_adapter(source).list_networks()] if library.is_installed() else []


def _is_possible(pattern: str, source: str) -> bool:
    """Return whether a pattern may match a name of a source, judged by its beginning."""
    beginning = re.split(r"[*?\[]", pattern.lower(), maxsplit=1)[0]
    return beginning.startswith(f"{source}/") or (f"{source}/".startswith(beginning) and beginning != pattern.lower())


def _log_notes(pattern: str, names: Sequence[str]) -> None:
    """Print to stderr the libraries of the names that match a pattern, and the names that match and cannot be used."""
    missing = [one for one in UNLISTED_SOURCES if _is_possible(pattern, one) and not LIBRARIES[one].is_installed()]
    for source in dict.fromkeys([*(name.partition("/")[0] for name in names), *missing]):
        if source in LIBRARIES:
            log(_describe_installation(source))
    unusable = [name for name in list_parts("encoders")[1] if is_match(name, pattern)]
    if names and unusable:
        log(f"cannot be had, and list encoders NAME says why: {', '.join(unusable)}")


def explain_code(code: str | None) -> None:
    """Print the explanation of a code, or a table of all codes. Raises UsageError for an unknown code."""
    if code is not None:
        if code not in CODES:
            raise UsageError(f"there is no error code {code!r}; {suggest(code, CODES)}")
        print_text(f"{code}: {CODES[code]}")
        return
    table = build_table("code", "meaning")
    for name, text in CODES.items():
        table.add_row(name, text.split("\n")[0])
    print_text(f"{render(table)}\n\npython -m composer explain CODE prints an example and what to do.")


CODES = {
    "argument": """A part has no such argument or option, or the argument has a value that cannot work.
Example: decoder: {smp/FPN: {decoder_channels: [256]}}, which is an argument of smp/Unet.
Fix: use the arguments that `python -m composer list decoders NAME` shows.""",
    "channels": """Channels do not match: of an input and a part, or of two arguments of a part.
Example: a pretrained encoder for 3 channels after input: {channels: 6}.
Fix: change the channels of the input, or the argument that the message names.""",
    "count": """A part needs another number of features than it receives, or another number of layers.
Example: UNetDecoder with 3 channels after an encoder that gives 4 feature maps.
Fix: give one value per feature, or pick features with SelectIndices.""",
    "features": """The features of an encoder are unknown, or the module computes others than were inferred or declared.
Example: Custom with features=Feature(channels=64) for a module that returns 128 channels.
Fix: correct the features that you pass, or install the library version that they belong to.""",
    "file": """A file cannot be read, or has no spec in it.
Example: a checkpoint of another program given as a spec.
Fix: check the path; give a YAML spec, or a weights file that composer.save wrote.""",
    "frames": """The number of frames does not match.
Example: a video encoder for 4 frames with input: {frames: 3}.
Fix: set the frames of the input, or merge them with TemporalPooling.""",
    "index": """An index selects a level that does not exist, or levels are in an order that the part does not follow.
Example: SelectIndices: {indices: [4]} after four feature maps, counted from 0.
Fix: use indices in the range that the message gives, from fine to coarse.""",
    "inputs": """A part receives too many or too few inputs, or inputs under wrong names.
Example: a neck that joins two branches, with one entry in `from`.
Fix: give the inputs that the message lists, by name where a part names them.""",
    "install": """A library is missing, or is installed and cannot be imported.
Example: decoder: smp/FPN without segmentation-models-pytorch.
Fix: run the pip command of the message.""",
    "join": """Features that are joined, or that go through shared weights, differ in layout, stride or channels.
Example: AddFeatures of a map of stride 8 and one of stride 16.
Fix: give both branches the same layout and stride at each level.""",
    "key": """A key is missing, unknown, written twice, or not allowed at this place.
Example: decodr: FCNDecoder.
Fix: use or add the key that the message names.""",
    "layout": """A part receives tensors of a layout that it does not accept.
Example: tokens of a ViT, "b n c", before UNetDecoder, which needs maps "b c h w".
Fix: add the necks that the message lists.""",
    "limit": """The spec, the model or the machine's memory exceeds a limit.
Example: --max-parameters 50M for a model with 86 million parameters.
Fix: use a smaller part at the node that the message names, or raise the limit.""",
    "node": """A node has an invalid or repeated name, or nodes take from each other in a circle.
Example: two auxiliary heads called early.
Fix: choose another name, of letters, digits and _; let one node take from an input or an earlier node.""",
    "note": """A note on a TerraTorch config or call: composer leaves something out, or computes it otherwise.
Example: the learning rate of a config, which does not belong to the model.
Fix: nothing, unless the difference matters to you.""",
    "output": """An output is not what a head returns: its head is missing, it has two, or no head can make one of it.
Example: decoder: UNetDecoder without a head.
Fix: add a head after the decoder, or head: EmbeddingHead to return features unchanged.""",
    "part": """There is no part or network with this name, or it is of the wrong kind for its place.
Example: encoder: timm/resnet19.
Fix: use the name that the message suggests, or search: python -m composer list encoders 'timm/*resnet*'.""",
    "prefix": """Prefix tokens, such as a class token, are missing where a part uses them or present where it cannot.
Example: pooling: cls after an encoder without a class token.
Fix: change the argument that the message names, such as remove_cls_token: true.""",
    "reference": """A node or an output refers to a node or input that does not exist.
Example: from: encodr.
Fix: use the name that the message suggests.""",
    "search": """No necks, widths or encoder levels make the graph valid.
Example: concatenating two branches whose images have different sizes.
Fix: solve the other problems of the spec by hand, or choose another decoder.""",
    "sizes": """No image size satisfies all parts, or an encoder does not accept the size.
Example: input: {size: [100, 100]} for an encoder that needs multiples of 32.
Fix: change the size of the input, or img_size of the encoder.""",
    "stride": """The strides or offsets of features do not form the pyramid that a part needs.
Example: strides 4, 4, 8 before a decoder that doubles the size at each step.
Fix: choose other levels with SelectIndices, or add the necks that the message lists.""",
    "type": """A value has the wrong type.
Example: num_classes: 'ten'.
Fix: write the type that the message expects.""",
    "unused": """A node, key or argument has no effect on any output.
Example: a node that no other node and no output takes from.
Fix: use it, or remove it.""",
    "value": """A value is outside of its range, or contradicts another one.
Example: dropout: 1.5.
Fix: use a value that the message allows.""",
    "weights": """Weights cannot be loaded, or do not match the model.
Example: a checkpoint of a ResNet-50 for a ResNet-18.
Fix: give a checkpoint of this model, or set pretrained: false.""",
    "yaml": """The text is not valid YAML, uses tags or merge keys, or a graph cannot be written as YAML.
Example: a bracket that is not closed.
Fix: correct the line that the message gives; write a live module as a part of your own.""",
}
"""For each code three lines: its meaning, an example, and what to do."""
