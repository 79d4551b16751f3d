"""Reasons why a backbone of TerraTorch is rejected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version

from composer.adapters.terratorch.parts import MODALITIES, TerraTorch
from composer.adapters.weights import reject_weights
from composer.errors import suggest
from composer.layouts import format_count
from composer.parts import Channels
from composer.parts.rules import Rejection


def reject_missing_bands(count: int) -> Rejection:
    """DOFA or Clay without the names of its channels: the first layer is made for their wavelengths."""
    return _reject_argument(
        "makes its first layer for the wavelengths of its bands",
        f"{format_count(count, 'channel')} without names",
        "bands: [BLUE, GREEN, RED], say, one for each channel",
        "bands",
    )


def reject_unknown_band(position: int, name: str, known: Iterable[str]) -> Rejection:
    """A band that nothing is known of."""
    return _reject_argument("does not know this band", name, suggest(name, known), f"bands[{position}]")


def reject_ambiguous_bands(names: Iterable[str]) -> Rejection:
    """Return the refusal of a list of bands for several images."""
    named = ", ".join(f"{name}: […]" for name in names)
    return _reject_argument("takes the bands of each image by its modality", "a list", f"bands: {{{named}}}", "bands")


def reject_bands_modality(name: str, fed: Iterable[str]) -> Rejection:
    """Return the refusal of bands for a modality that is not fed, or has no bands with names."""
    return _reject_argument("is not fed an image whose bands have names", name, suggest(name, fed), f"bands.{name}")


def reject_band_count(bands: Sequence[str], count: int, modality: str | None = None) -> Rejection:
    """Another number of names than of channels."""
    return _reject_argument(
        f"has {format_count(len(bands), 'band')}, one for each channel of its image",
        format_count(count, "channel"),
        f"input: {{channels: {len(bands)}}}",
        f"bands.{modality}" if modality else "bands",
    )


def reject_frame_count(frames: int, deep: int) -> Rejection:
    """Frames that patches of `deep` frames do not share out: those at the end would go unseen, or fill no patch."""
    enough = -(-frames // deep) * deep
    return Rejection(
        code="frames",
        kind="wrong_output" if frames > deep else "raises",
        expected=f"has patches of {deep} frames, so frames must be a multiple of {deep}",
        got=format_count(frames, "frame"),
        repair=f"input: {{frames: {enough}}}, and frames: {enough} if the encoder says frames",
        about="options.patch_size",
    )


def reject_unnamed_image(declared: Sequence[str] | None) -> Rejection:
    """One image, and no word of its modality, or of several."""
    named = declared or ("S2L2A",)
    repair = f"modalities: [{named[0]}]" if declared is None else None
    return Rejection(
        code="inputs",
        kind="raises",
        expected="takes images by their modality",
        got="an image without a name",
        repair=" or ".join(filter(None, [repair, f"from: {{{', '.join(f'{name}: IMAGE' for name in named)}}}"])),
    )


def reject_modality_names(declared: Sequence[str], names: Sequence[str]) -> Rejection:
    """Images of other names than the part lists."""
    return Rejection(
        code="inputs",
        kind="raises",
        expected=f"is declared to take {', '.join(declared)}",
        got=f"images named {', '.join(names)}",
        repair=f"modalities: [{', '.join(names)}]",
        about="modalities",
    )


def reject_unknown_modality(name: str, names: Sequence[str], known: Iterable[str]) -> Rejection:
    """A name that TerraMind does not know, and the part does not declare."""
    return Rejection(
        code="inputs",
        kind="policy",
        expected=f"has no weights for a modality {name!r}",
        got=f"images named {', '.join(names)}",
        repair=f"{suggest(name, known).rstrip('?')}; or for one of your own, modalities: [{', '.join(names)}]",
    )


def reject_modality_channels(name: str, wanted: int, count: int) -> Rejection:
    """An image of other channels than its modality has."""
    fitting = [other for other, channels in MODALITIES.items() if channels == count]
    another = f"its own name, {' or '.join(fitting)}" if fitting else "another name for a modality of one's own"
    return Rejection(
        code="channels",
        kind="raises",
        expected=f"takes an image of {format_count(wanted, 'channel')} as {name}",
        got=format_count(count, "channel"),
        repair=f"{{channels: {wanted}}} for that input, or {another}",
    )


def reject_swapped_modalities(name: str, count: int, other: str, others: int) -> Rejection:
    """Two images of which each has the channels of the other's modality: `count` and `others` are what they have."""
    return Rejection(
        code="inputs",
        kind="raises",
        expected=f"takes an image of {format_count(others, 'channel')} as {name}, and one of {format_count(count, 'channel')} "
        f"as {other}",
        got=f"{format_count(count, 'channel')} as {name}, and {format_count(others, 'channel')} as {other}",
        repair=f"swap the images of {name} and {other}",
    )


def reject_nonsquare_positions(size: Sequence[int]) -> Rejection:
    """Positions of an image that is not square, which TerraMind takes for those of a square one."""
    return Rejection(
        code="option",
        kind="wrong_output",
        expected="takes its positions for those of a square",
        got=f"img_size: {list(size)}",
        repair=f"img_size: {max(size)}; images of any shape are fed all the same",
        about="options",
    )


def reject_terratorch_option(name: str, known: Iterable[str]) -> Rejection:
    """An argument that the constructor takes, and does nothing with."""
    return Rejection(
        code="option",
        kind="wrong_output",
        expected=f"has no argument {name!r}",
        got=f"terratorch {version('terratorch')}",
        repair=suggest(name, known),
        about="options",
    )


def reject_level_index(position: int, index: int, count: int) -> Rejection:
    """A level that there is not."""
    return Rejection(
        code="index",
        kind="raises",
        expected=f"has levels 0 to {count - 1}",
        got=f"level {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def reject_terratorch_arguments(part: TerraTorch, error: Exception) -> Rejection:
    """A network that TerraTorch does not make of these arguments."""
    return _reject_network("cannot be made", format_terratorch_error(error), _suggest_option_fix(part))


def reject_terratorch_sizes(part: TerraTorch, channels: Channels, error: Exception | None) -> Rejection:
    """A network that ran nowhere, `error` being what it raised; or without an error, one that gives other things."""
    fed = format_count(channels, "input channel") if isinstance(channels, int) else "these images"
    given = format_terratorch_error(error) if error else "no maps, and no tokens that follow the size of the image"
    return _reject_network(f"runs at no image size tried with {fed}", given, _suggest_option_fix(part))


def reject_terratorch_weights(part: TerraTorch, error: Exception) -> Rejection:
    """Weights that cannot be had, or do not fit."""
    published = part.pretrained is True
    return reject_weights(
        f"cannot load the weights {'that TerraTorch names for it' if published else 'of this file'}",
        error,
        "check the connection, give the path of a weights file, or set pretrained: false"
        if published
        else "give the path of a weights file that fits this backbone, or set pretrained: false",
        part.pretrained,
    )


def format_terratorch_error(error: Exception) -> str:
    """What an error says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"


def _suggest_option_fix(part: TerraTorch) -> str:
    given = ", ".join(name for name, _ in part.options)
    return f"correct or leave out {given}" if given else "choose another network"


def _reject_network(expected: str, got: str, repair: str) -> Rejection:
    return Rejection(code="network", kind="raises", expected=expected, got=got, repair=repair)


def _reject_argument(expected: str, got: str, repair: str | None, about: str) -> Rejection:
    return Rejection(code="argument", kind="raises", expected=expected, got=got, repair=repair, about=about)
