"""Backbones of TerraTorch as modules with random weights, and what they emit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from typing import Any

from attrs import evolve
from terratorch.models.backbones.clay_v1.embedder import clay_v1_base
from terratorch.models.backbones.clay_v1.modules import WAVELENGTHS
from terratorch.models.backbones.dofa_vit import waves_list
from terratorch.models.backbones.prithvi_swin import prithvi_swin_B, prithvi_swin_L
from terratorch.models.backbones.scalemae import create_model
from terratorch.models.backbones.swin_encoder_decoder import MMSegSwinTransformer
from terratorch.models.backbones.terramind.tokenizer.vqvae import VQ
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from composer.adapters.probing import (
    CPULinspace,
    Grids,
    ShapeProbe,
    find_patch_size,
    find_strides_and_sizes,
    probe_on_devices,
)
from composer.adapters.rejections import (
    pick_indices,
    reject_all_sizes,
    reject_network,
    reject_option,
    reject_unknown_option,
    suggest_arguments,
)
from composer.adapters.terratorch.parts import CONSTRUCTORS, MODALITIES, TerraTorch
from composer.errors import format_error, suggest
from composer.layouts import format_count
from composer.modules.base import use_default_device
from composer.modules.encoders import TransparentWrapper
from composer.parts import EncoderInfo
from composer.parts.base import Channels
from composer.parts.rules import Kind, Rejection, RejectionError
from composer.parts.validators import MAX_LEVELS, to_keyword_arguments
from composer.process import guard_import
from composer.resources import limit_modules
from composer.sizes import SizeConstraint


def create_terratorch_backbone(part: TerraTorch, channels: Channels, **more: Any) -> Any:
    """Create the network with random weights; with all its levels, where the part picks among them.

    Raises RejectionError for arguments that TerraTorch would ignore or misread, or that make the network too deep, and
    whatever TerraTorch raises for others.
    """
    _check_options(part)
    with guard_import(), limit_modules():
        arguments = {**_build_image_arguments(part, channels), **to_keyword_arguments(part.options), **more}
        if part.family.kind == "swin" and part.out_indices is not None and min(part.out_indices) >= 0:
            # TerraTorch leaves out the stages behind the last one that is picked.
            deepest = min(max(part.out_indices), len(arguments.get("depths", range(4))) - 1)
            arguments["out_indices"] = tuple(range(deepest + 1))
        network = _get_constructor(part)(**arguments)
    for name in ("forward", "prepare_features_for_image_model"):
        # Functions that are bound to this instance, which a copy would go on to run, or which cannot be pickled.
        network.__dict__.pop(name, None)
    if "weights" in vars(network):
        # A wrapper of torchgeo's networks, which cannot be pickled with the origin of its weights.
        network.weights = None
    if part.out_indices is not None and ("weights" in vars(network) or part.family.kind == "scalemae"):
        network.out_indices = list(range(len(network.blocks) if part.family.kind == "scalemae" else MAX_LEVELS))
    if isinstance(getattr(network, "missing_mod_token", None), nn.Parameter):
        # TerraTorch leaves it uninitialised; it replaces an image that is absent, and here all are present.
        network.missing_mod_token.data.zero_()
    return network


def _get_constructor(part: TerraTorch) -> Callable[..., Any]:
    if part.family.kind == "scalemae":
        return partial(create_model, part.name.removeprefix("scalemae_"))
    outside = {"clay_v1_base": clay_v1_base, "prithvi_swin_B": prithvi_swin_B, "prithvi_swin_L": prithvi_swin_L}
    if part.name in outside:
        return partial(outside[part.name], features_only=True)
    return partial(TERRATORCH_BACKBONE_REGISTRY.build, part.name)


_SCALE_MAE_OPTIONS = (
    "default_input_res init_values qk_norm drop_rate pos_drop_rate proj_drop_rate attn_drop_rate drop_path_rate"
)
"""The options of ScaleMAE; others of timm's reach layers that are not part of its forward."""

_LENIENT_CLASSES = {"swin": MMSegSwinTransformer, "tokenizer": VQ}
"""The networks whose constructors ignore unknown arguments, beside those with `options` in `CONSTRUCTORS`."""


def _check_options(part: TerraTorch) -> None:
    """Raise RejectionError for options that TerraTorch ignores or misreads."""
    options, kind = dict(part.options), part.family.kind
    _check_frames(part.frames or 1, options.get("patch_size"))
    size = options.get("img_size")
    if part.takes_names and isinstance(size, tuple) and len(set(size)) > 1:
        fix = f"img_size: {max(size)}; images of any shape are fed all the same"
        raise RejectionError(reject_option("takes its positions for those of a square", f"img_size: {list(size)}", fix))
    known = set(_SCALE_MAE_OPTIONS.split() if kind == "scalemae" else CONSTRUCTORS[kind].options)
    if kind in _LENIENT_CLASSES:
        known = {"return_type", *inspect.signature(_LENIENT_CLASSES[kind]).parameters} - {"kwargs"}
    for name in options:
        if known and name not in known:
            library = f"terratorch {version('terratorch')}"
            raise RejectionError(reject_unknown_option(f"has no argument {name!r}", name, known, library))


def _check_frames(frames: int, patch: Any) -> None:
    """Reject frames that are not a multiple of the patch's: a convolution would drop the last ones."""
    deep = patch[0] if isinstance(patch, tuple) and len(patch) == 3 else 1
    if isinstance(deep, int) and deep > 1 and frames % deep:
        enough = -(-frames // deep) * deep
        expected = f"has patches of {deep} frames, so frames must be a multiple of {deep}"
        fix = f"input: {{frames: {enough}}}, and frames: {enough} if the encoder says frames"
        kind: Kind = "wrong_output" if frames > deep else "raises"
        raise _make_error("frames", expected, format_count(frames, "frame"), fix, "options.patch_size", kind)


def _make_error(
    code: str, expected: str, got: str, fix: str, about: str | None = None, kind: Kind = "raises"
) -> RejectionError:
    return RejectionError(Rejection(code=code, kind=kind, expected=expected, got=got, fix=fix, about=about))


_WAVELENGTHS: Mapping[str, Mapping[str, float]] = {"dofa": waves_list, "clay": WAVELENGTHS}
"""The wavelength of each band that a network computes its first layer from."""


def _build_image_arguments(part: TerraTorch, channels: Channels) -> dict[str, Any]:
    """Return the arguments of a constructor that describe its images. Raises RejectionError for images it rejects."""
    if part.takes_names:
        bands = _map_modality_bands(part, channels)
        modalities = _build_modalities(part, channels, bands)
        return {"modalities": modalities} | ({"bands": bands} if bands else {})
    assert isinstance(channels, int)
    kind = part.family.kind
    name = CONSTRUCTORS[kind].bands_argument
    if name is None:
        return {"in_channels": channels} if kind == "unet" else {}
    arguments: dict[str, Any] = {name: _list_bands(part, channels)}
    if kind == "prithvi":
        arguments["num_frames"] = part.frames or 1
    if kind == "torchgeo_vit":
        # timm then resamples the positions; at its default size, nothing changes. The part's own options come later.
        arguments["dynamic_img_size"] = True
    return arguments


def _list_bands(part: TerraTorch, count: int) -> list[Any]:
    """Return the names of the channels; numbers, which no weights have, where the part has no names."""
    bands, wavelengths = part.channel_bands, _WAVELENGTHS.get(part.family.kind)
    if bands is None and wavelengths is None:
        return list(range(count))
    if bands is None:
        expected = "makes its first layer for the wavelengths of its bands"
        got = f"{format_count(count, 'channel')} without names"
        raise _make_error("argument", expected, got, "bands: [BLUE, GREEN, RED], say, one for each channel", "bands")
    _check_count(bands, count, "bands")
    for position, name in enumerate(bands):
        # Clay takes the wavelength 0 for a band that it does not know; a number says that none is known.
        numbered = part.family.kind == "clay" and name.isdigit()
        if wavelengths is not None and name not in wavelengths and not numbered:
            fix = suggest(name, wavelengths)
            raise _make_error("argument", "does not know this band", name, fix, f"bands[{position}]")
    return list(bands)


def _check_count(bands: Sequence[str], count: int, about: str) -> None:
    if len(bands) != count:
        expected = f"has {format_count(len(bands), 'band')}, one for each channel of its image"
        fix = f"input: {{channels: {len(bands)}}}"
        raise _make_error("argument", expected, format_count(count, "channel"), fix, about)


def _map_modality_bands(part: TerraTorch, channels: Channels) -> dict[str, list[str]]:
    """Return the names of the channels by modality, for those of TerraMind's modalities that the part has names for."""
    fed = dict(channels) if not isinstance(channels, int) else dict.fromkeys(part.modalities or (), channels)
    if part.channel_bands is not None and len(fed) != 1:
        expected, fix = "takes the bands of each image by its modality", "bands: {MODALITY: [BAND, …]}"
        raise _make_error("argument", expected, "a list", fix, "bands")
    bands_of = part.get_modality_bands(tuple(fed))
    for name, bands in bands_of.items():
        if name not in fed or name not in MODALITIES:
            fix = suggest(name, [modality for modality in fed if modality in MODALITIES])
            raise _make_error("argument", "is not fed an image whose bands have names", name, fix, f"bands.{name}")
        _check_count(bands, fed[name], f"bands.{name}")
    return {name: list(bands) for name, bands in bands_of.items()}


def _build_modalities(part: TerraTorch, channels: Channels, bands: Mapping[str, list[str]]) -> list[Any]:
    """Return TerraMind's own modalities by their names, and new ones with their channels."""
    declared = part.modalities
    if isinstance(channels, int):
        if declared is None or len(declared) != 1:
            sources = f"from: {{{', '.join(f'{name}: IMAGE' for name in declared or ('S2L2A',))}}}"
            fix = sources if declared else f"modalities: [S2L2A] or {sources}"
            raise _make_error("inputs", "takes images by their modality", "an image without a name", fix)
        channels = ((declared[0], channels),)
    names = [name for name, _ in channels]
    got, listed = f"images named {', '.join(names)}", f"modalities: [{', '.join(names)}]"
    if declared is not None and set(declared) != set(names):
        raise _make_error("inputs", f"is declared to take {', '.join(declared)}", got, listed, "modalities")
    for name, count in channels:
        if name not in MODALITIES and declared is None:
            fix = f"{suggest(name, MODALITIES).rstrip('?')}; or for a modality of your own, {listed}"
            raise _make_error("inputs", f"has no weights for a modality {name!r}", got, fix, kind="policy")
        wanted = MODALITIES.get(name, count)
        if name not in bands and wanted != count:
            expected = f"takes an image of {format_count(wanted, 'channel')} as {name}"
            fix = f"{{channels: {wanted}}} for that input, or its own name"
            raise _make_error("channels", expected, format_count(count, "channel"), fix)
    return [name if name in MODALITIES else {name: count} for name, count in channels]


class TerraTorchBackbone(TransparentWrapper):
    """A backbone of TerraTorch. Its weights have TerraTorch's own names.

    `extras` are the keyword arguments that it takes beside its images. It emits the levels `indices` (None: all).
    """

    def __init__(self, network: Any, part: TerraTorch, channels: Channels, indices: Sequence[int] | None) -> None:
        super().__init__(network, indices)
        # The modality of its only image, where it takes images by modality.
        self.modality = part.modalities[0] if part.modalities and isinstance(channels, int) else None
        self._axes = _list_extra_inputs(network, part.family.kind)
        self.extras = frozenset(self._axes)
        # The own forward of Prithvi and Clay is that of a masked autoencoder.
        self._runs_features = part.family.kind in ("prithvi", "clay")

    def forward(self, image: Tensor | Mapping[str, Tensor], **extras: Any) -> tuple[Tensor, ...]:
        """Return the levels for an image `(b, c, h, w)`, or `(b, c, t, h, w)`, or for several images by modality.

        Raises ValueError for extras of another shape than the network takes.
        """
        if self.modality is not None:
            image = {self.modality: image}  # type: ignore[dict-item]
        for name, value in extras.items():
            _check_extra(name, value, self._axes[name], image)
        if extras.get("input_res") is not None:
            # ScaleMAE multiplies it with positions in single precision, and takes no others.
            extras["input_res"] = extras["input_res"].float()
        output = (self.network.forward_features if self._runs_features else self.network)(image, **extras)
        levels = (output,) if isinstance(output, Tensor) else tuple(output)
        return levels if self.indices is None else tuple(levels[index] for index in self.indices)


def _list_extra_inputs(network: Any, kind: str) -> Mapping[str, tuple[int, ...] | None]:
    """Return the keyword arguments of a network, each with the axes of its tensor behind the batch; None is a number.

    A Prithvi without layers for times or places would ignore them. Clay's wavelengths are those of its bands.
    """
    if kind == "prithvi":
        times = {"temporal_coords": (network.num_frames, 2)} if network.temporal_encoding else {}
        return {**times, **({"location_coords": (2,)} if network.location_encoding else {})}
    if kind == "clay":
        return {"time": (4,), "latlon": (4,), "gsd": None}
    return {"input_res": ()} if kind == "scalemae" else {}


def _check_extra(name: str, value: Any, axes: tuple[int, ...] | None, image: Any) -> None:
    """Raise ValueError for a value of another shape, which TerraTorch would broadcast over images or frames."""
    if value is None or (axes is None and isinstance(value, int | float) and value > 0):
        return
    if axes is None:
        raise ValueError(f"{name} must be a number above 0 (got {value!r})")
    shape = (image.shape[0], *axes)
    if not isinstance(value, Tensor) or value.dim() != len(shape) or tuple(value.shape) != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor of shape {shape} (got {got})")


def probe(part: TerraTorch, channels: Channels) -> EncoderInfo | Rejection:
    """Return the info of a backbone that is fed `channels`: from the meta device, or from the CPU where that fails.

    TerraTorch states only the channels of each level, and not always the right ones, so all is measured. Its means
    and deviations are those of bands in their own units, while an EncoderInfo has them for 0..1.
    """
    return probe_on_devices(partial(_probe_terratorch_on, part, channels))


def reject_terratorch_arguments(part: TerraTorch, error: Exception) -> Rejection:
    """Reject arguments that TerraTorch raises `error` for."""
    return reject_network("cannot be made", format_error(error), suggest_arguments(name for name, _ in part.options))


def _probe_terratorch_on(part: TerraTorch, channels: Channels, device: str) -> EncoderInfo | Rejection:
    try:
        with use_default_device(device), CPULinspace():
            network = create_terratorch_backbone(part, channels).to(device)
    except RejectionError:
        raise
    except Exception as error:  # whatever TerraTorch raises for its arguments
        return reject_terratorch_arguments(part, error)
    encoder = TerraTorchBackbone(network, part, channels, None).eval()

    def run_silently(image: Tensor | Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        # TerraTorch warns of sizes that do not fit its patches; the model pads to those that do.
        with guard_import():
            levels: tuple[Tensor, ...] = encoder(image)
        return levels

    patch = find_patch_size(network)
    # A token covers several frames where a patch does.
    shape = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    covered = shape[0] if isinstance(shape, list | tuple) and len(shape) == 3 else 1
    trial = ShapeProbe(
        run_silently, channels, device, patch=patch, frames=part.frames, token_frames=(part.frames or 1) // covered
    )
    # The default of Clay's `img_size` in TerraTorch, and that of the others.
    size = dict(part.options).get("img_size") or (256 if part.family.kind == "clay" else 224)
    sides = (size, size) if isinstance(size, int) else size
    # The default may not be whole patches, where the options name other patches, or whole cells of a U-Net.
    cell = 2 ** (len(network.encoder) - 1) if part.family.kind == "unet" else 1
    whole = [-(-side // along) * along for side, along in zip(sides, patch or (cell, cell), strict=True)]
    found = _find_steady_strides(trial, (whole[0], whole[1]))
    if found is None:
        no_features = "no maps, and no tokens that follow the size of the image"
        got = format_error(trial.error) if trial.error else no_features
        return reject_all_sizes(channels, got, (name for name, _ in part.options))
    strides, sizes = found
    features = trial.build_features(strides)
    if part.out_indices is not None:
        indices = pick_indices(part.out_indices, len(features))
        if isinstance(indices, Rejection):
            raise RejectionError(indices)
        features = tuple(features[index] for index in indices)
    images: dict[str, Any] = {"channels": channels} if isinstance(channels, int) else {"inputs": channels}
    return EncoderInfo(features=features, frames=part.frames, sizes=sizes, patch=patch, **images)


def _find_steady_strides(
    trial: ShapeProbe, usual: tuple[int, int]
) -> tuple[tuple[Fraction, ...], SizeConstraint] | None:
    """Return strides and sizes; for a network that takes no other shape, perhaps any square.

    None where the layouts differ between sizes: more tokens than cells, whose number grows with the image, are not a
    prefix, but cells of something else.
    """

    def compute_square_grids(height: int, width: int) -> Grids | None:
        """Run the trial at a square, and scale the grids to the shape requested."""
        side = max(height, width)
        grids = trial.compute_grids(side, side)
        return grids and tuple((rows * height // side, columns * width // side) for rows, columns in grids)

    found = find_strides_and_sizes(trial.compute_grids, usual)
    if found is not None and found[1].height is not None:
        squares = find_strides_and_sizes(compute_square_grids, usual)
        if squares is not None and squares[1].height is None:
            found = squares[0], evolve(squares[1], square=True)
    return found if trial.steady else None
