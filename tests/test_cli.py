"""The command line as users and programs see it: output, exit codes, and what it leaves on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import yaml
from sklearn.metrics import roc_auc_score

import edgead.doctor
from edgead.bundle import Bundle
from edgead.cli import dataset as dataset_flags
from edgead.cli import main, making
from edgead.cli.live import Tail
from edgead.config import TrainConfig
from edgead.datasets import KINDS, DatasetOptions
from edgead.images import read_image, resize, write_png
from edgead.runtime.onnx_runner import OnnxRunner

VERBS = ("demo", "simulate", "train", "export", "threshold", "parity", "evaluate", "bench")
VERBS += ("stream", "report", "doctor", "quantize", "build")
ROOT = Path(__file__).parents[1]


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run_words(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return run_words


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that a test may change; its images stay where they are."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def in_process(code: str, *words: object, **values: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=60, cwd=ROOT, **values
    )


def test_help_names_every_verb_and_each_verb_shows_an_example(run: Run) -> None:
    overview = run("--help")
    assert overview.code == 0
    for verb in VERBS:
        assert re.search(rf"^    {verb}\b", overview.out, re.MULTILINE), verb
        told = run(verb, "--help")
        assert told.code == 0
        assert f"example: edgead {verb}" in told.out
        assert "--json" in told.out


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"], ["bench", "--nonsense"]])
def test_help_imports_nothing_but_pythons_own_library(words: list[str]) -> None:
    done = in_process(
        "import sys\nbefore = set(sys.modules)\nfrom edgead.cli import main\nmain(sys.argv[1:])\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))",
        *words,
    )
    assert done.stdout.splitlines()[-1] == "['edgead']"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "a verb is missing"),
        (["trian"], "there is no 'trian', did you mean 'train'?"),
        (["train", "--epoch", "3", "--out", "x"], "unknown flag '--epoch', did you mean '--epochs'?"),
        (["export"], "required: RUN"),
        (["export", "a", "b"], "'b' is one word too many"),
        (["train", "--out", "x", "--epochs", "many"], "--epochs: invalid int value: 'many'"),
        (["evaluate", "x", "--duplicates", "dorp"], "there is no 'dorp', did you mean 'drop'?"),
        (["evaluate", "x", "--column", "image"], "'image' is no pair; expected OURS=THEIRS"),
        (["train", "--out", "x"], "which images? give a train.yaml, or --dataset"),
        (["train", "no.yaml", "--out", "x"], "no.yaml: cannot be read"),
        (["train", "--out", "x", "--dataset", "mvtex", "--root", "."], "unknown value 'mvtex', did you mean 'mvtec'?"),
        (["train", "--out", "x", "--dataset", "sim", "--root", ".", "--epochs", "0"], "epochs: 0 is wrong"),
        (["train", "--out", "x", "--dataset", "sim", "--root", "nowhere"], "nowhere: no such file or folder"),
        (["train", "--out", "x", "--resume"], "which images?"),
        (["evaluate", "x"], "no bundle here"),
        (["bench"], "say what to measure, and only one"),
        (["bench", "x", "--station", "y"], "say what to measure, and only one"),
        (["stream", "no.yaml"], "no.yaml: cannot be read"),
        (["simulate", "chip_inducer", "--out", "x"], "did you mean 'chip_inductor'?"),
        (["simulate", "ceramic_tile", "--out", "x", "--good", "-1"], "expected 0 or more"),
        (["demo", "--object", "tile", "--out", "x"], "there is no simulated object 'tile'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2_and_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.code == 2
    assert done.out == ""
    assert told in done.err
    assert done.err.startswith(f"edgead {words[0]}: " if words and words[0] in VERBS else "edgead")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


BLOCK_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
from edgead.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("verb", ["train", "export", "parity", "demo"])
def test_what_is_not_installed_is_one_line_and_code_3(trained: Path, tmp_path: Path, verb: str) -> None:
    words = {
        "train": ["--dataset", "sim", "--root", trained.parent / "data", "--out", tmp_path / "x"],
        "demo": ["--out", tmp_path / "x"],
    }
    done = in_process(BLOCK_TORCH, verb, *words.get(verb, [trained]))
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(
        rf"edgead {verb}: torch cannot be imported .*pip install -c constraints.txt '\.\[\w+\]'\n", done.stderr
    )
    assert not (tmp_path / "x").exists()


def test_a_fault_of_edgead_is_one_line_and_code_70(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(edgead.doctor, "examine", fail)
    monkeypatch.delenv("EDGEAD_TRACEBACK", raising=False)
    done = run("doctor")
    assert (done.code, done.out) == (70, "")
    assert done.err == (
        "edgead doctor: internal error (RuntimeError: two lines); EDGEAD_TRACEBACK=1 shows where: please report it\n"
    )
    monkeypatch.setenv("EDGEAD_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in run("doctor").err


def test_ctrl_c_is_one_line_and_code_130(tmp_path: Path) -> None:
    words = ["simulate", "ceramic_tile", "--good", "100000", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "edgead", *words], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    until = time.monotonic() + 30
    while not list(tmp_path.rglob("*.png")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "edgead simulate: stopped"
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["--help"], ["doctor", "--json"]])
def test_a_reader_that_has_gone_is_no_fault(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgead", *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": ""},  # argparse swallows what an unbuffered write raises
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_flags_of_train_are_the_keys_of_train_yaml_with_their_defaults() -> None:
    flags = {name.replace("-", "_"): told for name, _, told in making._TRAINING}
    fields = TrainConfig.model_fields
    assert set(flags) | {"dataset", "teacher_weights"} == set(fields)
    for name, told in flags.items():
        if fields[name].default is not None:
            shown = re.search(r"\(([^)]+)\)$", told)
            assert shown is not None, told
            assert shown[1] == f"{fields[name].default:g}" if isinstance(fields[name].default, float) else told


def test_the_dataset_flags_know_all_kinds_and_options() -> None:
    assert dataset_flags.KINDS == KINDS
    assert set(dataset_flags._OPTIONS) == {field.name for field in dataclasses.fields(DatasetOptions)}


def test_a_run_holds_its_recipe_and_what_it_was_trained_on(trained: Path) -> None:
    recipe = yaml.safe_load((trained / "train.yaml").read_text())
    assert (recipe["epochs"], recipe["size"], recipe["dataset"]["validation"]) == (1, 64, 0.3)
    dataset = Bundle.open(trained).info.dataset
    assert dataset is not None
    assert (dataset.kind, dataset.category) == ("sim", "Category1_MagneticCore")
    assert dataset.root == (trained.parent / "data").resolve()


def test_the_threshold_is_that_of_good_parts_that_training_never_saw(run: Run, copied: Path) -> None:
    done = run("threshold", copied, "--false-reject-ppm", "2000", "--json")
    assert done.code == 0
    found = done.document["threshold"]
    dataset = Bundle.open(copied).info.dataset
    assert dataset is not None
    opened = dataset.open()
    held_out = {sample.part for sample in opened.validation}
    assert not held_out & {sample.part for sample in (*opened.train, *opened.test)}
    with OnnxRunner(copied / "model.fp32.onnx") as runner:
        images = [resize(read_image(sample.image), (64, 64)) for sample in opened.validation]
        highest = max(float(runner.infer(image[None]).pred_score[0]) for image in images)
    assert (found["unit"], found["n_good"]) == ("part", len(held_out))
    assert found["ng"] == pytest.approx(highest, rel=1e-5)
    assert done.document["missing_good"] == 1497 - len(held_out)  # 1497 = log 0.05 / log 0.998, upward
    assert f"needs {1497 - len(held_out)} more Good parts" in done.document["explanation"]
    assert Bundle.open(copied).threshold("fp32").to_dict() == found


def test_evaluate_keeps_scores_that_give_the_accuracy_it_prints(run: Run, copied: Path) -> None:
    done = run("evaluate", copied, "--json")
    assert done.code == 0
    kept = json.loads((copied / "evaluation.fp32@onnxruntime.json").read_text())
    defective = [image["defect"] != "good" for image in kept["images"]]
    scores = [image["score"] for image in kept["images"]]
    assert kept["accuracy"] == done.document["accuracy"]
    assert done.document["accuracy"]["image_AUROC"] == pytest.approx(roc_auc_score(defective, scores))
    parts: dict[str, bool] = {}
    for image, bad in zip(kept["images"], defective, strict=True):
        parts[image["part"]] = parts.get(image["part"], False) or bad
    verdicts = done.document["verdicts"]
    assert sum(verdicts["good"].values()) == sum(not bad for bad in parts.values())
    assert sum(verdicts["defective"].values()) == sum(parts.values()) == 7
    (by_part,) = done.document["parts"]
    assert (verdicts["unit"], by_part["verdicts"]) == ("part", {kind: verdicts[kind] for kind in ("good", "defective")})
    assert by_part["part_AUROC"] == kept["accuracy"]["part_AUROC"]
    table = run("evaluate", copied).out
    assert f"{100 * done.document['accuracy']['image_AUROC']:.2f}" in table


def test_parity_holds_and_a_model_of_other_weights_misses_the_gate(run: Run, copied: Path) -> None:
    done = run("parity", copied, "--n", "4", "--json")
    assert done.code == 0, done.err
    assert done.document["parity"]["passed"]
    assert done.document["parity"]["images"] == 4
    bundle = Bundle.open(copied)
    model = onnx.load(bundle.file("fp32"))
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.1), weights.name))

    def write(path: Path) -> None:
        onnx.save(model, str(path))

    bundle.add("fp32", write, kind="onnx", precision="fp32", made_from="checkpoint", tools={})
    missed = run("parity", copied, "--n", "4", "--json")
    assert missed.code == 1
    assert not missed.document["parity"]["passed"]
    assert re.fullmatch(r"edgead parity: fp32: \w+ is [\d.e+-]+, the limit is .*", missed.err.splitlines()[-1])
    assert Bundle.open(copied).artefacts["fp32"].parity["onnxruntime"]["passed"] is False


def test_bench_keeps_its_rows_for_the_report(run: Run, copied: Path) -> None:
    done = run("bench", copied, "--n", "2", "--threads", "1", "--batch", "2", "--json")
    assert done.code == 0, done.err
    rows = done.document["rows"]
    assert [row["runner"] for row in rows] == ["checkpoint", "fp32"]
    assert {row["n"] for row in rows} == {2}
    assert rows[0]["times_faster"] == 1
    assert rows[1]["times_faster"] == pytest.approx(rows[0]["p50_ms"] / rows[1]["p50_ms"])
    assert json.loads((copied / "speed.json").read_text())["rows"] == rows
    assert run("bench", copied, "--artefacts", "fp32,fp32").code == 2
    assert "edgead quantize" in run("bench", copied, "--artefacts", "int8").err


def test_a_station_streams_and_its_run_is_reported(run: Run, copied: Path) -> None:
    cameras = [
        {"name": view, "view": view, "uri": "sim://magnetic_core?seed=9&parts=3&size=64"} for view in ("front", "back")
    ]
    config = copied / "station.yaml"
    config.write_text(yaml.safe_dump({"bundle": ".", "output": "station", "cameras": cameras}))
    done = run("stream", config, "--json")
    assert done.code == 0, done.err
    assert done.document["triggers"] == sum(done.document["verdicts"].values()) == 3
    assert done.document["frames"] == 3 * 8
    again = run("stream", config)
    assert re.search(r"parts +3\b", again.out)
    assert len((copied / "station" / "verdicts.ndjson").read_text().splitlines()) == 6
    told = run("report", copied, "--json")
    assert told.code == 0, told.err
    assert Path(told.document["report"]).read_text().startswith("<!DOCTYPE html>")


def test_a_trained_split_cannot_be_changed_but_images_may_move(run: Run, copied: Path, tmp_path: Path) -> None:
    for flag, value in (("--validation", "0.5"), ("--test-share", "0.5"), ("--pattern", "(?P<part>.*)")):
        done = run("threshold", copied, flag, value)
        assert done.code == 2
        assert f"{flag} would divide the images otherwise than in training" in done.err
    assert run("threshold", copied, "--validation", "0.3", "--test-share", "0.2").code == 0
    bundle = Bundle.open(copied)
    assert bundle.info.dataset is not None
    before = bundle.threshold("fp32")
    moved = Path(shutil.copytree(bundle.info.dataset.root, tmp_path / "moved"))
    assert run("threshold", copied, "--root", moved).code == 0
    assert Bundle.open(copied).threshold("fp32") == before
    shutil.rmtree(moved)
    gone = run("evaluate", copied, "--root", moved)
    assert gone.code == 2
    assert "say where they are: --root FOLDER" in gone.err


def test_own_good_images_train_with_a_yaml_flags_win_and_resume_needs_neither(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(80, 140, (64, 64, 3), dtype=np.uint8)
        write_png(tmp_path / "data" / "part" / "train" / "good" / f"{index}.png", pixels)
    config = tmp_path / "train.yaml"
    values = {"size": 64, "epochs": 9, "batch": 4, "precision": "32-true", "dataset": {"kind": "mvtec", "root": "data"}}
    config.write_text(yaml.safe_dump(values))
    out = tmp_path / "run"
    done = run("train", config, "--epochs", "1", "--out", out, "--json")
    assert done.code == 0, done.err
    assert (done.document["epochs"], done.document["category"]) == (1, "part")
    assert done.document["images"] == {"train": 4, "validation": 1, "test": 0}
    resumed = run("train", "--out", out, "--resume", "--json")
    assert (resumed.code, resumed.document["losses"]) == (0, done.document["losses"])
    other = run("train", config, "--epochs", "1", "--size", "96", "--out", out)
    assert other.code == 2
    assert "at 64x64" in other.err
    assert "not cfrg-lite0 for part at 96x96" in other.err
    untested = run("evaluate", out, "--artefact", "checkpoint")
    assert untested.code == 2
    assert "has no test images" in untested.err
    assert run("train", config, "--epochs", "1", "--network", "cfrg-duo0", "--out", tmp_path / "duo").code == 0
    recipe = yaml.safe_load((tmp_path / "duo" / "train.yaml").read_text())  # what the file leaves out follows the flag
    assert (recipe["size"], recipe["synthesis"], recipe["segmentation_loss"]) == (64, "wide", "focal-dice")


def test_two_categories_need_a_choice(run: Run, tmp_path: Path) -> None:
    for category in ("cable", "tile"):
        write_png(tmp_path / category / "train" / "good" / "1.png", np.zeros((64, 64, 3), np.uint8))
    done = run("train", "--dataset", "mvtec", "--root", tmp_path, "--out", tmp_path / "run")
    assert done.code == 2
    assert "has 2 categories; say which: --category cable | tile" in done.err


def test_the_live_table_counts_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.ndjson"
    ng = json.dumps({"verdict": "NG", "part": "P1", "score": 2.0, "worst": "top/dome"}) + "\n"
    path.write_text(ng * 3)
    tail = Tail(path)
    with path.open("a") as file:
        file.write(json.dumps({"verdict": "OK"}) + "\n" + ng + ng[:10])
    tail.read()
    assert (tail.counts, [seen["part"] for seen in tail.last_ng]) == ({"OK": 1, "NG": 1}, ["P1"])
    with path.open("a") as file:
        file.write(ng[10:])
    tail.read()
    assert tail.counts == {"OK": 1, "NG": 2}


def test_a_demo_does_not_mix_with_another_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps({"object": "ceramic_tile", "seed": 7}))
    done = run("demo", "--out", tmp_path)
    assert done.code == 2
    assert "holds a demo with" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


def test_bench_networks_names_what_it_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--networks", " , "]) == 2
    assert "expected names such as cfrg-wrn50, cfrg-r18, cfrg-duo0, cfrg-lite0" in capsys.readouterr().err
