"""From the `init_args` of a task to the call of TerraTorch's factory that the task makes. No torch here."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from composer.terratorch.factories import (
    FACTORY,
    PRITHVI,
    PRITHVI_ARGUMENT_SOURCES,
    convert_prithvi_arguments,
    explain_unsupported_factory,
)
from composer.terratorch.reading import ParseContext, find_key, is_null, to_python
from composer.terratorch.tasks import (
    EMBEDDING_TASK_CLASS,
    FREEZE_ARGUMENTS,
    MODEL_ARGUMENTS,
    TASK_ARGUMENTS,
    TASKS,
    build_embedding_necks,
)
from composer.text.findings import get_key_name
from composer.text.tree import MappingNode, ScalarNode, SequenceNode, Tree, describe_value

INIT_ARGS_PATH = "model.init_args"
MODEL_ARGS_PATH = f"{INIT_ARGS_PATH}.model_args"

_TASK_SET_ARGUMENTS = {"task": "model.class_path", "aux_decoders": f"{INIT_ARGS_PATH}.aux_heads"}
"""Arguments that the task hands to the factory itself, and where a config says them."""


def build_call(task: str, init: MappingNode, at: Tree, reading: ParseContext) -> dict[str, Any] | None:
    """The call that a task makes of EncoderDecoderFactory; None where there is none. `at` is the key of `init`."""
    reading.reject_dotted_keys(init, INIT_ARGS_PATH)
    _check_init_args(task, init, reading)
    factory = FACTORY if task == EMBEDDING_TASK_CLASS else _parse_factory(init, at, reading)
    arguments = init.get("model_args")
    heads = [] if task == EMBEDDING_TASK_CLASS else _parse_aux_heads(init.get("aux_heads"), reading)
    if not isinstance(arguments, MappingNode):
        said = f"{task} needs model_args" if arguments is None else "model_args is a mapping of arguments"
        got = "" if arguments is None else f" (got {describe_value(arguments)})"
        reading.add_problem(
            "missing" if arguments is None else "type", f"{said}{got}.", MODEL_ARGS_PATH, arguments or at
        )
        return None
    if factory is None:
        return None
    call = _parse_model_args(arguments, find_key(init, "model_args", at), factory, reading)
    if task == EMBEDDING_TASK_CLASS and call is not None and not call.get("necks"):
        call = _add_embedding_necks(call, init, at, reading)
    return None if call is None else {**call, "task": TASKS[task], **({"aux_decoders": heads} if heads else {})}


def _check_init_args(task: str, init: MappingNode, reading: ParseContext) -> None:
    """Say of each argument that does not form the model that it is left out; refuse one that is meant for such."""
    for key, value in init.pairs:
        name, path = get_key_name(key), f"{INIT_ARGS_PATH}.{key.value}"
        if name in FREEZE_ARGUMENTS:
            if to_python(value):
                how = f'call model.freeze("{FREEZE_ARGUMENTS[name]}")'
                reading.add_ignored_key(key, path, "what is frozen is no part of a spec: set aside.", how)
        elif name == "model":
            if not is_null(value):
                _reject_model_argument(task, key, value, reading)
        elif name in TASK_ARGUMENTS[task]:
            if name not in MODEL_ARGUMENTS[task]:
                reading.add_ignored_key(key, path, "no part of a model: set aside.")
        elif close := get_close_matches(name, (*MODEL_ARGUMENTS[task], *FREEZE_ARGUMENTS), n=1):
            reading.add_problem("key", f"{task} has no argument {name!r}.", path, key, f"did you mean {close[0]}?")
        elif "." not in name:
            reading.add_ignored_key(key, path, f"{task} of TerraTorch 1.2.11 has no argument {name!r}: set aside.")


def _reject_model_argument(task: str, key: Tree, value: Tree, reading: ParseContext) -> None:
    message, repair = f"a model of one's own is not imported (got {describe_value(value)}).", None
    if task == EMBEDDING_TASK_CLASS:
        # So it was before TerraTorch 1.2, whose backbones had no prefix either.
        message, repair = (
            f"{task} takes the backbone in model_args.",
            f"model_args: {{backbone: {to_python(value)}, …}}",
        )
    reading.add_problem("value", message, f"{INIT_ARGS_PATH}.model", key, repair)


def _parse_factory(init: MappingNode, at: Tree, reading: ParseContext) -> str | None:
    given = init.get("model_factory")
    path = f"{INIT_ARGS_PATH}.model_factory"
    if given is None or is_null(given):
        reading.add_problem(
            "missing", "a task needs the name of a factory.", path, given or at, f"model_factory: {FACTORY}"
        )
        return None
    if not isinstance(given, ScalarNode) or not isinstance(given.value, str):
        reading.add_problem(
            "type", f"model_factory is the name of a factory (got {describe_value(given)}).", path, given
        )
        return None
    if given.value in (FACTORY, PRITHVI):
        return given.value
    message, repair = explain_unsupported_factory(given.value)
    reading.add_problem("unknown", message, path, given, repair)
    return None


def _parse_model_args(arguments: MappingNode, key: Tree, factory: str, reading: ParseContext) -> dict[str, Any] | None:
    """`model_args` as they reach EncoderDecoderFactory, each marked where it stands."""
    call = to_python(arguments)
    reading.places.mark("", MODEL_ARGS_PATH, key)
    for argument, value in arguments.pairs:
        reading.places.mark(get_key_name(argument), f"{MODEL_ARGS_PATH}.{get_key_name(argument)}", argument, value)
    for name in _TASK_SET_ARGUMENTS.keys() & call.keys():
        message = f"the task hands {name} to the factory itself."
        reading.add_problem(
            "unused",
            message,
            f"{MODEL_ARGS_PATH}.{name}",
            find_key(arguments, name, key),
            f"say it in {_TASK_SET_ARGUMENTS[name]}",
        )
        del call[name]
    for name in ("backbone_kwargs", "decoder_kwargs", "head_kwargs"):
        if not isinstance(call.get(name) or {}, dict):
            message = f"{name} is a mapping of arguments (got {describe_value(arguments.get(name) or arguments)})."
            reading.add_problem("type", message, f"{MODEL_ARGS_PATH}.{name}", find_key(arguments, name, key))
            return None
    if call.get("peft_config") is not None:
        message = "adapters are put into a model that is built, and are no part of a spec: set aside."
        how = "composer.terratorch.EncoderDecoderFactory().build_model(…, peft_config=…) does both"
        reading.add_ignored_key(find_key(arguments, "peft_config", key), f"{MODEL_ARGS_PATH}.peft_config", message, how)
    return call if factory == FACTORY else _convert_prithvi_call(call, arguments, key, reading)


def _convert_prithvi_call(
    given: dict[str, Any], arguments: MappingNode, at: Tree, reading: ParseContext
) -> dict[str, Any] | None:
    try:
        call = convert_prithvi_arguments(given)
    except ValueError as error:
        name = str(error).split(" ")[0]
        reading.add_problem("value", f"{error}.", f"{MODEL_ARGS_PATH}.{name}", find_key(arguments, name, at))
        return None
    marks = reading.places.marks
    for name, sources in PRITHVI_ARGUMENT_SOURCES.items():
        source = next((source for source in sources if source in marks), None)
        if source is not None:
            marks[name] = marks[source]
    return call


def _parse_aux_heads(given: Tree | None, reading: ParseContext) -> list[dict[str, Any]]:
    """`aux_heads` as mappings, also where each is written as a class with init_args; none where one is no head."""
    if given is None or is_null(given):
        return []
    path = f"{INIT_ARGS_PATH}.aux_heads"
    if not isinstance(given, SequenceNode):
        reading.add_problem("type", f"aux_heads is a list of heads (got {describe_value(given)}).", path, given)
        return []
    heads = [
        _parse_aux_head(entry, f"{path}[{i}]", f"aux_decoders[{i}]", reading) for i, entry in enumerate(given.entries)
    ]
    return [] if None in heads else [head for head in heads if head is not None]


def _parse_aux_head(entry: Tree, path: str, argument: str, reading: ParseContext) -> dict[str, Any] | None:
    wrapped = entry.get("class_path") if isinstance(entry, MappingNode) else None
    if isinstance(entry, MappingNode) and isinstance(wrapped, ScalarNode):
        if str(wrapped.value).rpartition(".")[2] != "AuxiliaryHead":
            message = f"an auxiliary head is an AuxiliaryHead (got {describe_value(wrapped)})."
            reading.add_problem("unknown", message, f"{path}.class_path", wrapped)
            return None
        inner = entry.get("init_args")
        entry, path = (entry if inner is None else inner), f"{path}.init_args"
    if not isinstance(entry, MappingNode):
        message = f"an auxiliary head is a mapping (got {describe_value(entry)})."
        reading.add_problem("type", message, path, entry, "{name: NAME, decoder: FCNDecoder, decoder_args: {…}}")
        return None
    head: dict[str, Any] = to_python(entry)
    reading.places.mark(argument, path, entry, entry)
    if not isinstance(head.get("decoder_args") or {}, dict):
        got = describe_value(entry.get("decoder_args") or entry)
        reading.add_problem(
            "type", f"decoder_args is a mapping of arguments (got {got}).", f"{path}.decoder_args", entry
        )
        return None
    return head


def _add_embedding_necks(
    call: dict[str, Any], init: MappingNode, at: Tree, reading: ParseContext
) -> dict[str, Any] | None:
    """The call with the necks that EmbeddingGenerationTask adds, which are marked where their arguments stand."""
    given = {get_key_name(key): to_python(value) for key, value in init.pairs}
    try:
        necks = build_embedding_necks(given)
    except ValueError as error:
        name = str(error).split(" ")[0]
        reading.add_problem("value", f"{error}.", f"{INIT_ARGS_PATH}.{name}", find_key(init, name, at))
        return None
    names = ", ".join(neck["name"] for neck in necks)
    reading.add_ignored_key(
        at, INIT_ARGS_PATH, f"{EMBEDDING_TASK_CLASS} adds necks: {names}.", "model_args: {necks: […]} replaces them"
    )
    reading.places.mark("necks", INIT_ARGS_PATH, at)
    for argument, source in (("indices", "layers"), ("pooling", "embedding_pooling")):
        reading.places.mark(f"necks[0].{argument}", f"{INIT_ARGS_PATH}.{source}", find_key(init, source, at))
    return {**call, "necks": necks}
