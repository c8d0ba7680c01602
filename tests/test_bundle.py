"""The bundle keeps what it is given, and refuses what has been changed behind its back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgead.bundle import Bundle, BundleInfo
from edgead.errors import ArtefactError
from edgead.thresholds import threshold_from_good

INFO = BundleInfo(network="cfrg-lite0", category="tile", size_hw=(256, 256))


def add(bundle: Bundle, name: str, data: bytes, made_from: str | None = None) -> Path:
    def write(path: Path) -> None:
        path.write_bytes(data)

    kind: Any = "checkpoint" if name == "checkpoint" else "onnx"
    return bundle.add(name, write, kind=kind, precision="fp32", made_from=made_from, tools={"torch": "2.13"})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    made = Bundle.create(tmp_path / "b", INFO)
    add(made, "checkpoint", b"weights")
    add(made, "fp32", b"graph", "checkpoint")
    return made


def rewrite(bundle: Bundle, change: Any) -> None:
    """Change bundle.json and give it a right digest, as somebody would who means to deceive."""
    path = bundle.path / "bundle.json"
    fields = json.loads(path.read_text())
    del fields["digest"]
    change(fields)
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**fields, "digest": hashlib.sha256(canonical.encode()).hexdigest()}))


def test_what_is_added_is_there_after_reopening(bundle: Bundle) -> None:
    threshold = threshold_from_good([0.1, 0.2, 0.3], unit="image", source="three tiles")
    bundle.set_threshold("fp32", threshold)
    bundle.set_parity("fp32", "onnxruntime", {"passed": True, "map_max": 1e-6})
    again = Bundle.open(bundle.path)
    assert again.info == INFO
    assert set(again.artefacts) == {"checkpoint", "fp32"}
    record = again.artefacts["fp32"]
    assert record.sha256 == hashlib.sha256(b"graph").hexdigest()
    assert record.size == 5
    assert record.made_from is not None
    assert record.made_from.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert record.tools == {"torch": "2.13"}
    assert again.file("fp32").read_bytes() == b"graph"
    assert again.threshold("fp32") == threshold
    assert record.parity == {"onnxruntime": {"passed": True, "map_max": 1e-6}}
    assert sorted(path.name for path in bundle.path.iterdir()) == ["bundle.json", "checkpoint.pt", "model.fp32.onnx"]


def test_the_first_format_is_carried_over(bundle: Bundle) -> None:
    def to_first(fields: Any) -> None:
        fields["format"] = 1
        for name, record in fields["artefacts"].items():
            record["parity"] = {"passed": True} if name == "fp32" else None
            del record["passport"]

    rewrite(bundle, to_first)
    again = Bundle.open(bundle.path)
    assert again.deployable("fp32", "onnxruntime")
    assert not again.deployable("checkpoint", "onnxruntime")


def test_deployable_is_who_has_passed_on_that_backend(bundle: Bundle) -> None:
    assert not bundle.deployable("fp32", "onnxruntime")
    bundle.set_parity("fp32", "onnxruntime", {"passed": True})
    bundle.set_parity("fp32", "openvino", {"passed": False})
    again = Bundle.open(bundle.path)
    assert again.deployable("fp32", "onnxruntime")
    assert not again.deployable("fp32", "openvino")


def test_an_engine_has_its_passport_beside_it(bundle: Bundle) -> None:
    passport = {"target": "tensorrt-rtx", "max_batch": 8}

    def write(path: Path) -> None:
        path.write_bytes(b"plan")

    engine = bundle.add(
        "tensorrt-rtx-fp32", write, kind="engine", precision="fp32", made_from="fp32", tools={}, passport=passport
    )
    assert json.loads((bundle.path / "engines/tensorrt-rtx-fp32.engine.json").read_text()) == passport
    assert Bundle.open(bundle.path).artefacts["tensorrt-rtx-fp32"].passport == passport
    assert engine.read_bytes() == b"plan"  # nothing prepended: trtexec --loadEngine opens it


def test_networks_have_their_folder(bundle: Bundle) -> None:
    assert add(bundle, "teacher", b"t", "checkpoint") == bundle.path / "networks" / "teacher.onnx"


def test_adding_again_drops_threshold_and_parity(bundle: Bundle) -> None:
    bundle.set_threshold("fp32", threshold_from_good([0.1, 0.2], unit="image", source="two"))
    bundle.set_parity("fp32", "onnxruntime", {"passed": True})
    add(bundle, "fp32", b"other graph", "checkpoint")
    assert Bundle.open(bundle.path).artefacts["fp32"].parity == {}
    with pytest.raises(ArtefactError, match="edgead threshold"):
        bundle.threshold("fp32")


def test_an_artefact_of_a_replaced_source_is_refused_down_the_chain(bundle: Bundle) -> None:
    add(bundle, "int8", b"small graph", "fp32")
    assert bundle.file("int8").name == "model.int8.onnx"
    add(bundle, "checkpoint", b"new weights")
    for name in ("fp32", "int8"):
        with pytest.raises(ArtefactError, match=r"'fp32' was made from another 'checkpoint'.*edgead export"):
            bundle.file(name)
    add(bundle, "fp32", b"graph", "checkpoint")
    assert bundle.file("fp32").read_bytes() == b"graph"


def test_a_station_needs_only_its_own_file(bundle: Bundle) -> None:
    (bundle.path / "checkpoint.pt").unlink()
    assert Bundle.open(bundle.path).file("fp32").read_bytes() == b"graph"


def test_sources_in_a_circle_do_not_hang(bundle: Bundle) -> None:
    def circle(fields: dict[str, Any]) -> None:
        fp32 = fields["artefacts"]["fp32"]
        fp32["made_from"] = {"name": "fp32", "sha256": fp32["sha256"]}

    rewrite(bundle, circle)
    assert Bundle.open(bundle.path).file("fp32").read_bytes() == b"graph"


def test_a_failing_writer_leaves_the_bundle_as_it_was(bundle: Bundle) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("export broke")

    before = sorted(bundle.path.rglob("*"))
    with pytest.raises(ValueError, match="export broke"):
        bundle.add("fp32", write, kind="onnx", precision="fp32", made_from="checkpoint", tools={})
    assert sorted(bundle.path.rglob("*")) == before
    assert Bundle.open(bundle.path).file("fp32").read_bytes() == b"graph"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"grapH", "bytes have changed.*edgead export"), (b"grap", "has 4 bytes, expected 5.*edgead export")],
)
def test_a_changed_file_is_refused(bundle: Bundle, data: bytes, message: str) -> None:
    (bundle.path / "model.fp32.onnx").write_bytes(data)
    with pytest.raises(ArtefactError, match=message):
        bundle.file("fp32")


def test_a_missing_file_is_named_with_its_command(bundle: Bundle) -> None:
    (bundle.path / "checkpoint.pt").unlink()
    with pytest.raises(ArtefactError, match=r"checkpoint\.pt: the file is missing; rebuild it: edgead train"):
        bundle.file("checkpoint")


@pytest.mark.parametrize(
    ("name", "message"),
    [("int8", "no artefact 'int8'; make it: edgead quantize"), ("fp23", "did you mean 'fp32'")],
)
def test_an_absent_artefact_is_named(bundle: Bundle, name: str, message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        bundle.file(name)


@pytest.mark.parametrize("name", ["../fp32", "model", "", "engine"])
def test_a_bundle_has_no_file_for_other_names(bundle: Bundle, name: str) -> None:
    with pytest.raises(ArtefactError, match="no name for an artefact"):
        add(bundle, name, b"x")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_json_is_refused(bundle: Bundle, share: float) -> None:
    path = bundle.path / "bundle.json"
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(ArtefactError, match=r"bundle\.json: truncated.*edgead train"):
        Bundle.open(bundle.path)


def test_an_edited_threshold_is_refused(bundle: Bundle) -> None:
    bundle.set_threshold("fp32", threshold_from_good([0.25, 0.5], unit="image", source="two"))
    path = bundle.path / "bundle.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(ArtefactError, match="edited since"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("file", ["../secret.onnx", "/etc/passwd", "networks/../../x.onnx", "..\\x", "C:x"])
def test_a_path_outside_the_bundle_is_refused(bundle: Bundle, file: str) -> None:
    rewrite(bundle, lambda fields: fields["artefacts"]["fp32"].update(file=file))
    with pytest.raises(ArtefactError, match="outside the bundle"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(format=4), "format 4 is newer.*upgrade"),
        (lambda fields: fields.update(format="one"), "no 'format' number"),
        (lambda fields: fields["info"].pop("category"), "info.category: Field required"),
        (lambda fields: fields["artefacts"]["fp32"].update(extra=1), "artefacts.fp32.extra: Extra inputs"),
    ],
)
def test_other_fields_are_refused_in_one_line(bundle: Bundle, change: Any, message: str) -> None:
    rewrite(bundle, change)
    with pytest.raises(ArtefactError, match=message) as caught:
        Bundle.open(bundle.path)
    assert "\n" not in str(caught.value)


def test_no_bundle_and_a_bundle_of_another_category(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no bundle here.*edgead train"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(ArtefactError, match="cfrg-lite0 for tile at 256x256, not cfrg-lite0 for core"):
        Bundle.create(bundle.path, INFO.model_copy(update={"category": "core"}))
    assert set(Bundle.create(bundle.path, INFO).artefacts) == {"checkpoint", "fp32"}


def test_numbers_that_json_has_not_are_refused_and_the_file_stays(bundle: Bundle) -> None:
    with pytest.raises(ArtefactError, match="infinite or NaN"):
        bundle.set_parity("fp32", "onnxruntime", {"map_max": float("nan")})
    assert Bundle.open(bundle.path).artefacts["fp32"].parity == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ArtefactError, match="cannot be written"):
        Bundle.create(tmp_path / "file" / "b", INFO)
