"""Modules of encoders: a network as it is, whose levels are the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import torch
from attrs import evolve
from torch import Tensor, nn

from composer.bands import RGB
from composer.errors import format_error
from composer.layouts import Features
from composer.modules.base import SeededGenerator, module, use_default_device
from composer.parts import Custom, EncoderInfo, ProbedEncoder
from composer.parts.encoders import get_weights_file
from composer.parts.rules import Rejection, RejectionError, compute_implied_sizes
from composer.sizes import Conflict, intersect
from composer.tensors.matching import LoadedWeights


class TransparentWrapper(nn.Module):
    """Wrap a network in a module that returns its levels, with its own parameters, buffers and children.

    The network is not a child of the wrapper, so the state dict has the names that published checkpoints use.
    `indices` select levels; by default all are returned.
    """

    loaded_weights: LoadedWeights | None = None
    indices: Sequence[int] | None
    _network: tuple[Any]

    def __init__(self, network: Any, indices: Sequence[int] | None = None) -> None:
        super().__init__()
        vars(self).update(get_shared_module_state(network))
        self.indices = indices

    def forward(self, *images: Any, **extras: Any) -> tuple[Tensor, ...]:
        """Return each level, as the network gives it."""
        levels = self.network(*images, **extras)
        return tuple(levels if self.indices is None else (levels[index] for index in self.indices))

    @property
    def network(self) -> Any:
        """The wrapped module."""
        return self._network[0]

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002, the signature is torch's
        """Set the mode of this module, its children, and the wrapped module itself."""
        super().train(mode)
        self.network.training = mode
        return self


def get_shared_module_state(network: Any) -> dict[str, Any]:
    """Return the attributes that a `TransparentWrapper` of `network` shares with it."""
    return {
        # A tuple, which torch does not search for modules.
        "_network": (network,),
        "_parameters": network._parameters,
        "_buffers": network._buffers,
        "_modules": network._modules,
        "_non_persistent_buffers_set": network._non_persistent_buffers_set,
    }


def build_for_bands(part: ProbedEncoder, image: Features, *, info: EncoderInfo, pretrained: bool = True) -> nn.Module:
    """Build a pretrained encoder whose image has named bands: the kernels of its first layer are matched by name.

    The weights are loaded into a network for the bands of the weights. A file that does not fit it, but the network
    for the image, is loaded unchanged. Raises RejectionError where neither fits.
    """
    known, bands, build = part.weights_bands, info.bands, partial[nn.Module](module, part, info=info)
    original = (evolve(image[0], channels=len(known)),)
    try:
        network = source = build(original, pretrained=pretrained)
    except RejectionError:
        if len(bands) == len(known) or get_weights_file(part.pretrained) is None:  # type: ignore[attr-defined]
            raise
        return build(image, pretrained=pretrained)
    if len(bands) != len(known):
        network = other = build(image, pretrained=False)
    else:
        with use_default_device("meta"):
            other = build((evolve(image[0], channels=len(known) + 1),), pretrained=False)
    # The first layer, or each of its branches, is what changes its shape with the channels.
    state, shapes = source.state_dict(), {name: x.shape for name, x in other.state_dict().items()}
    stems = {name: match_kernels(x, known, bands) for name, x in state.items() if x.shape != shapes[name]}
    if not stems or any(x.dim() < 4 for x in stems.values()):
        rule, fix = "has no convolution whose kernels could be matched with bands", "leave bands out of the input"
        raise RejectionError(Rejection(code="weights", kind="policy", expected=rule, got=", ".join(bands), fix=fix))
    network.load_state_dict({**state, **stems})
    kernels = tuple(band if band in known else "mean" for band in bands)
    loaded: LoadedWeights = getattr(source, "loaded_weights", None) or LoadedWeights()
    network.loaded_weights = evolve(loaded, kernels=kernels)  # type: ignore[assignment]
    return network


def match_kernels(kernels: Tensor, known: Sequence[str], bands: Sequence[str]) -> Tensor:
    """Return the kernels `(out, n * len(bands), …)` for `bands`, from those `(out, n * len(known), …)` of `known`.

    A band without a kernel gets the mean of all. As in timm's `adapt_input_conv`, they are multiplied by len(known) /
    len(bands), so that a grey image has the same output as with the original kernels. `n` counts the pixels of a layer
    that takes several at once.
    """
    x = kernels.unflatten(1, (-1, len(known)))  # type: ignore[no-untyped-call]
    chosen = [x[:, :, known.index(band)] if band in known else x.mean(2) for band in bands]
    return torch.stack(chosen, 2).flatten(1, 2) * (len(known) / len(bands))


def has_repeated_kernels(network: nn.Module, channels: int) -> bool:
    """Return whether a layer for `channels` channels has the kernels of RGB over and over, as libraries adapt them."""
    layers = (x for x in network.parameters() if x.dim() > 1 and x.shape[1] == channels > len(RGB) and x.any())
    return any(torch.equal(x[:, len(RGB) :], x[:, : -len(RGB)]) for x in layers)


@module.register(Custom)
def _(part: Custom, _: Features) -> nn.Module:
    """Return the module itself. Raises RejectionError where its outputs are not as declared."""
    network = part.module
    is_module = isinstance(network, nn.Module)
    mismatch = find_mismatch(network, part.info) if is_module else ("must hold a torch.nn.Module", repr(network))
    if mismatch is not None:
        expected, got = mismatch
        fix = "correct features= or sizes="
        raise RejectionError(Rejection(code="features", kind="wrong_output", expected=expected, got=got, fix=fix))
    return part.module  # type: ignore[no-any-return]


def find_mismatch(network: nn.Module, info: EncoderInfo) -> tuple[str, str] | None:
    """Run an encoder on a small image, in eval mode and without gradients; it is left as it was.

    Return None where it gives the features of `info`, else what it must do and what it does instead.
    """
    sizes = intersect([("sizes", info.sizes), *(("features", compute_implied_sizes(f)) for f in info.features)])
    if isinstance(sizes, Conflict):
        return f"declares features and sizes that exclude each other: {sizes.first_sizes}", str(sizes.second_sizes)
    least = sizes.compute_padded_size(1, 1)
    assert least is not None
    # Not square if possible, to tell rows from columns.
    height, width = sizes.compute_padded_size(least[0], 2 * least[1]) or least
    size = f"an image of {height} × {width}"
    expected = _format_shapes(feature.shape(1, height, width) for feature in info.features)
    try:
        shapes = _format_shapes(tuple(x.shape) for x in _run_on_zeros(network, info, height, width))
    except Exception as error:  # whatever a network raises
        return f"must take {size}", format_error(error)
    return None if shapes == expected else (f"must give {expected} for {size}", shapes)


def _run_on_zeros(network: nn.Module, info: EncoderInfo, height: int, width: int) -> Sequence[Tensor]:
    like = next(network.parameters(), torch.empty(0))
    shape = (*(() if info.frames is None else (info.frames,)), height, width)
    images = {name: like.new_zeros(1, channels, *shape) for name, channels in info.inputs}
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        out = network(images or like.new_zeros(1, info.channels, *shape))
    return [out] if isinstance(out, Tensor) else list(out)


def _format_shapes(shapes: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(" × ".join(map(str, shape)) for shape in shapes)


@contextmanager
def use_eval_mode(network: nn.Module) -> Iterator[None]:
    """Use eval mode in a context, and restore the mode of every module afterwards."""
    modes = [(child, child.training) for child in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
