"""From the text of a config to the call of TerraTorch's factory; no name in it is imported. No torch here."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from attrs import frozen

from composer.problem import Problem, nearest
from composer.terratorch.inits import ARGS, INIT, call_of
from composer.terratorch.places import Places
from composer.terratorch.reading import Reading, key_in
from composer.terratorch.tasks import TASKS, class_in, task_refusal
from composer.text.document import document
from composer.text.findings import Findings, joined, named
from composer.text.tree import Mapping, Scalar, Tree, described

MODEL, TASK = "model", "model.class_path"
EXAMPLE = "model: {class_path: terratorch.tasks.SemanticSegmentationTask, init_args: {…}}"

_SUBCOMMANDS = ("fit", "validate", "test", "predict")


@frozen
class Config:
    """The call that a config asks for, or None where there is none in it; and what was found on the way."""

    call: dict[str, Any] | None
    places: Places
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def config_of(text: str, file: str | None) -> Config:
    """Read a config. Raises SpecError where there is no tree of keys and values in it."""
    tree, problems = document(text, file, as_pyyaml=True)
    # TerraTorch's reader takes the last value of a repeated key, and so does the document.
    repeated = [problem for problem in problems if problem.code == "repeated"]
    reading = Reading(Findings(file), Places(file), repeated)
    call = _config(tree, reading)
    faults = [problem for problem in problems if problem.code != "repeated"]
    return Config(call, reading.places, (*faults, *reading.findings.problems), tuple(reading.notes))


def _config(root: Tree, reading: Reading) -> dict[str, Any] | None:
    if not isinstance(root, Mapping):
        reading.refuse("type", f"a config is a mapping of keys (got {described(root)}).", "", root, EXAMPLE)
        return None
    dotted = reading.dotted(root, "")
    model = root.get(MODEL)
    if model is None:
        if not dotted:
            reading.refuse("missing", "a config of TerraTorch's has a model.", "", root, _instead(root))
        return None
    for key, _ in root.pairs:
        if key.value != MODEL and "." not in named(key):
            imports = key.value == "custom_modules_path"
            what = "nothing is imported from it" if imports else "no part of a model"
            reading.aside(key, named(key), f"{what}: set aside.")
    if not isinstance(model, Mapping):
        message = f"a model is a class_path with init_args (got {described(model)}); no other file is read."
        reading.refuse("type", message, MODEL, model, "put what that file holds here")
        return None
    return _model(model, key_in(root, MODEL, root), reading)


def _instead(root: Mapping) -> str:
    """What to do about a config without a model, by what it has."""
    names = [named(key) for key, _ in root.pairs]
    for name in _SUBCOMMANDS:
        if isinstance(section := root.get(name), Mapping) and section.get(MODEL) is not None:
            return f"put what stands under {name} at the top"
    if "class_path" in names:
        return "put class_path and init_args under model"
    if "model_args" in names or "backbone" in names:
        return f"put all this under {INIT if 'model_args' in names else ARGS}, and the class_path of a task beside it"
    if "encoder" in names or "nodes" in names:
        return "this looks like a spec of composer's own: python -m composer check FILE"
    close = get_close_matches(MODEL, names, n=1)
    return f"did you mean {MODEL} where {close[0]} stands?" if close else EXAMPLE


def _model(model: Mapping, at: Tree, reading: Reading) -> dict[str, Any] | None:
    reading.dotted(model, MODEL)
    for key, _ in model.pairs:
        if key.value not in ("class_path", "init_args") and "." not in named(key):
            message = f"a model has no key {named(key)!r}."
            repair = nearest(named(key), ("class_path", "init_args"))
            reading.refuse("key", message, joined(MODEL, named(key)), key, repair)
    path, init = model.get("class_path"), model.get("init_args")
    missing = [name for name, value in (("class_path", path), ("init_args", init)) if value is None]
    if missing:
        reading.refuse("missing", f"a model has {' and '.join(missing)}.", MODEL, at, EXAMPLE)
    if path is None or init is None:
        return None
    task = _task(path, key_in(model, "class_path", model), reading)
    if not isinstance(init, Mapping):
        message = f"init_args is a mapping of arguments (got {described(init)})."
        reading.refuse("type", message, INIT, init)
        return None
    return None if task is None else call_of(task, init, key_in(model, "init_args", model), reading)


def _task(path: Tree, key: Tree, reading: Reading) -> str | None:
    if not isinstance(path, Scalar) or not isinstance(path.value, str):
        reading.refuse("type", f"class_path is the name of a task (got {described(path)}).", TASK, path)
        return None
    task = class_in(path.value, TASKS)
    if task is None:
        message, repair = task_refusal(path.value)
        reading.refuse("unknown", message, TASK, path, repair)
        return None
    reading.places.mark("task", TASK, key)
    return task
