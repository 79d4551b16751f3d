"""Import TerraTorch configs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from attrs import evolve

from composer.encoder_info import describe as describe_by_probe
from composer.errors import Source, SpecError, suggest
from composer.inference import Describe, infer
from composer.spec.schema import get_key_name, join_path
from composer.spec.writer import write
from composer.spec.yaml import MappingNode, SequenceNode, Tree, parse_document, read_text
from composer.terratorch.calls import Diagnostics, find_padding_notes, sort_problems
from composer.terratorch.factories import FACTORIES, FACTORY, UNSUPPORTED_FACTORIES
from composer.terratorch.translation import Translation

MODEL = "model"
INIT_ARGS = f"{MODEL}.init_args"
MODEL_ARGS = f"{INIT_ARGS}.model_args"
CONFIG_EXAMPLE = "model: {class_path: terratorch.tasks.SemanticSegmentationTask, init_args: {…}}"
TASKS = {
    "SemanticSegmentationTask": "segmentation",
    "PixelwiseRegressionTask": "regression",
    "ClassificationTask": "classification",
    "MultiLabelClassificationTask": "classification",
    "ScalarRegressionTask": "scalar_regression",
    "EmbeddingGenerationTask": "embedding_generation",
}
"""The tasks of TerraTorch 1.2.11 whose models its factories build, each with the task of the call."""

EMBEDDING_TASK_CLASS = "EmbeddingGenerationTask"

MODEL_ARGUMENTS = ("model_args", "model_factory", "model", "aux_heads")
"""The `init_args` that the model of any task depends on."""

EMBEDDING_ARGUMENTS = ("layers", "output_format", "has_cls", "embedding_pooling")
"""The `init_args` of EmbeddingGenerationTask from which it makes necks."""

FREEZE_ARGUMENTS = {"freeze_backbone": "encoder", "freeze_decoder": "decoder", "freeze_head": "head"}
"""The arguments that freeze, each with the node of a graph that it freezes."""

OUTPUT_FORMATS = ("tiff", "parquet", "parquet_joint", "neuco_csv")
POOLINGS = ("mean", "max", "min", "cls")

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
    report = Diagnostics(Source(name))
    call = _parse_config(text, report)
    if call is None:
        report.raise_problems()
    factory, arguments = call or (FACTORY, {})
    translation = FACTORIES[factory](arguments, describe, report)
    with report.map_errors(translation.graph):
        write(translation.graph)
        try:
            report.notes += find_padding_notes(infer(translation.graph, describe), report)
        except SpecError as error:
            if found := [problem for problem in error.problems if problem.code != "install"]:
                raise SpecError(found) from None
            message = "a library is missing, so the spec was not checked."
            report.add_note("", message, "; ".join(str(problem.fix) for problem in error.problems))
    labels = [label for label, _ in translation.graph.auxiliary]
    for label, written in translation.branches.items():
        message = f"names in a spec are letters, digits and _: {written} is {label} there."
        report.add_note(f"aux_decoders[{labels.index(label)}].name", message)
    return evolve(translation, notes=sort_problems(report.notes))


def _parse_config(text: str, report: Diagnostics) -> tuple[str, dict[str, Any]] | None:
    """Return the factory that a config calls, and the arguments; None, with problems, where it calls none.

    Raises SpecError for a text that is not YAML.
    """
    root, problems = parse_document(text, report.source.file, as_pyyaml=True)
    # TerraTorch's reader takes the last value of a repeated key, and so does the document.
    report.notes += [problem for problem in problems if problem.code == "key"]
    report.problems += [problem for problem in problems if problem.code != "key"]
    config = _convert_tree("", root, report.source.marks)
    model = config.get(MODEL) if isinstance(config, dict) else None
    for key in config if isinstance(config, dict) else ():
        if key != MODEL:
            _set_aside("", key, report)
    if not isinstance(model, dict) or not isinstance(model.get("init_args"), dict):
        if not report.problems:
            message = f"this is not a TerraTorch config: its model has no class_path and init_args (got {model!r})."
            report.add_problem("" if model is None else MODEL, message, CONFIG_EXAMPLE, "key")
        return None
    for key in model:
        if key not in ("class_path", "init_args"):
            report.add_problem(f"{MODEL}.{key}", f"a model has no key {key!r}.", CONFIG_EXAMPLE, "key")
    home, dot, task = str(model.get("class_path")).rpartition(".")
    if task in TASKS and home.partition(".")[0] in ("", "terratorch"):
        return _parse_init_args(task, model["init_args"], report)
    message = f"{home}{dot}{task} is not a task whose models are imported."
    report.add_problem(f"{MODEL}.class_path", message, suggest(task, TASKS), "part")
    return None


def _convert_tree(path: str, tree: Tree, marks: dict[str, tuple[int, int]]) -> Any:
    """Return a tree as lists, dicts, and scalars as TerraTorch's reader takes them; add line and column of each path.

    What is in a mapping is located by its key.
    """
    marks.setdefault(path, (tree.line, tree.column))
    if isinstance(tree, MappingNode):
        values = {}
        for key, value in tree.pairs:
            within = join_path(path, name := get_key_name(key))
            marks[within] = (key.line, key.column)
            values[name] = _convert_tree(within, value, marks)
        return values
    if isinstance(tree, SequenceNode):
        return [_convert_tree(f"{path}[{position}]", entry, marks) for position, entry in enumerate(tree.entries)]
    return tree.value if tree.quoted or not isinstance(tree.value, str) else _BOOLEANS.get(tree.value, tree.value)


def _set_aside(path: str, key: str, report: Diagnostics) -> None:
    """Note a key that the model does not depend on; reject one that TerraTorch's reader would take apart."""
    if "." in key:
        message = "keys that are joined by dots are not taken apart."
        report.add_problem(join_path(path, key), message, "write a mapping in place of each dot", "key")
    else:
        report.add_note(join_path(path, key), "not part of a model: set aside.")


def _parse_init_args(task: str, init: dict[str, Any], report: Diagnostics) -> tuple[str, dict[str, Any]] | None:
    """Return the factory that a task calls, and the arguments."""
    embedding = task == EMBEDDING_TASK_CLASS
    known = (*MODEL_ARGUMENTS, *(EMBEDDING_ARGUMENTS if embedding else ()))
    for name, value in init.items():
        if name not in known or (name == MODEL and value is not None):
            _check_init_arg(task, name, value, known, report)
    factory, arguments = FACTORY if embedding else str(init.get("model_factory")), init.get("model_args")
    if factory not in FACTORIES:
        reason, instead = UNSUPPORTED_FACTORIES.get(factory, (None, "or a spec with a node for each encoder"))
        unknown = f"TerraTorch 1.2.11 has no factory {factory!r}."
        message = f"models of {factory} are not imported: {reason}." if reason else unknown
        fix = f"model_factory: {FACTORY}, {instead}"
        report.add_problem(f"{INIT_ARGS}.model_factory", message, fix, "part")
        return None
    if not isinstance(arguments, dict):
        report.add_problem(MODEL_ARGS, f"{task} needs model_args, a mapping (got {arguments!r}).", code="key")
        return None
    for name in {"task", "aux_decoders"} & arguments.keys():
        report.add_problem(f"{MODEL_ARGS}.{name}", f"the task hands {name} to the factory itself.", code="unused")
    if arguments.get("peft_config") is not None:
        message = "adapters are added to a built model, and are not part of a spec: set aside."
        fix = "composer.terratorch.EncoderDecoderFactory().build_model(…, peft_config=…) does both"
        report.add_note(f"{MODEL_ARGS}.peft_config", message, fix)
    aliases = {"": MODEL_ARGS, "task": f"{MODEL}.class_path", "aux_decoders": f"{INIT_ARGS}.aux_heads"}
    call = {**arguments, "task": TASKS[task]}
    if embedding and not call.get("necks"):
        call["necks"] = _add_embedding_necks(init, aliases, report)
    if not embedding:
        call["aux_decoders"] = _parse_aux_heads(init.get("aux_heads"), aliases, report)
    # Not before: the paths of the problems above are those of the config.
    report.aliases |= aliases
    return factory, call


def _check_init_arg(task: str, name: str, value: Any, known: tuple[str, ...], report: Diagnostics) -> None:
    """Note an argument that the model does not depend on; reject one that is meant to change the model."""
    path = f"{INIT_ARGS}.{name}"
    if name == MODEL:
        report.add_problem(path, f"a model is not imported (got {value!r}).", "model_args: {backbone: …}")
    elif name in FREEZE_ARGUMENTS:
        if value:
            fix = f'call model.freeze("{FREEZE_ARGUMENTS[name]}")'
            report.add_note(path, "freezing is not part of a spec: set aside.", fix)
    elif close := get_close_matches(name, (*known, *FREEZE_ARGUMENTS), n=1, cutoff=0.85):
        report.add_problem(path, f"{task} has no argument {name!r}.", f"did you mean {close[0]}?", "key")
    else:
        _set_aside(INIT_ARGS, name, report)


def _parse_aux_heads(heads: Any, aliases: dict[str, str], report: Diagnostics) -> Any:
    """Return `aux_heads` as the factory takes them: without the class path that each may have."""
    if not isinstance(heads, list):
        return heads
    parsed = list(heads)
    for position, entry in enumerate(heads):
        path = f"{INIT_ARGS}.aux_heads[{position}]"
        if not isinstance(entry, dict) or "class_path" not in entry:
            continue
        if str(entry["class_path"]).rpartition(".")[2] != "AuxiliaryHead":
            report.add_problem(f"{path}.class_path", f"{entry['class_path']!r} is not an AuxiliaryHead.", code="part")
            return []
        aliases[f"aux_decoders[{position}]"] = f"{path}.init_args"
        parsed[position] = entry.get("init_args")
    return parsed


def _add_embedding_necks(init: dict[str, Any], aliases: dict[str, str], report: Diagnostics) -> list[dict[str, Any]]:
    """Return the necks that EmbeddingGenerationTask adds, whose places are those of its arguments."""
    try:
        necks = build_embedding_necks(init)
    except ValueError as error:
        report.add_problem(f"{INIT_ARGS}.{str(error).split(' ')[0]}", f"{error}.")
        return []
    message = f"{EMBEDDING_TASK_CLASS} adds necks: {', '.join(neck['name'] for neck in necks)}."
    report.add_note(INIT_ARGS, message, "model_args: {necks: […]} replaces them")
    aliases |= {f"necks[{position}]": INIT_ARGS for position in range(len(necks))}
    words = {"indices": "layers", "pooling": "embedding_pooling", "drop_cls": "has_cls", "remove_cls_token": "has_cls"}
    spellings = {f"necks[{at}].{word}": words[word] for at, neck in enumerate(necks) for word in neck if word in words}
    aliases |= {argument: f"{INIT_ARGS}.{word}" for argument, word in spellings.items()}
    report.spellings |= spellings
    return necks


def build_embedding_necks(init_args: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the necks that EmbeddingGenerationTask adds where `model_args` has none.

    Raises ValueError, with a message that begins with the argument, for values that the task rejects.
    """
    arguments = init_args.get("model_args") or {}
    layers = init_args.get("layers")
    layers = [-1] if layers is None else layers
    pooling, has_cls = init_args.get("embedding_pooling"), init_args.get("has_cls", False)
    # TerraTorch lowers the format for all but the comparison with tiff.
    form = init_args.get("output_format", "tiff")
    if not isinstance(form, str) or form.lower() not in OUTPUT_FORMATS:
        raise ValueError(f"output_format is one of {', '.join(OUTPUT_FORMATS)} (got {form!r})")
    keeps_time = arguments.get("backbone_use_temporal") and arguments.get("backbone_temporal_pooling") == "keep"
    frames = {"temporal_inputs": True} if keeps_time else {}
    if pooling in POOLINGS:
        return [{"name": "AggregateTokens", "pooling": pooling, "indices": layers, "drop_cls": has_cls, **frames}]
    if pooling not in (None, "None", "keep"):
        raise ValueError(f"embedding_pooling is keep, {', '.join(POOLINGS)} or null (got {pooling!r})")
    select = {"name": "SelectIndices", "indices": layers}
    reshape = {"name": "ReshapeTokensToImage", "remove_cls_token": has_cls, **frames}
    return [select, reshape] if form == "tiff" else [select]
