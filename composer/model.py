"""The torch module of a typed graph: it pads images, runs the nodes, and rescales and crops the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import _register_namedtuple

from composer.execution import (
    NodeCall,
    build_node_call,
    build_output_spec,
    compute_padding,
    explain_weight_mismatch,
    pad_image,
    prepare_outputs,
    validate_inputs,
)
from composer.graph import Graph
from composer.inference import TypedGraph
from composer.modules.base import (
    attach_modules,
    fold_frames,
    make_contiguous_for_training,
    map_unwrapped_names,
    unfold_frames,
)
from composer.tensors.matching import LoadedWeights


class ModelOutput(NamedTuple):
    """The result of a model: `output`, a tensor or a dict by node, and `auxiliary_heads`, a dict by label.

    An embedding is a tuple of tensors. It is a pytree, so that torch.export accepts it.
    """

    output: Any
    auxiliary_heads: dict[str, Any]


# torch.export saves a program, and AOTInductor packages one, only with a name for the type that it returns.
_register_namedtuple(ModelOutput, serialized_type_name="composer.model.ModelOutput")


class Model(nn.Module):
    """A built graph: a plain module whose children are the nodes, under their own names.

    It takes one tensor for a graph of one input, `(b, c, h, w)` or with frames `(b, c, t, h, w)`, or a dict by input
    name, and returns a `ModelOutput`. Images are padded to a size that the graph accepts. Pixel-wise output has the
    image's size (with `rescale`), or the cells that belong to the image (without). Embeddings cover the padded image.
    """

    def __init__(self, typed: TypedGraph, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.typed = typed
        attach_modules(self, modules)
        self.built_state = summarize_state(self.state_dict())
        self._frozen: dict[str, frozenset[str]] = {}
        self._inputs = tuple((name, image.feature) for name, image in self.graph.inputs)
        self._calls = tuple(build_node_call(node, typed, modules) for node in typed.order)
        self._ends = {
            name: tuple(build_output_spec(typed, name, f) for f in typed.features[name]) for name in typed.ends
        }
        self._unit = typed.unit

    @property
    def graph(self) -> Graph:
        """The graph that this model was built from."""
        return self.typed.graph

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs for torch.onnx.export, in the order of a dict of images."""
        return [name for name, _ in self._inputs]

    @property
    def output_names(self) -> list[str]:
        """The names of the output tensors for torch.onnx.export: those of their nodes, in order.

        The features of an embedding are numbered, `head.0`, `head.1`.
        """
        return [
            f"{name}.{index}" if name in self.typed.embeddings else name
            for name in self.typed.ends
            for index in range(len(self._ends[name]))
        ]

    @property
    def loaded_weights(self) -> dict[str, LoadedWeights]:
        """The weights that were loaded when the model was built, by node. Nodes with random weights are left out."""
        found = {call.name: getattr(self.get_submodule(call.path), "loaded_weights", None) for call in self._calls}
        return {name: loaded for name, loaded in found.items() if isinstance(loaded, LoadedWeights)}

    def forward(self, image: Tensor | Mapping[str, Tensor], **extras: Any) -> ModelOutput:
        """Run the graph. `extras` (times, places) go to the encoders that have such keyword arguments.

        Raises ValueError, with the next step, for images that the model does not accept, and TypeError for an extra
        that no encoder takes.
        """
        self._check_extras(extras)
        images = validate_inputs(self._inputs, image)
        pad = compute_padding(self._inputs, images, self.typed, self._unit)
        try:
            mode = self.graph.padding.mode
            features: dict[str, Sequence[Tensor]] = {
                name: (pad_image(images[name], feature, pad, mode),) for name, feature in self._inputs
            }
            for call in self._calls:
                features[call.name] = self._run_node(call, features, pad.padded, extras)
        except RuntimeError as error:
            # Only after a failure: hooks (FSDP, offloading) and encoders may convert dtypes and devices.
            mismatch = explain_weight_mismatch(images, self.parameters())
            if mismatch is None:
                raise
            raise ValueError(mismatch) from error
        ends: dict[str, Any] = {}
        for name, specs in self._ends.items():
            tensors = prepare_outputs(specs, features[name], pad, self.graph.crop)
            ends[name] = tensors if name in self.typed.embeddings else tensors[0]
        outputs = {name: ends[name] for name in self.graph.outputs}
        return ModelOutput(
            output=outputs if len(outputs) > 1 else ends[self.graph.outputs[0]],
            auxiliary_heads={label: ends[name] for label, name in self.graph.auxiliary},
        )

    def freeze(self, node: str, *more: str) -> None:
        """Set `requires_grad=False` in nodes and keep them in eval mode, so that their statistics do not change.

        Each argument is the name of a node, or a common prefix of several: `necks`, `aux.early`. `unfreeze` is the
        inverse. Raises ValueError, and freezes nothing, for an unknown name.
        """
        for path in self._find_module_paths((node, *more), "freeze"):
            trained = {name for name, p in self._get_node_parameters(path).items() if p.requires_grad}
            self._frozen[path] = self._frozen.get(path, frozenset()) | trained
            self.get_submodule(path).requires_grad_(False)  # noqa: FBT003, torch's signature
        self.train(self.training)

    def unfreeze(self, node: str, *more: str) -> None:
        """Undo `freeze`: set `requires_grad=True` again where it was before, and let the nodes leave eval mode.

        Takes names as `freeze` does. Nodes that are not frozen stay as they are.
        """
        for path in self._find_module_paths((node, *more), "unfreeze") & self._frozen.keys():
            names = self._frozen.pop(path)
            for name, parameter in self._get_node_parameters(path).items():
                if name in names:
                    parameter.requires_grad_(True)  # noqa: FBT003, torch's signature
        self.train(self.training)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The names of the frozen nodes. A node whose gradients were all switched on again is not frozen any more."""
        return tuple(call.name for call in self._calls if self._is_frozen(call.path))

    def train(self, mode: bool = True) -> Model:  # noqa: FBT001, FBT002, the signature is torch's
        """Set the mode of all nodes except the frozen ones, which stay in eval mode."""
        super().train(mode)
        for path in filter(self._is_frozen, self._frozen):
            self.get_submodule(path).eval()
        return self

    def _find_module_paths(self, nodes: Sequence[str], verb: str) -> set[str]:
        """Return the paths of the modules of these nodes. Raises ValueError for an unknown name."""
        found: set[str] = set()
        for node in nodes:
            within = (f"{node}.", f"{node}[")
            paths = {call.path for call in self._calls if call.name == node or call.name.startswith(within)}
            if not paths:
                names = ", ".join(call.name for call in self._calls)
                raise ValueError(f"there is no node {node!r} to {verb}; the nodes are {names}")
            found |= paths
        return found

    def _get_node_parameters(self, path: str) -> dict[str, nn.Parameter]:
        """Return the parameters of a node by their names without the wrapper of torch.compile."""
        parameters = dict(self.get_submodule(path).named_parameters(path))
        plain = map_unwrapped_names(self, parameters)
        return {plain[name]: parameter for name, parameter in parameters.items()}

    def _is_frozen(self, path: str) -> bool:
        """Return True for a frozen node, unless `requires_grad_(True)` has switched on all its gradients since."""
        names = self._frozen.get(path)
        if names is None:
            return False
        watched = [p for name, p in self._get_node_parameters(path).items() if not names or name in names]
        return not watched or not all(p.requires_grad for p in watched)

    def _check_extras(self, extras: Mapping[str, Any]) -> None:
        for name in extras:
            if not any(call.extras is None or name in call.extras for call in self._calls):
                known = sorted({known for call in self._calls for known in call.extras or ()})
                choice = f"there is {' and '.join(known)}" if known else "nothing is taken beside images"
                raise TypeError(f"no encoder of the model takes {name!r}; {choice}")

    def _run_node(
        self,
        call: NodeCall,
        features: Mapping[str, Sequence[Tensor]],
        padded: tuple[int, int],
        extras: Mapping[str, Any],
    ) -> Sequence[Tensor]:
        child = self.get_submodule(call.path)
        if call.takes_image:
            taken = {name: value for name, value in extras.items() if call.extras is None or name in call.extras}
            out = child(*_prepare_images(call, features), **taken)
        else:
            named: dict[str, Any] = {name: features[source] for name, source in call.named}
            size = {"image_size": padded} if call.takes_size else {}
            out = child(*[features[source] for source in call.inputs], **named, **size)
        given = (out,) if isinstance(out, Tensor) else tuple(out)
        if call.takes_image:
            image = features[(*call.inputs, *(source for _, source in call.named))[0]][0]
            given = tuple(make_contiguous_for_training(x, like=image) for x in given)
        if call.frames is None:
            return given
        return tuple(unfold_frames(x, axis, call.frames) for x, axis in zip(given, call.batch, strict=True))


def summarize_state(state: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str] | None]:
    """Return the shape and dtype of each tensor; all floating-point dtypes count as one.

    None stands for extra state, and for lazy parameters, which have no shape yet.
    """
    return {name: _summarize_value(value) for name, value in state.items()}


def _summarize_value(value: Any) -> tuple[tuple[int, ...], str] | None:
    if not isinstance(value, Tensor) or is_lazy(value):
        return None
    return tuple(value.shape), "float" if value.is_floating_point() else str(value.dtype)


def _prepare_images(call: NodeCall, features: Mapping[str, Sequence[Tensor]]) -> list[Tensor] | list[dict[str, Tensor]]:
    """Return the arguments of an encoder: its images, or one dict by the names that it knows them by."""
    if call.named:
        return [{name: _prepare_image(call, features[source][0]) for name, source in call.named}]
    return [_prepare_image(call, features[source][0]) for source in call.inputs]


def _prepare_image(call: NodeCall, image: Tensor) -> Tensor:
    image = image if call.frames is None else fold_frames(image)
    # A custom module may work in place, on a tensor that may be the caller's.
    return image.clone() if call.foreign else image
