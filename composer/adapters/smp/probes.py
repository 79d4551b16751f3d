"""What smp's encoders give, found on the meta device: without weights and without a download."""

from __future__ import annotations

from composer.adapters.probing import strides_and_sizes
from composer.adapters.rates import RatesOnCPU
from composer.adapters.smp.encoders import SmpLevels, adapted, created, levels
from composer.adapters.trial import Trial
from composer.contracts.rules import Refusal
from composer.feature import MAP, Feature, counted
from composer.modules.devices import on
from composer.parts import Facts, SmpEncoder

USUAL = (224, 224)
"""An image size that every encoder takes: a multiple of 32, like what their weights were trained on."""


def probe(part: SmpEncoder, channels: int) -> Facts | Refusal:
    """The facts of an encoder that is fed `channels` channels.

    What its weights expect of the channels is not among them: smp downloads that with the weights.
    """
    with on("meta"), RatesOnCPU():
        network = created(part)
    try:
        # smp makes the new first layer on the CPU, whatever the device.
        network = adapted(network, part, channels, weighted=False).to("meta")
    except ValueError as error:
        return _undilated(error)
    indices = levels(part, network)
    encoder = SmpLevels(network, indices).eval()
    widths = tuple(network.out_channels[index] for index in indices)
    trial = Trial(encoder, channels, "meta", MAP, widths)
    found = strides_and_sizes(trial.grids_at, USUAL, tuple(min(2**i, part.output_stride or 32) for i in indices))
    if found is None:
        return _no_size(channels, trial.error)
    strides, sizes = found
    features = [Feature(channels=c, stride=s) for c, s in zip(widths, strides, strict=True)]
    return Facts(features=features, channels=channels, sizes=sizes, arguments={"levels": indices})


def _undilated(error: Exception) -> Refusal:
    return Refusal(
        code="argument",
        kind="impossible",
        expected="cannot be dilated",
        got=f"smp says {' '.join(str(error).split())[:300]}",
        repair="leave output_stride out",
        about="output_stride",
    )


def _no_size(channels: int, error: Exception | None) -> Refusal:
    return Refusal(
        code="network",
        kind="impossible",
        expected=f"runs at no image size tried with {counted(channels, 'input channel')}",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}" if error else "other maps than it states",
        repair="choose another network",
    )
