"""smp's encoders with weights: random ones, a published set, or those of a file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from composer.adapters.archives import weights_in
from composer.adapters.capturing import capture_state
from composer.adapters.huggingface import check_reachable
from composer.adapters.rates import RatesOnCPU
from composer.adapters.smp.encoders import SmpLevels, adapted, created, levels
from composer.adapters.unloadable import refuse_weights
from composer.contracts.rules import Refusal, Refused
from composer.feature import Features
from composer.loaded import LoadedWeights
from composer.modules.devices import current
from composer.modules.dispatch import module
from composer.parts import Facts, SmpEncoder
from composer.parts.weights import get_weights_file
from composer.tensors.matching import Match, MismatchError, State, match


@module.register(SmpEncoder)
def _(part: SmpEncoder, image: Features, *, facts: Facts, pretrained: bool = True) -> nn.Module:
    """The encoder with random weights, or with published ones where the part asks and `pretrained` allows."""
    channels = image[0].channels
    loaded = None
    if pretrained and part.pretrained:
        try:
            network, loaded = _with_weights(part, channels)
        except (Refused, MemoryError):
            raise
        except Exception as error:
            raise Refused(_no_weights(part, error)) from error
    else:
        network = _unweighted(part, channels)
    # Facts that were handed in need not say which levels they are of.
    encoder = SmpLevels(network, dict(facts.arguments).get("levels") or levels(part, network))
    encoder.loaded_weights = loaded
    return encoder


def _unweighted(part: SmpEncoder, channels: int) -> Any:
    """The network with random weights, also on the meta device, where smp makes a new first layer on the CPU."""
    with RatesOnCPU() if current() == "meta" else nullcontext():
        network = created(part)
    return adapted(network, part, channels, weighted=False).to(current())


def sets(name: str) -> Mapping[str, Mapping[str, str]]:
    """The sets of weights that smp publishes for an encoder, the one its models take by default first."""
    published = encoders[name]["pretrained_settings"]
    return dict(sorted(published.items(), key=lambda item: item[0] != "imagenet"))


def _with_weights(part: SmpEncoder, channels: int) -> tuple[Any, LoadedWeights]:
    """The network with its weights. Raises where they cannot be had, or do not fill the network."""
    published = sets(part.name)
    name = next(iter(published)) if part.pretrained is True else part.pretrained
    if isinstance(name, str) and name in published:
        at = published[name]
        check_reachable(f"{at['repo_id']}@{at['revision']}", "model.safetensors")
        # smp loads it strictly.
        return adapted(created(part, name), part, channels, weighted=True), LoadedWeights()
    source = get_weights_file(part.pretrained)
    assert source is not None
    return _from_file(part, *source, channels)


def _from_file(part: SmpEncoder, file: str, prefix: str | None, channels: int) -> tuple[Any, LoadedWeights]:
    """The network with the weights of a file: those of three channels, which smp adapts, or of as many as there are."""
    if not Path(file).is_file():
        raise FileNotFoundError("there is no such file, and no set of weights of this name")
    state = weights_in(Path(file))
    failed: list[MismatchError] = []
    for weighted in (True, False) if channels != 3 else (True,):
        network = created(part) if weighted else adapted(created(part), part, channels, weighted=False)
        try:
            found = _filled(network, state, prefix)
        except MismatchError as error:
            failed.append(error)
            continue
        network = adapted(network, part, channels, weighted=True) if weighted else network
        return network, found.report(file)
    raise max(failed, key=lambda error: error.fitting)


def _filled(network: nn.Module, state: State, prefix: str | None) -> Match:
    """Fill the network, and return what with. smp takes out of a checkpoint what is a classifier's, and renames."""

    def convert(given: dict[str, Tensor]) -> State:
        with capture_state(network) as found:
            network.load_state_dict(given)
        return found[0]

    wanted = network.state_dict(keep_vars=True)
    matched = match(state, wanted, convert, prefix=prefix)
    matched.fill(wanted)
    return matched


def _no_weights(part: SmpEncoder, error: Exception) -> Refusal:
    known = ", ".join(sets(part.name))
    source = get_weights_file(part.pretrained)
    named = "that smp publishes for it" if source is None else source[0]
    published = source is None or part.pretrained in sets(part.name)
    repair = (
        "check the connection, give the path of a weights file, or set pretrained: false"
        if published
        else f"give the path of a weights file that fits this encoder, or one of {known}"
    )
    return refuse_weights(f"cannot load the weights {named}", error, repair, part.pretrained)
