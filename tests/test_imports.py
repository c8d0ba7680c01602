"""Which part of the code may import which, and what a station can do without."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("edgead", "export", "benchmarks")
HEAVY = ("torch", "onnx", "scipy", "sklearn", "lightning", "lightning_fabric", "tensorboard")


def imports(path: Path, *, only_at_top: bool = False) -> set[str]:
    """Return the modules that a file imports, wherever in it, or only those that importing it imports."""
    tree = ast.parse(path.read_text(), str(path))
    found: set[str] = set()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if only_at_top and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if only_at_top and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        pending.extend(ast.iter_child_nodes(node))
    return found


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def offenders(folder: str, forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    """List forbidden imports in a folder, but for paths that begin with one of ``allowed``."""
    return [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(folder)
        if not path.relative_to(ROOT).as_posix().startswith(allowed)
        for module in sorted(imports(path))
        if any(below(module, package) for package in forbidden)
    ]


def test_the_rules_see_imports_wherever_they_stand(tmp_path: Path) -> None:
    source = tmp_path / "seen.py"
    source.write_text("import a.b\ndef f():\n    from c import d\nclass C:\n    import e\n    def g(self): import h\n")
    assert imports(source) == {"a.b", "c.d", "e", "h"}
    assert imports(source, only_at_top=True) == {"a.b", "e"}


def test_the_library_imports_neither_export_nor_benchmarks() -> None:
    # The command line is where everything is put together, inside its functions.
    assert offenders("edgead", ("export", "benchmarks"), ("edgead/cli/",)) == []
    assert not any(
        below(module, package)
        for path in sources("edgead")
        for module in imports(path, only_at_top=True)
        for package in ("export", "benchmarks")
    )


def test_export_and_benchmarks_do_not_import_each_other() -> None:
    assert offenders("export", ("benchmarks",)) == []
    assert offenders("benchmarks", ("export",)) == []


def test_training_and_runtime_are_apart() -> None:
    assert offenders("edgead/cfrg", ("edgead.runtime",)) == []
    assert offenders("edgead/runtime", ("edgead.cfrg",), ("edgead/runtime/torch_runner.py",)) == []
    torch_runner = ROOT / "edgead" / "runtime" / "torch_runner.py"
    assert not any(below(module, "edgead.cfrg") for module in imports(torch_runner, only_at_top=True))


@pytest.mark.parametrize("folder", ["edgead/runtime", "edgead/datasets"])
def test_station_code_imports_nothing_heavy(folder: str) -> None:
    assert [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(folder)
        for module in sorted(imports(path, only_at_top=True))
        if any(below(module, heavy) for heavy in (*HEAVY, "onnxruntime", "tensorrt", "openvino", "av", "gi"))
    ] == []


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxruntime", "scipy", "sklearn", "lightning_fabric"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ImportError:
    pass
else:
    raise SystemExit("the blocker does not block")

from pathlib import Path
from edgead.config import load_station
from edgead.errors import MissingError
from edgead.runtime.fake import FakeRunner
from edgead.runtime.inspector import Inspector
from edgead.runtime.onnx_runner import OnnxRunner
from edgead.runtime.stations import run_station
from edgead.thresholds import Threshold
import edgead.bundle, edgead.datasets, edgead.images

threshold = Threshold(0.5, 0.75, "part", 2000, 0.95, 3000, 1000, 1500, "by hand")
report = run_station(load_station(sys.argv[1]), runner=FakeRunner((32, 32)), threshold=threshold)
assert report.is_conserved and report.triggers == 4, report
try:
    OnnxRunner(sys.argv[1])
except MissingError as error:
    assert "onnxruntime" in str(error), error
else:
    raise SystemExit("onnxruntime was found")
print("ran", *sorted({"torch", "onnx", "scipy", "sklearn"} & set(sys.modules)))
"""


def test_the_station_imports_and_runs_without_torch_and_its_kin(tmp_path: Path) -> None:
    (tmp_path / "station.yaml").write_text(
        "bundle: b\noutput: out\ncameras: [{name: a, uri: 'sim://ceramic_tile?parts=4&size=32'}]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(tmp_path / "station.yaml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran\n"
    assert len((tmp_path / "out" / "verdicts.ndjson").read_text().splitlines()) == 4
