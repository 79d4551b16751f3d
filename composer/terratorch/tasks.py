"""TerraTorch's tasks and factories, by what a config may say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FACTORY = "EncoderDecoderFactory"

_WHOLE_MODELS = "it builds whole models, in which composer knows no parts"

UNSUPPORTED_FACTORIES = {
    "PrithviModelFactory": "its backbones are TerraTorch's own, and composer knows timm's by name alone",
    "SMPModelFactory": "it builds whole models of smp; use a backbone timm_NAME and a decoder smp_NAME",
    "TimmModelFactory": "it builds whole classifiers; use a backbone timm_NAME and decoder: IdentityDecoder",
    "ObjectDetectionModelFactory": "it builds detectors, which composer does not describe",
    "FullModelFactory": _WHOLE_MODELS,
    "GenericModelFactory": _WHOLE_MODELS,
    "GenericUnetModelFactory": _WHOLE_MODELS,
    "WxCModelFactory": _WHOLE_MODELS,
    "SatMAEModelFactory": "it imports the code of SatMAE from a folder, and nothing is imported here",
    "ClayModelFactory": "it imports the code of Clay, and nothing is imported here",
    "Clay1_5ModelFactory": "it builds Clay's masked autoencoder as a whole",
}
"""The other factories of TerraTorch 1.2.11, each with the reason why its models are not imported."""

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

EMBEDDING_ARGUMENTS = ("layers", "output_format", "has_cls", "embedding_pooling")
"""The `init_args` of EmbeddingGenerationTask from which it makes necks."""

MODEL_ARGUMENTS = ("model_args", "model_factory", "model", "aux_heads")
"""The `init_args` that the model of any task depends on."""

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
