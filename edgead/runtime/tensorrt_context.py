"""Open execution contexts of any TensorRT, several of an engine in one block of activation memory.

A CUDA graph replays what its context did when it was recorded, and NVIDIA leaves undefined what it does after the
context was given another input shape; it advises one context a graph, with shared memory (NVIDIA/TensorRT issue 3798).
So each batch size has a context here, and they take turns in memory that is as large as the largest batch needs.
"""

from __future__ import annotations

from typing import Any

from edgead.errors import ArtefactError
from edgead.runtime.tensorrt_library import Library


def activation_bytes(engine: Any) -> int:
    """Return how much memory of the device a context of this engine works in."""
    # TensorRT 8 has the first of the two only, TensorRT 11 the second only
    size = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    return max(int(size), 256)  # none at all cannot be allocated


def open_context(library: Library, engine: Any, pointer: int, size: int, *, graphs: bool) -> Any:
    """Open a context that works in ``size`` bytes of device memory at ``pointer``, one batch at a time.

    Args:
        graphs: whether TensorRT-RTX, which compiles its kernels here, shall record graphs of them; the others do not.

    Raises:
        ArtefactError: TensorRT opens none, mostly because memory is short.
    """
    log = library.log()
    if library.is_rtx:
        context = engine.create_execution_context(_rtx_settings(library.trt, engine, graphs))
    elif hasattr(library.trt, "ExecutionContextAllocationStrategy"):
        context = engine.create_execution_context(library.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    else:  # TensorRT 8
        context = engine.create_execution_context_without_device_memory()
    if context is None:
        raise ArtefactError(
            f"{library} opens no execution context ({log.reason()}); close what else uses the GPU, or build for "
            "smaller batches: edgead build --max-batch"
        )
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(pointer, size)
    else:  # TensorRT 8
        context.device_memory = pointer
    return context


def _rtx_settings(trt: Any, engine: Any, graphs: bool) -> Any:
    """Return how TensorRT-RTX shall run: it compiles its kernels at the first batch of a shape, not in later ones."""
    settings = engine.create_runtime_config()
    settings.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    strategies = trt.CudaGraphStrategy
    settings.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
    return settings
