"""Backbones of TerraTorch as modules, and what they emit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from attrs import evolve
from terratorch.models.backbones.clay_v1.embedder import Embedder, clay_v1_base
from terratorch.models.backbones.prithvi_mae import PrithviViT
from terratorch.models.backbones.prithvi_swin import prithvi_swin_B, prithvi_swin_L
from terratorch.models.backbones.scalemae import VisionTransformer as ScaleMAE
from terratorch.models.backbones.scalemae import create_model
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from composer.adapters.probing import (
    CPULinspace,
    GridFunction,
    Grids,
    ShapeProbe,
    find_patch_size,
    find_strides_and_sizes,
    probe_on_devices,
)
from composer.adapters.rejections import pick_indices
from composer.adapters.terratorch.arguments import (
    build_image_arguments,
    check_options,
    reject_terratorch_arguments,
    reject_terratorch_sizes,
)
from composer.adapters.terratorch.parts import CLAY, SCALE_MAE, UNREGISTERED, TerraTorch
from composer.modules.base import use_default_device
from composer.modules.encoders import TransparentWrapper
from composer.parts import EncoderInfo
from composer.parts.base import Channels
from composer.parts.registry import guard_import
from composer.parts.rules import Rejection, RejectionError
from composer.parts.validators import MAX_LEVELS, to_keyword_arguments
from composer.resources import limit_modules
from composer.sizes import SizeConstraint

_TIMM_FACTORIES = {factory.__name__: factory for factory in (clay_v1_base, prithvi_swin_B, prithvi_swin_L)}


def create_terratorch_backbone(part: TerraTorch, channels: Channels, **more: Any) -> Any:
    """Create the network with random weights; with all its levels, where the part picks among them.

    Raises RejectionError for arguments that TerraTorch would ignore or misread, or that make the network too deep, and
    whatever TerraTorch raises for others.
    """
    check_options(part)
    with guard_import(), limit_modules():
        arguments = {**build_image_arguments(part, channels), **to_keyword_arguments(part.options), **more}
        if part.name in UNREGISTERED:
            network = _create_unregistered(part, arguments)
        else:
            network = TERRATORCH_BACKBONE_REGISTRY.build(part.name, **arguments)
    # Prithvi and Clay have a forward bound to this instance, which a copy would go on to run.
    network.__dict__.pop("forward", None)
    if "weights" in vars(network):
        # A wrapper of torchgeo's networks, which cannot be pickled with the origin of its weights.
        network.weights = None
        if part.out_indices is not None:
            network.out_indices = list(range(MAX_LEVELS))
    if isinstance(getattr(network, "missing_mod_token", None), nn.Parameter):
        # TerraTorch leaves it uninitialised; it replaces an image that is absent, and here all are present.
        network.missing_mod_token.data.zero_()
    return network


def _create_unregistered(part: TerraTorch, arguments: Mapping[str, Any]) -> Any:
    if part.name not in SCALE_MAE:
        network = _TIMM_FACTORIES[part.name](features_only=True, **arguments)
        # A function of TerraTorch's own factories, which cannot be pickled.
        network.__dict__.pop("prepare_features_for_image_model", None)
        return network
    network = create_model(part.name.removeprefix("scalemae_"), **arguments)
    if part.out_indices is not None:
        network.out_indices = list(range(len(network.blocks)))
    return network


class TerraTorchBackbone(TransparentWrapper):
    """A backbone of TerraTorch. Its weights have TerraTorch's own names.

    `extras` are the keyword arguments that it takes beside its images. It emits the levels `indices` (None: all).
    """

    def __init__(self, network: Any, part: TerraTorch, channels: Channels, indices: Sequence[int] | None) -> None:
        super().__init__(network)
        self.indices = indices
        # The modality of its only image, where it takes images by modality.
        self.modality = part.modalities[0] if part.modalities and isinstance(channels, int) else None
        self._axes = _list_extra_inputs(network)
        self.extras = frozenset(self._axes)
        # The own forward of Prithvi and Clay is that of a masked autoencoder.
        self._runs_features = isinstance(network, PrithviViT | Embedder)

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


def _list_extra_inputs(network: Any) -> Mapping[str, tuple[int, ...] | None]:
    """Return the keyword arguments of a network, each with the axes of its tensor behind the batch; None is a number.

    A Prithvi without layers for times or places would ignore them. Clay's wavelengths are those of its bands.
    """
    if isinstance(network, PrithviViT):
        axes = {"temporal_coords": (network.num_frames, 2), "location_coords": (2,)}
        used = {"temporal_coords": network.temporal_encoding, "location_coords": network.location_encoding}
        return {name: axes[name] for name in axes if used[name]}
    if isinstance(network, Embedder):
        return {"time": (4,), "latlon": (4,), "gsd": None}
    return {"input_res": ()} if isinstance(network, ScaleMAE) else {}


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


DEFAULT_SIDE = 224
"""The side of an image where no option names one."""

CLAY_DEFAULT_SIDE = 256
"""The side of an image that Clay is made for: its `img_size` in TerraTorch."""


def probe(part: TerraTorch, channels: Channels) -> EncoderInfo | Rejection:
    """Return the info of a backbone that is fed `channels`: from the meta device, or from the CPU where that fails.

    TerraTorch states only the channels of each level, and not always the right ones, so all is measured. Its means
    and deviations are those of bands in their own units, while an EncoderInfo has them for 0..1.
    """
    return probe_on_devices(partial(_probe_terratorch_on, part, channels))


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
    trial = ShapeProbe(
        run_silently, channels, device, patch=patch, frames=part.frames, token_frames=_count_token_frames(part, network)
    )
    size = dict(part.options).get("img_size") or (CLAY_DEFAULT_SIDE if part.name in CLAY else DEFAULT_SIDE)
    sides = (size, size) if isinstance(size, int) else size
    # The default may not be whole patches, where the options name other patches.
    whole = [-(-side // along) * along for side, along in zip(sides, patch or (1, 1), strict=True)]
    found = _find_steady_strides(trial, (whole[0], whole[1]))
    if found is None:
        return reject_terratorch_sizes(part, channels, trial.error)
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
    found = find_strides_and_sizes(trial.compute_grids, usual)
    if found is not None and found[1].height is not None:
        squares = find_strides_and_sizes(_limit_to_squares(trial), usual)
        if squares is not None and squares[1].height is None:
            found = squares[0], evolve(squares[1], square=True)
    return found if trial.steady else None


def _limit_to_squares(trial: ShapeProbe) -> GridFunction:
    """Return a function that runs the trial at squares only, and scales the grids to the shape requested."""

    def compute_square_grids(height: int, width: int) -> Grids | None:
        side = max(height, width)
        grids = trial.compute_grids(side, side)
        if grids is None:
            return None
        return tuple((rows * height // side, columns * width // side) for rows, columns in grids)

    return compute_square_grids


def _count_token_frames(part: TerraTorch, network: Any) -> int:
    """Return the frames of a token level: fewer than those of the image where a patch covers several."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    covered = patch[0] if isinstance(patch, list | tuple) and len(patch) == 3 else 1
    return (part.frames or 1) // covered
