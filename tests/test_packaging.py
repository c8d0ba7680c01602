"""What a newcomer installs and reads: versions, dependencies, the README's commands, the repository's files."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import edgead
from edgead.config import StationConfig

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = ("edgead", "export", "benchmarks")
UNPINNED = ("tensorrt", "tensorrt-rtx", "pycuda")  # these have to fit a station's driver


def tracked() -> list[str]:
    """Return the files that belong to the repository, those not yet committed included."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: nothing says which files belong to the repository")
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode("utf-8")
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def readme_commands() -> list[str]:
    return [line for block in blocks(README, "sh") for line in block.splitlines() if line]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def pinned() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found = {canonicalize_name(pin.name): pin for pin in pins}
    assert len(found) == len(pins), "a package is pinned twice"
    return found


def edgead_command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from edgead.cli import main; sys.exit(main())", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def verbs() -> set[str]:
    from edgead.cli.parser import _build

    return set(_build()[1].parsers)


def test_one_version() -> None:
    assert PROJECT["version"] == edgead.__version__
    released = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released[0] == edgead.__version__
    assert edgead_command("--version").stdout == f"edgead {edgead.__version__}\n"


def test_the_pins_fit_every_direct_dependency() -> None:
    pins = pinned()
    extras = PROJECT["optional-dependencies"]
    assert set(UNPINNED) < set(extras)
    wanted = PROJECT["dependencies"] + [
        line for extra, lines in extras.items() if extra not in UNPINNED for line in lines
    ]
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version), f"{requirement} excludes the pinned {pin}"


def test_torch_stays_out_of_the_base() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert names.isdisjoint({"torch", "onnx", "onnxscript", "lightning-fabric", "scipy", "scikit-learn"})


def test_the_wheel_takes_every_source_file() -> None:
    folders = {Path(name).parent for name in tracked() if name.split("/")[0] in PACKAGES and name.endswith(".py")}
    without = [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()]
    assert without == [], "setuptools packs only folders with an __init__.py"
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


def test_the_readme_names_verbs_that_exist() -> None:
    named = re.findall(r"^\| `edgead ([a-z]+)` \|", README, re.MULTILINE)
    typed = {line.split()[1] for line in readme_commands() if line.startswith("edgead ")}
    assert typed
    assert typed <= verbs()
    assert sorted(named) == sorted(verbs()), "the README's table and the parser differ"


@pytest.mark.parametrize("command", [line for line in readme_commands() if line.startswith("edgead ")])
def test_the_parser_takes_the_commands_of_the_readme(command: str) -> None:
    from edgead.cli.parser import parse

    assert parse(shlex.split(command)[1:]).verb == command.split()[1]


def test_the_readme_and_ci_name_targets_that_exist() -> None:
    made = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test", "lint"} <= made <= make_targets()
    assert "make test" in readme_commands()
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    assert {"make lint", "make test"} <= set(re.findall(r"^step (.+)$", ci, re.MULTILINE))
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_station_of_the_readme_is_valid() -> None:
    first, *more = (yaml.safe_load(text) for text in blocks(README, "yaml"))
    assert StationConfig.model_validate(first).cameras
    assert more
    for further in more:
        assert StationConfig.model_validate({**first, **further}).outputs


def test_the_links_of_the_readme_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target[1:] in anchors if target.startswith("#") else (ROOT / target).exists(), target


def dockerfiles() -> list[Path]:
    return sorted((ROOT / "docker").glob("*.Dockerfile"))


def docker_commands(path: Path) -> list[str]:
    """Return the commands that a Dockerfile runs, continuation lines joined and ``&&`` taken apart."""
    joined = path.read_text("utf-8").replace("\\\n", " ")
    lines = re.findall(r"^RUN (.+)$", joined, re.MULTILINE)
    return [" ".join(command.split()) for line in lines for command in line.split("&&")]


def typed_commands() -> set[str]:
    """Return what the README asks to be typed, as root types it, also in the midst of a sentence."""
    inline = re.findall(r"`(pip [^`]+)`", README.replace("\n", " "))
    return {command.removeprefix("sudo ") for command in [*readme_commands(), *inline]}


@pytest.mark.parametrize("path", dockerfiles(), ids=lambda path: path.stem)
def test_the_dockerfiles_install_as_the_readme_does(path: Path) -> None:
    run = docker_commands(path)
    made = [command.split()[1] for command in run if command.startswith("make ")]
    installed = [command for command in run if re.match(r"pip |python3 -m venv |apt-get install .*libnvinfer", command)]
    assert set(made) <= make_targets()
    assert set(installed) <= typed_commands()
    assert made or any(command.startswith("pip install -c constraints.txt ") for command in installed)


@pytest.mark.parametrize("path", dockerfiles(), ids=lambda path: path.stem)
def test_the_dockerfiles_are_sound(path: Path) -> None:
    text = path.read_text("utf-8")
    build = re.search(r"^#   (docker build -f (\S+) .*-t (\S+) \.)$", text, re.MULTILINE)
    assert build is not None, "its head says how it is built"
    assert (build[2], build[3]) == (f"docker/{path.name}", f"edgead-{path.stem}")
    about = (ROOT / "docker" / "README.md").read_text("utf-8")
    assert f"`{path.name}`" in about
    assert build[1] in about
    order = [line.split()[0] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert order[0] == "FROM"
    assert order[-2:] == ["ENTRYPOINT", "CMD"]
    if path.stem.endswith("-station"):
        assert "find_spec('torch') is not None" in text
        assert order.index("USER") > max(place for place, word in enumerate(order) if word == "RUN")


def test_the_doctor_advises_what_the_readme_says() -> None:
    from edgead.doctor.advice import Facts, advise
    from edgead.doctor.jetpack import JetPack

    jetsons = (JetPack("6", "36.4", "10.3.0", "12.6", "3.10"), JetPack("7", "38.2", "10.13.3", "13.0", "3.12"))
    machines = [Facts("aarch64", jetpack, None, ("8.7",), ()) for jetpack in jetsons]
    for cuda in (None, "12.4", "13.0"):
        machines += [Facts("x86_64", None, cuda, (capability,), ()) for capability in ("8.9", "9.0")]
    advised = {command.removeprefix("sudo ") for facts in machines for command in advise(facts).commands}
    assert len(advised) == 10
    assert advised <= typed_commands()


def test_the_source_compiles() -> None:
    for name in tracked():
        if name.endswith(".py"):
            compile((ROOT / name).read_bytes(), name, "exec", dont_inherit=True)


def test_the_files_are_text_and_know_no_machine() -> None:
    home = re.compile(r"/(?:work|root|home|Users)/\w|/tmp/\w*jobs|C:\\Users")
    for name in tracked():
        if name.endswith((".png", ".jpg")):
            continue
        text = (ROOT / name).read_bytes().decode("utf-8")
        found = home.search(text) if name != "tests/test_packaging.py" else None
        assert found is None, f"{name} names a path of one machine: {found and found[0]}"


SKIPPING = """
import pytest

def test_of_a_part(): pytest.importorskip("a_part_that_is_missing")

@pytest.mark.xfail(raises=AssertionError)
def test_expected(): assert False
"""


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_in_ci_a_missing_part_fails(tmp_path: Path, ci: str, code: int) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "skips", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert ("a_part_that_is_missing" in done.stdout) == (ci == "true")
