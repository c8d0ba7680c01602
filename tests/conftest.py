"""What several test files share, because it takes seconds to make."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgead.bundle import Bundle, BundleInfo

pytest_plugins = ("skips", "workers")

SIZE = 64


def pytest_configure() -> None:
    """Hear Ctrl-C, which some tests send, to children too, where a shell started all in the background, deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smooth_images() -> npt.NDArray[np.uint8]:
    """Sixteen images of coarse coloured blocks, uint8 ``(16, 64, 64, 3)``."""
    coarse = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)).astype(np.uint8)
    return np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, smooth_images: npt.NDArray[np.uint8]) -> Bundle:
    """A bundle of ``cfrg-lite0`` at 64x64 with random weights, exported; read it only, or copy its folder."""
    import torch

    from edgead.cfrg import checkpoint
    from edgead.cfrg.model import build
    from export.to_onnx import export_networks

    torch.manual_seed(0)
    cfrg = build("cfrg-lite0", SIZE, statistics=True).eval()
    for module in cfrg.modules():  # so that a forgotten batch norm shows
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    assert cfrg.statistics is not None
    for name, values in cfrg.statistics.named_buffers():  # features of random weights vary too little to be fitted
        torch.nn.init.constant_(values, 0.1) if name.startswith("scale") else torch.nn.init.normal_(values, std=0.02)
    info = BundleInfo(network="cfrg-lite0", category="tile", size_hw=(SIZE, SIZE))
    bundle = Bundle.create(tmp_path_factory.mktemp("exported") / "bundle", info)

    def write(path: Path) -> None:
        checkpoint.save(cfrg, path)

    bundle.add("checkpoint", write, kind="checkpoint", precision="fp32", made_from=None, tools={})
    export_networks(bundle, smooth_images[:2])
    return bundle


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ``edgead simulate``, ``train``, ``export`` and ``threshold`` have made; read it only, or copy it.

    Nine Good magnetic cores and one of each defect type, two views, four lights, 64x64, one epoch of ``cfrg-lite0``.
    """
    from edgead.cli import main

    folder = tmp_path_factory.mktemp("trained")
    data, run = str(folder / "data"), str(folder / "run")
    small = ["--size", str(SIZE), "--seed", "3"]
    assert main(["simulate", "magnetic_core", "--out", data, "--good", "9", "--defective", "1", *small]) == 0
    flags = ["--dataset", "sim", "--root", data, "--validation", "0.3", "--epochs", "1", "--precision", "32-true"]
    assert main(["train", *flags, *small, "--out", run]) == 0
    assert main(["export", run]) == 0
    assert main(["threshold", run, "--false-reject-ppm", "50000"]) == 0
    return Path(run)
