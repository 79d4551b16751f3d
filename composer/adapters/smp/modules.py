"""Modules of smp's encoders and decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch import Tensor, nn

from composer.adapters.probing import CPULinspace, ShapeProbe, find_strides_and_sizes
from composer.adapters.smp.levels import Levels, build_levels
from composer.adapters.smp.parts import CENTERED, SMP_DECODER_ARGUMENTS, Smp, SmpEncoder, resolve_smp_arguments
from composer.adapters.weights import check_reachable, read_file_weights, record_loaded_state, reject_weights
from composer.layouts import MAP, Feature, Features, format_count
from composer.modules.base import get_default_device, module, use_default_device
from composer.modules.encoders import TransparentWrapper
from composer.parts import EncoderInfo
from composer.parts.encoders import get_weights_file
from composer.parts.registry import drop_warnings
from composer.parts.rules import Rejection, RejectionError, is_map
from composer.tensors.matching import LoadedWeights, Match, MismatchError, TensorState, match


class SmpLevels(TransparentWrapper):
    """An encoder of smp that gives the levels `indices`, level i at 1 / 2**i of the image's resolution."""

    def __init__(self, network: Any, indices: Sequence[int]) -> None:
        super().__init__(network)
        self.indices = tuple(indices)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Each level as `(b, c, h, w)`."""
        levels = self.network(image_BCHW)
        return tuple(levels[index] for index in self.indices)


def create_smp_encoder(part: SmpEncoder, weights: str | None = None) -> Any:
    """The network for three channels, without dilation, with the published weights of a set or with random ones."""
    with drop_warnings():  # of the names that smp's next version will have, and of tensors on the meta device
        return get_encoder(part.name, depth=part.depth, weights=weights)


def set_channels_and_dilation(network: Any, part: SmpEncoder, channels: int, *, weighted: bool) -> Any:
    """The same network for `channels` channels, dilated where the part asks: as smp adapts its own.

    Where it is `weighted`, the first layer keeps its weights, over and over for more channels. Raises ValueError
    where smp makes no dilated network of it.
    """
    network.set_in_channels(channels, pretrained=weighted)
    if part.output_stride not in (None, 32):
        network.make_dilated(part.output_stride)
    return network


def list_smp_levels(part: SmpEncoder, network: Any) -> tuple[int, ...]:
    """The levels that the part gives: not the first unless it says so, and none without channels."""
    first = 0 if part.first_level else 1
    return tuple(index for index, width in enumerate(network.out_channels) if index >= first and width)


SMP_DEFAULT_SIZE = (224, 224)
"""An image size that every encoder takes: a multiple of 32, like what their weights were trained on."""


def probe(part: SmpEncoder, channels: int) -> EncoderInfo | Rejection:
    """The facts of an encoder that is fed `channels` channels.

    What its weights expect of the channels is not among them: smp downloads that with the weights.
    """
    with use_default_device("meta"), CPULinspace():
        network = create_smp_encoder(part)
    try:
        # smp makes the new first layer on the CPU, whatever the device.
        network = set_channels_and_dilation(network, part, channels, weighted=False).to("meta")
    except ValueError as error:
        return _reject_dilation(error)
    indices = list_smp_levels(part, network)
    encoder = SmpLevels(network, indices).eval()
    widths = tuple(network.out_channels[index] for index in indices)
    trial = ShapeProbe(encoder, channels, "meta", MAP, widths)
    found = find_strides_and_sizes(
        trial.compute_grids, SMP_DEFAULT_SIZE, tuple(min(2**i, part.output_stride or 32) for i in indices)
    )
    if found is None:
        return _reject_smp_sizes(channels, trial.error)
    strides, sizes = found
    features = [Feature(channels=c, stride=s) for c, s in zip(widths, strides, strict=True)]
    return EncoderInfo(features=features, channels=channels, sizes=sizes, arguments={"levels": indices})


def _reject_dilation(error: Exception) -> Rejection:
    return Rejection(
        code="argument",
        kind="raises",
        expected="cannot be dilated",
        got=f"smp says {' '.join(str(error).split())[:300]}",
        fix="leave output_stride out",
        about="output_stride",
    )


def _reject_smp_sizes(channels: int, error: Exception | None) -> Rejection:
    return Rejection(
        code="part",
        kind="raises",
        expected=f"runs at no image size tried with {format_count(channels, 'input channel')}",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}" if error else "other maps than it states",
        fix="choose another network",
    )


@module.register(SmpEncoder)
def _(part: SmpEncoder, image: Features, *, facts: EncoderInfo, pretrained: bool = True) -> nn.Module:
    """The encoder with random weights, or with published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    loaded = None
    if pretrained and part.pretrained:
        try:
            network, loaded = _create_pretrained_smp(part, channels)
        except (RejectionError, MemoryError):
            raise
        except Exception as error:
            raise RejectionError(_reject_smp_weights(part, error)) from error
    else:
        network = _create_random_smp(part, channels)
    # EncoderInfo that were handed in need not say which levels they are of.
    encoder = SmpLevels(network, dict(facts.arguments).get("levels") or list_smp_levels(part, network))
    encoder.loaded_weights = loaded
    return encoder


def _create_random_smp(part: SmpEncoder, channels: int) -> Any:
    """The network with random weights, also on the meta device, where smp makes a new first layer on the CPU."""
    with CPULinspace() if get_default_device() == "meta" else nullcontext():
        network = create_smp_encoder(part)
    return set_channels_and_dilation(network, part, channels, weighted=False).to(get_default_device())


def list_weight_sets(name: str) -> Mapping[str, Mapping[str, str]]:
    """The sets of weights that smp publishes for an encoder, the one its models take by default first."""
    published = encoders[name]["pretrained_settings"]
    return dict(sorted(published.items(), key=lambda item: item[0] != "imagenet"))


def _create_pretrained_smp(part: SmpEncoder, channels: int) -> tuple[Any, LoadedWeights]:
    """The network with its weights. Raises where they cannot be had, or do not fill the network."""
    published = list_weight_sets(part.name)
    name = next(iter(published)) if part.pretrained is True else part.pretrained
    if isinstance(name, str) and name in published:
        at = published[name]
        check_reachable(f"{at['repo_id']}@{at['revision']}", "model.safetensors")
        # smp loads it strictly.
        return set_channels_and_dilation(create_smp_encoder(part, name), part, channels, weighted=True), LoadedWeights()
    source = get_weights_file(part.pretrained)
    assert source is not None
    return _create_smp_from_file(part, *source, channels)


def _create_smp_from_file(part: SmpEncoder, file: str, prefix: str | None, channels: int) -> tuple[Any, LoadedWeights]:
    """The network with the weights of a file: those of three channels, which smp adapts, or of as many as there are."""
    if not Path(file).is_file():
        raise FileNotFoundError("there is no such file, and no set of weights of this name")
    state = read_file_weights(Path(file))
    failed: list[MismatchError] = []
    for weighted in (True, False) if channels != 3 else (True,):
        network = (
            create_smp_encoder(part)
            if weighted
            else set_channels_and_dilation(create_smp_encoder(part), part, channels, weighted=False)
        )
        try:
            found = _load_smp_state(network, state, prefix)
        except MismatchError as error:
            failed.append(error)
            continue
        network = set_channels_and_dilation(network, part, channels, weighted=True) if weighted else network
        return network, found.report(file)
    raise max(failed, key=lambda error: error.fitting)


def _load_smp_state(network: nn.Module, state: TensorState, prefix: str | None) -> Match:
    """Fill the network, and return what with. smp takes out of a checkpoint what is a classifier's, and renames."""

    def convert(given: dict[str, Tensor]) -> TensorState:
        with record_loaded_state(network) as found:
            network.load_state_dict(given)
        return found[0]

    wanted = network.state_dict(keep_vars=True)
    matched = match(state, wanted, convert, prefix=prefix)
    matched.fill(wanted)
    return matched


def _reject_smp_weights(part: SmpEncoder, error: Exception) -> Rejection:
    known = ", ".join(list_weight_sets(part.name))
    source = get_weights_file(part.pretrained)
    named = "that smp publishes for it" if source is None else source[0]
    published = source is None or part.pretrained in list_weight_sets(part.name)
    fix = (
        "check the connection, give the path of a weights file, or set pretrained: false"
        if published
        else f"give the path of a weights file that fits this encoder, or one of {known}"
    )
    return reject_weights(f"cannot load the weights {named}", error, fix, part.pretrained)


class SmpDecoder(nn.Module):
    """A decoder of smp over maps, finest first. It drops the first `dropped` maps.

    In the place of `missing` levels it passes maps without channels, as smp's encoders do, each with twice the cells
    of the next; with `repeats`, it passes the first feature, which is not a map and is not used.
    """

    def __init__(self, decoder: nn.Module, missing: int, dropped: int, *, repeats: bool) -> None:
        super().__init__()
        # Published weights are named decoder._smp_decoder.
        self._smp_decoder = decoder
        self.missing = missing
        self.dropped = dropped
        self.repeats = repeats

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return one map for maps `(b, c_i, h_i, w_i)`."""
        used = features[self.dropped :]
        factors = [2**steps for steps in range(self.missing, 0, -1)]
        missing = [used[0] if self.repeats else _make_empty_level(used[0], factor) for factor in factors]
        return (self._smp_decoder([*missing, *used]),)


def _make_empty_level(x_BCHW: Tensor, factor: int) -> Tensor:
    batch, _, height, width = x_BCHW.shape
    return x_BCHW.new_empty(batch, 0, height * factor, width * factor)


class SmpDPT(nn.Module):
    """smp's DPT over tokens or maps."""

    def __init__(self, decoder: nn.Module, features: Features) -> None:
        super().__init__()
        self._smp_decoder = decoder
        self.features = features

    def forward(self, features: Sequence[Tensor], *, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return one map for tokens `(b, prefix + h * w, c)` or maps `(b, c, h, w)`; `image_size` is in pixels."""
        pairs = [_split_map_and_prefix(f, x, image_size) for f, x in zip(self.features, features, strict=True)]
        return (self._smp_decoder([x_BCHW for x_BCHW, _ in pairs], [prefix_BNC for _, prefix_BNC in pairs]),)


def _split_map_and_prefix(feature: Feature, x: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Return the map and its prefix tokens, None if it has none."""
    if "n" not in feature.axes:
        # smp calls view on it.
        return x.contiguous(), None
    assert feature.stride is not None
    pixels, cells = feature.stride.numerator, feature.stride.denominator
    height, width = (side * cells // pixels for side in image_size)
    prefix_BNC, x_BNC = x[:, : feature.prefix], x[:, feature.prefix :]
    x_BCHW = x_BNC.transpose(1, 2).reshape(x.shape[0], x.shape[2], height, width)
    return x_BCHW.contiguous(), prefix_BNC if feature.prefix else None


_DECODERS: Mapping[str, tuple[Callable[..., nn.Module], str | None]] = {
    "Unet": (UnetDecoder, "n_blocks"),
    "UnetPlusPlus": (UnetPlusPlusDecoder, "n_blocks"),
    "MAnet": (MAnetDecoder, "n_blocks"),
    "Linknet": (LinknetDecoder, "n_blocks"),
    "FPN": (FPNDecoder, "encoder_depth"),
    "PSPNet": (PSPDecoder, None),
    "DeepLabV3": (DeepLabV3Decoder, None),
    "DeepLabV3Plus": (DeepLabV3PlusDecoder, "encoder_depth"),
    "PAN": (PANDecoder, "encoder_depth"),
    "UPerNet": (UPerNetDecoder, "encoder_depth"),
    "Segformer": (SegformerDecoder, "encoder_depth"),
}
"""The class of each decoder, and its name for the number of levels."""


@module.register(Smp)
def _(part: Smp, features: Features) -> nn.Module:
    with drop_warnings():  # smp's attention squeezes fewer than 16 channels to none, and torch warns of empty weights
        if part.name == "DPT":
            return SmpDPT(_create_dpt(part, features), features)
        # These count from the last map.
        levels = Levels(0, features) if part.name in ("FPN", "PSPNet", "DeepLabV3") else build_levels(part, features)
        create, depth = _DECODERS[part.name]
        arguments = _rename_arguments(part) | _build_input_arguments(part, levels)
        decoder = create(**arguments, **({depth: levels.depth} if depth else {}))
        if not part.name.startswith("DeepLab"):  # which smp leaves as torch initialises them
            _init_decoder(decoder)
        dropped = len(features) - len(levels.features)
        return SmpDecoder(decoder, levels.first, dropped, repeats=not is_map(levels.features[0]))


def _rename_arguments(part: Smp) -> dict[str, Any]:
    """Return the arguments of smp's model by the decoder's names for them; unknown ones keep theirs, and raise."""
    renamed = {"decoder_interpolation": "interpolation_mode", "decoder_channels": "decoder_channels"}
    if part.name.startswith("DeepLab"):
        renamed["decoder_channels"] = "out_channels"
    known = SMP_DECODER_ARGUMENTS[part.name]
    return {
        renamed.get(name, name.removeprefix("decoder_").removeprefix("psp_")) if name in known else name: value
        for name, value in resolve_smp_arguments(part).items()
    }


def _build_input_arguments(part: Smp, levels: Levels) -> dict[str, Any]:
    if part.name == "DeepLabV3":
        return {"in_channels": levels.features[-1].channels}
    arguments: dict[str, Any] = {"encoder_channels": [0] * levels.first + [f.channels for f in levels.features]}
    if part.name in CENTERED:
        arguments["add_center_block" if part.name == "Unet" else "center"] = part.center is True
    if part.name == "DeepLabV3Plus":
        fine, last = levels.select_from(2)[0], levels.features[-1]
        # smp enlarges the last map by 4 for an output stride of 16, and by 2 for 8.
        arguments["output_stride"] = 16 if last.stride and fine.stride and last.stride / fine.stride == 4 else 8
    return arguments


def _create_dpt(part: Smp, features: Features) -> nn.Module:
    decoder = DPTDecoder(
        encoder_out_channels=[f.channels for f in features],
        encoder_output_strides=[f.stride for f in features],
        encoder_has_prefix_tokens=any(f.prefix for f in features),
        **_rename_arguments(part),
    )
    return _init_decoder(decoder)


def _init_decoder(decoder: nn.Module) -> nn.Module:
    with torch.no_grad():
        initialize_decoder(decoder)
    return decoder
