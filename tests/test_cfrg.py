"""The networks against the paper's table, the map fusion against scipy, the losses against their formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edgead.cfrg import backbones, checkpoint, losses, synthesis  # noqa: E402
from edgead.cfrg.cosine import CosineHead  # noqa: E402
from edgead.cfrg.data import EpochBatches  # noqa: E402
from edgead.cfrg.inspection import Inspection, balance, map_parts  # noqa: E402
from edgead.cfrg.model import Cfrg, build  # noqa: E402
from edgead.config import Synthesis  # noqa: E402
from edgead.errors import ArtefactError, ConfigError, MissingError  # noqa: E402


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def reference() -> Cfrg:
    return build("cfrg-wrn50").eval()


@pytest.fixture(scope="module")
def light() -> Cfrg:
    torch.manual_seed(0)
    return build("cfrg-lite0", 128).eval()


def test_the_reference_has_the_parameters_of_the_paper(reference: Cfrg) -> None:
    adapters = reference.student.adapters
    assert [parameters(a) for a in adapters] == [12_680, 37_944, 243_408]
    assert parameters(reference.student.backbone) == 851_808
    assert parameters(reference.teacher) == 24_862_528
    decoder = (reference.recovery.decode1, reference.recovery.decode2, reference.recovery.decode3)
    assert sum(map(parameters, decoder)) == 24_917_504
    assert parameters(reference.recovery) - sum(map(parameters, decoder)) == 58_885_120
    assert parameters(reference.segmentation) == 20_364_417
    assert parameters(reference) == 130_175_409


def test_the_reference_does_the_arithmetic_of_the_paper(reference: Cfrg) -> None:
    with torch.no_grad(), FlopCounterMode(display=False, depth=2) as counter:
        output = reference(torch.randn(1, 3, 256, 256))
    gmac = {name.split(".")[-1]: sum(ops.values()) / 2e9 for name, ops in counter.get_flop_counts().items()}
    assert gmac["teacher"] == pytest.approx(11.999, abs=5e-4)
    assert gmac["student"] == pytest.approx(0.318 + 0.149, abs=1e-3)  # live blocks and adapters
    assert gmac["recovery"] == pytest.approx(7.315 + 11.140, abs=1e-3)
    assert gmac["segmentation"] == pytest.approx(32.787, abs=5e-4)
    shapes = [(1, 256, 64, 64), (1, 512, 32, 32), (1, 1024, 16, 16)]
    for levels in (output.teacher, output.student, output.recovery):
        assert [tuple(level.shape) for level in levels] == shapes
    assert tuple(output.logits.shape) == (1, 1, 256, 256)


@pytest.mark.parametrize(
    ("network", "size", "gmac", "count"),
    [
        ("cfrg-r18", 256, 3.7194, 7_280_977),
        ("cfrg-duo0", 256, 1.0439, 5_906_057),
        ("cfrg-lite0", 256, 0.5853, 3_618_213),
        ("cfrg-nano0", 256, 0.4797, 2_697_223),
        ("cfrg-nano0", 192, 0.2698, 2_697_223),
    ],
)
def test_the_light_networks_are_an_order_lighter(network: str, size: int, gmac: float, count: int) -> None:
    cfrg = build(network, size).eval()
    assert parameters(cfrg) == count
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = cfrg(torch.randn(1, 3, size, size))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=2e-4)
    for teacher, student, recovery in zip(output.teacher, output.student, output.recovery, strict=True):
        assert teacher.shape == student.shape == recovery.shape


@pytest.mark.parametrize("network", ["cfrg-duo0", "cfrg-lite0"])
def test_every_trainable_parameter_learns(network: str) -> None:
    cfrg = build(network, 64).train()
    image = torch.randn(2, 3, 64, 64)
    mask = (torch.rand(2, 1, 64, 64) > 0.9).float()
    losses.losses(cfrg(image), cfrg.teacher(torch.randn_like(image)), mask).total.backward()
    idle = [n for n, p in cfrg.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not idle
    assert all(p.grad is None for p in cfrg.teacher.parameters())
    assert not cfrg.teacher.training


def test_map_fusion_is_upsampling_then_scipys_gaussian(light: Cfrg) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    image = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8))
    with torch.no_grad():
        anomaly_map, score = Inspection(light)(image)
        parts = [w * p for w, p in zip(light.fusion, map_parts(light(light.normalise(image))), strict=True)]
        raw = sum(F.interpolate(p.double(), (128, 128), mode="bilinear", align_corners=True) for p in parts)[:, 0]
    for index in range(2):
        expected = ndimage.gaussian_filter(raw[index].numpy(), 4, mode="reflect", truncate=4)
        np.testing.assert_allclose(anomaly_map[index].numpy(), expected, atol=5e-6)
        assert float(score[index]) == pytest.approx(float(anomaly_map[index].max()))


def test_balanced_parts_of_the_map_vary_alike_on_good_images() -> None:
    cfrg = build("cfrg-lite0", 64).eval()
    images = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))
    assert cfrg.fusion.tolist() == [1.0] * len(cfrg.fusion)
    balance(cfrg, images.split(3))
    inspection = Inspection(cfrg)
    with torch.no_grad():
        parts = map_parts(cfrg(cfrg.normalise(images)))
        spreads = [float(inspection.fusion([w * p]).std()) for w, p in zip(cfrg.fusion, parts, strict=True)]
    assert float(cfrg.fusion.mean()) == pytest.approx(1, rel=1e-5)
    assert max(spreads) == pytest.approx(min(spreads), rel=1e-3)


def test_the_cosine_head_is_one_minus_cosine_and_survives_zeros() -> None:
    a, b = torch.randn(2, 7, 5, 5), torch.randn(2, 7, 5, 5)
    student, recovery = CosineHead()([a], [b], [a])
    torch.testing.assert_close(student[0][:, 0], 1 - F.cosine_similarity(a, b), atol=1e-5, rtol=1e-5)
    assert float(recovery[0].abs().max()) < 1e-12
    zero = torch.zeros(1, 7, 1, 1)
    assert float(CosineHead()([zero], [torch.ones_like(zero)], [zero])[0][0]) == pytest.approx(0.5)


def test_the_cosine_head_keeps_its_digits_in_half_precision() -> None:
    a = torch.randn(1, 512, 8, 8)
    b = a + 0.05 * torch.randn_like(a)
    exact = 1 - F.cosine_similarity(a.double(), b.double())
    half = CosineHead()([a.half()], [b.half()], [a.half()])[0][0][:, 0]
    assert float(((half - exact).abs() / exact).max()) < 0.01


def test_the_losses_follow_their_formulas() -> None:
    torch.manual_seed(1)
    mask = (torch.rand(2, 1, 16, 16) > 0.8).float()
    distances = [torch.rand(2, 1, 8, 8), torch.rand(2, 1, 4, 4)]
    expected = 0.0
    for d in distances:
        up = F.interpolate(d, (16, 16), mode="bilinear", align_corners=False)
        expected += float(torch.where(mask > 0, 1 - up, up).mean()) / 2
    assert float(losses.distillation_loss(distances, mask)) == pytest.approx(expected, rel=1e-5)

    a, b = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    cosines = [float((x * y).sum() / (x.norm() * y.norm())) for x, y in zip(a, b, strict=True)]
    assert float(losses.recovery_loss([a, a], [b, b])) == pytest.approx(2 * (1 - np.mean(cosines)), rel=1e-5)

    logits = torch.randn(2, 1, 8, 8)
    share = mask.reshape(2, 1, 8, 2, 8, 2).mean((3, 5))
    p = torch.sigmoid(logits)
    entropy = -(share * p.log() + (1 - share) * (1 - p).log()).mean()
    assert float(losses.segmentation_loss(logits, mask)) == pytest.approx(float(entropy), rel=1e-5)


def test_focal_and_dice_loss_by_an_independent_sum() -> None:
    rng = np.random.default_rng(3)
    logits, mask = rng.normal(size=(2, 1, 4, 4)), (rng.random((2, 1, 8, 8)) < 0.3).astype(np.float64)
    cells = mask.reshape(2, 1, 4, 2, 4, 2).transpose(0, 1, 2, 4, 3, 5).reshape(2, 1, 4, 4, 4)
    target = (cells.max(-1) + cells.mean(-1)) / 2
    found = 1 / (1 + np.exp(-logits))
    entropy = -(target * np.log(found) + (1 - target) * np.log(1 - found))
    dice = 1 - (2 * (found * target).sum() + 1) / (found.sum() + target.sum() + 1)
    wanted = 4 * (entropy * np.abs(found - target)).mean() + dice
    loss = losses.focal_dice_loss(torch.tensor(logits), torch.tensor(mask, dtype=torch.float32))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_perlin_masks_have_the_statistics_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([synthesis.perlin_mask(rng, (256, 256)).mean() for _ in range(600)])
    assert 0.040 < shares.mean() < 0.060  # the reference: 4.95 %
    assert 0.02 < (shares == 0).mean() < 0.08  # the reference: 4.7 % empty


@pytest.mark.parametrize("kinds", ["reference", "rich", "wide"])
def test_corruption_changes_only_what_its_mask_says(kinds: Synthesis) -> None:
    image = np.random.default_rng(1).integers(60, 200, (96, 96, 3), dtype=np.uint8)
    source = synthesis.textures(None)
    changed = 0
    for seed in range(60):
        corrupted, mask = synthesis.corrupt(image, np.random.default_rng(seed), source, synthesis=kinds)
        again, _ = synthesis.corrupt(image, np.random.default_rng(seed), source, synthesis=kinds)
        assert np.array_equal(corrupted, again)
        difference = np.abs(corrupted.astype(int) - image).max(2)
        changed += bool((difference[mask] > 0).any())
        if kinds == "reference":
            assert not difference[~mask].any()
    assert changed > 40


def test_batches_depend_on_seed_and_epoch_alone_and_are_dealt_without_overlap() -> None:
    whole = EpochBatches(20, 8, 1)
    whole.epoch = 4
    halves = [EpochBatches(20, 4, 1, rank=rank, ranks=2) for rank in range(2)]
    for half in halves:
        half.epoch = 4
    dealt = [sorted(a + b) for a, b in zip(*halves, strict=True)]
    assert dealt == [sorted(batch) for batch in whole]
    whole.epoch = 5
    assert [sorted(batch) for batch in whole] != dealt
    with pytest.raises(ConfigError, match="3 training images for 2 processes"):
        EpochBatches(3, 4, 1, rank=0, ranks=2)


@pytest.mark.parametrize("network", ["cfrg-r18", "cfrg-duo0", "cfrg-lite0", "cfrg-nano0"])
def test_checkpoints_come_back_as_they_were(network: str, tmp_path: Path) -> None:
    cfrg = build(network, 64)
    checkpoint.save(cfrg, tmp_path / "c.pt", seed=3)
    loaded = checkpoint.load(tmp_path / "c.pt")
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in cfrg.state_dict().items())
    assert not loaded.training


def test_bad_checkpoints_are_refused_in_one_line(tmp_path: Path, light: Cfrg) -> None:
    good = tmp_path / "good.pt"
    checkpoint.save(light, good)
    cases = {"missing.pt": None, "empty.pt": b"", "text.pt": b"hello", "cut.pt": good.read_bytes()[:5000]}
    for name, data in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ArtefactError, match=name):
            checkpoint.load(tmp_path / name)
    state = torch.load(good, weights_only=True)
    next(v for k, v in state["weights"].items() if k.startswith("student"))[0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ArtefactError, match=r"student\..* holds NaN"):
        checkpoint.load(tmp_path / "nan.pt")
    torch.save({**state, "format": 99}, tmp_path / "new.pt")
    with pytest.raises(ArtefactError, match="newer edgead"):
        checkpoint.load(tmp_path / "new.pt")
    state["weights"].pop(next(iter(state["weights"])))
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ArtefactError, match="do not fit"):
        checkpoint.load(tmp_path / "part.pt")


def test_teachers_take_whole_classifiers_under_torchvisions_names(tmp_path: Path) -> None:
    cfrg = build("cfrg-r18", 64)
    whole = {name: value + 1 for name, value in cfrg.teacher.state_dict().items()}
    assert {"conv1.weight", "layer1.0.bn2.running_var", "layer2.0.downsample.0.weight", "layer3.1.conv2.weight"} < set(
        whole
    )
    whole["layer4.0.conv1.weight"] = torch.zeros(1)
    whole["fc.bias"] = torch.zeros(1)
    torch.save(whole, tmp_path / "resnet18.pth")
    checkpoint.load_teacher(cfrg, str(tmp_path / "resnet18.pth"))
    assert torch.equal(cfrg.teacher.conv1.weight, whole["conv1.weight"])
    torch.save({**whole, "surprise.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ArtefactError, match=r"odd\.pth.*surprise"):
        checkpoint.load_teacher(cfrg, str(tmp_path / "odd.pth"))
    with pytest.raises(MissingError, match="cannot be downloaded"):
        checkpoint.load_teacher(cfrg, "http://127.0.0.1:9/resnet18.pth")


@pytest.mark.parametrize("network", ["cfrg-lite0", "cfrg-nano0"])
def test_lite0_knows_imagenet(network: str) -> None:
    """The package's weights give features that a random network of the same shape does not."""
    cfrg = build(network, 64)
    random = cfrg.teacher.state_dict()["_conv_stem.weight"].clone()
    assert "efficientnet-lite0" in checkpoint.load_teacher(cfrg, None)
    assert not torch.equal(random, cfrg.teacher.state_dict()["_conv_stem.weight"])
    assert cfrg.teacher.mean == (127.0, 127.0, 127.0)
    assert isinstance(cfrg.teacher, backbones.EfficientNet)


def test_the_student_of_duo0_begins_as_its_teacher_and_keeps_its_batch_norms() -> None:
    cfrg = build("cfrg-duo0", 64)
    checkpoint.load_teacher(cfrg, None)
    teacher, student = cfrg.teacher.state_dict(), cfrg.student.state_dict()
    assert all(torch.equal(teacher[name], student[name]) for name in teacher)
    cfrg.train()(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(student[name], value) for name, value in cfrg.student.state_dict().items())
    assert all(p.requires_grad for p in cfrg.student.parameters())


def test_unknown_networks_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cfrg-lite0'"):
        build("cfrg-lite")
    with pytest.raises(ConfigError, match="multiple of 32"):
        build("cfrg-lite0", 250)
