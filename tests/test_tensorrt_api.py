"""Every TensorRT name that the code uses, held against the real bindings of the versions that it is written for.

The bindings are wheels of 1 MB; a stub library in place of NVIDIA's lets them import without a GPU. The names are read
from the source, so that a new one is checked without anybody thinking of it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STUB = Path(__file__).with_name("stub_nvinfer.c")

# Version: distribution of its bindings, major version in the names of its libraries.
WHEELS = {
    "8.6.1": ("tensorrt-bindings", 8),
    "10.3.0": ("tensorrt-cu12-bindings", 10),
    "10.16.1.11": ("tensorrt-cu12-bindings", 10),
    "11.4.0.106": ("tensorrt-cu13-bindings", 11),
}
RTX = "tensorrt-rtx"
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin", "libnvparsers")

# What the source cannot say: the class of an object, by the name under which the code keeps it ...
OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "tensor": "ITensor",
    "plan": "IHostMemory",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "settings": "IRuntimeConfig",
}
# ... and which functions are called only where a version has something; here and below ``hasattr`` stands for that.
CALLED_WITH = {"monitor_of": "IProgressMonitor", "_rtx_settings": "ComputeCapability"}
MEANS = {"is_typed": "STRONGLY_TYPED", "is_rtx": "ComputeCapability"}

DUMP = """
import inspect, json, sys
trt = __import__(sys.argv[1])
print(json.dumps({name: dir(value) for name, value in vars(trt).items() if inspect.isclass(value)}))
"""


# ---- names in the source


def chain(node: ast.expr) -> list[str]:
    """Return the names of ``a.b.c``; empty where it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


Conditions = frozenset[tuple[str, bool]]  # names that a version must have, or must not have


class Uses:
    """The TensorRT names of a source, each with the ``hasattr`` that stand before it."""

    def __init__(self, source: str) -> None:
        self.found: set[tuple[str, Conditions]] = set()
        self._aliases: dict[str, list[str]] = {}
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                names = chain(node.value)
                if "trt" in names[:-1]:
                    self._aliases[node.targets[0].id] = names[names.index("trt") + 1 :]
        self._block(tree.body, frozenset())

    def _block(self, body: list[ast.stmt], conditions: Conditions) -> None:
        for statement in body:
            if isinstance(statement, ast.If):
                yes, no = branches(statement.test)
                self._visit(statement.test, conditions)
                self._block(statement.body, conditions | yes)
                self._block(statement.orelse, conditions | no)
                if isinstance(statement.body[-1], (ast.Return, ast.Raise, ast.Continue)):
                    conditions |= no
            else:
                self._visit(statement, conditions)

    def _visit(self, node: ast.AST, conditions: Conditions) -> None:
        if isinstance(node, ast.FunctionDef):
            if node.name in CALLED_WITH:
                conditions |= {(CALLED_WITH[node.name], True)}
            self._block(node.body, conditions)
            return
        if isinstance(node, ast.IfExp):
            yes, no = branches(node.test)
            self._visit(node.body, conditions | yes)
            self._visit(node.orelse, conditions | no)
            return
        if isinstance(node, ast.Attribute) and (name := self._name(chain(node))):
            self.found.add((name, conditions))
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self._block(value, conditions)
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self._visit(child, conditions)

    def _name(self, names: list[str]) -> str:
        if "trt" in names[:-1]:
            found = names[names.index("trt") + 1 :]
        elif names and names[0] in self._aliases:
            found = [*self._aliases[names[0]], *names[1:]]
        elif len(names) >= 2 and names[-2].lstrip("_") in OBJECTS:
            found = [OBJECTS[names[-2].lstrip("_")], names[-1]]
        else:
            return ""
        return ".".join(name for name in found[:2] if "__" not in name)


def branches(test: ast.expr) -> tuple[Conditions, Conditions]:
    """Return what a version has where a test is true, and where it is false."""
    nothing: Conditions = frozenset()
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yes, no = branches(test.operand)
        return no, yes
    if isinstance(test, ast.BoolOp):
        yes, no = (nothing.union(*sides) for sides in zip(*map(branches, test.values), strict=True))
        return (yes, nothing) if isinstance(test.op, ast.And) else (nothing, no)
    name = None
    if isinstance(test, ast.Call) and chain(test.func) == ["hasattr"] and isinstance(test.args[1], ast.Constant):
        name = test.args[1].value
    elif isinstance(test, ast.Attribute):
        name = MEANS.get(test.attr)
    return (nothing, nothing) if name is None else (frozenset({(name, True)}), frozenset({(name, False)}))


def missing(uses: set[tuple[str, Conditions]], api: dict[str, list[str]]) -> set[str]:
    """Return what a version does not have of the names that the code takes with it."""
    known = {*api, *(member for members in api.values() for member in members)}
    gone = set()
    for name, conditions in uses:
        owner, _, member = name.partition(".")
        if all((guard in known) == wanted for guard, wanted in conditions) and (
            owner not in api or (member and member not in api[owner])
        ):
            gone.add(name)
    return gone


@functools.cache
def sources() -> dict[str, str]:
    """Return the files that touch TensorRT."""
    every = {path: path.read_text() for folder in ("edgead", "export") for path in (ROOT / folder).rglob("*.py")}
    return {
        path.relative_to(ROOT).as_posix(): text
        for path, text in every.items()
        if any("trt" in chain(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute))
    }


# ---- bindings


@functools.cache
def folder_of(version: str) -> Path:
    """Return a folder with a version's bindings and, in ``lib``, the stubs of its libraries; made once a machine."""
    distribution, _ = WHEELS[version]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgead-tests"
    stub = hashlib.sha256(STUB.read_bytes()).hexdigest()[:8]
    home = cache / f"{distribution}-{version}-cp{sys.version_info[0]}{sys.version_info[1]}-{stub}"
    if not home.exists():
        making = home.with_name(f"{home.name}.{os.getpid()}")  # another process may be making it as well
        try:
            make_folder(version, making)
            with contextlib.suppress(OSError):
                making.rename(home)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return home


def make_folder(version: str, home: Path) -> None:
    distribution, major = WHEELS[version]
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the stub of NVIDIA's libraries: install gcc")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(home)]
    done = subprocess.run([*command, f"{distribution}=={version}"], capture_output=True, text=True, timeout=300)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"the bindings of TensorRT {version} cannot be downloaded: {last[:150]}")
    with zipfile.ZipFile(next(home.glob("*.whl"))) as wheel:
        wheel.extractall(home)
    (home / "lib").mkdir()
    for library in LIBRARIES:
        target = home / "lib" / f"{library}.so.{major}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(STUB)], check=True, timeout=60)


def in_bindings(version: str, code: str, *words: str) -> str:
    """Run code with a version's bindings in a process of its own; returns what it prints."""
    environment = dict(os.environ)
    if version != RTX:
        home = folder_of(version)
        environment["LD_LIBRARY_PATH"] = str(home / "lib")
        environment["PYTHONPATH"] = os.pathsep.join([str(home), str(ROOT)])
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@functools.cache
def api(version: str) -> dict[str, list[str]]:
    """Return the members of a version's classes."""
    if version == RTX:
        pytest.importorskip("tensorrt_rtx")
    names: dict[str, Any] = json.loads(in_bindings(version, DUMP, _module(version)))
    return names


def _module(version: str) -> str:
    return "tensorrt_rtx" if version == RTX else "tensorrt_bindings"


# ---- tests


SOURCE = """
def f(trt, builder, self):
    flags = self.trt.BuilderFlag
    class Log(trt.ILogger): pass
    builder.build_me(flags.TF99, trt.DeviceType.GPU, self._engine.serialize())
    if hasattr(trt, "New"):
        trt.New.now()
    else:
        trt.Old()
    both = trt.A if hasattr(trt, "A") and self.is_typed else trt.B
    if not self or not hasattr(trt, "Late"):
        return
    trt.Late.x
"""


def test_the_names_are_seen_wherever_they_stand() -> None:
    always: Conditions = frozenset()
    assert Uses(SOURCE).found == {
        *((name, always) for name in ("BuilderFlag", "BuilderFlag.TF99", "ILogger", "DeviceType", "DeviceType.GPU")),
        *((name, always) for name in ("Builder.build_me", "ICudaEngine.serialize", "B")),
        *((name, frozenset({("New", True)})) for name in ("New", "New.now")),
        ("Old", frozenset({("New", False)})),
        ("A", frozenset({("A", True), ("STRONGLY_TYPED", True)})),
        *((name, frozenset({("Late", True)})) for name in ("Late", "Late.x")),
    }


def test_what_a_version_lacks_is_found_unless_it_is_asked_for_first() -> None:
    uses = Uses(SOURCE).found
    rest = {"ILogger": [], "DeviceType": ["GPU"], "ICudaEngine": ["serialize"], "B": []}
    old = {**rest, "BuilderFlag": ["TF32"], "Builder": ["build_me"], "Old": []}
    assert missing(uses, old) == {"BuilderFlag.TF99"}
    new = {**rest, "BuilderFlag": ["TF99"], "Builder": [], "New": [], "Late": ["x"]}
    assert missing(uses, new) == {"Builder.build_me", "New.now"}
    assert missing(uses, {**new, "New": ["now"], "Builder": ["build_me"]}) == set()
    assert missing(uses, {}) > {"Old", "ILogger", "B"}


def test_the_source_is_read_and_differences_stand_in_the_files_for_them() -> None:
    assert {"edgead/runtime/tensorrt_library.py", "export/compile_engine.py"} <= sources().keys()
    uses = {path: Uses(source).found for path, source in sources().items()}
    assert {
        *("Builder.build_serialized_network", "IBuilderConfig.add_optimization_profile", "OnnxParser.parse"),
        *("Runtime.deserialize_cuda_engine", "ProfilingVerbosity.DETAILED", "IProgressMonitor", "ILogger.ERROR"),
        *("NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "BuilderFlag.INT8", "ParserError.node_name"),
    } <= {name for found in uses.values() for name, _ in found}
    for path, found in uses.items():
        if not path.startswith("edgead/runtime/tensorrt_"):
            assert not {name for name, conditions in found if conditions}, path


@pytest.mark.parametrize("version", [*WHEELS, RTX])
def test_every_name_exists_in_the_bindings(version: str) -> None:
    bindings = api(version)
    assert len(bindings) > 100
    for path, source in sources().items():
        assert missing(Uses(source).found, bindings) == set(), path


def test_what_is_asked_for_exists_in_some_version() -> None:
    known = {name for version in [*WHEELS, RTX] for name in _flat(api(version))}
    asked = {guard for source in sources().values() for _, conditions in Uses(source).found for guard, _ in conditions}
    assert len(asked) >= 4
    assert asked <= known


def _flat(classes: dict[str, list[str]]) -> set[str]:
    return {*classes, *(member for members in classes.values() for member in members)}


START = """
import sys
import tensorrt_bindings as trt
from edgead.errors import MissingError
from edgead.runtime.tensorrt_library import Library

library = Library(trt, "tensorrt", trt.__version__)
assert library.is_typed == (not trt.__version__.startswith("8.")), library.is_typed
assert library.capabilities == (), library.capabilities

class Config:
    num_compute_capabilities = progress_monitor = None
    def __init__(self): self.flags = {trt.BuilderFlag.TF32}
    def set_flag(self, flag): self.flags.add(flag)
    def clear_flag(self, flag): self.flags.discard(flag)

for precision, weak in (("fp32", ()), ("fp16", ("FP16",)), ("int8", ("FP16", "INT8"))):
    config = Config()
    library.set_precision(config, precision)
    wanted = set() if library.is_typed else {trt.BuilderFlag.__members__[name] for name in weak}
    assert config.flags == wanted, (precision, config.flags)

class Steps:
    def start(self, phase, parent, steps): self.started = (phase, parent, steps)
    def step(self, phase, step): return phase != "stop"
    def finish(self, phase): self.finished = phase

config, steps = Config(), Steps()
library.aim(config, ("8.6",))
assert config.num_compute_capabilities is None
monitor = library.watch(config, steps)
assert (monitor is None) == trt.__version__.startswith("8.")
if monitor is not None:
    assert config.progress_monitor is monitor
    monitor.phase_start("a", None, 3)
    monitor.phase_finish("a")
    assert (steps.started, steps.finished) == (("a", None, 3), "a")
    assert monitor.step_complete("go", 0) is True and monitor.step_complete("stop", 0) is False
log = library.log()
log.log(trt.ILogger.ERROR, "first\\nhas two lines")
log.log(trt.ILogger.WARNING, "careful")
log.log(trt.ILogger.INFO, "chat")
assert (log.reason(), log.warned()) == ("first has two lines", "careful")
assert library.log() is log and log.reason("none") == "none"
if not trt.__version__.startswith("11."):  # there the null of the stub ends the process, as a missing driver does
    try:
        library.builder(log)
    except MissingError as error:
        assert "does not start" in str(error) and "driver" in str(error), error
    else:
        raise SystemExit("a builder was made of nothing")
print("done")
"""


@pytest.mark.parametrize("version", list(WHEELS))
def test_the_library_speaks_to_each_version(version: str) -> None:
    assert in_bindings(version, START) == "done\n"
