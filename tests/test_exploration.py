"""The variants of the exploration: each is a whole CFRG, and the table is added to, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from benchmarks import results  # noqa: E402
from benchmarks.exploration import __main__ as exploration  # noqa: E402
from benchmarks.exploration.variants import BASE, VARIANTS  # noqa: E402
from edgead.cfrg.losses import segmentation_loss  # noqa: E402
from edgead.cfrg.model import NETWORKS  # noqa: E402


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_whole_network_that_is_not_shipped_under_its_own_name(name: str) -> None:
    cfrg = VARIANTS[name].networks(64).eval()
    assert cfrg.network in NETWORKS
    with torch.no_grad():
        output = cfrg(torch.zeros(2, 3, 64, 64))
    for levels in (output.student, output.recovery):
        assert [each.shape for each in levels] == [each.shape for each in output.teacher]
    assert output.logits.shape == (2, 1, *output.teacher[0].shape[2:])


@pytest.mark.parametrize(("name", "learns"), [(BASE, True), ("gates-detached", False)])
def test_detached_gates_keep_the_segmentations_loss_to_itself(name: str, learns: bool) -> None:
    cfrg = VARIANTS[name].networks(64).train()
    segmentation_loss(cfrg(torch.randn(2, 3, 64, 64)).logits, torch.ones(2, 1, 64, 64)).backward()
    others = [*cfrg.student.parameters(), *cfrg.recovery.parameters()]
    assert any(each.grad is not None for each in others) is learns
    assert any(each.grad is not None for each in cfrg.segmentation.parameters())


def test_a_student_from_the_teachers_stem_does_not_train_it() -> None:
    cfrg = VARIANTS["student-stem"].networks(64).train()
    assert not any(each.requires_grad for each in cfrg.student.stem.parameters())
    assert not any(each.training for each in cfrg.student.stem.modules() if isinstance(each, torch.nn.BatchNorm2d))


def test_rows_are_added_and_kept_in_order(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    exploration._keep(out, {"size-192": {"magnetic_tile": {"image_AUROC": 0.5}}})
    exploration._keep(out, {BASE: {"magnetic_tile": {"image_AUROC": 0.6}}})
    exploration._keep(out, {"size-192": {"speed": {"nodes": 3}}})
    first, second = results.read(out).rows
    assert (first["variant"], second["variant"]) == (BASE, "size-192")
    assert second["magnetic_tile"] == {"image_AUROC": 0.5}
    assert second["speed"] == {"nodes": 3}
    assert second["GMAC"] < first["GMAC"]


def test_an_unknown_variant_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["exploration", "--speed", "--variants", "size-193"])
    assert exploration.main() == 2
    assert "'size-193', did you mean 'size-192'?" in capsys.readouterr().err
