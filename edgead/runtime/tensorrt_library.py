"""TensorRT and TensorRT-RTX: found, loaded, and spoken to in one way.

Whatever differs between ``tensorrt`` 8.6, 10.x and 11.x and ``tensorrt_rtx`` is in this file: enumerations that come
and go, flags that were removed, the creation of a network, the words of a parser's error. The rest of edgead uses only
names that all of them have; tests/test_tensorrt_api.py holds that against their real bindings.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgead.errors import ArtefactError, ConfigError, MissingError, nearest
from edgead.runtime.nvidia_driver import Gpu, gpu
from edgead.runtime.tensorrt_callbacks import Log, Steps, logger_of, monitor_of, one_line

__all__ = ["NOT_RTX", "TARGETS", "Found", "Gpu", "Library", "Log", "Steps", "found", "gpu", "load"]

TARGETS = ("tensorrt", "tensorrt-rtx")
# Compute capabilities that TensorRT-RTX was never made for, with the boards that have them.
NOT_RTX = {
    "5.3": "Jetson Nano",
    "6.2": "Jetson TX2",
    "7.2": "Jetson Xavier",
    "8.7": "Jetson Orin",
    "11.0": "Jetson Thor",
    "7.0": "a data-centre GPU",
    "9.0": "a data-centre GPU",
    "10.0": "a data-centre GPU",
    "10.3": "a data-centre GPU",
}

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL = {
    "tensorrt": "JetPack brings it (make the venv with --system-site-packages); elsewhere, in edgead's folder: "
    "pip install '.[tensorrt]'",
    "tensorrt-rtx": "in edgead's folder: pip install '.[tensorrt-rtx]'",
}
_RTX_MAGIC, _RTX_SIZE_AT = b"vtrt", 16  # a TensorRT-RTX engine begins so, and says its length there


class Found(NamedTuple):
    """What was found of a library: its version, or the reason why it cannot be used, or both."""

    target: str
    version: str | None
    problem: str | None


@dataclass(frozen=True)
class Library:
    """A loaded TensorRT.

    Attributes:
        trt: its module.
        target: one of TARGETS.
        version: as it says itself, such as ``"10.3.0"``.
    """

    trt: Any
    target: str
    version: str

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.is_rtx else 'TensorRT'} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether engines are built for compute capabilities instead of the GPU that is here."""
        return self.target == "tensorrt-rtx"

    @property
    def is_typed(self) -> bool:
        """Whether the precision is what the ONNX file says; TensorRT 8 takes it from builder flags."""
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that TensorRT-RTX builds for, such as ``("7.5", "8.6")``; empty for full TensorRT."""
        if not hasattr(self.trt, "ComputeCapability"):
            return ()
        found = (re.fullmatch(r"SM(\d+)(\d)", name) for name in self.trt.ComputeCapability.__members__)
        return tuple(f"{each[1]}.{each[2]}" for each in found if each)

    def log(self) -> Log:
        """Return the process's logger of this library, cleared: TensorRT takes one a process and ignores all later."""
        logger: Log = logger_of(self.trt)
        logger.clear()
        return logger

    def builder(self, log: Log) -> Any:
        """Return a builder.

        Raises:
            MissingError: the library does not get on with the driver.
        """
        return self._made(self.trt.Builder, log)

    def network(self, builder: Any) -> Any:
        """Return an empty network whose precision is that of its ONNX file, wherever the library has that."""
        flags = self.trt.NetworkDefinitionCreationFlag
        if hasattr(flags, "STRONGLY_TYPED"):
            return builder.create_network(1 << int(flags.STRONGLY_TYPED))
        return builder.create_network(1 << int(flags.EXPLICIT_BATCH))

    def parse(self, network: Any, model: bytes, log: Log) -> None:
        """Fill a network from an ONNX file's bytes.

        Raises:
            ArtefactError: the parser does not take it; the line names node, operator and reason.
        """
        parser = self.trt.OnnxParser(network, log)
        if not parser.parse(model):
            errors = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
            raise ArtefactError(f"{self} cannot read it: {'; '.join(errors[:2]) or log.reason()}")
        if not network.num_inputs or not network.num_outputs:  # it reads a text file as a network of nothing
            raise ArtefactError(f"{self} finds {network.num_inputs} inputs and {network.num_outputs} outputs in it")

    def set_precision(self, config: Any, precision: str) -> None:
        """Choose the precision where the ONNX file cannot: on TensorRT 8. Arithmetic in fp32 is never cut to TF32."""
        config.clear_flag(self.trt.BuilderFlag.TF32)
        if self.is_typed:
            return
        if precision in ("fp16", "int8"):
            config.set_flag(self.trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(self.trt.BuilderFlag.INT8)

    def aim(self, config: Any, capabilities: Sequence[str]) -> None:
        """Choose what TensorRT-RTX builds for; full TensorRT builds for the GPU that is here."""
        if not capabilities or not hasattr(self.trt, "ComputeCapability"):
            return
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            member = self.trt.ComputeCapability.__members__[f"SM{capability.replace('.', '')}"]
            config.set_compute_capability(member, index)

    def watch(self, config: Any, steps: Steps) -> Any:
        """Tell ``steps`` of the progress (TensorRT 8 is silent); keep what is returned until the build ends."""
        if not hasattr(self.trt, "IProgressMonitor"):
            return None
        config.progress_monitor = monitor = monitor_of(self.trt, steps)
        return monitor

    def deserialise(self, engine: str | os.PathLike[str] | bytes, *, dla: int | None = None) -> Any:
        """Open an engine; it keeps its runtime and its logger alive.

        Args:
            engine: its file, or its bytes.
            dla: DLA core that it was built for.

        Raises:
            ArtefactError: empty, text, truncated, or not for this library and GPU.
            MissingError: no driver, no GPU, or the library does not get on with them.
        """
        name, data = ("the engine", engine) if isinstance(engine, bytes) else (str(engine), _bytes(Path(engine)))
        self._refuse_no_engine(name, data)
        log = self.log()
        runtime = self._made(self.trt.Runtime, log)
        if dla is not None:
            runtime.DLA_core = dla
        opened = runtime.deserialize_cuda_engine(data)
        if opened is None:
            reason = log.reason()
            gpu()  # the usual reason, and one that no new engine mends
            if diagnosis := self._diagnosis(runtime, data):
                reason = f"{diagnosis}: {reason}"
            raise ArtefactError(f"{name}: {self} cannot open this engine ({reason}); build it again: edgead build")
        return opened

    def _refuse_no_engine(self, name: str, data: bytes) -> None:
        again = "copy it again, or build it again: edgead build"
        if not data:
            raise ArtefactError(f"{name}: the file is empty; {again}")
        if not re.search(rb"[^\t\n\r\x20-\x7e]", data[:256]):
            raise ArtefactError(f"{name}: a text file, no engine; {again}")
        if not self.is_rtx:
            return
        if not data.startswith(_RTX_MAGIC):
            raise ArtefactError(f"{name}: no TensorRT-RTX engine (it begins with {data[:4]!r}); {again}")
        if len(data) < (size := int.from_bytes(data[_RTX_SIZE_AT : _RTX_SIZE_AT + 8], "little")):
            raise ArtefactError(f"{name}: truncated, it has {len(data)} bytes and says {size}; {again}")

    def _diagnosis(self, runtime: Any, data: bytes) -> str:
        """Return TensorRT-RTX's own word for what is wrong with an engine; ``""`` where there is none."""
        if not hasattr(self.trt.Runtime, "get_engine_validity"):
            return ""
        _, bits = runtime.get_engine_validity(data)
        known = self.trt.EngineInvalidityDiagnostics.__members__.items()
        return " ".join(name.replace("_", " ").lower() for name, value in known if int(bits) & int(value))

    def _made(self, make: Callable[[Log], Any], log: Log) -> Any:
        try:
            return make(log)
        except (TypeError, RuntimeError) as error:  # up to 10.x: factory function returned nullptr
            raise MissingError(
                f"{self} does not start ({log.reason(str(error))}); update the NVIDIA driver: edgead doctor"
            ) from error


def load(target: str) -> Library:
    """Load a TensorRT.

    Raises:
        ConfigError: no such target.
        MissingError: it cannot be imported, or full TensorRT finds no GPU.
    """
    if target not in TARGETS:
        raise ConfigError(f"there is no target '{target}'{nearest(target, TARGETS)}")
    if target == "tensorrt":
        gpu()  # without a driver, TensorRT 11 ends the whole process at the first use of its builder or runtime
    try:
        trt = importlib.import_module(_MODULES[target])
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise MissingError(f"{_MODULES[target]} cannot be imported ({reason}); {_INSTALL[target]}") from error
    return Library(trt, target, str(trt.__version__))


def found() -> list[Found]:
    """List what is here of each target. Never fails: each is imported in a process of its own, which may crash."""
    return [_find(target) for target in TARGETS]


def _find(target: str) -> Found:
    module = _MODULES[target]
    code = f"import {module}; print({module}.__version__)"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return Found(target, None, f"{module} cannot be tried ({type(error).__name__})")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return Found(target, None, f"{last}; {_INSTALL[target]}")
    version = (done.stdout.split() or ["unknown"])[-1]
    try:
        gpu()
    except MissingError as error:
        only = "builds engines all the same, runs none: " if target == "tensorrt-rtx" else ""
        return Found(target, version, f"{only}{error}")
    return Found(target, version, None)


def _parser_error(parser_error: Any) -> str:
    """Return node, operator and reason of a parser's error; TensorRT 8 knows the node's number only."""
    reason = one_line([str(parser_error.desc())]).removesuffix("false").strip(" :")
    if hasattr(parser_error, "node_name"):
        name = parser_error.node_name()
        where = f"node '{name}', operator {parser_error.node_operator() or '?'}"
        reason = reason.replace(f"Invalid Node - {name} ", "").replace(f"{name}: ", "")
    else:
        where = f"node {parser_error.node()}"
    return f"{where}: {reason[:300] or 'this operator, or this form of it, is not supported'}"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be read ({error.strerror}); build it again: edgead build") from error
