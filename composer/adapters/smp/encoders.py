"""Modules of smp's encoders, and what they emit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch import Tensor, nn

from composer.adapters.probing import CPULinspace, ShapeProbe, find_strides_and_sizes
from composer.adapters.smp.parts import SmpEncoder
from composer.adapters.weights import check_reachable, read_file_weights, record_loaded_state, reject_weights
from composer.isolation import drop_warnings
from composer.layouts import MAP, Feature, Features, format_count
from composer.modules.base import get_default_device, module, use_default_device
from composer.modules.encoders import TransparentWrapper
from composer.parts import EncoderInfo
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, RejectionError
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
        repair="leave output_stride out",
        about="output_stride",
    )


def _reject_smp_sizes(channels: int, error: Exception | None) -> Rejection:
    return Rejection(
        code="network",
        kind="raises",
        expected=f"runs at no image size tried with {format_count(channels, 'input channel')}",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}" if error else "other maps than it states",
        repair="choose another network",
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
    repair = (
        "check the connection, give the path of a weights file, or set pretrained: false"
        if published
        else f"give the path of a weights file that fits this encoder, or one of {known}"
    )
    return reject_weights(f"cannot load the weights {named}", error, repair, part.pretrained)
