"""``edgead quantize``: calibration list, three models and their records, and models of other tools."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgead.bundle import Bundle
from edgead.cli import main
from edgead.onnx_graph import constants, read_model
from export.fewer import signed
from export.lint import lint

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def quantised(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run with its fp16 and INT8 models; lists beside it. Read it only, or copy it."""
    folder = tmp_path_factory.mktemp("quantised")
    run = folder / "run"
    shutil.copytree(trained, run)
    assert main(["quantize", str(run), "--images", "16", "--calibration-data", str(folder / "lists")]) == 0
    return run


@pytest.fixture
def copied(quantised: Path, tmp_path: Path) -> Path:
    shutil.copytree(quantised.parent, tmp_path / "q")
    return tmp_path / "q" / "run"


def document(capture: Capture, *words: object) -> Any:
    capture.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capture.readouterr().out)


def line_of(capture: Capture, *words: object, code: int = 2) -> str:
    capture.readouterr()
    assert main([str(word) for word in words]) == code
    said = capture.readouterr()
    assert said.out == ""
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("edgead quantize: ")
    assert "Traceback" not in said.err
    return last


def test_three_models_from_one_calibration(quantised: Path) -> None:
    bundle = Bundle.open(quantised)
    cards = [bundle.artefacts[name].calibration or {} for name in ("fp16", "int8", "int8-fp16")]
    assert len({json.dumps(card["ranges"], sort_keys=True) for card in cards}) == 1
    images: Any = cards[0]["images"]
    assert images["count"] == 16
    assert len(images["illuminations"]) == 4
    assert all(bundle.artefacts[name].made_from == bundle.artefacts["fp16"].made_from for name in ("int8", "int8-fp16"))
    sizes = {name: bundle.artefacts[name].size for name in ("fp32", "fp16", "int8", "int8-fp16")}
    assert sizes["fp32"] > 1.8 * sizes["fp16"] > 2.5 * sizes["int8"]
    assert not lint(read_model(bundle.file("int8")), "cpu")
    assert not lint(read_model(bundle.file("int8-fp16")), "tensorrt")


def test_scales_have_the_type_of_their_tensors(quantised: Path) -> None:
    """TensorRT 10.3 to 10.7 demand it; for CPUs all of them are float32."""
    bundle = Bundle.open(quantised)
    for name, wanted in (("int8", np.float32), ("int8-fp16", np.float16)):
        model = read_model(bundle.file(name))
        known = constants(model)
        scales = [known[node.input[1]] for node in model.graph.node if node.op_type == "DequantizeLinear"]
        assert scales
        assert {scale.dtype.type for scale in scales} == {wanted}


def test_the_list_is_used_again_and_replaced_only_when_asked(copied: Path, capsys: Capture) -> None:
    lists = ("--calibration-data", copied.parent / "lists")
    path = next((copied.parent / "lists").glob("*/calibration.txt"))
    before = path.read_bytes()
    again = document(capsys, "quantize", copied, *lists)
    assert again["calibration"] == {"list": str(path), "images": 16, "method": "mse", "chosen_now": False}
    assert path.read_bytes() == before
    assert "--choose-again" in line_of(capsys, "quantize", copied, *lists, "--images", 20)
    anew = document(capsys, "quantize", copied, *lists, "--images", 20, "--choose-again", "--method", "max")
    assert anew["calibration"]["images"] == 20
    assert path.read_bytes() != before


def test_thresholds_and_stations_take_a_quantised_model(copied: Path, capsys: Capture) -> None:
    for backend in ("onnxruntime", "openvino"):
        words = ("threshold", copied, "--artefact", "int8", "--backend", backend, "--false-reject-ppm", 50000)
        found = document(capsys, *words)
        assert found["threshold"]["source"].endswith(f"on {backend}")


def test_a_model_of_another_tool_is_checked_and_taken_in(copied: Path, tmp_path: Path, capsys: Capture) -> None:
    """It carries no module paths, as a file of ModelOpt or torchao would not."""
    foreign = signed(read_model(Bundle.open(copied).file("int8")))
    for node in foreign.graph.node:
        del node.metadata_props[:]
    foreign.producer_name, foreign.producer_version = "sometool", "1.2"
    onnx.save(foreign, tmp_path / "foreign.onnx")
    done = document(capsys, "quantize", copied, "--onnx", tmp_path / "foreign.onnx")
    assert done["artefact"] == "int8"
    record = Bundle.open(copied).artefacts["int8"]
    assert record.tools == {"producer": "sometool 1.2"}
    assert (record.calibration or {})["origin"] == "another tool"
    assert not Bundle.open(copied).deployable("int8", "onnxruntime")


def not_quantised(run: Path, path: Path) -> None:
    shutil.copy(Bundle.open(run).file("fp32"), path)


def truncated(run: Path, path: Path) -> None:
    path.write_bytes(Bundle.open(run).file("int8").read_bytes()[:5000])


def empty(_: Path, path: Path) -> None:
    path.touch()


def text(_: Path, path: Path) -> None:
    path.write_text("not a model\n")


def old_opset(run: Path, path: Path) -> None:
    model = onnx.load(Bundle.open(run).file("int8"))
    model.opset_import[0].version = 11
    onnx.save(model, path)


def infinite_weight(run: Path, path: Path) -> None:
    model = onnx.load(Bundle.open(run).file("int8"))
    tensor = next(each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT and each.dims)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = np.inf
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


def quantised_tail(run: Path, path: Path) -> None:
    model = onnx.load(Bundle.open(run).file("int8"))
    last = next(node for node in model.graph.node if node.op_type == "ReduceMax")
    pair = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    source, last.input[0] = last.input[0], "tail_back"
    nodes = [
        onnx.helper.make_node("QuantizeLinear", [source, *pair.input[1:]], ["tail_q"]),
        onnx.helper.make_node("DequantizeLinear", ["tail_q", *pair.input[1:]], ["tail_back"]),
    ]
    place = list(model.graph.node).index(last)
    for node in reversed(nodes):
        model.graph.node.insert(place, node)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _run, _path: None, "cannot be read"),
        (empty, "the file is empty"),
        (text, "no ONNX file"),
        (truncated, "truncated, or no ONNX"),
        (not_quantised, "has no Q/DQ pairs"),
        (old_opset, "opset 11, expected 17 to"),
        (infinite_weight, "holds NaN or infinity"),
        (quantised_tail, r"tail \(inexact\) at 'ReduceMax'"),
    ],
    ids=["missing", "empty", "text", "truncated", "not quantised", "old opset", "infinite weight", "quantised tail"],
)
def test_wrong_models_leave_the_bundle_alone(
    copied: Path, tmp_path: Path, capsys: Capture, make: Callable[[Path, Path], None], said: str
) -> None:
    before = (copied / "bundle.json").read_bytes()
    make(copied, tmp_path / "given.onnx")
    line = line_of(capsys, "quantize", copied, "--onnx", tmp_path / "given.onnx")
    assert re.search(said, line), line
    assert (copied / "bundle.json").read_bytes() == before


def changed_image(run: Path) -> None:
    path = next((run.parent / "lists").glob("*/calibration.txt"))
    lines = path.read_text().splitlines()
    lines[-1] = "0" * 64 + lines[-1][64:]
    path.write_text("\n".join(lines) + "\n")


def missing_image(run: Path) -> None:
    path = next((run.parent / "lists").glob("*/calibration.txt"))
    path.write_text(path.read_text().rstrip("\n") + ".gone\n")


def no_fp32(run: Path) -> None:
    (run / "model.fp32.onnx").unlink()


@pytest.mark.parametrize(
    ("spoil", "words", "said"),
    [
        (changed_image, (), "--choose-again"),
        (missing_image, (), "--choose-again"),
        (no_fp32, (), "edgead export"),
        (None, ("--method", "mes"), "did you mean 'mse'"),
        (None, ("--images", "1", "--choose-again"), "one single calibration image"),
        (None, ("--images", "0", "--choose-again"), "no calibration images"),
        (None, ("--threads", "-1"), "expected 0 or more"),
        (None, ("--onnx", "x.onnx", "--images", "5"), "takes a model as it is"),
    ],
)
def test_wrong_lists_and_flags_are_one_line(
    copied: Path, capsys: Capture, spoil: Callable[[Path], None] | None, words: tuple[str, ...], said: str
) -> None:
    if spoil is not None:
        spoil(copied)
    before = (copied / "bundle.json").read_bytes()
    line = line_of(capsys, "quantize", copied, "--calibration-data", copied.parent / "lists", *words)
    assert said in line
    assert (copied / "bundle.json").read_bytes() == before
