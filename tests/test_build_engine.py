"""Engines, built by the real TensorRT-RTX builder, which needs no GPU; their passports, cache, ladder and refusals."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import driver_stand_in
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_tensorrt_api import folder_of

from edgead.bundle import NETWORKS, Bundle, BundleInfo
from edgead.cli import main
from edgead.cli.parser import parse
from edgead.engine_passport import Attempt, Passport, passport_of, this_platform
from edgead.errors import ArtefactError, ConfigError, EdgeadError, MissingError
from edgead.onnx_graph import extract, read_model, write_model
from edgead.runtime import tensorrt_library
from edgead.runtime.tensorrt_library import Library, load
from export.build_engine import Built, build
from export.compile_engine import Options, Progress, compile_engine
from export.engine_ladder import Rung, climb, rungs
from export.turing import without_products

pytest.importorskip("tensorrt_rtx")

CAPABILITIES = ("7.5", "8.6", "8.9", "12.0")
SIDE = 8
RTX = {"target": "tensorrt-rtx", "compute_capabilities": ("8.6",)}


def no_driver() -> bool:
    try:
        tensorrt_library.gpu()
    except MissingError:
        return True
    return False


NO_DRIVER = no_driver()


# ---- small models


def floats(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def inspection(
    *middle: onnx.NodeProto,
    weights: tuple[onnx.TensorProto, ...] = (),
    shape: tuple[int | str, ...] = ("batch", SIDE, SIDE, 3),
    opset: int = 19,
    result: str = "features",
) -> onnx.ModelProto:
    """Make an inspection of 8x8 images around ``middle``, which makes ``features`` ``(N, 4, 8, 8)`` of ``planes``."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["planes"], perm=[0, 3, 1, 2]),
        *(middle or [helper.make_node("Conv", ["planes", "weight"], ["features"], name="student/Conv", pads=[1] * 4)]),
        helper.make_node("ReduceMean", [result, "channel"], ["anomaly_map"], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map", "rows"], ["pred_score"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(np.array([1]), "channel"),
        numpy_helper.from_array(np.array([1, 2]), "rows"),
        *(weights if weights or middle else (floats("weight", 4, 3, 3, 3),)),
    ]
    graph = helper.make_graph(
        nodes,
        "inspection",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [shape[0], *shape[1:3]]),
            helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, [shape[0]]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def quantised_depthwise(zero_point: int) -> onnx.ModelProto:
    """Make an inspection whose depthwise convolution is quantised; TensorRT takes no zero point but 0."""
    kinds = {"scale": np.float32(0.5), "zero": np.int8(zero_point), "weight_scale": np.float32(0.01)}
    stored = np.random.default_rng(1).integers(-127, 128, (32, 1, 3, 3)).astype(np.int8)
    weights = [numpy_helper.from_array(np.array(value), name) for name, value in kinds.items()]
    weights += [numpy_helper.from_array(stored, "stored"), floats("first", 32, 3, 3, 3)]
    middle = [
        helper.make_node("Conv", ["planes", "first"], ["wide"], name="student/Conv", pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["wide", "scale", "zero"], ["levels"], name="student/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["back"], name="student/DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["stored", "weight_scale"], ["weight"], name="student/Dequantize_2"),
        helper.make_node("Conv", ["back", "weight"], ["features"], name="student/Conv_2", group=32, pads=[1] * 4),
    ]
    return inspection(*middle, weights=tuple(weights))


def add(bundle: Bundle, name: str, content: onnx.ModelProto | bytes) -> None:
    data = content if isinstance(content, bytes) else content.SerializeToString()
    precision = name.partition("-")[0]
    bundle.add(name, lambda path: _write(path, data), kind="onnx", precision=precision, made_from=None, tools={})


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    """A bundle of a one-layer inspection, ``fp32`` alone."""
    bundle = Bundle.create(tmp_path / "run", BundleInfo(network="tiny", category="tile", size_hw=(SIDE, SIDE)))
    add(bundle, "fp32", inspection())
    return bundle


@pytest.fixture(scope="module")
def rtx() -> Library:
    return load("tensorrt-rtx")


def state(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def one_line(error: EdgeadError) -> str:
    assert len(str(error).splitlines()) == 1
    return str(error)


# ---- every exported graph


@pytest.fixture(scope="module")
def precisions(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Every graph that an export and a quantisation write for TensorRT; the ranges are made up, kernels mind none."""
    from export.float16 import to_float16
    from export.int8 import insert, tensors_to_calibrate

    fp32 = read_model(exported.file("fp32"))
    int8 = insert(fp32, dict.fromkeys(tensors_to_calibrate(fp32), 4.0), "tensorrt")
    models = {"fp32": fp32, "fp16": to_float16(fp32), "int8": to_float16(int8)}
    folder = tmp_path_factory.mktemp("precisions")
    for name in ("fp16", "int8"):
        write_model(models[name], folder / f"{name}.onnx")
        models[name] = read_model(folder / f"{name}.onnx")
    return models


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_inspection_builds_in_every_precision(
    rtx: Library, precisions: dict[str, onnx.ModelProto], precision: Any, capability: str
) -> None:
    compiled = compile_engine(rtx, precisions[precision], precision, Options(capabilities=(capability,)))
    assert compiled.data[:4] == b"vtrt"
    assert int.from_bytes(compiled.data[16:24], "little") == len(compiled.data)
    parameters = sum(numpy_helper.to_array(each).size for each in precisions["fp32"].graph.initializer)
    bytes_each = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    assert len(compiled.data) > 0.7 * parameters * bytes_each


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_builds_for_all_capabilities_at_once(rtx: Library, exported: Bundle, name: str) -> None:
    model = read_model(exported.file(name))
    assert compile_engine(rtx, model, "fp32", Options(capabilities=CAPABILITIES)).layers > 10


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_builds_in_the_precision_that_it_has_inside(
    rtx: Library, precisions: dict[str, onnx.ModelProto], name: str, precision: Any
) -> None:
    part = extract(precisions[precision], name)
    assert compile_engine(rtx, part, precision, Options(capabilities=CAPABILITIES)).layers > 10


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_engine_computes_in_the_types_of_the_file(
    rtx: Library, precisions: dict[str, onnx.ModelProto], precision: str
) -> None:
    log = rtx.log()
    builder = rtx.builder(log)
    network = rtx.network(builder)
    rtx.parse(network, precisions[precision].SerializeToString(), log)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = [(layer.type, layer.get_output_type(0)) for layer in layers]
    convolution, quantise, data = rtx.trt.LayerType.CONVOLUTION, rtx.trt.LayerType.QUANTIZE, rtx.trt.DataType
    halves = sum(kind == (convolution, data.HALF) for kind in kinds)
    assert halves == 0 if precision == "fp32" else halves > 40
    pairs = sum(node.op_type == "QuantizeLinear" for node in precisions[precision].graph.node)
    assert sum(kind == (quantise, data.INT8) for kind in kinds) == pairs
    assert (pairs > 20) == (precision == "int8")


def test_products_become_convolutions_of_the_same_sums(
    exported: Bundle, smooth_images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    model = read_model(exported.file("fp32"))
    assert any(node.op_type == "MatMul" for node in model.graph.node)
    rewritten = without_products(model)
    assert not any(node.op_type == "MatMul" for node in rewritten.graph.node)
    write_model(rewritten, tmp_path / "turing.onnx")
    answers = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": smooth_images})
        for path in (exported.file("fp32"), tmp_path / "turing.onnx")
    ]
    for before, after in zip(*answers, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


# ---- profile, progress, Ctrl-C


class Kept:
    """A builder that keeps the profiles it makes."""

    profiles: ClassVar[list[Any]] = []

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._builder, name)

    def create_optimization_profile(self) -> Any:
        self.profiles.append(self._builder.create_optimization_profile())
        return self.profiles[-1]


def test_every_input_takes_one_to_the_largest_batch(
    rtx: Library, exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kept, "profiles", [])
    make = Library.builder
    monkeypatch.setattr(Library, "builder", lambda self, log: Kept(make(self, log)))
    model = read_model(exported.file("recovery"))
    compile_engine(rtx, model, "fp32", Options(max_batch=6, capabilities=("8.6",)))
    (profile,) = Kept.profiles
    assert len(model.graph.input) == 3
    for value in model.graph.input:
        fixed = tuple(each.dim_value for each in value.type.tensor_type.shape.dim[1:])
        assert [tuple(each) for each in profile.get_shape(value.name)] == [(1, *fixed), (6, *fixed), (6, *fixed)]


def test_progress_of_nested_phases_only_grows_and_ends_at_all() -> None:
    told: list[int] = []
    progress = Progress(lambda steps, _="": told.append(steps), threading.Event())
    progress.start("all", None, 2)
    progress.start("first", "all", 4)
    assert progress.step("first", 0)
    assert progress.share == pytest.approx(1 / 8)
    progress.start("within", "first", 2)
    progress.step("within", 0)
    assert progress.share == pytest.approx(1 / 8 + 1 / 16)
    progress.finish("within")
    progress.finish("first")  # before the phase around it counts it
    progress.step("unknown", 7)
    assert progress.share < 1 / 8
    progress.step("all", 0)
    assert progress.share == pytest.approx(1 / 2)
    progress.step("unknown", 7)
    progress.finish("all")
    assert min(told) >= 0
    progress.end()
    assert sum(told) == 100


def test_the_builder_tells_its_progress(rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    step = Progress.step
    monkeypatch.setattr(Progress, "step", lambda self, *told: (seen.append(self.share), step(self, *told))[1])
    compile_engine(rtx, inspection(), "fp32", Options(capabilities=("8.6",)))
    assert len(seen) > 10
    assert 0 <= min(seen) < 0.2
    assert 0.5 < max(seen) <= 1


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Press Ctrl-C at the third step of the builder; returns the steps that it took."""
    steps: list[str] = []
    step = Progress.step

    def press(self: Progress, phase: str, number: int) -> bool:
        steps.append(phase)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            self._cancelled.wait(10)
        return step(self, phase, number)

    monkeypatch.setattr(Progress, "step", press)
    return steps


def test_ctrl_c_stops_the_builder_and_leaves_the_bundle_as_it_was(small: Bundle, interrupted: list[str]) -> None:
    before = state(small.path)
    with pytest.raises(KeyboardInterrupt):
        build(small, precision="fp32", **RTX)
    assert len(interrupted) == 3  # the builder was told to stop, and did
    assert state(small.path) == before
    assert list(small.artefacts) == ["fp32"]
    assert build(small, precision="fp32", **RTX).rung == "fp32"


def test_ctrl_c_on_the_command_line(small: Bundle, interrupted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", str(small.path), "--target", "tensorrt-rtx", "--precision", "fp32"]
    assert main([*words, "--compute-capability", "8.6"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "edgead build: stopped"
    assert interrupted


# ---- the cache


def test_the_same_request_again_builds_nothing(small: Bundle) -> None:
    first = build(small, precision="fp32", **RTX)
    assert (first.artefact, first.cached, first.path) == (
        *("tensorrt-rtx-fp32", False),
        small.path / "engines" / "tensorrt-rtx-fp32.engine",
    )
    before = state(small.path)
    second = build(Bundle.open(small.path), precision="fp32", **RTX)
    assert (second.cached, second.seconds, second.passport) == (True, 0.0, first.passport)
    assert state(small.path) == before
    record = Bundle.open(small.path).artefacts["tensorrt-rtx-fp32"]
    assert (record.kind, record.precision, record.made_from and record.made_from.name) == ("engine", "fp32", "fp32")
    beside = (small.path / "engines" / "tensorrt-rtx-fp32.engine.json").read_text()
    assert Passport.model_validate_json(beside) == first.passport == passport_of(first.artefact, record.passport)


def another_model(bundle: Bundle) -> None:
    add(bundle, "fp32", inspection(opset=20))


def cut(bundle: Bundle) -> None:
    engine = bundle.path / "engines" / "tensorrt-rtx-fp32.engine"
    engine.write_bytes(engine.read_bytes()[:-1])


def gone(bundle: Bundle) -> None:
    (bundle.path / "engines" / "tensorrt-rtx-fp32.engine").unlink()


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        (another_model, {}),
        (cut, {}),
        (gone, {}),
        (lambda _: None, {"max_batch": 4}),
        (lambda _: None, {"compute_capabilities": ("8.6", "8.9")}),
        (lambda _: None, {"compute_capabilities": ("7.5",)}),
        (lambda _: None, {"again": True}),
    ],
    ids=["another model", "cut engine", "no engine", "batch", "capabilities", "capability", "again"],
)
def test_what_differs_is_built_anew(small: Bundle, change: Callable[[Bundle], None], asked: dict[str, Any]) -> None:
    build(small, precision="fp32", **RTX)
    change(small)
    made = build(small, precision="fp32", **{**RTX, **asked})
    assert not made.cached
    assert small.file(made.artefact).stat().st_size > 1000
    assert build(small, precision="fp32", **{**RTX, **asked, "again": False}).cached


def test_another_version_of_the_library_builds_anew(small: Bundle, rtx: Library) -> None:
    build(small, precision="fp32", **RTX)
    newer = dataclasses.replace(rtx, version="9.9")
    made = build(small, precision="fp32", library=newer, **RTX)
    assert (made.cached, made.passport.version) == (False, "9.9")


def test_capabilities_count_as_a_set(small: Bundle) -> None:
    build(small, precision="fp32", target="tensorrt-rtx", compute_capabilities=("8.9", "8.6"))
    assert build(small, precision="fp32", target="tensorrt-rtx", compute_capabilities=("8.6", "8.9", "8.6")).cached


# ---- the ladder


def ladder_of(*names: str) -> list[Rung]:
    return [Rung(name, "int8", "int8-fp16", inspection) for name in names]


def test_the_ladder_tries_in_order_and_keeps_every_reason() -> None:
    asked: list[str] = []

    def make(rung: Rung, _: onnx.ModelProto) -> str:
        asked.append(rung.name)
        if rung.name != "c":
            raise ArtefactError(f"no {rung.name}")
        return "made"

    climbed = climb(ladder_of("a", "b", "c", "d"), make)
    assert asked == ["a", "b", "c"]
    assert (climbed.rung.name, climbed.made, climbed.tried) == ("c", "made", {"a": "no a", "b": "no b"})
    with pytest.raises(ArtefactError, match=r"^a: no a; b: no b$"):
        climb(ladder_of("a", "b"), make)


def test_only_what_the_library_refuses_leads_to_a_lower_rung() -> None:
    def unreadable() -> onnx.ModelProto:
        raise ArtefactError("damaged")

    first = Rung("a", "int8", "int8-fp16", unreadable)
    with pytest.raises(ArtefactError, match=r"^damaged$"):
        climb([first, *ladder_of("b")], lambda rung, _: rung.name)


@pytest.mark.parametrize("error", [ConfigError("no"), MissingError("no"), KeyboardInterrupt()])
def test_what_is_not_the_models_fault_ends_the_ladder(error: BaseException) -> None:
    def make(_: Rung, model: onnx.ModelProto) -> str:
        assert model.graph.node
        raise error

    with pytest.raises(type(error)):
        climb(ladder_of("a", "b"), make)


def test_the_rungs_are_what_the_bundle_has(small: Bundle) -> None:
    assert [each.name for each in rungs(small, "fp32", is_typed=True)] == ["fp32"]
    with pytest.raises(ArtefactError, match=r"no artefact 'int8-fp16'; make it: edgead quantize"):
        rungs(small, "int8", is_typed=True)
    add(small, "int8-fp16", inspection())
    assert [each.name for each in rungs(small, "int8", is_typed=True)] == ["int8", "int8-fewer", "fp32"]
    add(small, "fp16", inspection())
    add(small, "int8", inspection())
    typed, weak = (rungs(small, "int8", is_typed=each) for each in (True, False))
    assert [(each.name, each.source) for each in typed] == [
        *(("int8", "int8-fp16"), ("int8-fewer", "int8-fp16"), ("fp16", "fp16"), ("fp32", "fp32")),
    ]
    assert [(each.name, each.source) for each in weak] == [  # TensorRT 8 takes the precision from flags
        *(("int8", "int8"), ("int8-fewer", "int8"), ("fp16", "fp32"), ("fp32", "fp32")),
    ]


def test_fewer_quantised_layers_are_the_second_rung(small: Bundle) -> None:
    add(small, "int8-fp16", quantised_depthwise(0))
    assert build(small, precision="int8", **RTX).rung == "int8"
    add(small, "int8-fp16", quantised_depthwise(3))
    made = build(small, precision="int8", **RTX)
    assert (made.rung, made.artefact, made.passport.precision) == ("int8-fewer", "tensorrt-rtx-int8", "int8")
    assert list(made.tried) == ["int8"]
    assert "zero point" in made.tried["int8"]
    again = build(small, precision="int8", **RTX)
    assert (again.cached, again.rung, again.tried) == (True, "int8-fewer", made.tried)


def unknown_operator() -> onnx.ModelProto:
    node = helper.make_node("QLinearSoftmax", ["planes"], ["features"], name="student/Odd", domain="com.microsoft")
    model = inspection(node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def test_a_lower_rung_is_recorded_as_what_it_is_and_remembered(small: Bundle) -> None:
    add(small, "int8-fp16", unknown_operator())
    add(small, "fp16", inspection())
    made = build(small, precision="int8", **RTX)
    assert (made.rung, made.artefact, made.passport.precision) == ("fp16", "tensorrt-rtx-fp16", "fp16")
    assert list(made.tried) == ["int8", "int8-fewer"]
    assert "tensorrt-rtx-int8" not in small.artefacts
    assert small.artefacts["tensorrt-rtx-fp16"].precision == "fp16"
    again = build(small, precision="int8", **RTX)
    assert (again.cached, again.rung, again.tried) == (True, "fp16", made.tried)
    assert build(small, precision="fp16", **RTX).cached
    add(small, "int8-fp16", quantised_depthwise(0))  # quantised anew: what failed before says nothing
    assert build(small, precision="int8", **RTX).rung == "int8"


def test_a_lower_rung_that_is_there_is_not_built_again(small: Bundle) -> None:
    add(small, "fp16", inspection())
    first = build(small, precision="fp16", **RTX)
    add(small, "int8-fp16", unknown_operator())
    made = build(small, precision="int8", **RTX)
    assert (made.rung, made.cached, made.path) == ("fp16", True, first.path)
    assert list(made.tried) == ["int8", "int8-fewer"]


def test_without_the_ladder_a_precision_that_cannot_be_built_fails(small: Bundle) -> None:
    add(small, "int8-fp16", unknown_operator())
    before = state(small.path)
    with pytest.raises(ArtefactError, match="QLinearSoftmax") as caught:
        build(small, precision="int8", ladder=False, **RTX)
    one_line(caught.value)
    assert state(small.path) == before


def test_the_command_line_says_aloud_what_an_engine_is(small: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    add(small, "int8-fp16", unknown_operator())
    words = ["build", str(small.path), "--target", "tensorrt-rtx", "--precision", "fp32,int8"]
    words += ["--compute-capability", "8.6"]
    assert main(words) == 0
    done = capsys.readouterr()
    (loud,) = (line for line in done.err.splitlines() if "NOT INT8" in line)
    assert "tensorrt-rtx-fp32 is fp32" in loud
    assert "QLinearSoftmax" in loud
    assert re.search(r"int8 +tensorrt-rtx-fp32 +fp32 .* cached", done.out)
    assert main([*words, "--no-ladder"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("edgead build: int8: ")


# ---- passports


def passport(**changes: Any) -> Passport:
    values: dict[str, Any] = {
        "target": "tensorrt",
        "version": "10.3.0",
        "precision": "int8",
        "rung": "int8",
        "source": "int8-fp16",
        "onnx": "model.int8-fp16.onnx",
        "made_from": "ab" * 32,
        "gpu": "Orin",
        "compute_capabilities": ("8.7",),
        "driver": "12.6",
        "platform": this_platform(),
        "max_batch": 4,
        "size_hw": (256, 256),
    }
    return Passport.model_validate({**values, **changes})


RTX_PASSPORT: dict[str, Any] = {"target": "tensorrt-rtx", "gpu": None, "compute_capabilities": ("8.6", "8.9")}


@pytest.mark.parametrize(
    ("changes", "library", "device", "told"),
    [
        ({}, ("tensorrt", "10.3.0"), ("8.7", "Orin"), None),
        ({"driver": "11.4"}, ("tensorrt", "10.3.0"), ("8.7", "Orin"), None),
        ({}, ("tensorrt", "10.3.1"), ("8.7", "Orin"), "built with tensorrt 10.3.0, this is TensorRT 10.3.1"),
        ({}, ("tensorrt-rtx", "10.3.0"), ("8.7", "Orin"), "one of tensorrt, not of tensorrt-rtx"),
        ({}, ("tensorrt", "10.3.0"), ("7.2", "Xavier"), "for compute capability 8.7, Xavier has 7.2"),
        ({}, ("tensorrt", "10.3.0"), ("8.7", "Orin Nano"), "for Orin, this is Orin Nano"),
        ({"platform": "qnx-aarch64"}, ("tensorrt", "10.3.0"), ("8.7", "Orin"), "built on qnx-aarch64"),
        (RTX_PASSPORT, ("tensorrt-rtx", "10.3.0"), ("8.9", "RTX 4090"), None),
        (RTX_PASSPORT, ("tensorrt-rtx", "10.3.0"), ("8.6", "RTX 3060"), None),
        (RTX_PASSPORT, ("tensorrt-rtx", "10.3.0"), ("12.0", "RTX 5090"), "for compute capability 8.6, 8.9, RTX 5090"),
    ],
)
def test_an_engine_is_refused_where_it_does_not_fit(
    changes: dict[str, Any], library: tuple[str, str], device: tuple[str, str], told: str | None
) -> None:
    engine = passport(**changes)
    rebuild = engine.command("runs/x", capability=device[0])
    loaded = Library(None, *library)
    if told is None:
        engine.refuse_unless_fits(loaded, *device, rebuild)
        return
    with pytest.raises(ArtefactError, match=re.escape(told)) as caught:
        engine.refuse_unless_fits(loaded, *device, rebuild)
    assert one_line(caught.value).endswith(f"build it here: {rebuild}")


@pytest.mark.parametrize(
    ("changes", "capability", "flags"),
    [
        ({}, None, ["--target", "tensorrt"]),
        ({"dla": 0, "max_batch": 1}, "8.7", ["--dla", "0", "--max-batch", "1"]),
        (RTX_PASSPORT, "12.0", ["--compute-capability", "8.6,8.9,12.0"]),
        (RTX_PASSPORT, "8.9", ["--compute-capability", "8.6,8.9"]),
        (RTX_PASSPORT, "8.7", ["--target", "tensorrt"]),
    ],
)
def test_the_rebuild_command_is_one_that_edgead_takes(
    changes: dict[str, Any], capability: str | None, flags: list[str]
) -> None:
    words = shlex.split(passport(**changes).command(Path("runs/x"), capability=capability))
    assert parse(words[1:]).bundle == Path("runs/x")
    assert words[0] == "edgead"
    assert all(pair in itertools.pairwise(words) for pair in zip(flags[::2], flags[1::2], strict=True))
    assert ("--compute-capability" in words) == ("--compute-capability" in flags)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("tensorrt-int8", None, "has no passport"),
        ("tensorrt-int8", {"format": 1}, "Field required"),
        ("tensorrt-int8", {**passport().model_dump(), "colour": "red"}, "colour: Extra inputs"),
        ("tensorrt-int8", {**passport().model_dump(), "precision": "fp8"}, "precision: Input should be"),
        ("tensorrt-int8", passport(precision="fp16").model_dump(), "the passport of an engine 'tensorrt-fp16'"),
        ("tensorrt-rtx-int8", passport().model_dump(), "the passport of an engine 'tensorrt-int8'"),
    ],
)
def test_a_damaged_or_foreign_passport_is_refused(name: str, values: dict[str, Any] | None, told: str) -> None:
    with pytest.raises(ArtefactError, match=re.escape(told)) as caught:
        passport_of(name, values)
    assert one_line(caught.value).endswith("edgead build")


def test_an_engine_stands_for_a_request_only_if_all_above_it_failed_for_the_same_file() -> None:
    failed = Attempt(rung="int8", made_from="aa", reason="no kernel")
    engine = passport(precision="fp16", rung="fp16", tried=(failed,))
    asked = passport(precision="fp16", rung="fp16")
    assert engine.covers(asked)
    assert engine.covers(asked.model_copy(update={"tried": (failed.model_copy(update={"reason": ""}),)}))
    assert not engine.covers(asked.model_copy(update={"tried": (failed.model_copy(update={"made_from": "bb"}),)}))
    assert not asked.covers(engine)
    assert not engine.covers(passport(precision="fp16", rung="fp16", driver="13.0"))


# ---- bad input


def with_weight(value: float) -> onnx.ModelProto:
    broken = np.full((4, 3, 3, 3), 0.1, np.float32)
    broken[1, 2, 0, 0] = value
    conv = helper.make_node("Conv", ["planes", "weight"], ["features"], name="student/Conv", pads=[1] * 4)
    return inspection(conv, weights=(numpy_helper.from_array(broken, "weight"),))


def mixed_types() -> onnx.ModelProto:
    half = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float16), "half")
    return inspection(helper.make_node("Mul", ["planes", "half"], ["features"], name="student/Mul"), weights=(half,))


def unsupported_standard_operator() -> onnx.ModelProto:
    return inspection(helper.make_node("Det", ["planes"], ["features"], name="student/Det"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "model.fp32.onnx: the file is empty"),
        (b"# not a model\n" * 40, "truncated, or no ONNX file"),
        (bytes(range(256)) * 9, "truncated, or no ONNX file"),
        (inspection().SerializeToString()[:200], "truncated, or no ONNX file"),
        (inspection(opset=99), "opset 99, expected"),
        (inspection(opset=7), "opset 7, expected"),
        (with_weight(np.nan), "the weight 'weight' holds NaN or infinity"),
        (with_weight(np.inf), "the weight 'weight' holds NaN or infinity"),
        (unknown_operator(), "node 'student/Odd', operator QLinearSoftmax"),
        (unsupported_standard_operator(), "node 'student/Det', operator Det"),
        (mixed_types(), "node 'student/Mul', operator Mul"),
        (inspection(shape=(2, SIDE, SIDE, 3)), "its input image is (2, 8, 8, 3); expected any batch"),
        (inspection(shape=("batch", "h", "w", 3)), "its input image is (-1, -1, -1, 3); expected any batch"),
    ],
    ids=["empty", "text", "corrupt", "truncated", "opset 99", "opset 7", "nan", "inf", "custom", "standard", "mixed"]
    + ["static batch", "dynamic size"],
)
def test_a_bad_model_is_one_line_and_leaves_nothing(
    small: Bundle, capsys: pytest.CaptureFixture[str], content: onnx.ModelProto | bytes, told: str
) -> None:
    add(small, "fp32", content)
    before = state(small.path)
    words = ["build", str(small.path), "--target", "tensorrt-rtx", "--precision", "fp32"]
    assert main([*words, "--compute-capability", "8.6"]) == 2
    done = capsys.readouterr()
    line = done.err.splitlines()[-1]
    assert line.startswith("edgead build: ")
    assert told in line
    assert len(line) < 700
    assert "Traceback" not in done.err
    assert done.out == ""
    assert state(small.path) == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target", "tensort"], "there is no 'tensort', did you mean 'tensorrt'?"),
        (["--target", "tensorrt-rtx", "--precision", "fp61"], "there is no precision 'fp61', did you mean 'fp16'?"),
        (["--target", "tensorrt-rtx", "--precision", "fp16,,int8"], "has an empty word"),
        (["--target", "tensorrt-rtx", "--compute-capability", "8.66"], "'8.66', did you mean '8.6'?"),
        (["--target", "tensorrt-rtx", "--compute-capability", "8.6,8.7"], "8.7 is Jetson Orin); build on that machine"),
        (["--target", "tensorrt-rtx", "--compute-capability", "9.0"], "--target tensorrt"),
        (["--target", "tensorrt-rtx", "--compute-capability", "10.0"], "not for Jetson and data-centre GPUs"),
        (["--target", "tensorrt-rtx", "--max-batch", "0"], "max batch 0 does not work; expected 1 or more"),
        (["--target", "tensorrt-rtx", "--dla", "0"], "TensorRT-RTX runs on no DLA; leave --dla out"),
        (["--target", "tensorrt-rtx", "--optimisation-level", "3"], "leave --optimisation-level out"),
        (["--target", "tensorrt-rtx", "--timing-cache", "x"], "leave --timing-cache out"),
        (["--target", "tensorrt-rtx", "--optimisation-level", "6"], "expected 0 to 5"),
        (["--target", "tensorrt-rtx", "--precision", "int8"], "no artefact 'int8-fp16'; make it: edgead quantize"),
    ],
)
def test_wrong_flags_are_one_line_and_code_2(
    small: Bundle, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    before = state(small.path)
    given = ["--precision", "fp32", "--compute-capability", "8.6"]
    assert main(["build", str(small.path), *given, *words]) == 2
    done = capsys.readouterr()
    assert done.err.count("\n") == 1
    assert told in done.err
    assert state(small.path) == before


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"dla": 0, "precision": "fp32"}, "does not compute in fp32"),
        ({"dla": 0}, "takes batches of one size, not 1 to 8; add --max-batch 1"),
        ({"dla": -1}, "DLA core -1"),
        ({"target": "tensorrt-rx"}, "did you mean 'tensorrt-rtx'"),
    ],
)
def test_what_no_library_takes_is_refused_before_one_is_loaded(small: Bundle, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        build(small, **{"target": "tensorrt", "precision": "fp16", **asked})


@pytest.mark.skipif(not NO_DRIVER, reason="needs a machine without an NVIDIA driver")
def test_without_a_gpu_tensorrt_rtx_asks_what_to_build_for(small: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"such as --compute-capability 8\.6 \(of 7\.5, "):
        build(small, target="tensorrt-rtx", precision="fp32")


# ---- engines that are none


@pytest.fixture(scope="module")
def engine(rtx: Library) -> bytes:
    return compile_engine(rtx, inspection(), "fp32", Options(capabilities=("8.6",))).data


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda _: b"", "the file is empty"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "a text file, no engine"),
        (lambda data: data[:200], "truncated, it has 200 bytes and says"),
        (lambda data: data[:-1], "truncated, it has"),
        (lambda data: b"ftrt" + data[4:], "no TensorRT-RTX engine (it begins with b'ftrt')"),
        (lambda _: bytes(5000), "no TensorRT-RTX engine"),
    ],
    ids=["empty", "text", "head", "last byte", "full TensorRT", "zeros"],
)
def test_what_is_no_engine_is_refused_before_the_library_sees_it(
    rtx: Library, engine: bytes, tmp_path: Path, spoil: Callable[[bytes], bytes], told: str
) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(spoil(engine))
    for given in (path, spoil(engine)):
        with pytest.raises(ArtefactError, match=re.escape(told)) as caught:
            rtx.deserialise(given)
        assert one_line(caught.value).endswith("edgead build")


@pytest.mark.skipif(not NO_DRIVER, reason="needs a machine without an NVIDIA driver")
def test_a_sound_engine_without_a_driver_is_not_blamed(rtx: Library, engine: bytes) -> None:
    with pytest.raises(MissingError, match="no NVIDIA driver"):
        rtx.deserialise(engine)
    with pytest.raises(ArtefactError, match="cannot be read"):
        rtx.deserialise("nowhere.engine")


@pytest.mark.parametrize("content", [b"", b"# not a model\n" * 40, inspection().SerializeToString()[:200]])
def test_the_parser_is_not_believed_when_it_takes_nothing_for_a_network(rtx: Library, content: bytes) -> None:
    log = rtx.log()
    builder = rtx.builder(log)
    network = rtx.network(builder)
    with pytest.raises(ArtefactError, match=r"finds 0 inputs and 0 outputs in it|cannot read it"):
        rtx.parse(network, content, log)


# ---- the driver and the libraries


def run_edgead(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgead", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(not NO_DRIVER, reason="needs a machine without an NVIDIA driver")
def test_full_tensorrt_without_a_driver_is_one_line_and_code_3(small: Bundle) -> None:
    done = run_edgead(["build", str(small.path), "--target", "tensorrt", "--precision", "fp32"])
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"edgead build: no NVIDIA driver \(.*\n", done.stderr)


def environment(folder: Path, module: str, *paths: Path) -> dict[str, str]:
    """Return an environment with a stand-in of the driver, of capability 8.7, and a module in place of tensorrt."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler for the stand-in of the driver: install gcc")
    driver_stand_in.build(folder)
    (folder / "tensorrt.py").write_text(f"from {module} import *\nfrom {module} import __version__\n")
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(str(each / "lib") for each in paths) + os.pathsep + str(folder),
        "PYTHONPATH": os.pathsep.join(map(str, [folder, *paths, Path(__file__).parents[1]])),
    }


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """TensorRT 10.3 whose factories answer with null."""
    return environment(tmp_path_factory.mktemp("stand-in"), "tensorrt_bindings", folder_of("10.3.0"))


@pytest.fixture(scope="module")
def in_its_clothes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """TensorRT-RTX in the clothes of full TensorRT, so that its calls meet a real builder."""
    return environment(tmp_path_factory.mktemp("clothes"), "tensorrt_rtx")


def test_full_tensorrt_is_built_for_the_gpu_and_driver_that_are_here(
    small: Bundle, in_its_clothes: dict[str, str], tmp_path: Path
) -> None:
    cache = tmp_path / "kernels.cache"
    words = ["build", str(small.path), "--target", "tensorrt", "--precision", "fp32", "--json"]
    words += ["--optimisation-level", "2", "--timing-cache", str(cache)]
    done = run_edgead(words, **in_its_clothes)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)["engines"]["fp32"]
    written = made["passport"]
    assert (made["artefact"], made["cached"], written["gpu"]) == ("tensorrt-fp32", False, "Stand-in GPU 0")
    assert (written["compute_capabilities"], written["driver"]) == (["8.7"], "13.0")
    assert "optimisation-level=2" in written["flags"]
    assert cache.stat().st_size > 100
    again = run_edgead(words, **in_its_clothes)
    assert json.loads(again.stdout)["engines"]["fp32"]["cached"] is True


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--timing-cache", "FILE"], "not a timing cache of TensorRT"),
        (["--timing-cache", "."], "the timing cache cannot be read (Is a directory)"),
        (["--precision", "fp16", "--dla", "0", "--max-batch", "1"], "finds 0 DLA cores on this machine; leave --dla"),
    ],
)
def test_a_timing_cache_or_dla_that_does_not_fit_is_refused(
    small: Bundle, in_its_clothes: dict[str, str], tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "FILE").write_bytes(b"not a cache" * 30)
    add(small, "fp16", inspection())
    before = state(tmp_path)
    given = [str(tmp_path / word) if word == "FILE" else word for word in words]
    base = ["build", str(small.path), "--target", "tensorrt", "--precision", "fp32"]
    done = run_edgead([*base, *given], **in_its_clothes)
    assert done.returncode == 2
    assert told in done.stderr.splitlines()[-1]
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 3, r"TensorRT 10\.3\.0 does not start \(.*\); update the NVIDIA driver"),
        (["--compute-capability", "8.7"], 3, "does not start"),
        (["--compute-capability", "8.6"], 2, r"for the GPU that is here only \(Stand-in GPU 0, 8\.7\), not for 8\.6"),
        (["--precision", "fp16"], 2, "no artefact 'fp16'; make it: edgead quantize"),
    ],
)
def test_full_tensorrt_builds_for_the_gpu_that_is_here(
    small: Bundle, stand_in: dict[str, str], words: list[str], code: int, told: str
) -> None:
    before = state(small.path)
    base = ["build", str(small.path), "--target", "tensorrt", "--precision", "fp32"]
    done = run_edgead([*base, *words], **stand_in)
    assert done.returncode == code, done.stderr
    assert re.search(told, done.stderr.splitlines()[-1])
    assert state(small.path) == before


def test_tensorrt_rtx_takes_the_gpu_that_is_here_unless_it_is_none_of_its_own(
    small: Bundle, stand_in: dict[str, str]
) -> None:
    done = run_edgead(["build", str(small.path), "--target", "tensorrt-rtx", "--precision", "fp32"], **stand_in)
    assert done.returncode == 2
    assert "8.7 is Jetson Orin" in done.stderr


FOUND = "from edgead.runtime.tensorrt_library import found; import json; print(json.dumps(found()))"


def test_found_survives_a_library_that_crashes(tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("import os\nos.abort()\n")
    (tmp_path / "tensorrt_rtx.py").write_text("raise OSError('libtensorrt_rtx.so.1: cannot open shared object file')\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", FOUND], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
    full, rtx = json.loads(done.stdout)
    assert full[:2] == ["tensorrt", None]
    assert full[2].startswith("ended with -6; ")
    assert rtx[:2] == ["tensorrt-rtx", None]
    assert "cannot open shared object file; in edgead's folder: pip install" in rtx[2]


def test_found_names_the_version_that_is_here(rtx: Library) -> None:
    by_target = {each.target: each for each in tensorrt_library.found()}
    assert list(by_target) == ["tensorrt", "tensorrt-rtx"]
    assert by_target["tensorrt-rtx"].version == rtx.version
    problem = by_target["tensorrt-rtx"].problem
    assert (problem is not None and problem.startswith("builds engines all the same")) == NO_DRIVER


def test_a_target_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingError, match=r"tensorrt_rtx cannot be imported .*\.\[tensorrt-rtx\]"):
        load("tensorrt-rtx")
    with pytest.raises(ConfigError, match="did you mean 'tensorrt'"):
        load("tensorr")


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("target", tensorrt_library.TARGETS)
def test_an_engine_opens_on_the_gpu_that_it_was_built_for(small: Bundle, target: str) -> None:
    library = load(target)
    device = tensorrt_library.gpu()
    made: Built = build(small, target=target, precision="fp32", max_batch=4)
    made.passport.refuse_unless_fits(library, device.capability, device.name, "")
    opened = library.deserialise(made.path)
    names = {opened.get_tensor_name(index) for index in range(opened.num_io_tensors)}
    assert names == {"image", "anomaly_map", "pred_score"}
    shapes = [tuple(shape) for shape in opened.get_tensor_profile_shape("image", 0)]
    assert (shapes[0], shapes[2]) == ((1, SIDE, SIDE, 3), (4, SIDE, SIDE, 3))
