"""The census: measuring what the networks of timm give, one by one, for the catalogue."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from math import lcm
from typing import Any

import timm
import torch
from attrs import evolve

from composer.adapters.timm.catalogue import SWITCHES, Entry, lookup
from composer.adapters.timm.modules import probe
from composer.parts import EncoderInfo, Timm
from composer.parts.rules import Rejection
from composer.sizes import SizeConstraint

CPU_NETWORKS = ("gemma4", "sequencer")
"""How networks are called that the meta device is unfit for: values steer them, or it runs them step by step."""

OUTPUT_STRIDES = (8, 16)
"""The values of `output_stride` that networks of timm know beside 32."""

PROBE_CHANNELS = 6
"""A number of bands that no network is made for: one that takes it takes any."""


def measure_worker(name: str) -> tuple[str, dict[str, Any]]:
    """Return a network's name with its `entry`, or with `why` there is none. For a process of its own."""
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return name, {"entry": measure(name)}
    except Exception as error:  # whatever a network raises
        return name, {"why": " ".join(str(error).split())[:500] or type(error).__name__}


def measure(name: str) -> Entry:
    """Return the entry of a network, on one thread and without weights.

    Raises ValueError for a network that runs nowhere, or of which the catalogue would not say what a probe finds.
    """
    part = Timm(name)
    info = _probe(part)
    entry = _measure_as_made(part, info)
    entry = {**entry, "dilated": _find_output_strides(part, entry)}
    entry = {**entry, "rebuilt": _find_rebuilt_multiple(part, entry)}
    for asked in (part, _with_ends(part, entry)):
        if not _is_matching_probe(entry, asked):
            raise ValueError(
                f"{asked} is {lookup(entry, asked, 3)} by the catalogue, and measured is {probe(asked, 3)}"
            )
    return entry


def _probe(part: Timm) -> EncoderInfo:
    info = probe(part, 3)
    if isinstance(info, Rejection):
        raise ValueError(f"{part} {info.expected} ({info.got})")
    return info


def _measure_as_made(part: Timm, info: EncoderInfo) -> Entry:
    """Return the entry of a network as it is made by default."""
    config = timm.get_pretrained_cfg(part.name)
    usual = _read_weights(part.name)
    levels = _measure_levels(part, info)
    switch = next((name for name in SWITCHES if name in dict(info.arguments)), "any")
    if levels[-1]["multiples"] is None and "offsets" not in levels[-1]:
        switch = "img_size" if _is_rebuildable(part, config.input_size[1:]) else "fixed"
    with torch.device("meta"):
        network = timm.create_model(part.name)
    tags = (full.partition(".")[2] for full in timm.list_pretrained(f"{part.name}.*"))
    return {
        "family": next(module for module in timm.list_modules() if timm.list_models(part.name, module=module)),
        **{column: [level[column] for level in levels] for column in levels[0]},
        "default": list(dict(info.arguments)["out_indices"]),
        "sizes": switch,
        "prefix": _count_prefix_tokens(part),
        "any_channels": probe(part, PROBE_CHANNELS) == evolve(info, channels=PROBE_CHANNELS),
        "wrapper": _find_wrapper_layout(part, info),
        "patch": info.patch and list(info.patch),
        "parameters": sum(p.numel() for p in network.parameters()),
        "usual": usual,
        "weights": {tag: _read_weights(f"{part.name}.{tag}") for tag in tags},
    }


def _read_weights(name: str) -> list[Any]:
    """Return the image size, the mean and the standard deviation of weights."""
    published = timm.get_pretrained_cfg(name)
    return [list(published.input_size[1:]), list(published.mean), list(published.std)]


def _measure_levels(part: Timm, info: EncoderInfo) -> list[dict[str, Any]]:
    """Return all levels, each of a network that is cut off behind it, as their columns in the file.

    What a network needs for a level it needs for those behind it too, so that where the first needs what the last does,
    so do all between.
    """
    count = info.levels
    assert count is not None
    every = _probe(evolve(part, out_indices=list(range(count)))).features
    offsets = any(f.offset for f in info.features)
    first, *between, last = (
        partial(_measure_level, evolve(part, out_indices=[index]), feature.stride, offsets=offsets)
        for index, feature in enumerate(every)
    )
    ends = first(), last()
    if len({f.stride for f in every}) == 1 and len({str({**level, "channels": 0}) for level in ends}) == 1:
        return [{**ends[0], "channels": f.channels} for f in every]
    return [ends[0], *(measure() for measure in between), ends[1]]


def _measure_level(part: Timm, stride: Fraction, *, offsets: bool) -> dict[str, Any]:
    """Return the only level of `part` as its columns; with `offsets` also what it is at any size.

    `stride` is that at the size of the whole network, which counts where the level is exact at no multiple.
    """
    info = _probe(part)
    (feature,), sizes = info.features, info.sizes
    is_exact = feature.rounding == "exact" and sizes.height is None
    stride = feature.stride if is_exact and feature.stride else stride
    level = {
        "channels": feature.channels,
        "strides": int(stride) if stride.denominator == 1 else str(stride),
        "multiples": sizes.multiple if is_exact else None,
        "least": sizes.least if is_exact else None,
    }
    if not offsets:
        return level
    info = _probe(evolve(part, any_size=True))
    (feature,) = info.features
    if feature.rounding != "floor" or info.sizes.multiple != 1:
        raise ValueError("it has levels with an offset, and one without")
    return {**level, "offsets": int(feature.offset), "shortest": info.sizes.least}


def _count_prefix_tokens(part: Timm) -> int | None:
    """Return how many tokens there are before those of the image; None where there are no tokens to be had."""
    info = probe(evolve(part, tokens=True), 3)
    prefixes = set() if isinstance(info, Rejection) else {feature.prefix for feature in info.features}
    return prefixes.pop() if len(prefixes) == 1 else None


def _find_wrapper_layout(part: Timm, info: EncoderInfo) -> str | None:
    """Return the layout of timm's wrapper, where it gives the same levels as the network itself."""
    wrapped = probe(evolve(part, features_only=True), 3)
    if isinstance(wrapped, Rejection) or not wrapped.features:
        return None
    axes = wrapped.features[0].axes
    same = evolve(info, features=[evolve(f, axes=axes) for f in info.features])
    return axes if wrapped == same else None


def _is_rebuildable(part: Timm, usual: tuple[int, int]) -> bool:
    """Return whether a network of one size may be built for another."""
    height, width = (2 * side for side in usual)
    info = probe(evolve(part, img_size=(height, width)), 3)
    return isinstance(info, EncoderInfo) and info.sizes == SizeConstraint(height=height, width=width)


def _find_output_strides(part: Timm, entry: Entry) -> list[int]:
    """Return the values of `output_stride` that only lower larger strides to that value."""
    deepest = max(map(Fraction, entry["strides"]))
    strides = [stride for stride in OUTPUT_STRIDES if deepest > stride and None not in entry["multiples"]]
    asked = {stride: evolve(part, output_stride=stride) for stride in strides}
    return [
        stride
        for stride in strides
        if all(
            _is_matching_probe({**entry, "dilated": [stride]}, each)
            for each in (asked[stride], _with_ends(asked[stride], entry))
        )
    ]


def _find_rebuilt_multiple(part: Timm, entry: Entry) -> int | None:
    """Return the lcm of all strides, where networks built for three `img_size` of such multiples are as they say."""
    strides, (height, width) = [Fraction(stride) for stride in entry["strides"]], entry["usual"][0]
    step = lcm(*(int(stride) for stride in strides))
    if entry["sizes"] != "img_size" or any(stride.denominator != 1 for stride in strides):
        return None
    if height % step or width % step:
        return None
    sizes = ((height + step, width), (2 * height, width + 3 * step), (max(height // step // 2, 1) * step, step * 5))
    rebuilt = {**entry, "rebuilt": step}
    return step if all(_is_matching_probe(rebuilt, evolve(part, img_size=size)) for size in sizes) else None


def _with_ends(part: Timm, entry: Entry) -> Timm:
    return evolve(part, out_indices=sorted({0, len(entry["channels"]) - 1}))


def _is_matching_probe(entry: Entry, part: Timm) -> bool:
    """Return whether the catalogue would say of a network what a probe finds."""
    return lookup(entry, part, 3) == probe(part, 3)


def format_catalogue(version: str, entries: Mapping[str, Entry | None]) -> str:
    """Return the text of the catalogue: the entry of each network, and null for one that has to be probed."""
    lines = [["timm", version], *([name, entry] for name, entry in entries.items())]
    return "".join(f"{json.dumps(line)}\n" for line in lines)
