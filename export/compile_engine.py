"""Compile an ONNX model to an engine with TensorRT's builder: profile, progress, and an end by Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgead.engine_passport import Precision
from edgead.errors import ArtefactError, ConfigError
from edgead.progress import task
from edgead.runtime.tensorrt_library import Library, Log
from export import turing

if TYPE_CHECKING:
    import onnx

_PERCENT = 100


@dataclass(frozen=True)
class Options:
    """What the builder is told besides the model.

    Attributes:
        max_batch: the engine takes 1 to so many images, and is fastest at that many.
        capabilities: compute capabilities to build for (TensorRT-RTX); empty for the GPU that is here.
        dla: DLA core; layers that it cannot run go to the GPU.
        optimisation_level: 0 (built quickly) to 5 (searches longest); None keeps TensorRT's own.
        timing_cache: file of kernels measured in earlier builds; it need not be there.
    """

    max_batch: int = 8
    capabilities: tuple[str, ...] = ()
    dla: int | None = None
    optimisation_level: int | None = None
    timing_cache: Path | None = None

    @property
    def turing(self) -> bool:
        """Whether the model has to do without matrix products in fp32."""
        return turing.CAPABILITY in self.capabilities


@dataclass(frozen=True)
class Compiled:
    """An engine.

    Attributes:
        data: its bytes.
        layers: of its network.
        on_dla: how many of them the DLA can run.
        timing_cache: the kernels measured, to be kept for the next build; None where none was asked for.
    """

    data: bytes
    layers: int
    on_dla: int = 0
    timing_cache: bytes | None = None


def compile_engine(
    library: Library, model: onnx.ModelProto, precision: Precision, options: Options, *, title: str = "Building"
) -> Compiled:
    """Build an engine.

    Args:
        model: precision is that of its types, but on TensorRT 8.
        title: of the progress bar.

    Raises:
        ArtefactError: the library cannot parse or build it; the line has its reason.
        ConfigError: a DLA core or timing cache that does not fit.
        KeyboardInterrupt: Ctrl-C, once the builder has stopped.
    """
    if options.turing:
        model = turing.without_products(model)
    data = model.SerializeToString()
    cancelled = threading.Event()
    # The builder runs in a thread of its own, so that Ctrl-C reaches Python while NVIDIA's code is at work.
    with task(title, _PERCENT) as advance, ThreadPoolExecutor(1) as pool:
        progress = Progress(advance, cancelled)
        future = pool.submit(_compile, library, data, precision, options, progress)
        try:
            compiled = future.result()
        except BaseException:
            cancelled.set()
            raise
        progress.end()
    return compiled


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Progress:
    """Turns a builder's nested phases into one figure in percent, which never goes back."""

    def __init__(self, advance: Callable[..., None], cancelled: threading.Event) -> None:
        self._advance = advance
        self._cancelled = cancelled
        self._open: dict[str, _Phase] = {}
        self._shown = 0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins within another."""
        self._open[phase] = _Phase(parent, max(1, steps))
        self._show(phase)

    def step(self, phase: str, step: int) -> bool:
        """A step is done; False cancels the build."""
        if phase in self._open:
            self._open[phase].done = step + 1
        self._show("")
        return not self._cancelled.is_set()

    def finish(self, phase: str) -> None:
        """A phase ends."""
        self._open.pop(phase, None)

    def end(self) -> None:
        """All is done, whatever was told."""
        self._advance(_PERCENT - self._shown)

    @property
    def share(self) -> float:
        """How much of the build is done, of 1."""
        return min(1.0, sum(each.done / each.steps * self._width(each.parent) for each in self._open.values()))

    def _width(self, phase: str | None) -> float:
        """Return how much of the whole one step of a phase is."""
        width = 1.0
        while phase is not None and phase in self._open:
            width /= self._open[phase].steps
            phase = self._open[phase].parent
        return width

    def _show(self, note: str) -> None:
        percent = max(self._shown, int(self.share * (_PERCENT - 1)))
        if note or percent > self._shown:
            self._advance(percent - self._shown, note)
        self._shown = percent


def _compile(library: Library, model: bytes, precision: Precision, options: Options, progress: Progress) -> Compiled:
    log = library.log()
    builder = library.builder(log)
    network = library.network(builder)
    library.parse(network, model, log)
    config = builder.create_builder_config()
    config.profiling_verbosity = library.trt.ProfilingVerbosity.DETAILED  # engines can be inspected layer by layer
    library.set_precision(config, precision)
    library.aim(config, options.capabilities)
    if options.optimisation_level is not None:
        config.builder_optimization_level = options.optimisation_level
    _add_profile(library, builder, network, config, options.max_batch, log)
    on_dla = 0 if options.dla is None else _use_dla(library, builder, network, config, options.dla)
    cache = None if options.timing_cache is None else _timing_cache(library, config, options.timing_cache, log)
    monitor = library.watch(config, progress)
    plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        raise ArtefactError(f"{library} cannot build it: {log.reason()}")
    measured = None if cache is None else bytes(cache.serialize())
    return Compiled(bytes(plan), network.num_layers, on_dla, measured)


def _add_profile(library: Library, builder: Any, network: Any, config: Any, max_batch: int, log: Log) -> None:
    """Let every input take 1 to ``max_batch`` images."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = tuple(tensor.shape)
        if batch != -1 or -1 in rest:
            raise ArtefactError(f"its input {tensor.name} is {(batch, *rest)}; expected any batch (-1) and fixed sizes")
        most = (max_batch, *rest)
        profile.set_shape(tensor.name, (1, *rest), most, most)
    if config.add_optimization_profile(profile) < 0:
        raise ArtefactError(f"{library} refuses batches of 1 to {max_batch}: {log.reason()}")


def _use_dla(library: Library, builder: Any, network: Any, config: Any, core: int) -> int:
    """Send what can run there to a DLA core; returns how many layers can."""
    if core >= (cores := builder.num_DLA_cores):
        raise ConfigError(f"DLA core {core}: {library} finds {cores} DLA cores on this machine; leave --dla out")
    config.default_device_type = library.trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(library.trt.BuilderFlag.GPU_FALLBACK)
    able = sum(bool(config.can_run_on_DLA(network.get_layer(index))) for index in range(network.num_layers))
    if not able:
        raise ArtefactError(f"{library} can run none of its {network.num_layers} layers on the DLA; leave --dla out")
    return able


def _timing_cache(library: Library, config: Any, path: Path, log: Log) -> Any:
    """Give the builder the kernels measured in earlier builds."""
    try:
        known = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ConfigError(f"{path}: the timing cache cannot be read ({error.strerror}); name another file") from error
    log.clear()
    cache = config.create_timing_cache(known)
    taken = cache is not None and config.set_timing_cache(cache, False)
    complaint = log.warned()  # a file of another version, or of anything else, is met with a warning only
    if not taken or "timing cache" in complaint.lower():
        raise ConfigError(
            f"{path}: not a timing cache of {library} on this GPU ({complaint or log.reason()}); "
            "delete it, or name another file"
        )
    return cache
