"""Import TerraTorch configs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from attrs import evolve, frozen

from composer.encoder_info import describe as describe_by_probe
from composer.errors import Place, Problem, SpecError, suggest
from composer.inference import infer
from composer.spec import write
from composer.spec.schema import Diagnostics, get_key_name, join_path
from composer.spec.yaml import MappingNode, ScalarNode, Tree, describe_value, parse_document, read_text
from composer.terratorch.backbones import Describe
from composer.terratorch.problems import FactoryCall, find_padding_note
from composer.terratorch.tasks import (
    INIT_ARGS_PATH,
    MODEL_ARGS_PATH,
    TASKS,
    ParseContext,
    SourceMap,
    build_call,
    explain_unsupported_task,
    find_key,
    match_class_path,
)
from composer.terratorch.translation import Translation, translate

MODEL, TASK_PATH = "model", "model.class_path"


CONFIG_EXAMPLE = "model: {class_path: terratorch.tasks.SemanticSegmentationTask, init_args: {…}}"


_SUBCOMMANDS = ("fit", "validate", "test", "predict")


@frozen
class ParsedConfig:
    """The call that a config asks for, or None where there is none in it; and what was found on the way."""

    call: dict[str, Any] | None
    places: SourceMap
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def parse_config(text: str, file: str | None) -> ParsedConfig:
    """Read a config. Raises SpecError where there is no tree of keys and values in it."""
    tree, problems = parse_document(text, file, as_pyyaml=True)
    # TerraTorch's reader takes the last value of a repeated key, and so does the document.
    repeated = [problem for problem in problems if problem.code == "repeated"]
    reading = ParseContext(Diagnostics(file), SourceMap(file), repeated)
    call = _parse_root(tree, reading)
    faults = [problem for problem in problems if problem.code != "repeated"]
    return ParsedConfig(call, reading.places, (*faults, *reading.findings.problems), tuple(reading.notes))


def _parse_root(root: Tree, reading: ParseContext) -> dict[str, Any] | None:
    if not isinstance(root, MappingNode):
        reading.add_problem(
            "type", f"a config is a mapping of keys (got {describe_value(root)}).", "", root, CONFIG_EXAMPLE
        )
        return None
    dotted = reading.reject_dotted_keys(root, "")
    model = root.get(MODEL)
    if model is None:
        if not dotted:
            reading.add_problem(
                "missing", "a config of TerraTorch's has a model.", "", root, _suggest_missing_model(root)
            )
        return None
    for key, _ in root.pairs:
        if key.value != MODEL and "." not in get_key_name(key):
            imports = key.value == "custom_modules_path"
            what = "nothing is imported from it" if imports else "no part of a model"
            reading.add_ignored_key(key, get_key_name(key), f"{what}: set aside.")
    if not isinstance(model, MappingNode):
        message = f"a model is a class_path with init_args (got {describe_value(model)}); no other file is read."
        reading.add_problem("type", message, MODEL, model, "put what that file holds here")
        return None
    return _parse_model(model, find_key(root, MODEL, root), reading)


def _suggest_missing_model(root: MappingNode) -> str:
    """What to do about a config without a model, by what it has."""
    names = [get_key_name(key) for key, _ in root.pairs]
    for name in _SUBCOMMANDS:
        if isinstance(section := root.get(name), MappingNode) and section.get(MODEL) is not None:
            return f"put what stands under {name} at the top"
    if "class_path" in names:
        return "put class_path and init_args under model"
    if "model_args" in names or "backbone" in names:
        return f"put all this under {INIT_ARGS_PATH if 'model_args' in names else MODEL_ARGS_PATH}, and the class_path of a task beside it"
    if "encoder" in names or "nodes" in names:
        return "this looks like a spec of composer's own: python -m composer check FILE"
    close = get_close_matches(MODEL, names, n=1)
    return f"did you mean {MODEL} where {close[0]} stands?" if close else CONFIG_EXAMPLE


def _parse_model(model: MappingNode, at: Tree, reading: ParseContext) -> dict[str, Any] | None:
    reading.reject_dotted_keys(model, MODEL)
    for key, _ in model.pairs:
        if key.value not in ("class_path", "init_args") and "." not in get_key_name(key):
            message = f"a model has no key {get_key_name(key)!r}."
            repair = suggest(get_key_name(key), ("class_path", "init_args"))
            reading.add_problem("key", message, join_path(MODEL, get_key_name(key)), key, repair)
    path, init = model.get("class_path"), model.get("init_args")
    missing = [name for name, value in (("class_path", path), ("init_args", init)) if value is None]
    if missing:
        reading.add_problem("missing", f"a model has {' and '.join(missing)}.", MODEL, at, CONFIG_EXAMPLE)
    if path is None or init is None:
        return None
    task = _parse_task(path, find_key(model, "class_path", model), reading)
    if not isinstance(init, MappingNode):
        message = f"init_args is a mapping of arguments (got {describe_value(init)})."
        reading.add_problem("type", message, INIT_ARGS_PATH, init)
        return None
    return None if task is None else build_call(task, init, find_key(model, "init_args", model), reading)


def _parse_task(path: Tree, key: Tree, reading: ParseContext) -> str | None:
    if not isinstance(path, ScalarNode) or not isinstance(path.value, str):
        reading.add_problem("type", f"class_path is the name of a task (got {describe_value(path)}).", TASK_PATH, path)
        return None
    task = match_class_path(path.value, TASKS)
    if task is None:
        message, repair = explain_unsupported_task(path.value)
        reading.add_problem("unknown", message, TASK_PATH, path, repair)
        return None
    reading.places.mark("task", TASK_PATH, key)
    return task


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
