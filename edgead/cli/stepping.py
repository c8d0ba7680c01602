"""One network's weights exported again and again, each time with one more of the exact steps: for a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

    from edgead.cfrg.model import Cfrg

Images = npt.NDArray[np.uint8]

CHECKPOINT = "checkpoint.pt"
WRITTEN = "as the paper writes it"
FLOAT_STEPS = (
    WRITTEN,
    "batch norms folded, dead code out",
    "norms and cosines once",
    "maps blurred small, spread at once",
)
INT8 = "INT8"


def write_steps(name: str, images: Images, folder: Path, *, floats: Sequence[str] = FLOAT_STEPS) -> dict[str, Path]:
    """Write a network of random weights as torch's checkpoint, as fp32 models and as INT8 models, a step more each.

    A step that changes nothing of a network gives no file.

    Args:
        images: uint8 ``(N, H, W, 3)`` RGB, which INT8 is calibrated on, too.
        floats: which fp32 models; INT8 is made from the last one.

    Returns:
        The models' files by step, in order.
    """
    import torch

    from edgead.cfrg import checkpoint
    from edgead.cfrg.model import build
    from edgead.onnx_graph import read_model, write_model

    torch.manual_seed(0)
    cfrg = build(name, images.shape[1]).eval()
    checkpoint.save(cfrg, folder / CHECKPOINT)
    files = {}
    for index, step in enumerate(floats):
        files[step] = folder / f"{index}.onnx"
        _export(cfrg, step, images, files[step])
    source = files[floats[-1]]
    for index, (step, model) in enumerate(_int8(source, read_model(source), images)):
        files[step] = folder / f"int8_{index}.onnx"
        write_model(model, files[step])
    return files


def _export(cfrg: Cfrg, step: str, images: Images, path: Path) -> None:
    from benchmarks.paper_form import PaperCosine, PaperFusion
    from export.to_onnx import export_inspection

    taken = FLOAT_STEPS.index(step)
    ours = cfrg.cosine
    cfrg.cosine = ours if taken >= 2 else PaperCosine()  # type: ignore[assignment]
    try:
        fusion = None if taken >= 3 else PaperFusion(cfrg.size_hw)
        export_inspection(cfrg, path, images, {"step": step}, fusion=fusion, optimise=taken >= 1)
    finally:
        cfrg.cosine = ours


def _int8(source: Path, model: onnx.ModelProto, images: Images) -> Iterator[tuple[str, Any]]:
    """Yield the INT8 models: as it is, then with one more step of ``for_cpu`` each that changes something."""
    from export.calibration import collect
    from export.for_cpu import STEPS
    from export.int8 import insert_as_it_is
    from export.placement import placement
    from export.quantize import METHOD

    models = {INT8: model}
    for step, rewritten in STEPS.items():
        before = list(models.values())[-1]
        if (after := rewritten(before)).graph.node != before.graph.node:
            models[step] = after
    tensors = dict.fromkeys(name for each in models.values() for name in placement(each, "cpu").readers)
    known = {name for node in model.graph.node for name in node.output} | {"image", "pixels"}
    ranges = collect(source, [images], tuple(name for name in tensors if name in known))
    for step, each in models.items():
        yield step, insert_as_it_is(each, ranges.amax(METHOD), "cpu", means=ranges.means)
