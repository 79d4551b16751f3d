"""smp's encoders with weights: random ones, a published set, or those of a file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from composer.adapters.archives import read_file_weights
from composer.adapters.capturing import record_loaded_state
from composer.adapters.huggingface import check_reachable
from composer.adapters.rates import CPULinspace
from composer.adapters.smp.encoders import SmpLevels, create_smp_encoder, list_smp_levels, set_channels_and_dilation
from composer.adapters.unloadable import reject_weights
from composer.contracts.rules import Rejection, RejectionError
from composer.feature import Features
from composer.loaded import LoadedWeights
from composer.modules.devices import get_default_device
from composer.modules.dispatch import module
from composer.parts import EncoderInfo, SmpEncoder
from composer.parts.weights import get_weights_file
from composer.tensors.matching import Match, MismatchError, TensorState, match


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
    # Facts that were handed in need not say which levels they are of.
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
