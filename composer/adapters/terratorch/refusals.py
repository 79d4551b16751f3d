"""What is said where a backbone of TerraTorch cannot be had, or not as it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version

from composer.adapters.unloadable import refuse_weights
from composer.contracts.rules import Refusal
from composer.feature import counted
from composer.parts import Channels, TerraTorch
from composer.parts.terratorch import MODALITIES
from composer.problem import nearest


def no_bands(count: int) -> Refusal:
    """DOFA or Clay without the names of its channels: the first layer is made for their wavelengths."""
    return _argument(
        "makes its first layer for the wavelengths of its bands",
        f"{counted(count, 'channel')} without names",
        "bands: [BLUE, GREEN, RED], say, one for each channel",
        "bands",
    )


def unknown_band(position: int, name: str, known: Iterable[str]) -> Refusal:
    """A band that nothing is known of."""
    return _argument("does not know this band", name, nearest(name, known), f"bands[{position}]")


def bands_of_which(names: Iterable[str]) -> Refusal:
    """Return the refusal of a list of bands for several images."""
    named = ", ".join(f"{name}: […]" for name in names)
    return _argument("takes the bands of each image by its modality", "a list", f"bands: {{{named}}}", "bands")


def bands_of_another(name: str, fed: Iterable[str]) -> Refusal:
    """Return the refusal of bands for a modality that is not fed, or has no bands with names."""
    return _argument("is not fed an image whose bands have names", name, nearest(name, fed), f"bands.{name}")


def bands_unlike(bands: Sequence[str], count: int, modality: str | None = None) -> Refusal:
    """Another number of names than of channels."""
    return _argument(
        f"has {counted(len(bands), 'band')}, one for each channel of its image",
        counted(count, "channel"),
        f"input: {{channels: {len(bands)}}}",
        f"bands.{modality}" if modality else "bands",
    )


def frames_left_over(frames: int, deep: int) -> Refusal:
    """Frames that patches of `deep` frames do not share out: those at the end would go unseen, or fill no patch."""
    enough = -(-frames // deep) * deep
    return Refusal(
        code="frames",
        kind="lies" if frames > deep else "impossible",
        expected=f"has patches of {deep} frames, so frames must be a multiple of {deep}",
        got=counted(frames, "frame"),
        repair=f"input: {{frames: {enough}}}, and frames: {enough} if the encoder says frames",
        about="options.patch_size",
    )


def which_modality(declared: Sequence[str] | None) -> Refusal:
    """One image, and no word of its modality, or of several."""
    named = declared or ("S2L2A",)
    repair = f"modalities: [{named[0]}]" if declared is None else None
    return Refusal(
        code="inputs",
        kind="impossible",
        expected="takes images by their modality",
        got="an image without a name",
        repair=" or ".join(filter(None, [repair, f"from: {{{', '.join(f'{name}: IMAGE' for name in named)}}}"])),
    )


def other_modalities(declared: Sequence[str], names: Sequence[str]) -> Refusal:
    """Images of other names than the part lists."""
    return Refusal(
        code="inputs",
        kind="impossible",
        expected=f"is declared to take {', '.join(declared)}",
        got=f"images named {', '.join(names)}",
        repair=f"modalities: [{', '.join(names)}]",
        about="modalities",
    )


def unknown_modality(name: str, names: Sequence[str], known: Iterable[str]) -> Refusal:
    """A name that TerraMind does not know, and the part does not declare."""
    return Refusal(
        code="inputs",
        kind="policy",
        expected=f"has no weights for a modality {name!r}",
        got=f"images named {', '.join(names)}",
        repair=f"{nearest(name, known).rstrip('?')}; or for one of your own, modalities: [{', '.join(names)}]",
    )


def modality_unlike(name: str, wanted: int, count: int) -> Refusal:
    """An image of other channels than its modality has."""
    fitting = [other for other, channels in MODALITIES.items() if channels == count]
    another = f"its own name, {' or '.join(fitting)}" if fitting else "another name for a modality of one's own"
    return Refusal(
        code="channels",
        kind="impossible",
        expected=f"takes an image of {counted(wanted, 'channel')} as {name}",
        got=counted(count, "channel"),
        repair=f"{{channels: {wanted}}} for that input, or {another}",
    )


def modalities_swapped(name: str, count: int, other: str, others: int) -> Refusal:
    """Two images of which each has the channels of the other's modality: `count` and `others` are what they have."""
    return Refusal(
        code="inputs",
        kind="impossible",
        expected=f"takes an image of {counted(others, 'channel')} as {name}, and one of {counted(count, 'channel')} "
        f"as {other}",
        got=f"{counted(count, 'channel')} as {name}, and {counted(others, 'channel')} as {other}",
        repair=f"swap the images of {name} and {other}",
    )


def positions_not_square(size: Sequence[int]) -> Refusal:
    """Positions of an image that is not square, which TerraMind takes for those of a square one."""
    return Refusal(
        code="option",
        kind="lies",
        expected="takes its positions for those of a square",
        got=f"img_size: {list(size)}",
        repair=f"img_size: {max(size)}; images of any shape are fed all the same",
        about="options",
    )


def unknown_option(name: str, known: Iterable[str]) -> Refusal:
    """An argument that the constructor takes, and does nothing with."""
    return Refusal(
        code="option",
        kind="lies",
        expected=f"has no argument {name!r}",
        got=f"terratorch {version('terratorch')}",
        repair=nearest(name, known),
        about="options",
    )


def no_level(position: int, index: int, count: int) -> Refusal:
    """A level that there is not."""
    return Refusal(
        code="index",
        kind="impossible",
        expected=f"has levels 0 to {count - 1}",
        got=f"level {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def not_made(part: TerraTorch, error: Exception) -> Refusal:
    """A network that TerraTorch does not make of these arguments."""
    return _network("cannot be made", said(error), _blamed(part))


def no_size(part: TerraTorch, channels: Channels, error: Exception | None) -> Refusal:
    """A network that ran nowhere, `error` being what it raised; or without an error, one that gives other things."""
    fed = counted(channels, "input channel") if isinstance(channels, int) else "these images"
    given = said(error) if error else "no maps, and no tokens that follow the size of the image"
    return _network(f"runs at no image size tried with {fed}", given, _blamed(part))


def no_weights(part: TerraTorch, error: Exception) -> Refusal:
    """Weights that cannot be had, or do not fit."""
    published = part.pretrained is True
    return refuse_weights(
        f"cannot load the weights {'that TerraTorch names for it' if published else 'of this file'}",
        error,
        "check the connection, give the path of a weights file, or set pretrained: false"
        if published
        else "give the path of a weights file that fits this backbone, or set pretrained: false",
        part.pretrained,
    )


def said(error: Exception) -> str:
    """What an error says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"


def _blamed(part: TerraTorch) -> str:
    given = ", ".join(name for name, _ in part.options)
    return f"correct or leave out {given}" if given else "choose another network"


def _network(expected: str, got: str, repair: str) -> Refusal:
    return Refusal(code="network", kind="impossible", expected=expected, got=got, repair=repair)


def _argument(expected: str, got: str, repair: str | None, about: str) -> Refusal:
    return Refusal(code="argument", kind="impossible", expected=expected, got=got, repair=repair, about=about)
