"""Import TerraTorch configs."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Any, TypeGuard

from attrs import evolve

from composer.encoder_info import describe as describe_by_probe
from composer.errors import Place, SpecError, suggest, truncate_problems
from composer.inference import infer
from composer.spec import write
from composer.spec.schema import get_key_name, join_path
from composer.spec.yaml import MappingNode, ScalarNode, SequenceNode, Tree, describe_value, parse_document, read_text
from composer.terratorch.backbones import Describe
from composer.terratorch.calls import Diagnostics, sort_problems
from composer.terratorch.problems import FactoryCall, find_padding_note
from composer.terratorch.tasks import (
    EMBEDDING_TASK_CLASS,
    FACTORY,
    FREEZE_ARGUMENTS,
    PRITHVI,
    PRITHVI_ARGUMENT_SOURCES,
    TASK_ARGUMENTS,
    TASKS,
    build_embedding_necks,
    convert_prithvi_arguments,
    explain_unsupported_factory,
    explain_unsupported_task,
    get_model_arguments,
    match_class_path,
)
from composer.terratorch.translation import Translation, translate

MODEL = "model"

INIT_ARGS = f"{MODEL}.init_args"

MODEL_ARGS = f"{INIT_ARGS}.model_args"

CONFIG_EXAMPLE = "model: {class_path: terratorch.tasks.SemanticSegmentationTask, init_args: {…}}"

_BOOLEANS = {
    spelling: word in ("yes", "on")
    for word in ("yes", "on", "no", "off")
    for spelling in (word, word.capitalize(), word.upper())
}
"""The booleans of YAML 1.1, which TerraTorch's reader keeps; composer's own specs are YAML 1.2."""


def read_config(path: str | os.PathLike[str], *, describe: Describe = describe_by_probe) -> Translation:
    """Return the model of a TerraTorch config as a graph, with notes on everything that the graph does not hold.

    The config is what `terratorch fit --config` takes: a task under `model`, with its `init_args`. A note names a key
    that was set aside (trainer, data, loss, …), or says where TerraTorch does otherwise than the config says. Raises
    SpecError with all problems at once.
    """
    name = os.fspath(path)
    return reads_config(read_text(name), name=name, describe=describe)


def reads_config(text: str, *, name: str | None = None, describe: Describe = describe_by_probe) -> Translation:
    """Return the model of a config as `read_config` does. `name` is the file in the places of problems."""
    report = Diagnostics(name)
    call = parse_config(text, report)
    if call is None:
        raise SpecError(truncate_problems(sort_problems(report.problems)))
    translation = translate(call, describe, report)
    mapping = FactoryCall(call, translation.graph, report)
    try:
        typed = infer(translation.graph, describe)
        write(translation.graph)
    except SpecError as error:
        raise SpecError(sort_problems([mapping.map_problem(problem) for problem in error.problems])) from None
    labels = [label for label, _ in translation.graph.auxiliary]
    for label, written in translation.branches.items():
        message = f"names in a spec are letters, digits and _: {written} is {label} there."
        report.add_note(f"aux_decoders[{labels.index(label)}].name", message, code="note")
    padding = find_padding_note(typed)
    notes = [*report.notes, *([] if padding is None else [mapping.map_problem(padding)])]
    return evolve(translation, notes=sort_problems(notes))


def parse_config(text: str, report: Diagnostics) -> dict[str, Any] | None:
    """Return the arguments that a config hands to EncoderDecoderFactory; None, with problems, where it has none.

    Raises SpecError for a text that is not YAML.
    """
    root, problems = parse_document(text, report.file, as_pyyaml=True)
    # TerraTorch's reader takes the last value of a repeated key, and so does the document.
    report.notes += [problem for problem in problems if problem.code == "key"]
    report.problems += [problem for problem in problems if problem.code != "key"]
    if not isinstance(root, MappingNode):
        message = f"a config is a mapping of keys (got {describe_value(root)})."
        report.add_problem("", message, CONFIG_EXAMPLE, "type", at=root)
        return None
    dotted = _reject_dotted_keys(root, "", report)
    model = root.get(MODEL)
    if model is None:
        if not dotted:
            message = "a config of TerraTorch's has a model."
            report.add_problem("", message, _suggest_missing_model(root), "key", at=root)
        return None
    for key, _ in root.pairs:
        if key.value != MODEL and "." not in get_key_name(key):
            reason = "nothing is imported from it" if key.value == "custom_modules_path" else "not part of a model"
            report.add_note(get_key_name(key), f"{reason}: set aside.", code="note", at=key)
    if not isinstance(model, MappingNode):
        message = f"a model is a class_path with init_args (got {describe_value(model)}); no other file is read."
        report.add_problem(MODEL, message, "put what that file holds here", "type", at=model)
        return None
    return _parse_model(model, _find_key(root, MODEL), report)


def _find_key(mapping: MappingNode, name: str, default: Tree | None = None) -> Tree:
    """Return the key of this name, which is the place of problems with its value; or else the default."""
    keys = (key for key, _ in mapping.pairs if key.value == name)
    return next(keys, default or mapping)


def _to_python(tree: Tree) -> Any:
    """Return a value as Python has it: lists, dicts, and scalars as TerraTorch's reader takes them."""
    if isinstance(tree, MappingNode):
        return {get_key_name(key): _to_python(value) for key, value in tree.pairs}
    if isinstance(tree, SequenceNode):
        return [_to_python(entry) for entry in tree.entries]
    return tree.value if tree.quoted or not isinstance(tree.value, str) else _BOOLEANS.get(tree.value, tree.value)


def _get_value(mapping: MappingNode, name: str) -> Tree | None:
    """Return the value of a key; None where it is absent or null."""
    value = mapping.get(name)
    return None if isinstance(value, ScalarNode) and value.value is None else value


def _require_mapping(value: Tree, path: str, report: Diagnostics) -> TypeGuard[MappingNode]:
    if isinstance(value, MappingNode):
        return True
    message = f"{path.rpartition('.')[2]} is a mapping of arguments (got {describe_value(value)})."
    report.add_problem(path, message, None, "type", at=value)
    return False


def _reject_dotted_keys(mapping: MappingNode, path: str, report: Diagnostics) -> bool:
    """Report keys that are joined by dots, which TerraTorch's reader takes apart; return whether there are any."""
    keys = [key for key, _ in mapping.pairs if "." in get_key_name(key)]
    for key in keys:
        name = get_key_name(key)
        names = name.split(".")
        above = [*path.split("."), *names] if path else names
        if above[0] == MODEL and above[1] not in ("class_path", "init_args"):
            # TerraTorch's reader adds `init_args` where it is left out.
            names.insert(len(names) - len(above) + 1, "init_args")
        fix = ": {".join(names) + ": …" + "}" * (len(names) - 1)
        message = "keys that are joined by dots are not taken apart."
        report.add_problem(join_path(path, name), message, fix, "key", at=key)
    return bool(keys)


def _suggest_missing_model(root: MappingNode) -> str:
    """Return what to do about a config without a model, by its keys."""
    names = [get_key_name(key) for key, _ in root.pairs]
    for name in ("fit", "validate", "test", "predict"):
        if isinstance(section := root.get(name), MappingNode) and section.get(MODEL) is not None:
            return f"put what stands under {name} at the top"
    if "class_path" in names:
        return "put class_path and init_args under model"
    if "model_args" in names or "backbone" in names:
        path = INIT_ARGS if "model_args" in names else MODEL_ARGS
        return f"put all this under {path}, and the class_path of a task beside it"
    if "encoder" in names or "nodes" in names:
        return "this looks like a spec of composer's own: python -m composer check FILE"
    close = get_close_matches(MODEL, names, n=1)
    return f"did you mean {MODEL} where {close[0]} stands?" if close else CONFIG_EXAMPLE


def _parse_model(model: MappingNode, at: Tree, report: Diagnostics) -> dict[str, Any] | None:
    _reject_dotted_keys(model, MODEL, report)
    known = ("class_path", "init_args")
    for key, _ in model.pairs:
        name = get_key_name(key)
        if name not in known and "." not in name:
            message = f"a model has no key {name!r}."
            report.add_problem(join_path(MODEL, name), message, suggest(name, known), "key", at=key)
    path, init = model.get("class_path"), model.get("init_args")
    if path is None or init is None:
        missing = " and ".join(name for name in known if model.get(name) is None)
        report.add_problem(MODEL, f"a model has {missing}.", CONFIG_EXAMPLE, "key", at=at)
        return None
    task = _parse_task(path, report)
    if not _require_mapping(init, INIT_ARGS, report) or task is None:
        return None
    report.record_place("task", f"{MODEL}.class_path", _find_key(model, "class_path"))
    return _parse_init_args(task, init, _find_key(model, "init_args"), report)


def _parse_task(path: Tree, report: Diagnostics) -> str | None:
    code, fix = "type", None
    if isinstance(path, ScalarNode) and isinstance(path.value, str):
        task = match_class_path(path.value, TASKS)
        if task is not None:
            return task
        code, (message, fix) = "part", explain_unsupported_task(path.value)
    else:
        message = f"class_path is the name of a task (got {describe_value(path)})."
    report.add_problem(f"{MODEL}.class_path", message, fix, code, at=path)
    return None


def _parse_init_args(task: str, init: MappingNode, at: Tree, report: Diagnostics) -> dict[str, Any] | None:
    """Return the call that a task makes of EncoderDecoderFactory. `at` is the key of its arguments."""
    _reject_dotted_keys(init, INIT_ARGS, report)
    for key, value in init.pairs:
        _check_init_arg(task, key, value, report)
    embedding = task == EMBEDDING_TASK_CLASS
    factory = FACTORY if embedding else _parse_factory(init, at, report)
    heads = [] if embedding else _parse_aux_heads(_get_value(init, "aux_heads"), report)
    arguments = init.get("model_args")
    if arguments is None:
        report.add_problem(MODEL_ARGS, f"{task} needs model_args.", None, "key", at=at)
        return None
    if not _require_mapping(arguments, MODEL_ARGS, report) or factory is None:
        return None
    call: dict[str, Any] | None = _parse_model_args(arguments, _find_key(init, "model_args"), report)
    if call is not None and factory == PRITHVI:
        call = _convert_prithvi_call(call, arguments, _find_key(init, "model_args"), report)
    if call is not None and embedding and not call.get("necks"):
        call = _add_embedding_necks(call, init, at, report)
    return None if call is None else {**call, "task": TASKS[task], **({"aux_decoders": heads} if heads else {})}


def _check_init_arg(task: str, key: Tree, value: Tree, report: Diagnostics) -> None:
    """Note an argument that the model does not depend on; reject one that is meant to change the model."""
    name = get_key_name(key)
    path = f"{INIT_ARGS}.{name}"
    if name in FREEZE_ARGUMENTS:
        if _to_python(value):
            fix = f'call model.freeze("{FREEZE_ARGUMENTS[name]}")'
            report.add_note(path, "freezing is not part of a spec: set aside.", fix, "note", at=key)
    elif name == MODEL:
        if _to_python(value) is None:
            return
        message, fix = f"a custom model is not imported (got {describe_value(value)}).", None
        if task == EMBEDDING_TASK_CLASS:
            # It was so before TerraTorch 1.2, whose backbones had no prefix either.
            message = f"{task} takes the backbone in model_args."
            fix = f"model_args: {{backbone: {_to_python(value)}, …}}"
        report.add_problem(path, message, fix, at=key)
    elif name in TASK_ARGUMENTS[task]:
        if name not in get_model_arguments(task):
            report.add_note(path, "not part of a model: set aside.", code="note", at=key)
    elif close := get_close_matches(name, (*get_model_arguments(task), *FREEZE_ARGUMENTS), n=1):
        report.add_problem(path, f"{task} has no argument {name!r}.", f"did you mean {close[0]}?", "key", at=key)
    elif "." not in name:
        message = f"{task} of TerraTorch 1.2.11 has no argument {name!r}: set aside."
        report.add_note(path, message, code="note", at=key)


def _parse_factory(init: MappingNode, at: Tree, report: Diagnostics) -> str | None:
    name, code, fix = _get_value(init, "model_factory"), "type", None
    if name is None:
        code, message, fix = "key", "a task needs the name of a factory.", f"model_factory: {FACTORY}"
    elif not isinstance(name, ScalarNode) or not isinstance(name.value, str):
        message = f"model_factory is the name of a factory (got {describe_value(name)})."
    elif name.value in (FACTORY, PRITHVI):
        return name.value
    else:
        code, (message, fix) = "part", explain_unsupported_factory(name.value)
    report.add_problem(f"{INIT_ARGS}.model_factory", message, fix, code, at=init.get("model_factory") or at)
    return None


def _parse_model_args(arguments: MappingNode, at: Tree, report: Diagnostics) -> dict[str, Any]:
    """Return `model_args` in Python, with the place of each argument recorded."""
    call: dict[str, Any] = _to_python(arguments)
    report.marks[""] = Place(MODEL_ARGS, report.file, at.line, at.column)
    for key, value in arguments.pairs:
        report.record_place(get_key_name(key), f"{MODEL_ARGS}.{get_key_name(key)}", key, value)
    for name, home in (("task", f"{MODEL}.class_path"), ("aux_decoders", f"{INIT_ARGS}.aux_heads")):
        if call.pop(name, None) is not None:
            message = f"the task hands {name} to the factory itself."
            report.add_problem(name, message, f"say it in {home}", "unused")
    if call.get("peft_config") is not None:
        message = "adapters are added to a built model, and are not part of a spec: set aside."
        fix = "composer.terratorch.EncoderDecoderFactory().build_model(…, peft_config=…) does both"
        report.add_note("peft_config", message, fix, "note")
    return call


def _convert_prithvi_call(
    call: dict[str, Any], arguments: MappingNode, at: Tree, report: Diagnostics
) -> dict[str, Any] | None:
    try:
        converted = convert_prithvi_arguments(call)
    except ValueError as error:
        name = str(error).split(" ")[0]
        key = _find_key(arguments, name, at)
        report.add_problem(f"{MODEL_ARGS}.{name}", f"{error}.", at=key)
        return None
    for name, sources in PRITHVI_ARGUMENT_SOURCES.items():
        source = next((source for source in sources if source in report.marks), None)
        if source is not None:
            report.marks[name] = report.marks[source]
    return converted


def _parse_aux_heads(heads: Tree | None, report: Diagnostics) -> Any:
    """Return `aux_heads` in Python, with the place of each field recorded; none where one has another class."""
    if heads is None:
        return []
    path = f"{INIT_ARGS}.aux_heads"
    report.record_place("aux_decoders", path, heads, heads)
    parsed = _to_python(heads)
    for i, entry in enumerate(heads.entries if isinstance(heads, SequenceNode) else ()):
        if isinstance(entry, MappingNode) and (name := entry.get("class_path")) is not None:
            if str(_to_python(name)).rpartition(".")[2] != "AuxiliaryHead":
                message = f"an auxiliary head is an AuxiliaryHead (got {describe_value(name)})."
                report.add_problem(f"{path}[{i}].class_path", message, None, "part", at=name)
                return []
            fields = entry.get("init_args") or entry
            report.record_place(f"aux_decoders[{i}]", f"{path}[{i}].init_args", fields, fields)
            parsed[i] = _to_python(fields)
    return parsed


def _add_embedding_necks(
    call: dict[str, Any], init: MappingNode, at: Tree, report: Diagnostics
) -> dict[str, Any] | None:
    """Return the call with the necks that EmbeddingGenerationTask adds, placed where their arguments are."""
    try:
        necks = build_embedding_necks(_to_python(init))
    except ValueError as error:
        name = str(error).split(" ")[0]
        report.add_problem(f"{INIT_ARGS}.{name}", f"{error}.", at=_find_key(init, name, at))
        return None
    message = f"{EMBEDDING_TASK_CLASS} adds necks: {', '.join(neck['name'] for neck in necks)}."
    report.add_note(INIT_ARGS, message, "model_args: {necks: […]} replaces them", "note", at=at)
    report.record_place("necks", INIT_ARGS, at)
    for argument, source in (("indices", "layers"), ("pooling", "embedding_pooling")):
        report.record_place(f"necks[0].{argument}", f"{INIT_ARGS}.{source}", _find_key(init, source, at))
    return {**call, "necks": necks}
