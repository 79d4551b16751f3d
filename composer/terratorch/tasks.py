"""TerraTorch's tasks and factories in a config."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from attrs import Factory, define, evolve, field

from composer.errors import Place, Problem, suggest
from composer.spec.schema import Diagnostics, get_key_name, join_path
from composer.spec.yaml import MappingNode, ScalarNode, SequenceNode, Tree, describe_value
from composer.spec.yaml import MappingNode as Pairs


@define
class SourceMap:
    """The place of each argument: `marks` has those that the config spells out, and `""` is that of them all."""

    file: str | None
    marks: dict[str, Place] = field(factory=dict)

    def mark(self, argument: str, path: str, key: Tree, value: Tree | None = None) -> None:
        """Remember that an argument stands at `path`, with all that its value holds. Keys are what is pointed at."""
        self.marks[argument] = Place(path, self.file, key.line, key.column)
        if isinstance(value, Pairs):
            for name, inner in value.pairs:
                self.mark(f"{argument}.{name.value}", f"{path}.{name.value}", name, inner)
        if isinstance(value, SequenceNode):
            for position, inner in enumerate(value.entries):
                self.mark(f"{argument}[{position}]", f"{path}[{position}]", inner, inner)

    def place(self, argument: str) -> Place:
        """The place of an argument; of what encloses it, where the config does not spell it out."""
        enclosing = argument
        while enclosing and enclosing not in self.marks:
            enclosing = enclosing[: max(enclosing.rfind("."), enclosing.rfind("["), 0)]
        place = self.marks[enclosing]
        rest = argument[len(enclosing) :]
        joint = "." if rest and rest[0] not in ".[" else ""
        return evolve(place, path=f"{place.path}{joint}{rest}")

    def locate_problem(self, problem: Problem) -> Problem:
        """A problem of a call, at its place in the config."""
        return evolve(problem, place=self.place(problem.place.path))


_BOOLEAN_WORDS = {word: word in ("yes", "on") for word in ("yes", "on", "no", "off")}


_BOOLEAN_SPELLINGS = {
    spelling: truth for word, truth in _BOOLEAN_WORDS.items() for spelling in (word, word.capitalize(), word.upper())
}
"""Words that TerraTorch's reader takes for true and false: it keeps to YAML 1.1 in this, and composer's own to 1.2."""


@define
class ParseContext:
    """Filled while a config is read; nothing is raised until all of it has been seen."""

    findings: Diagnostics
    places: SourceMap
    notes: list[Problem] = Factory(list)

    def add_problem(self, code: str, message: str, path: str, at: Tree, repair: str | None = None) -> None:
        """Put a problem down."""
        self.findings.add(code, message, path, at, repair=repair)

    def add_ignored_key(self, key: Tree, path: str, message: str, repair: str | None = None) -> None:
        """Put down that a key is left out of the spec, and why."""
        place = Place(path, self.findings.file, key.line, key.column)
        self.notes.append(Problem(code="aside", message=message, place=place, repair=repair))

    def reject_dotted_keys(self, mapping: MappingNode, path: str) -> bool:
        """Whether keys are joined by dots, which TerraTorch's reader takes apart; each is put down as a problem."""
        keys = [key for key, _ in mapping.pairs if "." in get_key_name(key)]
        for key in keys:
            message = "keys that are joined by dots are not taken apart."
            self.add_problem(
                "key", message, join_path(path, get_key_name(key)), key, _expand_dotted_key(get_key_name(key), path)
            )
        return bool(keys)


def _expand_dotted_key(key: str, path: str) -> str:
    """A key that is joined by dots, as mappings. TerraTorch's reader overlooks that `init_args` is left out."""
    names = key.split(".")
    above = [*path.split("."), *names] if path else names
    if above[0] == "model" and above[1] not in ("class_path", "init_args"):
        names.insert(len(names) - len(above) + 1, "init_args")
    return ": {".join(names) + ": …" + "}" * (len(names) - 1)


def find_key(mapping: MappingNode, name: str, otherwise: Tree) -> Tree:
    """The key of this name, to point at; what is to be pointed at where there is none."""
    return next((key for key, _ in mapping.pairs if key.value == name), otherwise)


def to_python(tree: Tree) -> Any:
    """A value as Python has it: lists, dicts, and scalars as TerraTorch's reader takes them."""
    if isinstance(tree, MappingNode):
        return {get_key_name(key): to_python(value) for key, value in tree.pairs}
    if isinstance(tree, SequenceNode):
        return [to_python(entry) for entry in tree.entries]
    if isinstance(tree.value, str) and not tree.quoted:
        return _BOOLEAN_SPELLINGS.get(tree.value, tree.value)
    return tree.value


def is_null(tree: Tree | None) -> bool:
    """Whether there is no value, or null."""
    return tree is None or (isinstance(tree, ScalarNode) and tree.value is None)


FACTORY = "EncoderDecoderFactory"


PRITHVI = "PrithviModelFactory"


WHOLE_MODEL_REASON = "it builds whole models, in which composer knows no parts"


UNSUPPORTED_FACTORIES: dict[str, tuple[str, str | None]] = {
    "SMPModelFactory": (
        "it builds whole models of segmentation_models_pytorch",
        f"model_factory: {FACTORY}, with a backbone timm_NAME and a decoder smp_NAME",
    ),
    "TimmModelFactory": (
        "it builds whole classifiers of timm",
        f"model_factory: {FACTORY}, with a backbone timm_NAME and decoder: IdentityDecoder",
    ),
    "ObjectDetectionModelFactory": ("it builds detectors, which composer does not describe", None),
    "FullModelFactory": (WHOLE_MODEL_REASON, None),
    "GenericModelFactory": (WHOLE_MODEL_REASON, None),
    "GenericUnetModelFactory": (WHOLE_MODEL_REASON, None),
    "WxCModelFactory": (WHOLE_MODEL_REASON, None),
    "SatMAEModelFactory": ("it imports the code of SatMAE from a folder, and nothing is imported here", None),
    "ClayModelFactory": ("it imports the code of Clay, and nothing is imported here", None),
    "Clay1_5ModelFactory": ("it builds Clay's masked autoencoder as a whole", None),
}
"""The other factories of TerraTorch 1.2.11: why their models are not imported, and what to write instead."""


def explain_unsupported_factory(name: str) -> tuple[str, str | None]:
    """Why a factory's models are not imported, and what to write instead."""
    if name not in UNSUPPORTED_FACTORIES:
        return f"TerraTorch has no factory {name!r}.", suggest(name, (FACTORY, PRITHVI, *UNSUPPORTED_FACTORIES))
    reason, repair = UNSUPPORTED_FACTORIES[name]
    return f"models of {name} are not imported: {reason}.", repair


PRITHVI_ARGUMENT_SOURCES = {
    "backbone_bands": ("bands",),
    "backbone_in_chans": ("in_channels", "bands"),
    "backbone_pretrained": ("pretrained",),
    "backbone_num_frames": ("num_frames",),
}
"""What PrithviModelFactory hands on under another name, and what it makes it of: the first of these that is given."""


def convert_prithvi_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that EncoderDecoderFactory gets from PrithviModelFactory.

    Raises ValueError, which names the argument first, for what PrithviModelFactory does not take.
    """
    backbone, bands = given.get("backbone"), given.get("bands")
    if not isinstance(bands, list):
        raise ValueError(f"bands is a list of bands in {PRITHVI} (got {bands!r})")
    if isinstance(backbone, str) and not backbone.startswith("prithvi_"):
        raise ValueError(f"backbone must begin with prithvi_ in {PRITHVI} (got {backbone!r})")
    if "necks" in given:
        raise ValueError(f"necks cannot be given to {PRITHVI}, which says itself that there are none")
    own = {"bands", "in_channels", "pretrained", "num_frames", "prepare_features_for_image_model"}
    channels = given.get("in_channels")
    return {
        **{name: value for name, value in given.items() if name not in own},
        "backbone_bands": bands,
        "backbone_in_chans": len(bands) if channels is None else channels,
        "backbone_pretrained": given.get("pretrained", True),
        "backbone_num_frames": given.get("num_frames", 1),
    }


TASKS = {
    "SemanticSegmentationTask": "segmentation",
    "PixelwiseRegressionTask": "regression",
    "ClassificationTask": "classification",
    "MultiLabelClassificationTask": "classification",
    "ScalarRegressionTask": "scalar_regression",
    "EmbeddingGenerationTask": "embedding_generation",
}
"""The tasks of TerraTorch 1.2.11 whose models EncoderDecoderFactory builds, and what each calls its task."""


EMBEDDING_TASK_CLASS = "EmbeddingGenerationTask"


UNSUPPORTED_TASKS = {
    "ObjectDetectionTask": "it trains detectors, which composer does not describe",
    "ReconstructionTask": "it trains masked autoencoders, which composer does not describe",
    "InferenceTask": "it runs whole models that EncoderDecoderFactory does not build",
    "WxCTask": "it trains a whole model of its own",
    "WxCDownscalingTask": "it trains a whole model of its own",
    "ECCCTask": "it trains a whole model of its own",
}
"""Its other tasks, each with the reason why there is no model of theirs to import."""


_SHARED_ARGUMENTS = (
    "model_args model_factory model loss aux_heads aux_loss ignore_index lr optimizer optimizer_hparams scheduler "
    "scheduler_hparams freeze_backbone freeze_decoder freeze_head plot_on_val test_dataloaders_names lr_overrides "
    "path_to_record_metrics"
)


_TILED_ARGUMENTS = "tiled_inference_parameters tiled_inference_on_testing tiled_inference_on_validation"


_CLASSIFICATION_ARGUMENTS = f"{_SHARED_ARGUMENTS} class_weights custom_loss custom_loss_kwargs class_names"


_TASK_ARGUMENTS = {
    "SemanticSegmentationTask": f"{_SHARED_ARGUMENTS} {_TILED_ARGUMENTS} class_weights class_names output_on_inference "
    "output_most_probable",
    "PixelwiseRegressionTask": f"{_SHARED_ARGUMENTS} {_TILED_ARGUMENTS} var_weights custom_loss custom_loss_kwargs",
    "ClassificationTask": _CLASSIFICATION_ARGUMENTS,
    "MultiLabelClassificationTask": _CLASSIFICATION_ARGUMENTS,
    "ScalarRegressionTask": f"{_SHARED_ARGUMENTS} var_weights num_outputs var_names",
    EMBEDDING_TASK_CLASS: "model_args output_dir embed_file_key layers output_format has_cls embedding_pooling num_workers "
    "pixel_size freeze_backbone",
}


TASK_ARGUMENTS: dict[str, tuple[str, ...]] = {task: tuple(names.split()) for task, names in _TASK_ARGUMENTS.items()}
"""What each task takes: its `init_args`."""


MODEL_ARGUMENTS = {
    task: ("model_args", "layers", "output_format", "has_cls", "embedding_pooling")
    if task == EMBEDDING_TASK_CLASS
    else ("model_args", "model_factory", "model", "aux_heads")
    for task in TASKS
}
"""The arguments of each task that the form of its model depends on; all others are of training."""


FREEZE_ARGUMENTS = {"freeze_backbone": "encoder", "freeze_decoder": "decoder", "freeze_head": "head"}
"""The arguments that freeze, each with the node of a composer graph that it stands for."""


def build_embedding_necks(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The necks that EmbeddingGenerationTask puts into a model for which `model_args` names none.

    `given` are its `init_args`. Raises ValueError for values that it does not take.
    """
    arguments = given.get("model_args") or {}
    layers = given.get("layers")
    layers = [-1] if layers is None else layers
    pooling = given.get("embedding_pooling")
    # Compared as it is written: TerraTorch lowers it for all but this.
    form = given.get("output_format", "tiff")
    if not isinstance(form, str) or form.lower() not in OUTPUT_FORMATS:
        raise ValueError(f"output_format is one of {', '.join(OUTPUT_FORMATS)} (got {form!r})")
    has_cls = given.get("has_cls", False)
    keeps_time = bool(arguments.get("backbone_use_temporal", False)) and (
        arguments.get("backbone_temporal_pooling", "mean") == "keep"
    )
    frames = {"temporal_inputs": True} if keeps_time else {}
    if pooling in (None, "None", "keep"):
        necks: list[dict[str, Any]] = [{"name": "SelectIndices", "indices": layers}]
        if form == "tiff":
            necks.append({"name": "ReshapeTokensToImage", "remove_cls_token": has_cls, **frames})
        return necks
    if pooling in POOLINGS:
        return [{"name": "AggregateTokens", "pooling": pooling, "indices": layers, "drop_cls": has_cls, **frames}]
    raise ValueError(f"embedding_pooling is keep, {', '.join(POOLINGS)} or null (got {pooling!r})")


OUTPUT_FORMATS = ("tiff", "parquet", "parquet_joint", "neuco_csv")


POOLINGS = ("mean", "max", "min", "cls")


def match_class_path(path: str, known: Mapping[str, Any]) -> str | None:
    """The class that a `class_path` names, alone or with a module of TerraTorch; None for anything else."""
    home, _, name = path.rpartition(".")
    return name if name in known and (not home or home.split(".")[0] == "terratorch") else None


def explain_unsupported_task(path: str) -> tuple[str, str | None]:
    """Why a `class_path` is not the task of a model that can be imported, and what to write instead."""
    other = match_class_path(path, UNSUPPORTED_TASKS)
    if other is not None:
        return f"{other} is not imported: {UNSUPPORTED_TASKS[other]}.", None
    return f"{path} is no task of TerraTorch's.", suggest(path.rpartition(".")[2], TASKS)


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
