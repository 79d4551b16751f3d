"""What smp's encoders give, found on the meta device: without weights and without a download."""

from __future__ import annotations

from composer.adapters.probing import find_strides_and_sizes
from composer.adapters.rates import CPULinspace
from composer.adapters.smp.encoders import SmpLevels, create_smp_encoder, list_smp_levels, set_channels_and_dilation
from composer.adapters.trial import ShapeProbe
from composer.contracts.rules import Rejection
from composer.feature import MAP, Feature, format_count
from composer.modules.devices import use_default_device
from composer.parts import EncoderInfo, SmpEncoder

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
