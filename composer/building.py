"""build(): from a typed graph to a torch module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from threading import Lock
from typing import Any, Literal

import torch
from torch import nn

from composer.contracts.rules import Refusal, Refused, without_frames
from composer.feature import Features
from composer.graph import Graph, Node, Shared
from composer.inference import infer
from composer.libraries import loaded
from composer.model import Model
from composer.modules import module
from composer.modules.devices import on
from composer.parts import Facts, Part, Probed
from composer.problem import SpecError
from composer.typed import Typed
from composer.verifying import hold_to_facts
from composer.walking import Describe, problem_of

Device = Literal["cpu", "meta"]


def build(
    graph: Graph | Typed,
    *,
    seed: int = 0,
    pretrained: bool = True,
    verify: bool = False,
    device: Device = "cpu",
    describe: Describe | Mapping[Any, Facts] | None = None,
) -> Model:
    """A graph as a torch module, on the CPU and in train mode, as torch makes them.

    Equal graphs and equal seeds give bit-equal weights; torch's own random state is left as it was. `pretrained`
    false leaves the weights random that a part would load. `verify` runs each encoder of another library once over one
    small image, and holds it to its facts. `device="meta"` makes a model without weights, which takes no memory and
    gives shapes alone. Raises SpecError where the graph cannot be, where published weights cannot be had, and where a
    `Custom` module does not give what it declares, or with `verify` a network what its facts say.
    """
    typed = graph if isinstance(graph, Typed) else infer(graph, describe)
    modules = modules_of(typed, seed=seed, pretrained=pretrained and device == "cpu", device=device)
    if verify:
        hold_to_facts(typed, modules)
    return Model(typed, modules)


def modules_of(typed: Typed, *, seed: int = 0, pretrained: bool = True, device: Device = "cpu") -> dict[str, nn.Module]:
    """The modules of a typed graph, by node: what `build` hangs into a `Model`, for a class of one's own to hold."""
    with _GENERATOR:
        # First of all, so that what an import draws at random is not drawn from the seed.
        _load_adapters(typed)
    with _GENERATOR, torch.random.fork_rng(devices=[]), on(device):
        # Not torch.manual_seed, which would seed the other devices too.
        torch.default_generator.manual_seed(seed)
        return {
            node.name: _module(typed, node, pretrained=pretrained)
            for node in typed.order
            if not isinstance(node.part, Shared)
        }


def _load_adapters(typed: Typed) -> None:
    """Import what the foreign parts need. Raises SpecError for all that cannot be imported."""
    problems = []
    for node in typed.order:
        part = node.part
        if isinstance(part, Shared) or part.source is None:
            continue
        refusal = loaded(part.source)
        if refusal is not None:
            problems.append(problem_of(typed.graph, node, part, refusal, typed.features))
    if problems:
        raise SpecError(problems)


_GENERATOR = Lock()
"""Held while torch's generator is seeded and drawn from: it is one for all threads."""


def _module(typed: Typed, node: Node, *, pretrained: bool) -> nn.Module:
    """The module of one node, made for the features that flow into it."""
    part = node.part
    assert not isinstance(part, Shared)
    inputs = [_seen(typed, node, source) for source in node.positional]
    named: dict[str, Any] = {name: _seen(typed, node, source) for name, source in node.named}
    if module.dispatch(type(part)) is module.dispatch(object):
        raise SpecError([problem_of(typed.graph, node, part, _no_module(part), typed.features)])
    if isinstance(part, Probed):
        named |= {"facts": typed.facts[node.name], "pretrained": pretrained}
    try:
        built: nn.Module = module(part, *inputs, **named)
        return built
    except Refused as refused:
        raise SpecError([problem_of(typed.graph, node, part, refused.refusal, typed.features)]) from refused
    except Exception as error:
        if _is_about_memory(error):
            raise SpecError([problem_of(typed.graph, node, part, _no_memory(error), typed.features)]) from error
        error.add_note(f"while building {node.name}")
        raise


def _seen(typed: Typed, node: Node, source: str) -> Features:
    """What a node's module is fed from a source: one frame at a time, where it runs on each."""
    features = typed.features[source]
    return tuple(map(without_frames, features)) if node.name in typed.per_frame else features


def _no_module(part: Part) -> Refusal:
    repair = f"register one: @composer.module.register({type(part).__name__})"
    return Refusal(
        code="part", kind="impossible", expected="has no module", got="a class not registered", repair=repair
    )


def _is_about_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def _no_memory(error: Exception) -> Refusal:
    found = re.search(r"tried to allocate (\d+) bytes", str(error))
    got = f"{int(found[1]) / 1e9:.1f} GB at once" if found else "more than there is"
    return Refusal(
        code="memory",
        kind="impossible",
        expected="needs more memory than there is",
        got=got,
        repair="use fewer channels",
    )
