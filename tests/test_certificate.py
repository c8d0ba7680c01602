"""Certificates: what ``edgead parity`` proves, refuses and leaves behind, for sound and for damaged artefacts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from benchmarks.parity import Certificate, Images, certificate_path, certify, certifying, read_certificate
from benchmarks.parity.certifying import pairs, precision_of
from benchmarks.parity.difference import difference
from benchmarks.parity.networks import network_differences
from benchmarks.reference import Reference
from edgead.bundle import NETWORKS, Bundle
from edgead.bundle_file import write_json
from edgead.cfrg import checkpoint
from edgead.cli import main
from edgead.datasets import open_dataset
from edgead.engine_passport import Passport
from edgead.errors import ArtefactError, DataError
from edgead.images import write_png
from edgead.onnx_graph import read_model, write_model
from edgead.runtime.nvidia_driver import Gpu
from edgead.runtime.torch_runner import TorchRunner
from edgead.thresholds import Threshold
from export.float16 import to_float16

OUTPUTS = [f"{name}_{level}" for name in ("teacher", "student", "recovery") for level in (1, 2, 3)] + ["logits"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Line(NamedTuple):
    """A bundle with images that its random network tells apart perfectly, so that damage can only cost accuracy."""

    bundle: Bundle
    root: Path
    run: Callable[..., Done]

    def parity(self, *words: object) -> Done:
        where = ["--dataset", "mvtec", "--root", self.root, "--category", "tile", "--threads", 1]
        return self.run("parity", self.bundle.path, *words, *where)

    def images(self, count: int | None = None) -> Images:
        test = open_dataset("mvtec", self.root, "tile").test
        return Images("mvtec", "tile", test[:count], len(test))

    def certificate(self, name: str) -> Certificate:
        return read_certificate(self.bundle.path / "parity" / f"{name}.json")


@pytest.fixture(scope="module")
def labelled(
    exported: Bundle, smooth_images: npt.NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Threshold]:
    """The MVTec layout: the eight images that the network scores highest are the defective ones, masked where its map
    is high; and the threshold between them.
    """
    root = tmp_path_factory.mktemp("labelled")
    reference = Reference(checkpoint.load(exported.file("checkpoint")), max_batch=16)
    maps, scores = reference.infer(smooth_images)
    order = np.argsort(scores)
    for rank, place in enumerate(order.tolist()):
        label = "good" if rank < 8 else "dent"
        write_png(root / "tile" / "test" / label / f"{rank:02}.png", smooth_images[place])
        if label == "dent":
            mask = (maps[place] > np.quantile(maps[place], 0.9)).astype(np.uint8) * 255
            write_png(root / "tile" / "ground_truth" / label / f"{rank:02}_mask.png", mask)
    for name in ("a", "b", "c"):
        write_png(root / "tile" / "train" / "good" / f"{name}.png", np.full((64, 64, 3), ord(name), np.uint8))
    between = float(scores[order[7]] + scores[order[8]]) / 2
    return root, Threshold(between, between, "image", 2000, 0.95, 3, 600000, 1500, "test")


@pytest.fixture
def line(
    exported: Bundle, labelled: tuple[Path, Threshold], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Line:
    def run(*words: object) -> Done:
        capsys.readouterr()
        return Done(main([str(word) for word in words]), *capsys.readouterr())

    bundle = Bundle.open(shutil.copytree(exported.path, tmp_path / "run"))
    bundle.set_threshold("fp32", labelled[1])
    return Line(bundle, labelled[0], run)


def add(bundle: Bundle, name: str, change: Callable[[Any], Any]) -> None:
    """Add an artefact that is the float32 model changed."""
    model = change(read_model(bundle.file("fp32")))

    def write(path: Path) -> None:
        write_model(model, path)

    bundle.add(name, write, kind="onnx", precision=name, made_from="fp32", tools={})


def same(model: Any) -> Any:
    model.doc_string = "a copy"
    return model


def damaged(model: Any) -> Any:
    """Put noise for the largest weights of the student and of the segmentation."""
    random = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4 and values.size > 500:
            noise = random.normal(0, 3 * values.std(), values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(noise, tensor.name))
    return model


def overflowing(model: Any) -> Any:
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, 3e38), tensor.name))
    return model


def test_a_sound_fp32_model_is_certified(line: Line) -> None:
    done = line.parity("--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    kept = Bundle.open(line.bundle.path)
    assert kept.deployable("fp32", "onnxruntime")
    assert not kept.deployable("fp32", "openvino")
    assert kept.artefacts["fp32"].parity["onnxruntime"] == document["parity"]
    found = line.certificate("fp32-onnxruntime")
    assert document["file"] == str(line.bundle.path / "parity" / "fp32-onnxruntime.json")
    assert found.summary() == document["parity"]
    assert (found.reference, found.candidate) == ("torch + scipy", "onnxruntime-cpu")
    names = ["map_abs", "score_relative", "rank_correlation", "flips", "teacher", "student", "recovery", "segmentation"]
    assert [gate.name for gate in found.gates] == names
    assert [each.output for each in found.networks] == OUTPUTS
    for each in found.networks:
        assert 0 < each.max_relative < 1e-4
        assert each.cosine == pytest.approx(1, abs=1e-6)
        assert each.snr_db is not None
        assert each.snr_db > 80
    assert found.metrics["image_AUROC"].reference == found.metrics["image_AUROC"].candidate == 1
    assert found.metrics["pixel_AUPRO"].reference is not None
    assert found.sha256 == kept.artefacts["fp32"].sha256
    assert found.checkpoint_sha256 == kept.artefacts["checkpoint"].sha256
    assert (found.dataset.good, found.dataset.defective, found.dataset.masked, found.images) == (8, 8, 8, 16)
    assert found.scores is not None
    assert found.scores.image[0] == "dent/08.png"
    assert found.libraries["onnxruntime"] == __import__("onnxruntime").__version__


def test_openvino_has_its_own_certificate(line: Line) -> None:
    pytest.importorskip("openvino")
    done = line.parity("--backend", "openvino", "--n", 4)
    assert done.code == 0, done.err
    kept = Bundle.open(line.bundle.path)
    assert kept.deployable("fp32", "openvino")
    assert not kept.deployable("fp32", "onnxruntime")
    found = line.certificate("fp32-openvino")
    assert (found.candidate, found.images, found.dataset.available) == ("openvino-cpu", 4, 16)
    assert [each.output for each in found.networks] == OUTPUTS


def test_fp16_is_judged_by_accuracy_and_its_networks_are_cut_from_it(line: Line) -> None:
    add(line.bundle, "fp16", to_float16)
    done = line.parity("--artefact", "fp16")
    assert done.code == 0, done.err
    assert Bundle.open(line.bundle.path).deployable("fp16", "onnxruntime")
    found = line.certificate("fp16-onnxruntime")
    assert [(gate.name, gate.limit) for gate in found.gates] == [("image_AUROC_drop", 0.001)]
    assert found.gates[0].proven is False  # not by sixteen images
    assert found.threshold is not None
    assert found.threshold.artefact == "fp32"
    # Half precision keeps 11 bits: the networks differ by its rounding, not by nothing and not by more.
    assert [each.output for each in found.networks] == OUTPUTS
    worst = max(each.max_relative for each in found.networks)
    assert 1e-5 < worst < 0.05
    snr = [each.snr_db for each in found.networks if each.snr_db is not None]
    assert len(snr) == len(found.networks)
    assert 30 < min(snr) < 80


def test_a_damaged_artefact_is_not_deployable(line: Line, tmp_path: Path) -> None:
    add(line.bundle, "int8", same)
    assert line.parity("--artefact", "int8").code == 0
    assert Bundle.open(line.bundle.path).deployable("int8", "onnxruntime")
    add(Bundle.open(line.bundle.path), "int8", damaged)
    done = line.parity("--artefact", "int8", "--junit", tmp_path / "junit.xml")
    assert done.code == 1
    assert re.fullmatch(
        r"edgead parity: int8: image_AUROC_drop is [\d.]+, the limit is 0.005", done.err.splitlines()[-1]
    )
    assert not Bundle.open(line.bundle.path).deployable("int8", "onnxruntime")
    found = line.certificate("int8-onnxruntime")
    assert (found.passed, found.gates[0].status) == (False, "failed")
    assert found.flips is not None
    assert found.flips > 0
    assert found.metrics["image_AUROC"].low is not None
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    cases = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert list(cases) == ["image_AUROC_drop", "pixel_AUPRO_drop"]
    failure = cases["image_AUROC_drop"]
    assert failure is not None
    assert "the limit is 0.005" in failure.get("message", "")
    assert suite.get("failures") == str(sum(case is not None for case in cases.values()))
    versions = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert versions["artefact_sha256"] == found.sha256
    assert "version.onnxruntime" in versions


def test_limits_are_changed_by_flags_and_file_and_that_is_recorded(line: Line, tmp_path: Path) -> None:
    add(line.bundle, "int8", damaged)
    gates = tmp_path / "gates.yaml"
    gates.write_text("gates: {image_AUROC_drop: 1, pixel_AUPRO_drop: 0}\n")
    words = ("--artefact", "int8", "--gates", gates, "--max-aupro-drop")
    done = line.parity(*words, 1)
    assert done.code == 0, done.err
    found = line.certificate("int8-onnxruntime")
    assert found.changed_limits == ("image_AUROC_drop", "pixel_AUPRO_drop")
    assert (found.limits.image_AUROC_drop, found.limits.pixel_AUPRO_drop) == (1, 1)
    off = line.parity("--artefact", "int8", "--max-auroc-drop", "none", "--max-aupro-drop", "none")
    assert off.code == 1
    assert re.search(r"int8: flips is \d+, the limit is 0$", off.err.splitlines()[-1])


def test_what_was_not_measured_is_not_passed(line: Line) -> None:
    add(line.bundle, "int8", same)
    shutil.copytree(line.root, copied := line.bundle.path / "data")
    shutil.rmtree(copied / "tile" / "test" / "dent")
    shutil.rmtree(copied / "tile" / "ground_truth")
    good_only = Line(line.bundle, copied, line.run)
    done = good_only.parity("--artefact", "int8")
    assert done.code == 1
    assert "image_AUROC_drop was not measured: the images have no defective ones" in done.err.splitlines()[-1]
    assert not Bundle.open(line.bundle.path).deployable("int8", "onnxruntime")
    assert "not measured" in done.out
    assert good_only.parity("--artefact", "int8", "--max-auroc-drop", "none", "--max-aupro-drop", "none").code == 0


def test_a_model_that_cannot_run_loses_the_certificate_it_had(line: Line) -> None:
    add(line.bundle, "int8", overflowing)
    line.bundle.set_parity("int8", "onnxruntime", {"passed": True})
    done = line.parity("--artefact", "int8")
    assert (done.code, done.out) == (2, "")
    assert "NaN or infinity" in done.err
    kept = Bundle.open(line.bundle.path)
    assert not kept.deployable("int8", "onnxruntime")
    assert "NaN" in str(kept.artefacts["int8"].parity["onnxruntime"]["error"])


def test_the_page_stands_alone_and_shows_both_maps(line: Line) -> None:
    add(line.bundle, "int8", damaged)
    assert line.parity("--artefact", "int8").code == 1
    page = (line.bundle.path / "parity" / "int8-onnxruntime.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count('alt="torch"') == page.count('alt="artefact"') == page.count('alt="image"') == 6
    text = re.sub(r"<[^>]+>", " ", page)
    assert "It is not deployable: image_AUROC_drop is" in text
    assert "that of fp32, having none of its own" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)
    for section in ("Gates", "Verdicts and scores", "Accuracy", "Network by network", "Provenance"):
        assert section in text


def test_an_engine_is_compared_end_to_end_only(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine needs a GPU: here torch itself stands in for the runner, and a made-up GPU for the driver."""

    def stand_in(bundle: Bundle, artefact: str, *, backend: str, threads: int) -> TorchRunner:
        assert (artefact, backend) == ("tensorrt-fp16", "tensorrt")
        return TorchRunner(bundle.file("checkpoint"), threads=threads)

    def write(path: Path) -> None:
        path.write_bytes(b"plan")

    passport = Passport(
        target="tensorrt",
        version="10.3.0",
        precision="fp16",
        rung="fp16",
        source="fp32",
        onnx="model.fp32.onnx",
        made_from=line.bundle.artefacts["fp32"].sha256,
        gpu="NVIDIA Stand-in",
        compute_capabilities=("8.7",),
        driver="12.6",
        platform="linux-aarch64",
        max_batch=8,
        size_hw=(64, 64),
    ).model_dump(mode="json")
    line.bundle.add(
        "tensorrt-fp16", write, kind="engine", precision="fp16", made_from="fp32", tools={}, passport=passport
    )
    monkeypatch.setattr(certifying, "open_runner", stand_in)
    monkeypatch.setattr(certifying, "gpu", lambda: Gpu("NVIDIA Stand-in", "8.7", "12.6"))
    assert ("tensorrt-fp16", "tensorrt") in pairs(line.bundle)[0]
    found = certify(line.bundle, "tensorrt-fp16", line.images(), threads=1).certificate
    assert found.passed
    assert (found.networks, found.backend) == ((), "tensorrt")
    assert "end to end only" in found.networks_note
    assert [gate.name for gate in found.gates] == ["image_AUROC_drop"]
    assert found.libraries["tensorrt"] == "10.3.0"
    assert found.machine["gpu"] == "NVIDIA Stand-in (8.7)"
    assert Bundle.open(line.bundle.path).deployable("tensorrt-fp16", "tensorrt")


def test_all_certifies_every_artefact_on_every_backend(line: Line) -> None:
    add(line.bundle, "int8", same)
    assert precision_of(line.bundle, "fp32", "openvino-bf16") == "bf16"
    expected, left_out = pairs(Bundle.open(line.bundle.path))
    assert ("int8", "onnxruntime") in expected
    assert {name for name, _ in expected} == {"fp32", "int8"}
    assert left_out == {}
    done = line.parity("--all", "--n", 2, "--backend", "onnxruntime", "--json")
    assert done.code == 0, done.err
    certificates = json.loads(done.out)["certificates"]
    assert [(each["artefact"], each["backend"]) for each in certificates] == [
        ("fp32", "onnxruntime"),
        ("int8", "onnxruntime"),
    ]


def test_certifying_without_recording_leaves_the_bundle_alone(line: Line) -> None:
    before = (line.bundle.path / "bundle.json").read_bytes()
    done = certify(line.bundle, "fp32", line.images(2), threads=1, record=False)
    assert done.certificate.images == 2
    assert (line.bundle.path / "bundle.json").read_bytes() == before
    assert not certificate_path(line.bundle, "fp32", "onnxruntime").exists()


def test_a_bundle_without_checkpoint_cannot_be_certified(line: Line) -> None:
    (line.bundle.path / "checkpoint.pt").unlink()
    with pytest.raises(ArtefactError, match="edgead train"):
        certify(line.bundle, "fp32", line.images(2))


def test_a_model_that_does_not_name_its_networks_is_compared_end_to_end(line: Line) -> None:
    """So are those of other tools; only a gate on networks cannot be passed by them."""

    def nameless(model: Any) -> Any:
        for node in model.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = re.sub(r"^(teacher|student|recovery)_(\d)$", r"t\1\2", name)
        del model.graph.value_info[:]
        return model

    add(line.bundle, "int8", nameless)
    cfrg = checkpoint.load(line.bundle.file("checkpoint"))
    with pytest.raises(ArtefactError, match="does not name the tensors"):
        network_differences(line.bundle, "int8", cfrg, [], backend="onnxruntime")
    found = certify(line.bundle, "int8", line.images(), threads=1, record=False).certificate
    assert found.passed
    assert found.networks == ()
    assert "does not name the tensors" in found.networks_note
    strict = certify(
        line.bundle, "int8", line.images(), threads=1, changed_limits={"network_relative": 0.1}, record=False
    ).certificate
    assert [gate.name for gate in strict.gates if gate.status == "not measured"] == list(NETWORKS)


# ---- certificates against each other


def changed(certificate: Certificate, path: Path, **values: Any) -> Path:
    write_json(path, {**certificate.model_dump(mode="json"), **values})
    return path


def test_diff_tells_versions_numbers_and_flips(line: Line, tmp_path: Path) -> None:
    add(line.bundle, "int8", same)
    assert line.parity("--artefact", "int8").code == 0
    old = shutil.copy(line.bundle.path / "parity" / "int8-onnxruntime.json", tmp_path / "old.json")
    alike = line.run("parity", "diff", old, line.bundle.path / "parity" / "int8-onnxruntime.json")
    assert alike.code == 0, alike.err
    assert "0 flips in 16: below 17.08 % at 95 %" in alike.out

    newer = read_certificate(old)
    machine = {**newer.machine, "libraries": {**newer.libraries, "onnxruntime": "99.1"}}
    update = line.run("parity", "diff", old, changed(newer, tmp_path / "new.json", machine=machine), "--json")
    assert update.code == 0
    assert json.loads(update.out)["versions"] == {"onnxruntime": [newer.libraries["onnxruntime"], "99.1"]}

    add(Bundle.open(line.bundle.path), "int8", damaged)
    assert line.parity("--artefact", "int8").code == 1
    worse = line.run("parity", "diff", old, line.bundle.path / "parity" / "int8-onnxruntime.json", "--json")
    assert worse.code == 1
    assert "gates that were passed are not any more: image_AUROC_drop" in worse.err
    document = json.loads(worse.out)
    now = line.certificate("int8-onnxruntime")
    assert document["lost"][0] == "image_AUROC_drop"
    assert len(document["flips"]) == now.flips  # the old one had torch's verdicts
    assert document["numbers"]["image_AUROC"] == [1.0, now.metrics["image_AUROC"].candidate]
    assert "sha256" in document["identity"]


def test_diff_fails_by_flips_alone(line: Line, tmp_path: Path) -> None:
    assert line.parity().code == 0
    old = line.certificate("fp32-onnxruntime")
    assert old.scores is not None
    assert old.threshold is not None
    scores = old.scores.model_dump(mode="json")
    scores["candidate"] = [old.threshold.ng + 1, *scores["candidate"][1:-1], old.threshold.ng + 1]  # a dent, a Good one
    new = read_certificate(changed(old, tmp_path / "new.json", scores=scores))
    found = difference(old, new)
    assert found.missed == "1 verdicts of 16 changed, the limit is 0"
    assert found.flips is not None
    assert (found.flips[0].defect, found.flips[0].verdicts) == ("good", ("OK", "NG"))
    assert difference(old, new, max_flips=1).missed is None
    no_threshold = read_certificate(changed(old, tmp_path / "blind.json", threshold=None))
    assert "for want of a threshold" in str(difference(old, no_threshold).missed)


def test_diff_refuses_other_images(line: Line, tmp_path: Path) -> None:
    assert line.parity("--n", 4).code == 0
    few = shutil.copy(line.bundle.path / "parity" / "fp32-onnxruntime.json", tmp_path / "few.json")
    assert line.parity().code == 0
    done = line.run("parity", "diff", few, line.bundle.path / "parity" / "fp32-onnxruntime.json")
    assert (done.code, done.out) == (2, "")
    assert "of other images: 4 of mvtec tile" in done.err
    old = read_certificate(few)
    with pytest.raises(DataError, match="holds no scores"):
        difference(old, old.model_copy(update={"scores": None}))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("", "truncated, or no JSON"),
        ("[1]", "no certificate of parity"),
        ('{"format": "edgead.parity/1"}', "damaged at 'made'"),
    ],
)
def test_what_is_no_certificate_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, told: str
) -> None:
    file = tmp_path / "c.json"
    if content is not None:
        file.write_text(content)
    assert main(["parity", "diff", str(file), str(file)]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["diff", "a.json"], "diff takes two certificates, not 1"),
        (["run", "a.json"], "'a.json' is one word too many"),
        (["run", "--n", "some"], "'some' is no number of images"),
        (["run", "--max-auroc-drop", "little"], "'little' is no limit"),
        (["run", "--max-flips", "-1"], "'-1' is no limit"),
    ],
)
def test_wrong_words_are_one_line(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["parity", *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
