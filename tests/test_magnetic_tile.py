"""INT8 on real surfaces: trained, calibrated, and held to the parity gates on both runtimes of a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgead.bundle import Bundle
from edgead.cli import main

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "magnetic_tile"
RECIPE = ROOT / "benchmarks" / "magnetic_tile.yaml"
LISTS = ROOT / "calibration_data"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark's recipe, seed 0, calibrated on the list that the repository keeps."""
    if not DATA.is_dir():
        pytest.skip(f"the magnetic tiles are not in {DATA}")
    folder = tmp_path_factory.mktemp("tiles") / "run"
    data = ["--root", str(DATA)]
    assert main(["train", str(RECIPE), *data, "--seed", "0", "--out", str(folder)]) == 0
    assert main(["export", str(folder)]) == 0
    assert main(["threshold", str(folder)]) == 0
    assert main(["quantize", str(folder), "--calibration-data", str(LISTS)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_keeps_its_accuracy_on_real_tiles(run: Path, backend: str) -> None:
    assert main(["parity", str(run), "--artefact", "int8", "--backend", backend, "--n", "all"]) == 0
    assert Bundle.open(run).deployable("int8", backend)
    certificate = json.loads((run / "parity" / f"int8-{backend}.json").read_text())
    assert certificate["images"] == 766
    gates = {gate["name"]: gate for gate in certificate["gates"]}
    assert gates["image_AUROC_drop"]["limit"] == 0.005
    assert gates["pixel_AUPRO_drop"]["limit"] == 0.01


@pytest.mark.slow
def test_fp32_gives_the_verdicts_of_torch_on_all_tiles(run: Path) -> None:
    assert main(["parity", str(run), "--n", "all"]) == 0
