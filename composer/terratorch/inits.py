"""From the `init_args` of a task to the call of TerraTorch's factory that the task makes. No torch here."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from composer.terratorch.factories import FACTORY, PRITHVI, PRITHVI_NAMES, factory_refusal, handed_on
from composer.terratorch.reading import Reading, is_null, key_in, plain
from composer.terratorch.tasks import ARGUMENTS, EMBEDDING, FORMING, FREEZING, TASKS, embedding_necks
from composer.text.findings import named
from composer.text.tree import Mapping, Scalar, Sequence, Tree, described

INIT = "model.init_args"
ARGS = f"{INIT}.model_args"

_TWICE = {"task": "model.class_path", "aux_decoders": f"{INIT}.aux_heads"}
"""Arguments that the task hands to the factory itself, and where a config says them."""


def call_of(task: str, init: Mapping, at: Tree, reading: Reading) -> dict[str, Any] | None:
    """The call that a task makes of EncoderDecoderFactory; None where there is none. `at` is the key of `init`."""
    reading.dotted(init, INIT)
    _set_aside(task, init, reading)
    factory = FACTORY if task == EMBEDDING else _factory(init, at, reading)
    arguments = init.get("model_args")
    heads = [] if task == EMBEDDING else _heads(init.get("aux_heads"), reading)
    if not isinstance(arguments, Mapping):
        said = f"{task} needs model_args" if arguments is None else "model_args is a mapping of arguments"
        got = "" if arguments is None else f" (got {described(arguments)})"
        reading.refuse("missing" if arguments is None else "type", f"{said}{got}.", ARGS, arguments or at)
        return None
    if factory is None:
        return None
    call = _arguments(arguments, key_in(init, "model_args", at), factory, reading)
    if task == EMBEDDING and call is not None and not call.get("necks"):
        call = _with_necks(call, init, at, reading)
    return None if call is None else {**call, "task": TASKS[task], **({"aux_decoders": heads} if heads else {})}


def _set_aside(task: str, init: Mapping, reading: Reading) -> None:
    """Say of each argument that does not form the model that it is left out; refuse one that is meant for such."""
    for key, value in init.pairs:
        name, path = named(key), f"{INIT}.{key.value}"
        if name in FREEZING:
            if plain(value):
                how = f'call model.freeze("{FREEZING[name]}")'
                reading.aside(key, path, "what is frozen is no part of a spec: set aside.", how)
        elif name == "model":
            if not is_null(value):
                _own_model(task, key, value, reading)
        elif name in ARGUMENTS[task]:
            if name not in FORMING[task]:
                reading.aside(key, path, "no part of a model: set aside.")
        elif close := get_close_matches(name, (*FORMING[task], *FREEZING), n=1):
            reading.refuse("key", f"{task} has no argument {name!r}.", path, key, f"did you mean {close[0]}?")
        elif "." not in name:
            reading.aside(key, path, f"{task} of TerraTorch 1.2.11 has no argument {name!r}: set aside.")


def _own_model(task: str, key: Tree, value: Tree, reading: Reading) -> None:
    message, repair = f"a model of one's own is not imported (got {described(value)}).", None
    if task == EMBEDDING:
        # So it was before TerraTorch 1.2, whose backbones had no prefix either.
        message, repair = f"{task} takes the backbone in model_args.", f"model_args: {{backbone: {plain(value)}, …}}"
    reading.refuse("value", message, f"{INIT}.model", key, repair)


def _factory(init: Mapping, at: Tree, reading: Reading) -> str | None:
    given = init.get("model_factory")
    path = f"{INIT}.model_factory"
    if given is None or is_null(given):
        reading.refuse("missing", "a task needs the name of a factory.", path, given or at, f"model_factory: {FACTORY}")
        return None
    if not isinstance(given, Scalar) or not isinstance(given.value, str):
        reading.refuse("type", f"model_factory is the name of a factory (got {described(given)}).", path, given)
        return None
    if given.value in (FACTORY, PRITHVI):
        return given.value
    message, repair = factory_refusal(given.value)
    reading.refuse("unknown", message, path, given, repair)
    return None


def _arguments(arguments: Mapping, key: Tree, factory: str, reading: Reading) -> dict[str, Any] | None:
    """`model_args` as they reach EncoderDecoderFactory, each marked where it stands."""
    call = plain(arguments)
    reading.places.mark("", ARGS, key)
    for argument, value in arguments.pairs:
        reading.places.mark(named(argument), f"{ARGS}.{named(argument)}", argument, value)
    for name in _TWICE.keys() & call.keys():
        message = f"the task hands {name} to the factory itself."
        reading.refuse("unused", message, f"{ARGS}.{name}", key_in(arguments, name, key), f"say it in {_TWICE[name]}")
        del call[name]
    for name in ("backbone_kwargs", "decoder_kwargs", "head_kwargs"):
        if not isinstance(call.get(name) or {}, dict):
            message = f"{name} is a mapping of arguments (got {described(arguments.get(name) or arguments)})."
            reading.refuse("type", message, f"{ARGS}.{name}", key_in(arguments, name, key))
            return None
    if call.get("peft_config") is not None:
        message = "adapters are put into a model that is built, and are no part of a spec: set aside."
        how = "composer.terratorch.EncoderDecoderFactory().build_model(…, peft_config=…) does both"
        reading.aside(key_in(arguments, "peft_config", key), f"{ARGS}.peft_config", message, how)
    return call if factory == FACTORY else _of_prithvi(call, arguments, key, reading)


def _of_prithvi(given: dict[str, Any], arguments: Mapping, at: Tree, reading: Reading) -> dict[str, Any] | None:
    try:
        call = handed_on(given)
    except ValueError as error:
        name = str(error).split(" ")[0]
        reading.refuse("value", f"{error}.", f"{ARGS}.{name}", key_in(arguments, name, at))
        return None
    marks = reading.places.marks
    for name, sources in PRITHVI_NAMES.items():
        source = next((source for source in sources if source in marks), None)
        if source is not None:
            marks[name] = marks[source]
    return call


def _heads(given: Tree | None, reading: Reading) -> list[dict[str, Any]]:
    """`aux_heads` as mappings, also where each is written as a class with init_args; none where one is no head."""
    if given is None or is_null(given):
        return []
    path = f"{INIT}.aux_heads"
    if not isinstance(given, Sequence):
        reading.refuse("type", f"aux_heads is a list of heads (got {described(given)}).", path, given)
        return []
    heads = [_head(entry, f"{path}[{i}]", f"aux_decoders[{i}]", reading) for i, entry in enumerate(given.entries)]
    return [] if None in heads else [head for head in heads if head is not None]


def _head(entry: Tree, path: str, argument: str, reading: Reading) -> dict[str, Any] | None:
    wrapped = entry.get("class_path") if isinstance(entry, Mapping) else None
    if isinstance(entry, Mapping) and isinstance(wrapped, Scalar):
        if str(wrapped.value).rpartition(".")[2] != "AuxiliaryHead":
            message = f"an auxiliary head is an AuxiliaryHead (got {described(wrapped)})."
            reading.refuse("unknown", message, f"{path}.class_path", wrapped)
            return None
        inner = entry.get("init_args")
        entry, path = (entry if inner is None else inner), f"{path}.init_args"
    if not isinstance(entry, Mapping):
        message = f"an auxiliary head is a mapping (got {described(entry)})."
        reading.refuse("type", message, path, entry, "{name: NAME, decoder: FCNDecoder, decoder_args: {…}}")
        return None
    head: dict[str, Any] = plain(entry)
    reading.places.mark(argument, path, entry, entry)
    if not isinstance(head.get("decoder_args") or {}, dict):
        got = described(entry.get("decoder_args") or entry)
        reading.refuse("type", f"decoder_args is a mapping of arguments (got {got}).", f"{path}.decoder_args", entry)
        return None
    return head


def _with_necks(call: dict[str, Any], init: Mapping, at: Tree, reading: Reading) -> dict[str, Any] | None:
    """The call with the necks that EmbeddingGenerationTask adds, which are marked where their arguments stand."""
    given = {named(key): plain(value) for key, value in init.pairs}
    try:
        necks = embedding_necks(given)
    except ValueError as error:
        name = str(error).split(" ")[0]
        reading.refuse("value", f"{error}.", f"{INIT}.{name}", key_in(init, name, at))
        return None
    names = ", ".join(neck["name"] for neck in necks)
    reading.aside(at, INIT, f"{EMBEDDING} adds necks: {names}.", "model_args: {necks: […]} replaces them")
    reading.places.mark("necks", INIT, at)
    for argument, source in (("indices", "layers"), ("pooling", "embedding_pooling")):
        reading.places.mark(f"necks[0].{argument}", f"{INIT}.{source}", key_in(init, source, at))
    return {**call, "necks": necks}
