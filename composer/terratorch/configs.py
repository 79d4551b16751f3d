"""A config of TerraTorch as a graph, each argument with its line and column. Nothing in it is run. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator

from attrs import evolve

from composer.facts import describe as describe_by_probe
from composer.inference import infer
from composer.problem import Place, Problem, SpecError
from composer.terratorch.backbones import Describe
from composer.terratorch.odd_sizes import find_padding_note
from composer.terratorch.retelling import FactoryCall
from composer.terratorch.sections import ParsedConfig, parse_config
from composer.terratorch.translating import Translation, translate
from composer.text import write
from composer.text.characters import read_text


def read_config(path: str | os.PathLike[str], *, describe: Describe = describe_by_probe) -> Translation:
    """The model of a TerraTorch config as a graph, and notes on all that the graph does not hold.

    The config is what `terratorch fit --config` takes: a task under `model`, with its `init_args`. The graph can be
    inferred and has a text. A note names a key that was set aside (trainer, data, loss, …), or says what TerraTorch
    does otherwise than the config says. Raises SpecError with all problems at once.
    """
    name = os.fspath(path)
    return reads_config(read_text(name), name=name, describe=describe)


def reads_config(text: str, *, name: str | None = None, describe: Describe = describe_by_probe) -> Translation:
    """The same for a text. `name` is what its problems call the file."""
    config = parse_config(text, name)
    translation = _translate_config(config, describe)
    assert config.call is not None
    call = FactoryCall(config.call, translation.graph)
    try:
        typed = infer(translation.graph, describe)
        write(translation.graph)
    except SpecError as error:
        placed = (config.places.locate_problem(call.map_problem(problem)) for problem in error.problems)
        raise SpecError(sorted(placed, key=_get_position)) from None
    padded = find_padding_note(typed)
    found = (
        *translation.notes,
        *_iter_renamed_heads(translation),
        *([] if padded is None else [call.map_problem(padded)]),
    )
    notes = [config.places.locate_problem(note) for note in found]
    return evolve(translation, notes=sorted([*config.notes, *notes], key=_get_position))


def _translate_config(config: ParsedConfig, describe: Describe) -> Translation:
    """The call as a graph. What was found wrong with the config, and what is wrong with the call, is raised as one."""
    found = list(config.problems)
    if config.call is not None:
        try:
            translation = translate(config.call, describe)
        except SpecError as error:
            taken = {(problem.place.line, problem.place.column) for problem in found}
            placed = (config.places.locate_problem(problem) for problem in error.problems)
            found += [problem for problem in placed if _get_position(problem) not in taken]
    if found:
        raise SpecError(sorted(found, key=_get_position))
    return translation


def _iter_renamed_heads(translation: Translation) -> Iterator[Problem]:
    """What a spec calls the auxiliary heads whose names it cannot hold."""
    labels = [label for label, _ in translation.graph.auxiliary]
    for label, name in translation.branches.items():
        message = f"names in a spec are letters, digits and _: {name} is {label} there."
        place = Place(f"aux_decoders[{labels.index(label)}].name")
        yield Problem(code="aside", message=message, place=place)


def _get_position(problem: Problem) -> tuple[int, int]:
    return problem.place.line or 0, problem.place.column or 0
