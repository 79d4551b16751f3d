"""infer(): what flows on every edge of a graph, or all that is wrong with it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.contracts import Rejection
from composer.graph import Graph
from composer.parts import EncoderInfo
from composer.typed import TypedGraph
from composer.walking import Describe, run_inference


def infer(graph: Graph, describe: Describe | Mapping[Any, EncoderInfo] | None = None) -> TypedGraph:
    """The features on every edge of `graph`, and the image sizes that it takes.

    `describe` is asked for facts about encoders: a function, or a mapping from encoders to facts. The default knows
    timm's networks, from a cache on disk that a probe on the meta device fills. Pure but for that.

    Raises SpecError with all the problems at once.
    """
    return run_inference(graph, resolve_describe(describe)).typed()


def resolve_describe(describe: Describe | Mapping[Any, EncoderInfo] | None) -> Describe:
    """What knows facts about encoders, as a function: the default, a function, or a mapping."""
    if describe is None:
        from composer.facts import describe as describe_by_probe

        return describe_by_probe
    if isinstance(describe, Mapping):
        known = describe
        return lambda part, _: (
            known.get(part)
            or Rejection(
                code="facts", kind="policy", expected="is not among the facts that were handed in", got="no facts"
            )
        )
    return describe
