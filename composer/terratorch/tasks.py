"""TerraTorch's tasks and factories: their arguments, and the calls that they make of EncoderDecoderFactory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.errors import suggest

FACTORY = "EncoderDecoderFactory"

PRITHVI = "PrithviModelFactory"

_WHOLE_MODELS = "it builds whole models, in which composer knows no parts"

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
    "FullModelFactory": (_WHOLE_MODELS, None),
    "GenericModelFactory": (_WHOLE_MODELS, None),
    "GenericUnetModelFactory": (_WHOLE_MODELS, None),
    "WxCModelFactory": (_WHOLE_MODELS, None),
    "SatMAEModelFactory": ("it imports the code of SatMAE from a folder, and nothing is imported here", None),
    "ClayModelFactory": ("it imports the code of Clay, and nothing is imported here", None),
    "Clay1_5ModelFactory": ("it builds Clay's masked autoencoder as a whole", None),
}
"""The other factories of TerraTorch 1.2.11: why their models are not imported, and what to write instead."""


def explain_unsupported_factory(name: str) -> tuple[str, str | None]:
    """Return why a factory's models are not imported, and what to write instead."""
    if name not in UNSUPPORTED_FACTORIES:
        return f"TerraTorch has no factory {name!r}.", suggest(name, (FACTORY, PRITHVI, *UNSUPPORTED_FACTORIES))
    reason, fix = UNSUPPORTED_FACTORIES[name]
    return f"models of {name} are not imported: {reason}.", fix


PRITHVI_ARGUMENT_SOURCES = {
    "backbone_bands": ("bands",),
    "backbone_in_chans": ("in_channels", "bands"),
    "backbone_pretrained": ("pretrained",),
    "backbone_num_frames": ("num_frames",),
}
"""The arguments that PrithviModelFactory adds, each with those it is made of: the first of these that is given."""


def convert_prithvi_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that PrithviModelFactory hands to EncoderDecoderFactory.

    Raises ValueError, with a message that begins with the argument, for those that PrithviModelFactory rejects.
    """
    backbone, bands, channels = (arguments.get(name) for name in ("backbone", "bands", "in_channels"))
    if not isinstance(bands, list):
        raise ValueError(f"bands is a list of bands in {PRITHVI} (got {bands!r})")
    if isinstance(backbone, str) and not backbone.startswith("prithvi_"):
        raise ValueError(f"backbone must begin with prithvi_ in {PRITHVI} (got {backbone!r})")
    if "necks" in arguments:
        raise ValueError(f"necks cannot be given to {PRITHVI}, which says itself that there are none")
    own = {"bands", "in_channels", "pretrained", "num_frames", "prepare_features_for_image_model"}
    return {
        **{name: value for name, value in arguments.items() if name not in own},
        "backbone_bands": bands,
        "backbone_in_chans": len(bands) if channels is None else channels,
        "backbone_pretrained": arguments.get("pretrained", True),
        "backbone_num_frames": arguments.get("num_frames", 1),
    }


TASKS = {
    "SemanticSegmentationTask": "segmentation",
    "PixelwiseRegressionTask": "regression",
    "ClassificationTask": "classification",
    "MultiLabelClassificationTask": "classification",
    "ScalarRegressionTask": "scalar_regression",
    "EmbeddingGenerationTask": "embedding_generation",
}
"""The tasks of TerraTorch 1.2.11 whose models EncoderDecoderFactory builds, each with the task of the call."""

EMBEDDING_TASK_CLASS = "EmbeddingGenerationTask"

UNSUPPORTED_TASKS = {
    "ObjectDetectionTask": "it trains detectors, which composer does not describe",
    "ReconstructionTask": "it trains masked autoencoders, which composer does not describe",
    "InferenceTask": "it runs whole models that EncoderDecoderFactory does not build",
    "WxCTask": "it trains a whole model of its own",
    "WxCDownscalingTask": "it trains a whole model of its own",
    "ECCCTask": "it trains a whole model of its own",
}
"""Its other tasks, each with the reason why their models are not imported."""

_SHARED_ARGUMENTS = (
    "model_args model_factory model loss aux_heads aux_loss ignore_index lr optimizer optimizer_hparams scheduler "
    "scheduler_hparams freeze_backbone freeze_decoder freeze_head plot_on_val test_dataloaders_names lr_overrides "
    "path_to_record_metrics"
)

_TILED_ARGUMENTS = "tiled_inference_parameters tiled_inference_on_testing tiled_inference_on_validation"

_CLASSIFICATION_ARGUMENTS = f"{_SHARED_ARGUMENTS} class_weights custom_loss custom_loss_kwargs class_names"

TASK_ARGUMENTS: dict[str, tuple[str, ...]] = {
    task: tuple(names.split())
    for task, names in {
        "SemanticSegmentationTask": f"{_SHARED_ARGUMENTS} {_TILED_ARGUMENTS} class_weights class_names "
        "output_on_inference output_most_probable",
        "PixelwiseRegressionTask": f"{_SHARED_ARGUMENTS} {_TILED_ARGUMENTS} var_weights custom_loss custom_loss_kwargs",
        "ClassificationTask": _CLASSIFICATION_ARGUMENTS,
        "MultiLabelClassificationTask": _CLASSIFICATION_ARGUMENTS,
        "ScalarRegressionTask": f"{_SHARED_ARGUMENTS} var_weights num_outputs var_names",
        EMBEDDING_TASK_CLASS: "model_args output_dir embed_file_key layers output_format has_cls embedding_pooling "
        "num_workers pixel_size freeze_backbone",
    }.items()
}
"""The `init_args` of each task."""

_MODEL_ARGUMENTS = ("model_args", "model_factory", "model", "aux_heads")

_EMBEDDING_MODEL_ARGUMENTS = ("model_args", "layers", "output_format", "has_cls", "embedding_pooling")


def get_model_arguments(task: str) -> tuple[str, ...]:
    """Return the arguments of a task that its model depends on; all others are of training."""
    return _EMBEDDING_MODEL_ARGUMENTS if task == EMBEDDING_TASK_CLASS else _MODEL_ARGUMENTS


FREEZE_ARGUMENTS = {"freeze_backbone": "encoder", "freeze_decoder": "decoder", "freeze_head": "head"}
"""The arguments that freeze, each with the node of a graph that it freezes."""

OUTPUT_FORMATS = ("tiff", "parquet", "parquet_joint", "neuco_csv")

POOLINGS = ("mean", "max", "min", "cls")


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


def match_class_path(path: str, known: Mapping[str, Any]) -> str | None:
    """Return the class that a `class_path` names, alone or with a module of TerraTorch; None for anything else."""
    home, _, name = path.rpartition(".")
    return name if name in known and (not home or home.split(".")[0] == "terratorch") else None


def explain_unsupported_task(path: str) -> tuple[str, str | None]:
    """Return why a `class_path` is not a task whose model can be imported, and what to write instead."""
    other = match_class_path(path, UNSUPPORTED_TASKS)
    if other is not None:
        return f"{other} is not imported: {UNSUPPORTED_TASKS[other]}.", None
    return f"{path} is not a task of TerraTorch.", suggest(path.rpartition(".")[2], TASKS)
