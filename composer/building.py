"""build(): from a typed graph to a torch module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import Any, Literal, get_args

from torch import nn

from composer.budget import Weight, no_memory, too_heavy, weighed
from composer.contracts.rules import Refusal, Refused, without_frames
from composer.feature import Features
from composer.graph import Graph, Node, Shared
from composer.inference import infer
from composer.libraries import loaded
from composer.limits import Limits
from composer.memory import free_memory
from composer.model import Model
from composer.modules import module
from composer.modules.devices import on
from composer.modules.generators import OwnGenerator
from composer.modules.growth import TooMuchError, held_to
from composer.parts import Custom, Facts, Part, Probed
from composer.problem import SpecError
from composer.refused import problem_of
from composer.typed import Typed
from composer.verifying import hold_to_facts
from composer.walking import Describe

Device = Literal["cpu", "meta"]


def build(
    graph: Graph | Typed,
    *,
    seed: int = 0,
    pretrained: bool = True,
    verify: bool = False,
    device: Device = "cpu",
    describe: Describe | Mapping[Any, Facts] | None = None,
    limits: Limits | None = None,
) -> Model:
    """A graph as a torch module, on the CPU and in train mode, as torch makes them.

    Equal graphs and equal seeds give bit-equal weights, whatever other threads draw meanwhile: a build draws from a
    generator of its own, and torch's global one is neither seeded nor drawn from, except by a constructor that does so
    by itself (`torch.manual_seed`). Builds may run in threads, inside of each other and after a fork. `pretrained`
    false leaves the weights random that a part would load. `verify` runs each encoder of another library once over one
    small image, and holds it to its facts. `device="meta"` makes a model without weights, which takes no memory and
    gives shapes alone.

    With `limits` all is counted first, on the meta device, so that a model of more is refused before there is one. A
    model for which there is not memory enough is refused too: it is counted as soon as half a gigabyte of it is
    there.

    Raises ValueError for a `seed` that is not from 0 to 2**63 - 1 and for another `device`, TypeError for what is no
    graph and for what are no `limits`. Raises SpecError where the graph cannot be, where it exceeds the limits or the
    memory, where published weights cannot be had, and where a `Custom` module does not give what it declares, or with
    `verify` a network what its facts say.
    """
    typed = graph if isinstance(graph, Typed) else infer(graph, describe)
    told = pretrained and device == "cpu"
    modules = modules_of(typed, seed=seed, pretrained=told, device=device, limits=limits)
    if verify:
        hold_to_facts(typed, modules)
    return Model(typed, modules)


def modules_of(
    typed: Typed, *, seed: int = 0, pretrained: bool = True, device: Device = "cpu", limits: Limits | None = None
) -> dict[str, nn.Module]:
    """The modules of a typed graph, by node: what `build` hangs into a `Model`, for a class of one's own to hold."""
    _check_options(seed, device, limits)
    # First of all, so that what an import draws at random is not drawn from the seed.
    _load_adapters(typed)
    if limits is not None:
        _hold(typed, _counted(typed), limits)
    free = free_memory()
    if limits is None and device == "cpu" and any(getattr(node.part, "options", ()) for node in typed.order):
        # Constructors reckon with what they are told, in memory of their own, before they make a tensor of it.
        with _memory_problems(typed, typed.order[0], free):
            _fit(typed, free)
    with OwnGenerator(index(seed)), on(device), held_to(free, lambda: _fit(typed, free)):
        made = {}
        for node in _owners(typed):
            with _memory_problems(typed, node, free):
                made[node.name] = _module(typed, node, pretrained=pretrained)
    if limits is not None:
        # Once more, for what no meta device could count, and for weights that are not those that were counted.
        _hold(typed, weighed(made), limits)
    return made


def _check_options(seed: object, device: object, limits: object) -> None:
    if not _is_seed(seed):
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1 (got {seed!r})")
    if device not in get_args(Device):
        raise ValueError(f"device must be 'cpu' or 'meta' (got {device!r}); a model is moved to others: model.to(…)")
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be composer.Limits (got {limits!r})")


def _is_seed(value: Any) -> bool:
    """Whether it is a whole number that torch takes, also one of numpy's."""
    try:
        return not isinstance(value, bool) and 0 <= index(value) < 2**63
    except TypeError:
        return False


def _owners(typed: Typed) -> list[Node]:
    """The nodes that have a module of their own."""
    return [node for node in typed.order if not isinstance(node.part, Shared)]


def _hold(typed: Typed, weights: Mapping[str, Weight], limits: Limits) -> None:
    problems = too_heavy(typed, weights, limits)
    if problems:
        raise SpecError(problems)


def _fit(typed: Typed, free: int | None) -> None:
    """Raise TooMuchError where the whole of a model, of which a part is there, comes to more than is free."""
    if free is not None and sum(weight.bytes for weight in _counted(typed).values()) > free:
        raise TooMuchError


def _counted(typed: Typed) -> dict[str, Weight]:
    """What the nodes will weigh, as far as the meta device can make them; it takes no memory and draws no numbers."""
    made = {}
    with OwnGenerator(), on("meta"):
        for node in _owners(typed):
            try:
                # A module of one's own is there already.
                made[node.name] = (
                    node.part.module if isinstance(node.part, Custom) else _module(typed, node, pretrained=False)
                )
            except Exception:  # noqa: S112, values that steer a constructor, which the meta device has not
                continue
    return weighed({name: held for name, held in made.items() if isinstance(held, nn.Module)})


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


@contextmanager
def _memory_problems(typed: Typed, node: Node, free: int | None) -> Iterator[None]:
    """Within it, a lack of memory while the module of `node` is made is a SpecError, at the node that has most."""
    try:
        yield
    except Exception as error:
        if not _is_about_memory(error):
            raise
        raise SpecError([no_memory(typed, _counted(typed), free, node.name)]) from error


def _is_about_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
