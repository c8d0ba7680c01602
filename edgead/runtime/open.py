"""Open an artefact of a bundle with the backend that it is made for."""

from __future__ import annotations

from edgead.bundle import Bundle
from edgead.errors import ArtefactError
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.runner import Runner
from edgead.runtime.torch_runner import TorchRunner


def open_runner(bundle: Bundle, artefact: str, *, threads: int = 0, max_batch: int = 8) -> Runner:
    """Open an artefact after verifying its bytes.

    Args:
        threads: CPU threads of one inference; 0 takes all cores that the process may use.

    Raises:
        ArtefactError: unknown, missing, changed or stale artefact, or one that inspects other images than its bundle.
        MissingError: the backend is not installed.
    """
    path = bundle.file(artefact)
    runner: Runner
    match bundle.artefacts[artefact].kind:
        case "checkpoint":
            runner = TorchRunner(path, threads=threads, max_batch=max_batch)
        case "onnx":
            runner = OnnxRunner(path, threads=threads, max_batch=max_batch)
        case kind:
            raise ArtefactError(f"{path}: this edgead opens no artefact of kind {kind}; use 'fp32' or 'checkpoint'")
    if runner.size_hw != bundle.info.size_hw:
        found, wanted = runner.size_hw, bundle.info.size_hw
        runner.close()
        raise ArtefactError(
            f"{path}: inspects images of {found[1]}x{found[0]}, its bundle says {wanted[1]}x{wanted[0]}; "
            f"make it again: edgead export {bundle.path}"
        )
    return runner
