"""What is exported is what torch computes, at any batch size, and nothing else is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from edgead.bundle import NETWORKS, Bundle, BundleInfo
from edgead.cfrg import checkpoint
from edgead.cfrg.backbones import Backbone
from edgead.cfrg.model import Cfrg, build
from edgead.cfrg.recovery import LightRecovery
from edgead.cfrg.segmentation import LightSegmentation
from edgead.cfrg.student import LightStudent
from edgead.errors import ArtefactError, DataError
from edgead.runtime.open import open_runner
from export.to_onnx import export_inspection, export_networks

SIZE = 64


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_whole_graph_is_torch_at_any_batch(exported: Bundle, smooth_images: np.ndarray, batch: int) -> None:
    some = smooth_images[5 : 5 + batch]
    with (
        open_runner(exported, "fp32", threads=1) as runner,
        open_runner(exported, "checkpoint", threads=1) as reference,
    ):
        found, wanted = runner.infer(some), reference.infer(some)
    assert found.anomaly_map.shape == (batch, SIZE, SIZE)
    assert wanted.anomaly_map.std() > 1e-3  # not a flat map, which would agree with anything
    np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.pred_score, wanted.pred_score, rtol=1e-5)


def test_the_networks_chained_are_torch(exported: Bundle, smooth_images: np.ndarray) -> None:
    cfrg = checkpoint.load(exported.file("checkpoint"))
    with torch.inference_mode():
        pixels = cfrg.normalise(torch.from_numpy(smooth_images[9:12]))
        wanted = cfrg(pixels)
    known = {"pixels": pixels.numpy()}
    for name in NETWORKS:
        session = ort.InferenceSession(str(exported.file(name)), providers=["CPUExecutionProvider"])
        outputs = [value.name for value in session.get_outputs()]
        inputs = {value.name: known[value.name] for value in session.get_inputs()}
        known.update(zip(outputs, session.run(outputs, inputs), strict=True))
    np.testing.assert_allclose(known["logits"], wanted.logits.numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(known["recovery_3"], wanted.recovery[2].numpy(), atol=1e-4, rtol=1e-4)


def test_files_are_whole_and_say_what_they_are(exported: Bundle) -> None:
    names = {path.relative_to(exported.path).as_posix() for path in exported.path.rglob("*") if path.is_file()}
    networks = {f"networks/{name}.onnx" for name in NETWORKS}
    assert names == {"bundle.json", "checkpoint.pt", "model.fp32.onnx", *networks}  # so no weights outside
    here = str(Path(__file__).parent.parent).encode()
    for name in ("fp32", *NETWORKS):
        model = onnx.load(exported.file(name), load_external_data=False)
        assert model.opset_import[0].version == 18
        for value in [*model.graph.input, *model.graph.output]:
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        props = {prop.key: prop.value for prop in model.metadata_props}
        assert (props["network"], props["category"]) == ("cfrg-lite0", "tile")
        assert here not in exported.file(name).read_bytes()
        source = exported.artefacts[name].made_from
        assert source is not None
        assert source.sha256 == exported.artefacts["checkpoint"].sha256
        assert set(exported.artefacts[name].tools) == {"torch", "onnx", "onnxscript", "onnxruntime"}


def test_pixels_are_cast_before_they_are_transposed(exported: Bundle) -> None:
    graph = onnx.load(exported.file("fp32")).graph
    readers = [node.op_type for node in graph.node if "image" in node.input and node.op_type != "Shape"]
    assert readers == ["Cast"]


def test_nodes_know_their_torch_modules(exported: Bundle) -> None:
    cfrg = build("cfrg-lite0", SIZE)
    for name in ("fp32", *NETWORKS):
        nodes = onnx.load(exported.file(name)).graph.node
        assert len({node.name for node in nodes}) == len(nodes)
        for node in nodes:
            module = {prop.key: prop.value for prop in node.metadata_props}.get("module", "")
            assert node.name.startswith(module)
            if node.op_type == "Conv" and module != "cosine":  # which adds up channels by one
                assert isinstance(cfrg.get_submodule(module), nn.Conv2d)
    modules = {prop.value for node in onnx.load(exported.file("fp32")).graph.node for prop in node.metadata_props}
    assert {"cosine", "fusion"} <= modules


class _Teacher(Backbone):
    channels, strides = (4, 6), (4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 6, 2, 2)

    def forward(self, image: Tensor) -> list[Tensor]:
        level = self.first(image)
        return [level, self.second(level)]


class _Small(Cfrg):
    """A CFRG that is exported in a second."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        teacher = _Teacher()
        student = LightStudent(teacher.channels, teacher.strides, 4)
        recovery = LightRecovery(teacher.channels, (4, 4), 4)
        super().__init__("cfrg-lite0", teacher, student, recovery, LightSegmentation((4, 6), 4), (SIZE, SIZE))
        self.eval()


class _Drifting(_Small):
    """Traces as something else than it computes."""

    def normalise(self, image: Tensor) -> Tensor:
        return super().normalise(image) + (0.5 if torch.compiler.is_compiling() else 0.0)


class _OneBatch(_Small):
    """Only knows the batch that it is traced with."""

    def normalise(self, image: Tensor) -> Tensor:
        return super().normalise(image.reshape(2, SIZE, SIZE, 3))


class _Untraceable(_Small):
    """Branches on its pixels."""

    def normalise(self, image: Tensor) -> Tensor:
        return super().normalise(image) if image.sum() > 3 else super().normalise(image) + 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Drifting, r"anomaly_map differs from torch by .* the limit is 1e-04; the file is not kept"),
        (_OneBatch, "image only takes the batch that the network was traced with"),
        (_Untraceable, "cannot export this network"),
    ],
)
def test_a_graph_that_is_not_torchs_is_not_kept(
    tmp_path: Path, smooth_images: np.ndarray, kind: type[_Small], message: str
) -> None:
    bundle = Bundle.create(tmp_path, BundleInfo(network="cfrg-lite0", category="tile", size_hw=(SIZE, SIZE)))

    def write(path: Path) -> None:
        export_inspection(kind(), path, smooth_images[:3], {})

    with pytest.raises(ArtefactError, match=message) as caught:
        bundle.add("fp32", write, kind="onnx", precision="fp32", made_from=None, tools={})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.json"]
    assert not Bundle.open(tmp_path).artefacts


def test_wrong_images_are_refused(exported: Bundle, smooth_images: np.ndarray) -> None:
    before = (exported.path / "bundle.json").read_bytes()
    for wrong in (smooth_images[:0], smooth_images[:, :32], smooth_images.astype(np.float32)):
        with pytest.raises(DataError, match=r"expected uint8 \(N, 64, 64, 3\)"):
            export_networks(exported, wrong)
    assert (exported.path / "bundle.json").read_bytes() == before


def test_an_empty_bundle_says_what_comes_first(tmp_path: Path, smooth_images: np.ndarray) -> None:
    bundle = Bundle.create(tmp_path / "b", BundleInfo(network="cfrg-lite0", category="tile", size_hw=(SIZE, SIZE)))
    with pytest.raises(ArtefactError, match="no artefact 'checkpoint'; make it: edgead train"):
        export_networks(bundle, smooth_images)
