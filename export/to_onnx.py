"""Export a checkpoint to ONNX: the whole inspection as one graph, and each network as its own.

Every file is held against torch on real images, at two batch sizes, before it is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import edgead
from edgead.bundle import NETWORKS, Bundle
from edgead.cfrg import checkpoint
from edgead.cfrg.inspection import Inspection
from edgead.cfrg.model import Cfrg
from edgead.cfrg.parts import Part, parts, tensors
from edgead.errors import ArtefactError, DataError, require
from edgead.onnx_graph import MODULE, quiet_exporter
from edgead.progress import task
from edgead.runtime.onnx_runner import OnnxRunner, open_session

OPSET = 18
MAP_LIMIT = 1e-4  # largest difference of an anomaly map from torch's
SCORE_LIMIT = 1e-5  # of a score, relative
NETWORK_LIMIT = 1e-4  # of a network's output, relative to its largest value

_BATCHES = (1, 3)  # a graph that only knows the batch it was traced with fails at one of them


def export_networks(bundle: Bundle, images: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    """Export the bundle's checkpoint as ``fp32`` and, one by one, its networks.

    Args:
        images: uint8 ``(N, H, W, 3)`` RGB, real ones of the category; N from 1 on. Every file is checked on them.

    Returns:
        Names of the artefacts written.

    Raises:
        ArtefactError: a graph differs from torch, in which case its file is not kept.
        DataError: no images, or of another size than the checkpoint's.
        MissingError: torch, onnx or onnxscript is not installed.
    """
    tools = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
    cfrg = checkpoint.load(bundle.file("checkpoint"))
    samples = _samples(images, cfrg.size_hw)
    about = {"edgead": edgead.__version__, "network": bundle.info.network, "category": bundle.info.category}
    networks = parts(cfrg)

    def whole(path: Path) -> None:
        export_inspection(cfrg, path, samples, about)

    def one(name: str) -> Callable[[Path], None]:
        return lambda path: export_part(cfrg, networks[name], path, samples, {**about, "part": name})

    with task("Exporting", 1 + len(NETWORKS)) as advance:
        for name, write in {"fp32": whole, **{name: one(name) for name in NETWORKS}}.items():
            bundle.add(name, write, kind="onnx", precision="fp32", made_from="checkpoint", tools=tools)
            advance(1, name)
    return ("fp32", *NETWORKS)


def export_inspection(
    cfrg: Cfrg,
    path: Path,
    images: npt.NDArray[np.uint8],
    about: dict[str, str],
    *,
    fusion: nn.Module | None = None,
    optimise: bool = True,
) -> None:
    """Write the whole inspection and hold it against torch.

    The tensors between the networks keep the names of ``edgead.cfrg.parts``, so that a network can be cut out of it.

    Args:
        images: uint8 ``(N, H, W, 3)`` RGB.
        about: metadata of the model.
        fusion: fuses maps ``(N, 1, h_i, w_i)`` to ``(N, H, W)``; None takes ``MapFusion``.
        optimise: fold batch norms and constants, and drop what nothing needs. Not to is for comparison.

    Raises:
        ArtefactError: the graph differs from torch.
    """
    module = Inspection(cfrg).eval()
    example = torch.zeros(2, *cfrg.size_hw, 3, dtype=torch.uint8)
    between = tuple(dict.fromkeys(name for part in parts(cfrg).values() for name in (*part.inputs, *part.outputs)))
    outputs = ("anomaly_map", "pred_score")
    named = _Named(cfrg, between)
    named.add_module("fusion", fusion or named.fusion)
    _write(named, (example,), ({0: _batch()},), ("image",), outputs, path, about, between, optimise=optimise)
    with OnnxRunner(path) as runner:
        for batch in _BATCHES:
            some = images[:batch]
            prediction = runner.infer(some)
            with torch.inference_mode():
                anomaly_map, pred_score = (value.numpy() for value in module(torch.from_numpy(some)))
            _refuse(path, "anomaly_map", float(np.abs(prediction.anomaly_map - anomaly_map).max()), MAP_LIMIT)
            relative = np.abs(prediction.pred_score - pred_score) / np.maximum(np.abs(pred_score), 1e-12)
            _refuse(path, "pred_score (relative)", float(relative.max()), SCORE_LIMIT)


class _Named(Inspection):
    """The inspection with the tensors between its networks as further outputs, which gives them their names."""

    def __init__(self, cfrg: Cfrg, between: tuple[str, ...]) -> None:
        super().__init__(cfrg)
        self._between = between

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        pixels = self.cfrg.normalise(image)
        output = self.cfrg(pixels)
        levels = {name: getattr(output, name) for name in ("teacher", "student", "recovery")}
        known = {f"{name}_{n}": level for name, each in levels.items() for n, level in enumerate(each, 1)}
        known |= {"pixels": pixels, "logits": output.logits}
        return *self.judge(output), *(known[name] for name in self._between)


def export_part(cfrg: Cfrg, part: Part, path: Path, images: npt.NDArray[np.uint8], about: dict[str, str]) -> None:
    """Write one network and hold it against torch.

    Raises:
        ArtefactError: the graph differs from torch.
    """
    known = {batch: tensors(cfrg, torch.from_numpy(images[:batch])) for batch in _BATCHES}
    # Fresh copies: tensors born in inference mode cannot be traced.
    example = [torch.cat([known[1][name]] * 2).clone() for name in part.inputs]
    shapes = ([{0: _batch()} for _ in part.inputs],)
    _write(part.module, (example,), shapes, part.inputs, part.outputs, path, about)
    session = open_session(path, threads=torch.get_num_threads())
    for values in known.values():
        got = session.run(list(part.outputs), {name: values[name].numpy() for name in part.inputs})
        for name, found in zip(part.outputs, got, strict=True):
            wanted = values[name].numpy()
            if found.shape != wanted.shape:
                raise ArtefactError(f"{path}: {name} is {found.shape}, torch has {wanted.shape}; report this as a bug")
            difference = float(np.abs(found - wanted).max()) / max(float(np.abs(wanted).max()), 1e-12)
            _refuse(path, f"{name} (relative)", difference, NETWORK_LIMIT)


def _samples(images: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return as many images as the largest batch checked, repeating them where there are fewer."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*size_hw, 3) or not len(images):
        raise DataError(
            f"images are {images.dtype} {images.shape}; expected uint8 (N, {size_hw[0]}, {size_hw[1]}, 3) with N >= 1"
        )
    return np.ascontiguousarray(images[np.arange(max(_BATCHES)) % len(images)])


def _refuse(path: Path, name: str, difference: float, limit: float) -> None:
    if not difference < limit:  # NaN is refused too
        raise ArtefactError(
            f"{path}: {name} differs from torch by {difference:.2e}, the limit is {limit:.0e}; the file is not kept: "
            "train again if the weights are damaged, else report this as a bug"
        )


def _batch() -> Any:
    return torch.export.Dim("batch", min=1)


def _write(
    module: nn.Module,
    example: tuple[Tensor | list[Tensor], ...],
    dynamic: tuple[Any, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    path: Path,
    about: dict[str, str],
    between: tuple[str, ...] = (),
    *,
    optimise: bool = True,
) -> None:
    """Export a module to one file with its weights inside.

    Args:
        between: names of its further outputs, which stay inside the graph.
    """
    onnx = require("onnx", extra="export")
    require("onnxscript", extra="export")
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=[*outputs, *between],
                dynamic_shapes=dynamic,
                optimize=optimise,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its stages raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtefactError(f"{path}: torch {torch.__version__} cannot export this network ({reason})") from error
    assert program is not None
    model = program.model_proto
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.shape.dim[0].dim_param != "batch":  # the exporter fixes it without a word
            raise ArtefactError(
                f"{path}: {value.name} only takes the batch that the network was traced with; write its forward "
                "without numbers that depend on the batch"
            )
    inside = list(model.graph.output)[len(outputs) :]
    del model.graph.output[len(outputs) :]
    model.graph.value_info.extend(inside)
    _tidy(model.graph, (*outputs, *between))
    onnx.helper.set_model_props(model, about)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def _tidy(graph: Any, kept: Collection[str]) -> None:
    """Name nodes and tensors after their torch modules, and drop the exporter's notes, which hold local paths.

    Args:
        kept: tensors that keep their names.
    """
    weights = {tensor.name for tensor in graph.initializer}
    seen: Counter[str] = Counter()
    names: dict[str, str] = {}
    for node in graph.node:
        module = _module_of(node, weights)
        name = f"{module}/{node.op_type}".lstrip("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        names |= {output: node.name for output in node.output[:1] if output not in kept}
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
        del node.metadata_props[:]
        if module:
            node.metadata_props.add(key=MODULE, value=module)
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer, graph]:
        value.name = names.get(value.name, value.name)
        del value.metadata_props[:]


def _module_of(node: Any, weights: set[str]) -> str:
    """Return the dotted path of a node's torch module, ``""`` for those of no module.

    A layer with weights is named by them: the exporter folds batch norms into convolutions and then calls the result by
    the batch norm.
    """
    for name in node.input[1:2]:
        if name in weights and name.endswith(".weight"):
            return str(name.removesuffix(".weight").removeprefix("cfrg."))
    scopes = {prop.key: prop.value for prop in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    path = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")][:-1]
    return "" if not path or path[-1].startswith("_empty") else path[-1].removeprefix("cfrg.")
