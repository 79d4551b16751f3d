"""Modules of smp's encoders and decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from segmentation_models_pytorch import decoders
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch import Tensor, nn

from composer.adapters.decoders import Call
from composer.adapters.probing import CPULinspace, ShapeProbe, find_strides_and_sizes
from composer.adapters.rejections import convert_errors, reject_all_sizes, reject_network
from composer.adapters.smp.contracts import build_call, list_channels
from composer.adapters.smp.parts import SMP_DECODER_ARGUMENTS, Smp, SmpEncoder
from composer.adapters.weights import check_reachable, read_file_weights, record_loaded_state, reject_pretrained
from composer.errors import format_error
from composer.layouts import MAP, Features
from composer.modules.base import get_default_device, module, use_default_device
from composer.modules.encoders import TransparentWrapper
from composer.parts import EncoderInfo, ReshapeTokensToImage
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, is_map
from composer.process import drop_warnings
from composer.tensors.matching import LoadedWeights, Match, MismatchError, TensorState, match


def _create_smp_encoder(part: SmpEncoder, weights: str | None = None) -> Any:
    """Create the network for three channels, without dilation, with a published set of weights or random ones."""
    with drop_warnings():  # of the names that smp's next version will have, and of tensors on the meta device
        return get_encoder(part.name, depth=part.depth, weights=weights)


def _set_channels_and_stride(network: Any, part: SmpEncoder, channels: int, *, weighted: bool) -> Any:
    """Return the same network for `channels` channels, dilated where the part asks: as smp adapts its own.

    Where it is `weighted`, the first layer keeps its weights, over and over for more channels. Raises ValueError
    where smp makes no dilated network of it.
    """
    network.set_in_channels(channels, pretrained=weighted)
    if part.output_stride not in (None, 32):
        network.make_dilated(part.output_stride)
    return network


def _create_random_smp(part: SmpEncoder, channels: int) -> Any:
    """Create the network with random weights, also on the meta device, where smp makes a new first layer on the CPU."""
    device = get_default_device()
    with CPULinspace() if device == "meta" else nullcontext():
        network = _create_smp_encoder(part)
    return _set_channels_and_stride(network, part, channels, weighted=False).to(device)


def _list_smp_levels(part: SmpEncoder, network: Any) -> tuple[int, ...]:
    """Return the levels that the part gives: not the first unless it says so, and none without channels."""
    first = 0 if part.first_level else 1
    return tuple(index for index, width in enumerate(network.out_channels) if index >= first and width)


SMP_DEFAULT_SIZE = (224, 224)
"""An image size that every encoder takes: a multiple of 32, like what their weights were trained on."""


def probe(part: SmpEncoder, channels: int) -> EncoderInfo | Rejection:
    """Return the info of an encoder that is fed `channels` channels.

    What its weights expect of the channels is not part of it: smp downloads that with the weights.
    """
    try:
        with use_default_device("meta"):
            network = _create_random_smp(part, channels)
    except ValueError as error:
        rejection = reject_network("cannot be dilated", f"smp says {error}", "leave output_stride out")
        return evolve(rejection, code="argument", about="output_stride")
    indices = _list_smp_levels(part, network)
    widths = tuple(network.out_channels[index] for index in indices)
    trial = ShapeProbe(TransparentWrapper(network, indices).eval(), channels, "meta", MAP, widths)
    reductions = tuple(min(2**index, part.output_stride or 32) for index in indices)
    found = find_strides_and_sizes(trial.compute_grids, SMP_DEFAULT_SIZE, reductions)
    if found is None:
        return reject_all_sizes(channels, format_error(trial.error) if trial.error else "other maps than it states", ())
    strides, sizes = found
    features = trial.build_features(strides)
    return EncoderInfo(features=features, channels=channels, sizes=sizes, arguments={"levels": indices})


@module.register(SmpEncoder)
def _(part: SmpEncoder, image: Features, *, info: EncoderInfo, pretrained: bool = True) -> nn.Module:
    """Build the encoder with random weights, or with published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    if pretrained and part.pretrained:
        network, loaded = _create_pretrained_smp(part, channels)
    else:
        network, loaded = _create_random_smp(part, channels), None
    # An EncoderInfo from the user may lack the indices of its levels.
    encoder = TransparentWrapper(network, dict(info.arguments).get("levels") or _list_smp_levels(part, network))
    encoder.loaded_weights = loaded
    return encoder


def _create_pretrained_smp(part: SmpEncoder, channels: int) -> tuple[Any, LoadedWeights]:
    """Create the network with its weights. Raises RejectionError where they cannot be loaded, or do not fill it."""
    published: Mapping[Any, Mapping[str, str]] = encoders[part.name]["pretrained_settings"]
    # smp's models take imagenet by default.
    default = "imagenet" if "imagenet" in published else next(iter(published))
    name: Any = default if part.pretrained is True else part.pretrained
    source = True if name in published else part.pretrained
    with convert_errors(lambda error: reject_pretrained(source, error, "that smp publishes for it")):
        if name in published:
            at = published[name]
            check_reachable(f"{at['repo_id']}@{at['revision']}", "model.safetensors")
            # smp loads it strictly.
            network = _create_smp_encoder(part, name)
            return _set_channels_and_stride(network, part, channels, weighted=True), LoadedWeights()
        file, prefix = get_weights_file(source)  # type: ignore[misc]
        if not Path(file).is_file():
            sets = ", ".join(sorted(published, key=lambda name: name != default))
            raise FileNotFoundError(f"there is no such file, and no set of weights of this name; the sets are {sets}")
        return _create_smp_from_file(part, file, prefix, channels)


def _create_smp_from_file(part: SmpEncoder, file: str, prefix: str | None, channels: int) -> tuple[Any, LoadedWeights]:
    """Create the network with a file's weights: those of three channels, which smp adapts, or of as many as it has."""
    state = read_file_weights(Path(file))
    failed: list[MismatchError] = []
    for weighted in (True, False) if channels != 3 else (True,):
        network = _create_smp_encoder(part)
        if not weighted:
            _set_channels_and_stride(network, part, channels, weighted=False)
        try:
            found = _load_smp_state(network, state, prefix)
        except MismatchError as error:
            failed.append(error)
            continue
        if weighted:
            _set_channels_and_stride(network, part, channels, weighted=True)
        return network, found.report(file)
    raise max(failed, key=lambda error: error.fitting)


def _load_smp_state(network: nn.Module, state: TensorState, prefix: str | None) -> Match:
    """Fill the network from a checkpoint; smp removes the tensors of a classifier from it, and renames others."""

    def convert(tensors: dict[str, Tensor]) -> TensorState:
        with record_loaded_state(network) as found:
            network.load_state_dict(tensors)
        return found[0]

    wanted = network.state_dict(keep_vars=True)
    matched = match(state, wanted, convert, prefix=prefix)
    matched.fill(wanted)
    return matched


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
        self.prefixes = tuple(f.prefix for f in features)
        self._to_maps = module(ReshapeTokensToImage(), features)

    def forward(self, features: Sequence[Tensor], *, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return one map for tokens `(b, prefix + h * w, c)` or maps `(b, c, h, w)`; `image_size` is in pixels."""
        # smp calls view on the maps.
        maps = [x.contiguous() for x in self._to_maps(features, image_size=image_size)]
        prefixes = [x[:, :prefix] if prefix else None for x, prefix in zip(features, self.prefixes, strict=True)]
        return (self._smp_decoder(maps, prefixes),)


_DECODERS: Mapping[str, Callable[..., nn.Module]] = {
    "Unet": decoders.unet.decoder.UnetDecoder,
    "UnetPlusPlus": decoders.unetplusplus.decoder.UnetPlusPlusDecoder,
    "MAnet": decoders.manet.decoder.MAnetDecoder,
    "Linknet": decoders.linknet.decoder.LinknetDecoder,
    "FPN": decoders.fpn.decoder.FPNDecoder,
    "PSPNet": decoders.pspnet.decoder.PSPDecoder,
    "DeepLabV3": decoders.deeplabv3.decoder.DeepLabV3Decoder,
    "DeepLabV3Plus": decoders.deeplabv3.decoder.DeepLabV3PlusDecoder,
    "PAN": decoders.pan.decoder.PANDecoder,
    "UPerNet": decoders.upernet.decoder.UPerNetDecoder,
    "Segformer": decoders.segformer.decoder.SegformerDecoder,
    "DPT": decoders.dpt.decoder.DPTDecoder,
}


@module.register(Smp)
def _(part: Smp, features: Features) -> nn.Module:
    call = build_call(part, features)
    with drop_warnings():  # smp's attention squeezes fewer than 16 channels to none, and torch warns of empty weights
        decoder = _DECODERS[part.name](**_build_decoder_arguments(call))
    if not part.name.startswith("DeepLab"):  # which smp leaves as torch initialises them
        with torch.no_grad():
            initialize_decoder(decoder)
    if part.name == "DPT":
        return SmpDPT(decoder, features)
    dropped = len(features) - len(call.features)
    return SmpDecoder(decoder, call.first, dropped, repeats=not is_map(call.features[0]))


def _build_decoder_arguments(call: Call) -> dict[str, Any]:
    """Return the decoder's arguments: those of smp's model under the decoder's names, and those that inputs decide.

    Arguments that smp's model does not have keep their names, so that smp rejects them.
    """
    parameters, channels = signature(_DECODERS[call.part.name]).parameters, list_channels(call)
    derived = {
        "encoder_channels": channels,
        "in_channels": channels[-1],
        "n_blocks": len(channels) - 1,
        "encoder_depth": len(channels) - 1,
        "add_center_block": call.arguments.get("center") is True,
        "center": call.arguments.get("center") is True,
        "encoder_out_channels": channels,
        "encoder_output_strides": [f.stride for f in call.features],
        "encoder_has_prefix_tokens": any(f.prefix for f in call.features),
    }
    arguments = {name: value for name, value in derived.items() if name in parameters}
    if "output_stride" in parameters:
        fine, last = (f.stride or 1 for f in call.maps)
        # smp enlarges the last map by 4 for an output stride of 16, and by 2 for 8.
        arguments["output_stride"] = 16 if last / fine == 4 else 8
    known = SMP_DECODER_ARGUMENTS[call.part.name]
    for name, value in call.arguments.items():
        short = name.removeprefix("decoder_").removeprefix("psp_")
        names = (name, short, f"{short}_mode", f"out_{short}") if name in known else ()
        if name not in ("first_level", "center"):
            arguments[next((one for one in names if one in parameters), name)] = value
    return arguments
