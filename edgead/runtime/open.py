"""Open an artefact of a bundle on a backend, and tell which of them a station may trust."""

from __future__ import annotations

from pathlib import Path

from edgead.bundle import Bundle
from edgead.engine_passport import Passport, passport_of
from edgead.errors import ArtefactError, ConfigError, nearest
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.openvino_runner import OpenVINORunner
from edgead.runtime.runner import Runner
from edgead.runtime.torch_runner import TorchRunner

# openvino-bf16 is a backend of its own, because its maps are: it needs its own certificate.
BACKENDS = ("torch", "onnxruntime", "openvino", "openvino-bf16", "tensorrt", "tensorrt-rtx")
_OF_ONNX: tuple[str, ...] = ("onnxruntime", "openvino", "openvino-bf16")
_EXACT = (("checkpoint", "torch"), ("fp32", "onnxruntime"), ("fp32", "openvino"))


def backend_of(bundle: Bundle, artefact: str, backend: str | None = None) -> str:
    """Return the backend that opens an artefact: the one asked for, or the usual one of its kind.

    Raises:
        ConfigError: a backend that does not exist, or that cannot open this kind of artefact.
        ArtefactError: the bundle has no such artefact, or an engine without a sound passport.
    """
    if backend is not None and backend not in BACKENDS:
        raise ConfigError(f"there is no backend '{backend}'{nearest(backend, BACKENDS)}")
    if artefact not in bundle.artefacts:
        bundle.file(artefact)  # says what there is instead
    match bundle.artefacts[artefact].kind:
        case "checkpoint":
            able: tuple[str, ...] = ("torch",)
            what, instead = "a checkpoint", f"or export it: edgead export {bundle.path}"
        case "onnx":
            able, what = _OF_ONNX, "an ONNX model"
            instead = f"or build an engine from it: edgead build {bundle.path}"
        case "engine":
            able = (_passport(bundle, artefact).target,)
            what, instead = f"an engine of {able[0]}", "or an ONNX model of the bundle, such as artefact 'fp32'"
    if backend is not None and backend not in able:
        raise ConfigError(f"'{artefact}' is {what}, which {backend} cannot open; use {' or '.join(able)}, {instead}")
    return backend or able[0]


def open_runner(
    bundle: Bundle, artefact: str, *, backend: str | None = None, threads: int = 0, max_batch: int = 8
) -> Runner:
    """Open an artefact after verifying its bytes.

    Args:
        backend: one of ``BACKENDS``; None takes torch for a checkpoint, ONNX Runtime for a model, and for an engine
            what built it.
        threads: CPU threads of one inference; 0 takes all cores that the process may use.
        max_batch: largest batch; an engine's own limit stands.

    Raises:
        ConfigError: a backend that does not exist, or that cannot open this kind of artefact.
        ArtefactError: unknown, missing, changed or stale artefact, or one that inspects other images than its bundle.
        MissingError: the backend is not installed.
    """
    word = backend_of(bundle, artefact, backend)
    path = bundle.file(artefact)
    runner: Runner
    match word:
        case "torch":
            runner = TorchRunner(path, threads=threads, max_batch=max_batch)
        case "tensorrt" | "tensorrt-rtx":
            runner = _open_engine(bundle, artefact, path, max_batch)
        case _:
            optimise = artefact != "int8-fp16"
            runner = open_model(path, word, threads=threads, max_batch=max_batch, optimise=optimise)
    if runner.size_hw != bundle.info.size_hw:
        found, wanted = runner.size_hw, bundle.info.size_hw
        runner.close()
        raise ArtefactError(
            f"{path}: inspects images of {found[1]}x{found[0]}, its bundle says {wanted[1]}x{wanted[0]}; "
            f"make it again: edgead export {bundle.path}"
        )
    return runner


def open_model(path: Path, backend: str, *, threads: int = 0, max_batch: int = 8, optimise: bool = True) -> Runner:
    """Open an ONNX file that is in no bundle.

    Args:
        backend: one of those that open ONNX models.
        optimise: False keeps ONNX Runtime from rewriting the graph.

    Raises:
        ConfigError: another backend.
        ArtefactError: no such file, or no inspection model.
        MissingError: the backend is not installed.
    """
    match backend:
        case "onnxruntime":
            return OnnxRunner(path, threads=threads, max_batch=max_batch, optimise=optimise)
        case "openvino":
            return OpenVINORunner(path, threads=threads, max_batch=max_batch)
        case "openvino-bf16":
            return OpenVINORunner(path, threads=threads, max_batch=max_batch, hint="bf16")
        case _:
            raise ConfigError(f"backend '{backend}' opens no ONNX models{nearest(backend, _OF_ONNX)}")


def doubt(bundle: Bundle, artefact: str, backend: str) -> str | None:
    """Say why a station should not run an artefact on a backend; None where nothing speaks against it.

    A missed gate speaks against any artefact. Without a certificate only the checkpoint on torch and the float32 model
    are trusted, which the export has held against each other.
    """
    certificate = bundle.artefacts[artefact].parity.get(backend)
    prove = f"edgead parity {bundle.path} --artefact {artefact} --backend {backend}"
    if bundle.deployable(artefact, backend) or (certificate is None and (artefact, backend) in _EXACT):
        return None
    if certificate is None:
        return f"'{artefact}' on {backend} has not been held against its checkpoint; prove it: {prove}"
    return f"'{artefact}' on {backend} missed a gate of parity; see which: {prove}"


def _passport(bundle: Bundle, artefact: str) -> Passport:
    try:
        return passport_of(artefact, bundle.artefacts[artefact].passport)
    except ArtefactError as error:
        raise ArtefactError(f"{bundle.path}: {error}") from error


def _open_engine(bundle: Bundle, artefact: str, path: Path, max_batch: int) -> Runner:
    from edgead.runtime.tensorrt_runner import TensorRTRunner

    passport = _passport(bundle, artefact)
    return TensorRTRunner(path, passport=passport, max_batch=min(max_batch, passport.max_batch))
