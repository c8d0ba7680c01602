"""The benchmark of the exporter's steps: what it counts and compares; the paper's form is the same function."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks import results
from benchmarks.graph_steps import _save, compare, gmac, main
from benchmarks.paper_form import PaperCosine, PaperFusion
from edgead.cfrg.cosine import CosineHead
from edgead.cfrg.inspection import MapFusion


def test_multiplications_are_counted_as_on_paper() -> None:
    weights = {"a": (8, 3, 3, 3), "b": (8, 5, 4, 4), "c": (5, 1, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["y"], pads=[1] * 4),  # 16 x 16 places, 8 x 3 x 9
        helper.make_node("ConvTranspose", ["y", "b"], ["z"], strides=[2, 2], pads=[1] * 4),  # 16 x 16, 8 x 5 x 16
        helper.make_node("Conv", ["z", "c"], ["t"], pads=[1] * 4, group=5),  # 32 x 32, 5 x 9
        helper.make_node("MatMul", ["t", "d"], ["u"]),  # 5 x 32 x 7 results of 32
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])]
    outputs = [helper.make_tensor_value_info("u", TensorProto.FLOAT, ["batch", 5, 32, 7])]
    stored = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    stored.append(numpy_helper.from_array(np.zeros((32, 7), np.float32), "d"))
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    wanted = 256 * 8 * 27 + 256 * 40 * 16 + 1024 * 45 + 5 * 32 * 7 * 32
    assert gmac(model) == pytest.approx(wanted / 1e9)


def test_maps_are_compared_with_known_noise() -> None:
    draw = np.random.default_rng(0)
    wanted = draw.normal(0, 1, (2, 64, 64)).astype(np.float32)
    found = wanted + draw.normal(0, 0.1, wanted.shape).astype(np.float32)
    compared = compare(found, wanted)
    assert compared["snr_db"] == pytest.approx(20, abs=0.3)
    assert compared["correlation"] == pytest.approx(1 / np.sqrt(1.01), abs=1e-3)
    assert compare(wanted, wanted) == {"difference": 0.0, "snr_db": None, "correlation": 1.0}
    json.dumps(compare(wanted, np.zeros_like(wanted)), allow_nan=False)


def test_the_paper_s_form_is_the_same_function() -> None:
    torch.manual_seed(0)
    levels = [[torch.rand(2, 6, 64 // size, 64 // size) + 0.1 for size in (4, 8)] for _ in range(3)]
    ours, theirs = CosineHead().eval()(*levels), PaperCosine()(*levels)
    for found, wanted in zip((*ours.student, *ours.recovery), (*theirs.student, *theirs.recovery), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    maps = [torch.rand(2, 1, side, side) for side in (16, 8, 64)]
    torch.testing.assert_close(MapFusion((64, 64))(maps), PaperFusion((64, 64))(maps), atol=1e-5, rtol=0)


def test_rows_of_other_networks_stay_in_the_file(tmp_path: Path) -> None:
    given = argparse.Namespace(save=tmp_path / "r.json", size=64, threads=1)
    for names, value in ((("a", "b"), 1), (("b",), 2)):
        _save(given, [{"network": name, "step": "x", "value": value} for name in names])
    kept = results.read(given.save)
    assert {row["network"]: row["value"] for row in kept.rows} == {"a": 1, "b": 2}
    assert "--networks b,a " in kept.command


def test_an_unknown_network_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--networks", "cfrg-lite1", "--size", "64"]) == 2
    assert "unknown network 'cfrg-lite1'" in capsys.readouterr().err
