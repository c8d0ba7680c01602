"""Take gates out of the way of INT8: convolve what is gated, which quantises well, and gate afterwards.

A gate is one factor a pixel: ``G = g T``. Products of two distances span so many orders of magnitude that 8 bits lose
most of them; ``T`` is an ordinary level. Gates commute with 1x1 convolutions, and every convolution is a sum of 1x1
ones, a tap each, that are moved against each other. So ``conv(g T)`` is a sum over taps of ``g`` times
``conv_1x1(T)``, moved: the same products, added in another order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from export.rewriting import END, Array, Rewriting, integers_of, is_plain

if TYPE_CHECKING:
    import onnx

# Input channels from which on INT8 saves more than the passes over the taps' outputs cost.
WIDE = 128


def split(model: onnx.ModelProto, gated: Collection[str], wide: int = WIDE) -> onnx.ModelProto:
    """Return the model with convolutions of a concatenation, of which a part is gated, as sums of one a part.

    Args:
        gated: names of the gated tensors.
        wide: channels from which on a gated part counts.
    """
    rewriting = Rewriting(model)
    return rewriting.each(lambda node: _split(rewriting, node, gated, wide))


def behind(model: onnx.ModelProto, gated: Collection[str], wide: int = WIDE) -> onnx.ModelProto:
    """Return the model with convolutions of gated tensors as gated sums of 1x1 convolutions.

    Args:
        gated: names of the gated tensors; a product of one that is among them with one that is not is opened.
        wide: channels from which on it is done.
    """
    rewriting = Rewriting(model)
    return rewriting.each(lambda node: _behind(rewriting, node, gated, wide))


def _split(rewriting: Rewriting, node: Any, gated: Collection[str], wide: int) -> list[Any] | None:
    weight = rewriting.known.get(node.input[1]) if node.op_type == "Conv" else None
    joined = rewriting.makers.get(node.input[0]) if weight is not None else None
    if joined is None or joined.op_type != "Concat" or not is_plain(node, weight):
        return None
    assert weight is not None
    channels = [rewriting.channels(name) for name in joined.input]
    some = [name in gated and count >= wide for name, count in zip(joined.input, channels, strict=True)]
    if not any(some) or all(name in gated for name in joined.input) or sum(channels) != weight.shape[1]:
        return None
    places = np.cumsum([0, *channels])
    output, made, total = node.output[0], [], ""
    # Those that are not gated come first: the convolution that comes last takes the sum in.
    for index in sorted(range(len(some)), key=lambda each: joined.input[each] not in gated):
        part = np.ascontiguousarray(weight[:, places[index] : places[index + 1]])
        inputs = [joined.input[index], rewriting.keep(f"{node.input[1]}_part_{index}", part)]
        inputs += node.input[2:] if joined.input[index] not in gated else []
        name = f"{output}_part_{index}"
        made.append(rewriting.like(node, inputs, name))
        if total:
            following = output if len(made) == 2 * len(some) - 2 else f"{output}_sum_{index}"
            made.append(rewriting.node("Add", [total, name], following))
        total = made[-1].output[0]
    return made


def _behind(rewriting: Rewriting, node: Any, gated: Collection[str], wide: int) -> list[Any] | None:
    weight = rewriting.known.get(node.input[1]) if node.op_type == "Conv" else None
    if weight is None or weight.shape[1] < wide or not is_plain(node, weight) or node.input[0] not in gated:
        return None
    opened = _opened(rewriting, node.input[0], gated)
    rows, columns = weight.shape[2:]
    pads = integers_of(node, "pads", [0, 0, 0, 0])
    cut = [last - pad for last, pad in zip((rows - 1, columns - 1) * 2, pads, strict=True)]
    if opened is None or integers_of(node, "strides", [1, 1]) != [1, 1] or min(cut) < 0:
        return None
    features, gates = opened
    output, made = node.output[0], []
    gate = gates[0]
    for index, other in enumerate(gates[1:]):
        made.append(rewriting.node("Mul", [gate, other], f"{output}_gate_{index}"))
        gate = made[-1].output[0]
    total = ""
    for row in range(rows):
        for column in range(columns):
            made += _tap(rewriting, node, (features, gate), weight, (row, column))
            product = made[-1].output[0]
            if total:
                made.append(rewriting.node("Add", [total, product], f"{product}_sum"))
            total = made[-1].output[0]
    return [*made, *_end(rewriting, node, total, cut)]


def _tap(rewriting: Rewriting, node: Any, pair: tuple[str, str], weight: Array, place: tuple[int, int]) -> list[Any]:
    """Return the nodes of one tap: a 1x1 convolution of the features, moved to its place, times the gate, moved too."""
    (features, gate), (row, column) = pair, place
    rows, columns = weight.shape[2:]
    name = f"{node.output[0]}_tap_{row}_{column}"
    before, after = [rows - 1 - row, columns - 1 - column], [row, column]
    kernel = weight[:, :, row : row + 1, column : column + 1].copy()
    inputs = [features, rewriting.keep(f"{node.input[1]}_tap_{row}_{column}", kernel)]
    return [
        rewriting.node("Pad", [gate, rewriting.integers(0, 0, *before, 0, 0, *after)], f"{name}_gate"),
        rewriting.node("Conv", inputs, name, kernel_shape=[1, 1], pads=[*before, *after]),
        rewriting.node("Mul", [name, f"{name}_gate"], f"{name}_gated"),
    ]


def _end(rewriting: Rewriting, node: Any, total: str, cut: list[int]) -> list[Any]:
    """Return the nodes that cut the border off the sum and add the bias."""
    made, output = [], node.output[0]
    biased = len(node.input) > 2 and bool(node.input[2])
    if any(cut):
        starts, stops = rewriting.integers(*cut[:2]), rewriting.integers(*(-each or END for each in cut[2:]))
        name = f"{output}_cut" if biased else output
        made.append(rewriting.node("Slice", [total, starts, stops, rewriting.integers(2, 3)], name))
        total = name
    if biased or not made:
        bias = rewriting.known[node.input[2]] if biased else np.zeros(1, np.float32)
        kept = rewriting.keep(f"{node.output[0]}_bias", bias.reshape(-1, 1, 1))
        made.append(rewriting.node("Add", [total, kept], output))
    return made


def _opened(rewriting: Rewriting, name: str, gated: Collection[str]) -> tuple[str, list[str]] | None:
    """Take a gated tensor apart into its features and its gates of one channel; None where it is no such product."""
    leaves, pending = [], [name]
    while pending:
        node = rewriting.makers.get(pending[-1])
        at = pending.pop()
        if node is not None and node.op_type == "Mul" and at in gated and rewriting.known.keys().isdisjoint(node.input):
            pending += reversed(node.input)
        else:
            leaves.append(at)
    features = [leaf for leaf in leaves if leaf not in gated]
    gates = [leaf for leaf in leaves if leaf in gated]
    if len(features) != 1 or not gates or any(rewriting.channels(gate) != 1 for gate in gates):
        return None
    return features[0], gates
