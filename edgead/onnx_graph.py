"""ONNX models as graphs: read with suspicion, asked for their networks, cut, and written whole.

The exporter leaves two things in a model that everything after it goes by: each node carries the path of the torch
module that it comes from, and the tensors between the networks have fixed names (``pixels``, ``teacher_1``, ...,
``logits``). Models made elsewhere have neither; they are read all the same.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgead.errors import ArtefactError, require

MODULE = "module"  # key of a node's metadata: the dotted path of its torch module
NETWORKS = ("teacher", "student", "recovery", "segmentation")
OPSETS = range(17, 26)  # 17: the oldest that TensorRT 8.5 and the exporter share; 25: the newest tried

_EXPORT = "make it again: edgead export"


def read_model(path: Path, *, again: str = _EXPORT) -> Any:
    """Read an ONNX file as an ``onnx.ModelProto``; what runtimes would only notice on the line is refused here.

    TensorRT's parser accepts an empty file, a text file, any opset, and weights that are NaN.

    Args:
        again: what mends a file that cannot be read, for errors.

    Raises:
        ArtefactError: missing, empty, truncated, no ONNX, weights outside the file, an opset that edgead does not
            know, or a weight that is not finite.
        MissingError: onnx is not installed.
    """
    onnx = require("onnx", extra="export")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}); {again}") from error
    if not data:
        raise ArtefactError(f"{path}: the file is empty; {again}")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises its own types, which change with its version
        raise ArtefactError(f"{path}: truncated, or no ONNX file; {again}") from error
    if not model.graph.node or not model.graph.output:
        raise ArtefactError(f"{path}: truncated, or no ONNX file: it has no nodes or no outputs; {again}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ArtefactError(f"{path}: its weights lie in another file; save all in one: onnx.save(model, path)")
    opset = opset_of(model)
    if opset not in OPSETS:
        raise ArtefactError(f"{path}: opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}; {again}")
    for name, values in constants(model).items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ArtefactError(f"{path}: the weight '{name}' holds NaN or infinity; train again, then edgead export")
    return model


def write_model(model: Any, path: Path) -> None:
    """Check a model (types and shapes of every node) and write it.

    Raises:
        ArtefactError: the model is inconsistent, which is a fault of whoever changed it.
    """
    onnx = require("onnx", extra="export")
    del model.graph.value_info[:]  # of the graph as it was: runtimes would plan their memory by it
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ArtefactError(f"{path}: the rewritten model is inconsistent ({reason}); report this as a bug") from error
    path.write_bytes(model.SerializeToString())


def opset_of(model: Any) -> int:
    """Return the version of the standard operators that a model uses; 0 where it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def module_of(node: Any) -> str:
    """Return the dotted path of a node's torch module; ``""`` for those of none, and in models made elsewhere."""
    return next((str(entry.value) for entry in node.metadata_props if entry.key == MODULE), "")


def network_of(node: Any) -> str:
    """Return the network, or ``cosine`` or ``fusion``, that a node belongs to; ``""`` as for ``module_of``."""
    return module_of(node).partition(".")[0]


def has_modules(model: Any) -> bool:
    """Tell whether a model says which network its nodes belong to: it comes from edgead's exporter."""
    return any(network_of(node) in NETWORKS for node in model.graph.node)


def constants(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the values known before a run: initialisers and Constant nodes, by name."""
    onnx = require("onnx", extra="export")
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = onnx.helper.get_attribute_value(node.attribute[0])
            kind = np.float32 if "float" in node.attribute[0].name else None  # value_float, value_floats
            is_tensor = node.attribute[0].name == "value"
            found[node.output[0]] = onnx.numpy_helper.to_array(value) if is_tensor else np.asarray(value, kind)
    return found


def extract(model: Any, network: str) -> Any:
    """Cut one network out of a whole inspection, in the precision that it has there.

    Args:
        network: one of NETWORKS; the segmentation comes with its cosine head.

    Returns:
        A model from the tensors that the network takes to those that it gives, which keep their names and types.

    Raises:
        ArtefactError: the model does not name the tensors between its networks.
    """
    onnx = require("onnx", extra="export")
    typed = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in (*typed.graph.value_info, *typed.graph.output)}
    levels = [str(n) for n in range(1, 10) if f"teacher_{n}" in known]
    names = {each: [f"{each}_{n}" for n in levels] for each in ("teacher", "student", "recovery")}
    inputs, outputs = {
        "teacher": (["pixels"], names["teacher"]),
        "student": (["pixels"], names["student"]),
        "recovery": (names["teacher"], names["recovery"]),
        "segmentation": ([*names["teacher"], *names["student"], *names["recovery"]], ["logits"]),
    }[network]
    if not levels or not all(name in known for name in (*inputs, *outputs)):
        raise ArtefactError(f"the model does not name the tensors around its {network}; export it: edgead export")
    nodes = list(_between(typed.graph.node, inputs, outputs))
    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        network,
        [known[name] for name in inputs if name in used],
        [known[name] for name in outputs],
        [tensor for tensor in typed.graph.initializer if tensor.name in used],
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _between(nodes: Iterable[Any], inputs: list[str], outputs: list[str]) -> Iterator[Any]:
    """Yield the nodes that the outputs need, the inputs taken as given, in their order."""
    ordered = list(nodes)
    makers = {name: index for index, node in enumerate(ordered) for name in node.output}
    wanted, needed = list(outputs), set[int]()
    while wanted:
        name = wanted.pop()
        index = makers.get(name)
        if name not in inputs and index is not None and index not in needed:
            needed.add(index)
            wanted.extend(ordered[index].input)
    return (node for index, node in enumerate(ordered) if index in needed)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's talk off the terminal: it warns of libraries that edgead does not use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
