"""A config of TerraTorch as a graph, each argument with its line and column. Nothing in it is run. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterable

from composer.facts import describe as describe_by_probe
from composer.graph import Graph
from composer.inference import infer
from composer.problem import Problem, SpecError
from composer.terratorch.backbones import Describe
from composer.terratorch.sections import Config, config_of
from composer.terratorch.translating import Translation, translate
from composer.text import write
from composer.text.characters import text_in


def read_config(path: str | os.PathLike[str], *, describe: Describe = describe_by_probe) -> Translation:
    """The model of a TerraTorch config as a graph, and notes on all that the graph does not hold.

    The config is what `terratorch fit --config` takes: a task under `model`, with its `init_args`. The graph can be
    inferred and has a text. A note names a key that was set aside (trainer, data, loss, …), or says what TerraTorch
    does otherwise than the config says. Raises SpecError with all problems at once.
    """
    name = os.fspath(path)
    return reads_config(text_in(name), name=name, describe=describe)


def reads_config(text: str, *, name: str | None = None, describe: Describe = describe_by_probe) -> Translation:
    """The same for a text. `name` is what its problems call the file."""
    config = config_of(text, name)
    translation = _translated(config, describe)
    try:
        infer(translation.graph, describe)
        write(translation.graph)
    except SpecError as error:
        raise SpecError(_placed(error.problems, config, translation.graph)) from None
    notes = [config.places.of_argument(note) for note in translation.notes]
    return Translation(translation.graph, sorted([*config.notes, *notes], key=_position))


def _translated(config: Config, describe: Describe) -> Translation:
    """The call as a graph. What was found wrong with the config, and what is wrong with the call, is raised as one."""
    found = list(config.problems)
    if config.call is not None:
        try:
            translation = translate(config.call, describe)
        except SpecError as error:
            taken = {(problem.place.line, problem.place.column) for problem in found}
            placed = (config.places.of_argument(problem) for problem in error.problems)
            found += [problem for problem in placed if _position(problem) not in taken]
    if found:
        raise SpecError(sorted(found, key=_position))
    return translation


def _placed(problems: Iterable[Problem], config: Config, graph: Graph) -> list[Problem]:
    """Problems of the graph, at the lines of the config that the nodes come from."""
    assert config.call is not None
    necks = sum(node.name.startswith("necks[") for node in graph.nodes)
    pooled = max(necks - len(config.call.get("necks") or ()), 0)
    heads = config.call.get("aux_decoders") or ()
    auxiliary = {str(entry["name"]): position for position, entry in enumerate(heads)}
    placed = (config.places.of_node(problem, pooled, auxiliary) for problem in problems)
    return sorted(placed, key=_position)


def _position(problem: Problem) -> tuple[int, int]:
    return problem.place.line or 0, problem.place.column or 0
