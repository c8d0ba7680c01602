"""Write an fp32 ONNX graph anew with some of its nodes in fp16: casts, constants and scales follow.

A tensor exists in the type of the node that gives it. Where the other type is taken, one Cast serves all takers.
Constants and dequantised tensors cost no Cast: they are written in each type that is taken.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import require
from edgead.onnx_graph import MODULE, module_of
from export.typed import DEQUANTIZE, FLOAT, HALF, QUANTIZE, Typed, numbered

if TYPE_CHECKING:
    import onnx

_ANY = frozenset({"Shape", "Size", "Cast", "CastLike", "IsNaN", "IsInf"})  # take floats of either type as they come


def retype(typed: Typed, half: Collection[int]) -> onnx.ModelProto:
    """Return the model with the nodes of those indices in fp16 and the others in fp32."""
    return _Rewriting(typed, half).run()


class _Rewriting:
    """One pass over the nodes: every tensor that a node takes is brought to the type in which the node runs."""

    def __init__(self, typed: Typed, half: Collection[int]) -> None:
        self._typed = typed
        self._half = half
        self._scales = {node.input[1] for node in typed.nodes if node.op_type in (QUANTIZE, DEQUANTIZE)}
        self._onnx = require("onnx", extra="export")
        self._outputs = {value.name for value in typed.model.graph.output}
        self._nodes: list[Any] = []
        self._have: dict[tuple[str, int], str] = {(value.name, FLOAT): value.name for value in typed.model.graph.input}
        self._taken = {name for node in typed.nodes for name in (*node.input, *node.output)} | set(typed.constants)
        self._halves: dict[str, str] = {}  # a constant or dequantised tensor, by the name of its fp16 form

    def run(self) -> onnx.ModelProto:
        for index, node in enumerate(self._typed.nodes):
            if node.op_type == DEQUANTIZE or self._is_weight(node):
                continue  # written where it is taken, in the type that is taken
            self._write(node, HALF if index in self._half else FLOAT)
        for name in self._outputs:
            if name in self._typed.floats:
                self._as(name, FLOAT, "")
        self._name_nodes()
        return self._assemble()

    def _write(self, node: Any, kind: int) -> None:
        """Write a node with its inputs in one type."""
        new = self._onnx.NodeProto()
        new.CopyFrom(node)
        for slot, name in enumerate(node.input):
            if name not in self._typed.floats:
                continue
            wanted = FLOAT if (node.op_type, slot) in Typed.FLOAT_SLOTS else kind
            if node.op_type in _ANY and (name, FLOAT) not in self._have and (name, HALF) in self._have:
                wanted = HALF
            new.input[slot] = self._as(name, wanted, module_of(node))
        self._nodes.append(new)
        for slot, name in enumerate(node.output):
            if name not in self._typed.floats:
                continue
            if kind == HALF and name in self._outputs:  # its name belongs to the fp32 form
                new.output[slot] = self._fresh(f"{name}_fp16")
            self._have[name, kind] = new.output[slot]
            if new.output[slot] != name:
                self._cast(name, FLOAT, module_of(node), name)

    def _as(self, name: str, kind: int, module: str) -> str:
        """Return the name of a tensor in a type, written now if it does not exist yet."""
        if (name, kind) not in self._have:
            if name in self._typed.constants:
                self._have[name, kind] = self._form(name, kind)
            elif name in self._typed.dequantized:
                self._dequantize(name, kind)
            else:
                self._cast(name, kind, module, self._fresh(f"{name}_fp{16 if kind == HALF else 32}"))
        return self._have[name, kind]

    def _form(self, name: str, kind: int) -> str:
        """Name a tensor that is written once in each type that is taken."""
        if kind == FLOAT:
            return name
        form = self._fresh(f"{name}_fp16")
        self._halves[form] = name
        return form

    def _cast(self, name: str, kind: int, module: str, output: str) -> None:
        source = self._have[name, FLOAT if kind == HALF else HALF]
        node = self._onnx.helper.make_node("Cast", [source], [output], name=f"{module}/Cast".lstrip("/"), to=kind)
        if module:
            node.metadata_props.add(key=MODULE, value=module)
        self._nodes.append(node)
        self._have[name, kind] = output

    def _dequantize(self, name: str, kind: int) -> None:
        """Write a DequantizeLinear with the scale in a type, and the pair's first half before it for a weight."""
        node = self._onnx.NodeProto()
        node.CopyFrom(self._typed.dequantized[name])
        first = self._typed.quantized.get(node.input[0])
        if first is not None and self._is_weight(first):
            key = (first.output[0], kind)
            if key not in self._have:
                pair = self._onnx.NodeProto()
                pair.CopyFrom(first)
                pair.input[0] = self._as(first.input[0], kind, "")
                pair.input[1] = self._as(first.input[1], kind, "")
                self._have[key] = pair.output[0] = self._form(first.output[0], kind)
                self._nodes.append(pair)
            node.input[0] = self._have[key]
        node.input[1] = self._as(node.input[1], kind, module_of(node))
        self._have[name, kind] = node.output[0] = self._form(name, kind)
        self._nodes.append(node)

    def _is_weight(self, node: Any) -> bool:
        return node.op_type == QUANTIZE and node.input[0] in self._typed.constants

    def _fresh(self, name: str) -> str:
        fresh = next(each for each in numbered(name) if each not in self._taken)
        self._taken.add(fresh)
        return fresh

    def _name_nodes(self) -> None:
        seen: set[str] = set()
        for node in self._nodes:
            node.name = next(each for each in numbered(node.name or node.op_type) if each not in seen)
            seen.add(node.name)

    def _assemble(self) -> onnx.ModelProto:
        """Put the nodes and the constants that they take into the model."""
        graph = self._typed.model.graph
        given = {name for node in self._nodes for name in (*node.input, *node.output)} | self._outputs
        # What is taken in fp16 only keeps its name: tools know weights by it.
        plain = {form: name for form, name in self._halves.items() if name not in given}
        for node in self._nodes:
            for names in (node.input, node.output):
                for slot, name in enumerate(names):
                    if name in plain:
                        names[slot] = plain[name]
        tensors = [tensor for tensor in graph.initializer if tensor.name in given]
        for form, name in self._halves.items():
            if name in self._typed.constants:
                tensors.append(self._onnx.numpy_helper.from_array(self._halved(name), plain.get(form, form)))
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(tensors)
        return self._typed.model

    def _halved(self, name: str) -> npt.NDArray[np.float16]:
        """Round a constant; a bound beyond the range of fp16 becomes its end, and a scale never becomes zero."""
        values, info = self._typed.constants[name], np.finfo(np.float16)
        bounded = np.where(np.isinf(values), values, np.clip(values, info.min, info.max)).astype(np.float16)
        return np.maximum(bounded, info.smallest_subnormal) if name in self._scales else bounded
