"""The census: measuring what the networks of timm give, one by one, for the catalogue."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from typing import Any

import timm
import torch
from attrs import evolve

from composer.adapters.probing import ShapeProbe, find_strides_and_sizes
from composer.adapters.timm.catalogue import Entry, Level, WeightsInfo, lookup
from composer.adapters.timm.networks import (
    count_levels,
    create_flexible_network,
    get_channels_and_reductions,
    get_default_size,
    infer_offset_levels,
    limit_image_sizes,
    probe,
    probe_tokens,
)
from composer.layouts import MAP, Feature
from composer.modules.encoders import TimmEncoder
from composer.parts import EncoderInfo, Timm
from composer.parts.rules import Rejection, RejectionError
from composer.sizes import SizeConstraint

CPU_NETWORKS = ("gemma4", "sequencer")
"""How networks are called that the meta device is unfit for: values steer them, or it runs them step by step."""


OUTPUT_STRIDES = (8, 16)
"""The values of `output_stride` that networks of timm know beside 32."""


PROBE_CHANNELS = 6
"""A number of bands that no network is made for: one that takes it takes any."""


def measure_worker(name: str) -> tuple[str, dict[str, Any]]:
    """A network's name with its `entry` as plain data, or with `why` there is none. For a process of its own."""
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return name, {"entry": to_plain(measure(name))}
    except Exception as error:  # whatever a network raises
        return name, {"why": " ".join(str(error).split())[:500] or type(error).__name__}


def measure(name: str) -> Entry:
    """The entry of a network, on one thread and without weights.

    Raises ValueError for a network that the catalogue cannot tell truly, because it runs nowhere, or because what it
    gives for some levels does not follow from what it gives for each; and whatever timm raises.
    """
    part = Timm(name)
    info = probe(part, 3)
    if isinstance(info, Rejection):
        raise ValueError(f"{name} {info.expected} ({info.got})")
    entry = measure_changes(name, _measure_entry(part, info))
    ends = evolve(part, out_indices=sorted({0, len(entry.levels) - 1}))
    for asked, found in ((part, info), (ends, probe(ends, 3))):
        told = lookup(entry, asked, 3)
        if told != found:
            raise ValueError(f"{asked} is {told} by the catalogue, and measured is {found}")
    return entry


def measure_changes(name: str, entry: Entry) -> Entry:
    """The entry with what `output_stride` and `img_size` make of the network, where that is plain arithmetic."""
    part, count = Timm(name), len(entry.levels)
    dilated = tuple(
        stride
        for stride in OUTPUT_STRIDES
        if all(level.multiple is not None for level in entry.levels)
        and max(level.stride for level in entry.levels) > stride
        and all(
            _is_matching_probe(
                evolve(entry, dilated=(stride,)), evolve(part, output_stride=stride, out_indices=indices)
            )
            for indices in (None, sorted({0, count - 1}))
        )
    )
    return evolve(entry, dilated=dilated, rebuilt=_find_rebuilt_multiple(part, entry))


def _find_rebuilt_multiple(part: Timm, entry: Entry) -> int | None:
    """Of what the sides of `img_size` may be multiples: of all strides, where three such sizes are made as they say."""
    if entry.sizes != "img_size" or any(level.stride.denominator != 1 for level in entry.levels):
        return None
    step, (height, width) = lcm(*(int(level.stride) for level in entry.levels)), entry.usual.size
    if height % step or width % step:
        return None
    sizes = ((height + step, width), (2 * height, width + 3 * step), (max(height // step // 2, 1) * step, step * 5))
    told = evolve(entry, rebuilt=step)
    return step if all(_is_matching_probe(told, evolve(part, img_size=size)) for size in sizes) else None


def _is_matching_probe(entry: Entry, part: Timm) -> bool:
    """Whether what the entry says of a changed network is what the network gives."""
    return lookup(entry, part, 3) == probe(part, 3)


def _measure_entry(part: Timm, info: EncoderInfo) -> Entry:
    device = "cpu" if part.name.startswith(CPU_NETWORKS) else "meta"
    network, switch = create_flexible_network(part, 3, device)
    usual = _get_weights_config(part.name, get_default_size(part, network))
    size = info.sizes.compute_padded_size(*usual.size) or (info.sizes.least, info.sizes.least)
    found = _measure_levels(part, device, usual.size, size, counted_off=any(f.offset for f in info.features))
    fixed = found[-1].multiple is None and found[-1].offset is None
    return Entry(
        family=_find_family(part.name),
        levels=found,
        default=dict(info.arguments)["out_indices"],
        sizes=next(iter(switch), "any") if not fixed else "img_size" if _is_rebuildable(part, usual.size) else "fixed",
        prefix=_count_prefix_tokens(part, info, device, size),
        any_channels=_has_flexible_channels(part, info, device, size),
        wrapper=_find_wrapper_layout(part, info),
        patch=info.patch,
        parameters=sum(p.numel() for p in network.parameters()),
        usual=usual,
        weights={
            tag: _get_weights_config(f"{part.name}.{tag}", usual.size)
            for tag in (one.partition(".")[2] for one in timm.list_pretrained(f"{part.name}.*"))
        },
    )


def _find_family(name: str) -> str:
    return next(module for module in timm.list_modules() if timm.list_models(name, module=module))


def _get_weights_config(name: str, size: tuple[int, int]) -> WeightsInfo:
    published = timm.get_pretrained_cfg(name)
    if published is None:
        return WeightsInfo(size, (), ())
    _, height, width = published.input_size
    return WeightsInfo((height, width), tuple(published.mean), tuple(published.std))


def _measure_levels(
    part: Timm, device: str, usual: tuple[int, int], size: tuple[int, int], *, counted_off: bool
) -> tuple[Level, ...]:
    """All levels, each of a network that is cut off behind it; `size` is one that the whole network takes.

    With `counted_off` each has an offset too. What a network needs for a level it needs for those behind it too, so
    that where the first needs what the last does, so do all between.
    """
    network, _ = create_flexible_network(part, 3, device)
    count = count_levels(network)
    widths, reductions = get_channels_and_reductions(part, network, tuple(range(count)))
    exact = _measure_strides(network, device, size, widths)

    def measure_at(index: int) -> Level:
        # A new one each time: the levels of several branches (crossvit) are not in the order of their depth.
        network, _ = create_flexible_network(part, 3, device)
        trial = ShapeProbe(TimmEncoder(network, [index]).eval(), 3, device, MAP, (widths[index],))
        level = _measure_level(trial, network, usual, index, widths[index], reductions[index], exact[index])
        return _measure_offset(level, trial, usual, reductions[index]) if counted_off else level

    first, last = measure_at(0), measure_at(count - 1)
    if len(set(exact)) == 1 and evolve(first, channels=0) == evolve(last, channels=0):
        return tuple(evolve(first, channels=width) for width in widths)
    return (first, *(measure_at(index) for index in range(1, count - 1)), last)


def _measure_strides(network: Any, device: str, size: tuple[int, int], widths: tuple[int, ...]) -> tuple[Fraction, ...]:
    encoder = TimmEncoder(network, range(len(widths))).eval()
    grids = ShapeProbe(encoder, 3, device, MAP, widths).compute_grids(*size)
    if grids is None:
        raise ValueError(f"it does not run at {size[0]} × {size[1]}")
    return tuple(Fraction(size[0], rows) for rows, _ in grids)


def _measure_level(
    trial: ShapeProbe, network: Any, usual: tuple[int, int], index: int, width: int, reduction: int, exact: Fraction
) -> Level:
    found = find_strides_and_sizes(limit_image_sizes(network, usual, trial.compute_grids), usual, (reduction,))
    if found is None:
        raise ValueError(f"level {index} has different strides along the two sides")
    (stride,), sizes = found
    if sizes.height is not None:
        return Level(channels=width, stride=exact, multiple=None, least=None)
    return Level(channels=width, stride=stride, multiple=sizes.multiple, least=sizes.least)


def _measure_offset(level: Level, trial: ShapeProbe, usual: tuple[int, int], reduction: int) -> Level:
    """A level of a network of which one level at least is exact at no multiple."""
    found = infer_offset_levels(trial, (Feature(channels=level.channels),), (reduction,), usual)
    if found is None or found[0][0].rounding != "floor":
        raise ValueError("it has levels with an offset, and one without")
    (feature,), sizes = found
    return evolve(level, stride=Fraction(reduction), offset=int(feature.offset), shortest=sizes.least)


def _is_rebuildable(part: Timm, usual: tuple[int, int]) -> bool:
    """Whether a network of one size may be built for another."""
    other = tuple(2 * side for side in usual)
    info = probe(evolve(part, img_size=other), 3)
    return isinstance(info, EncoderInfo) and info.sizes == SizeConstraint(height=other[0], width=other[1])


def _count_prefix_tokens(part: Timm, info: EncoderInfo, device: str, size: tuple[int, int]) -> int | None:
    """How many tokens there are before those of the image; None where there are no tokens to be had."""
    network, _ = create_flexible_network(part, 3, device)
    encoder = TimmEncoder(network, dict(info.arguments)["out_indices"], tokens=True).eval()
    try:
        features = probe_tokens(encoder, info.features, torch.empty(1, 3, *size, device=device))
    except RejectionError:
        return None
    prefixes = {feature.prefix for feature in features}
    return prefixes.pop() if len(prefixes) == 1 else None


def _has_flexible_channels(part: Timm, info: EncoderInfo, device: str, size: tuple[int, int]) -> bool:
    """Whether a network is made for other bands than three, and gives the same."""
    try:
        network, _ = create_flexible_network(part, PROBE_CHANNELS, device)
    except Exception:  # whatever its constructor raises
        return False
    encoder = TimmEncoder(network, dict(info.arguments)["out_indices"]).eval()
    widths = tuple(feature.channels for feature in info.features)
    grids = tuple((f.cells(size[0]), f.cells(size[1])) for f in info.features)
    return ShapeProbe(encoder, PROBE_CHANNELS, device, MAP, widths).compute_grids(*size) == grids


def _find_wrapper_layout(part: Timm, info: EncoderInfo) -> str | None:
    """The layout of timm's wrapper, where it gives the same levels as the network itself."""
    wrapped = probe(evolve(part, features_only=True), 3)
    if isinstance(wrapped, Rejection) or not wrapped.features:
        return None
    axes = wrapped.features[0].axes
    same = evolve(info, features=[evolve(f, axes=axes) for f in info.features])
    return axes if wrapped == same else None


def to_plain(entry: Entry) -> dict[str, Any]:
    """Return an entry as lists and numbers, the levels as columns: a line of the catalogue."""
    columns: dict[str, Any] = {
        "channels": [level.channels for level in entry.levels],
        "strides": [int(s) if (s := level.stride).denominator == 1 else str(s) for level in entry.levels],
        "multiples": [level.multiple for level in entry.levels],
        "least": [level.least for level in entry.levels],
    }
    if any(level.offset is not None for level in entry.levels):
        columns["offsets"] = [level.offset for level in entry.levels]
        columns["shortest"] = [level.shortest for level in entry.levels]
    return {
        "family": entry.family,
        **columns,
        "default": entry.default,
        "sizes": entry.sizes,
        "prefix": entry.prefix,
        "any_channels": entry.any_channels,
        "wrapper": entry.wrapper,
        "patch": entry.patch,
        "parameters": entry.parameters,
        "usual": _dump_weights(entry.usual),
        "weights": {tag: _dump_weights(weights) for tag, weights in entry.weights.items()},
        "dilated": entry.dilated,
        "rebuilt": entry.rebuilt,
    }


def _dump_weights(weights: WeightsInfo) -> list[Any]:
    return [list(weights.size), list(weights.mean), list(weights.std)]


def format_catalogue(version: str, entries: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Return the text of the catalogue: the `to_plain` of each network, and null for one that has to be probed."""
    lines = [["timm", version], *([name, data] for name, data in entries.items())]
    return "".join(f"{json.dumps(line)}\n" for line in lines)
