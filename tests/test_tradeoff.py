from __future__ import annotations

import csv
import dataclasses
import io
import json
import random
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tradeoff import Point, to_csv, with_fronts
from benchmarks.tradeoff.roofline import BOARDS, EFFICIENCY, LAUNCH_S, Board, Work, projected_fps, work_of
from edgead.bundle import Bundle
from edgead.cfrg import checkpoint
from edgead.cli import main


def point(fps: float, auroc: float | None, *, projected: bool = False) -> Point:
    return Point(
        "r", "cfrg-lite0", "fp32", "openvino", "cpu", projected, 1, 2, 5, 1e3 / fps, 0.1, fps, auroc, auroc, 10
    )


def test_the_front_is_what_nothing_measured_beats() -> None:
    draw = random.Random(0)
    for _ in range(200):
        points = [
            point(draw.randint(1, 6), draw.choice([None, 0.7, 0.8, 0.9]), projected=draw.random() < 0.2)
            for _ in range(8)
        ]
        real = [(p.fps, p.image_AUROC) for p in points if not p.projected and p.image_AUROC is not None]
        for found in with_fronts(points):
            own = (found.fps, found.image_AUROC)
            beaten = any(o != own and o[0] >= own[0] and o[1] >= (own[1] or 0) for o in real)
            assert found.front_AUROC == (not found.projected and own[1] is not None and not beaten)


def test_the_csv_says_what_the_points_say() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv([point(10, 0.9), point(20, None, projected=True)]))))
    assert [row["fps"] for row in rows] == ["10", "20"]
    assert [row["projected"] for row in rows] == ["False", "True"]
    assert rows[1]["image_AUROC"] == ""
    assert list(rows[0]) == [field.name for field in dataclasses.fields(Point)]


def test_the_arithmetic_of_a_graph_is_that_of_its_network(exported: Bundle) -> None:
    network = checkpoint.load(exported.file("checkpoint")).eval()
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(torch.zeros(1, 3, 64, 64))
    mac = sum(node.mac for node in work_of(exported.file("fp32")))
    # The graph also has the cosine heads' sums and the fusion of the maps as products: some percent at 64x64.
    assert counter.get_total_flops() / 2 <= mac <= 1.1 * counter.get_total_flops() / 2


def test_a_projection_is_its_formula() -> None:
    board = Board(fp32=1, fp16=2, int8=4, memory=10, source="made up")
    heavy, wide, small = Work(5e8, 10, "int8"), Work(0, 1e6, "fp16"), Work(1, 1, "fp32")
    expected = 1e9 / (EFFICIENCY * 4e12) + 2e6 / (EFFICIENCY * 1e10) + LAUNCH_S
    assert projected_fps([heavy, wide, small], board) == pytest.approx(1 / expected)
    for found in BOARDS.values():
        assert found.fp32 < found.fp16 < found.int8
        assert found.source


def test_a_run_is_weighed_from_its_files(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "tradeoff"
    words = ["--artefacts", "fp32@onnxruntime,fp32@openvino", "--n", "2", "--threads", "1", "--batch", "1,2"]
    assert main(["tradeoff", str(trained), *words, "--boards", "L4,RTX A2000", "--out", str(out), "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    assert len([p for p in points if not p["projected"]]) == 4
    assert {(p["where"], p["artefact"]) for p in points if p["projected"]} == {("L4", "fp32"), ("RTX A2000", "fp32")}
    assert all(p["images"] > 0 and 0 <= p["image_AUROC"] <= 1 for p in points)
    assert any(p["front_AUROC"] for p in points)
    assert (out / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "results.csv").read_text().splitlines()) == 1 + len(points)
    kept = json.loads((out / "results.json").read_text())
    assert kept["conditions"]["projection"]["boards"]["L4"]["memory"] == 300
    assert "--boards 'L4,RTX A2000'" in kept["command"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--boards", "Jetson Orin"], "no data sheet of 'Jetson Orin'"),
        (["--batch", "0"], "--batch is '0'; expected numbers from 1"),
        (["--threads", "two"], "--threads is 'two'"),
        (["--n", "0"], "--n 0; expected 1 or more"),
        (["--artefacts", ","], "--artefacts is ','"),
        (["--artefacts", "int9"], "int9"),
        (["--artefacts", "fp32@tensorrt"], "which tensorrt cannot open"),
    ],
)
def test_wrong_wishes_are_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["tradeoff", str(trained), *words, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
