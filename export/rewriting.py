"""A model on its way to another form: nodes are taken out and put in, constants added, and what is unused dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgead.errors import require
from edgead.onnx_graph import constants

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
END = int(np.iinfo(np.int64).max)  # of a slice that goes to the end
PART_OF = "part_of"  # key of a node's metadata: the operator that it was written for, with others


class Rewriting:
    """A copy of a model whose nodes are replaced one by one.

    Attributes:
        known: values known before a run, by name.
        makers: node by output.
        readers: nodes by input.
        outputs: names of the model's outputs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._onnx = require("onnx", extra="export")
        self._model = type(model)()
        self._model.CopyFrom(model)
        graph = self._model.graph
        self.known = constants(self._model)
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in graph.output}
        values = (*graph.value_info, *graph.input, *graph.output)
        self._sizes = {value.name: [each.dim_value for each in value.type.tensor_type.shape.dim] for value in values}

    def each(self, written: Callable[[Any], Iterable[Any] | None]) -> onnx.ModelProto:
        """Return the model with other nodes where a function gives some for a node, and without what nothing reads.

        New nodes belong to the module of the one that they stand for.
        """
        nodes = []
        for node in self._model.graph.node:
            made = written(node)
            for other in [node] if made is None else made:
                if other is not node:
                    other.metadata_props.extend(node.metadata_props)
                    if not part_of(other):
                        other.metadata_props.add(key=PART_OF, value=node.op_type)
                nodes.append(type(node).FromString(other.SerializeToString()))
        self._finish(nodes)
        return self._model

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        """Make a node that is called by what it gives."""
        return self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)

    def like(self, node: Any, inputs: list[str], output: str) -> Any:
        """Make a node with the operator and attributes of another."""
        made = self.node(node.op_type, inputs, output)
        made.attribute.extend(node.attribute)
        return made

    def channels(self, name: str) -> int:
        """Return the channels of a tensor ``(N, C, ...)``; 0 where the model does not say."""
        sizes = self._sizes.get(name, [])
        return int(sizes[1]) if len(sizes) > 1 else 0

    def keep(self, name: str, values: Array) -> str:
        """Put a constant into the model, once, and return its name."""
        if name not in self.known:
            self.known[name] = values
            self._model.graph.initializer.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def integers(self, *values: int) -> str:
        """Put a list of integers into the model and return its name."""
        return self.keep("integers_" + "_".join(str(value).replace("-", "m") for value in values), np.array(values))

    def _finish(self, nodes: list[Any]) -> None:
        graph = self._model.graph
        wanted = {value.name for value in graph.output}
        kept = []
        for node in reversed(nodes):
            if not wanted.isdisjoint(node.output):
                kept.append(node)
                wanted.update(node.input)
        for index in reversed(range(len(graph.initializer))):  # in place: weights can be half a gigabyte
            if graph.initializer[index].name not in wanted:
                del graph.initializer[index]
        there = {name for node in kept for name in node.output}
        typed = [type(each).FromString(each.SerializeToString()) for each in graph.value_info if each.name in there]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.value_info.extend(typed)


def part_of(node: Any) -> str:
    """Return the operator that a node was written for, with others; ``""`` for a node of the original model."""
    return next((str(each.value) for each in node.metadata_props if each.key == PART_OF), "")


def integers_of(node: Any, name: str, default: list[int]) -> list[int]:
    """Return a list attribute of a node."""
    return next((list(map(int, each.ints)) or default for each in node.attribute if each.name == name), default)


def is_plain(node: Any, weight: Array | None) -> bool:
    """Tell whether a convolution has two dimensions, a known weight, and no groups, dilation or automatic padding."""
    given = {each.name: each for each in node.attribute}
    groups = given["group"].i if "group" in given else 1
    auto = given["auto_pad"].s if "auto_pad" in given else b"NOTSET"
    return bool(
        weight is not None
        and weight.ndim == 4
        and groups == 1
        and auto == b"NOTSET"
        and integers_of(node, "dilations", [1, 1]) == [1, 1]
    )
