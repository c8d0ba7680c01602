"""Parity as regression tests of your own: ``pytest --edgead-bundle runs/x`` adds a test an artefact, backend and gate.

No test files are needed. Without the option the plugin does nothing and imports nothing. The bundle is only read: the
tests measure anew and record no certificate. Images are those of the bundle's own test split.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from benchmarks.parity import Certificate, Gate, Images
    from edgead.bundle import Bundle

_LEFT_OUT = pytest.StashKey[dict[str, str]]()


class GateMissed(Exception):
    """A gate that an artefact does not pass."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; nothing happens without the first."""
    group = parser.getgroup("edgead", "edgead: hold the artefacts of a run against PyTorch")
    group.addoption("--edgead-bundle", metavar="RUN", help="folder of the run: adds a test an artefact and gate")
    group.addoption("--edgead-artefact", action="append", metavar="NAME", help="only this one; repeatable (all)")
    group.addoption("--edgead-backend", action="append", metavar="NAME", help="only this one; repeatable (all here)")
    group.addoption("--edgead-n", type=int, default=200, metavar="N", help="test images (200)")
    group.addoption("--edgead-root", metavar="FOLDER", help="where the images are now, if they have moved")
    group.addoption("--edgead-gates", metavar="FILE", help="YAML with limits below 'gates:'")
    group.addoption("--edgead-threads", type=int, default=0, metavar="N", help="CPU threads; 0: all cores (0)")


@pytest.hookimpl(tryfirst=True)  # so that -k and -m choose among these tests as well
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the tests of a bundle to those that were collected."""
    folder = config.getoption("edgead_bundle")
    if not folder:
        return
    from edgead.errors import EdgeadError

    try:
        items.extend(_tests(session, config, Path(folder)))
    except EdgeadError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what was left out, and why."""
    return [f"edgead: {name} cannot run here: {reason}" for name, reason in config.stash.get(_LEFT_OUT, {}).items()]


def _tests(session: pytest.Session, config: pytest.Config, folder: Path) -> Iterable[pytest.Item]:
    from benchmarks.parity.certifying import precision_of
    from benchmarks.parity.gates import gate_names, limits_for, read_limits
    from benchmarks.parity.networks import can_isolate
    from edgead.bundle import Bundle

    bundle = Bundle.open(folder)
    images = _images(bundle, config)
    gates = config.getoption("edgead_gates")
    changed = read_limits(Path(gates)) if gates else {}
    for artefact, backend in _chosen(bundle, config):
        limits = limits_for(precision_of(bundle, artefact, backend), changed)
        node = Parity.from_parent(
            session, name=f"{artefact}-{backend}", nodeid=f"{folder.as_posix()}/{artefact}-{backend}"
        )
        node.prepare(bundle, artefact, backend, images, changed, config.getoption("edgead_threads"))
        for name in gate_names(limits, networks=can_isolate(bundle, artefact)):
            yield GateTest.from_parent(node, name=name)


def _chosen(bundle: Bundle, config: pytest.Config) -> list[tuple[str, str]]:
    """Return artefacts with backends: those asked for, whether they run here or not, or all that do."""
    from benchmarks.parity import pairs
    from edgead.errors import ConfigError
    from edgead.runtime.open import backend_of

    artefacts, backends = config.getoption("edgead_artefact"), config.getoption("edgead_backend")
    if artefacts and backends:
        return [(name, backend_of(bundle, name, backend)) for name in artefacts for backend in backends]
    found, left_out = pairs(bundle)
    if artefacts:
        for name in artefacts:
            bundle.file(name)
        known = {name for name, _ in found}
        found = [pair for pair in found if pair[0] in artefacts]
        return found + [(name, backend_of(bundle, name)) for name in artefacts if name not in known]
    config.stash[_LEFT_OUT] = left_out
    found = [pair for pair in found if not backends or pair[1] in backends]
    if not found:
        raise ConfigError(f"{bundle.path}: no artefact runs on {' or '.join(backends or ['what is installed'])}")
    return found


def _images(bundle: Bundle, config: pytest.Config) -> Images:
    from benchmarks.parity import Images, choose
    from edgead.errors import ConfigError

    dataset = bundle.info.dataset
    if dataset is None:
        raise ConfigError(
            f"{bundle.path}: the bundle does not say what it was trained on; train it again: edgead train"
        )
    root = config.getoption("edgead_root")
    if root:
        dataset = dataset.model_copy(update={"root": Path(root)})
    opened = dataset.open()
    samples = opened.test or opened.validation
    return Images(opened.name, opened.category, choose(samples, config.getoption("edgead_n")), len(samples))


class Parity(pytest.Collector):
    """One artefact on one backend, measured when the first of its tests runs."""

    _measure: Any = None
    _outcome: Certificate | Exception | None = None

    def prepare(
        self, bundle: Bundle, artefact: str, backend: str, images: Images, changed: dict[str, Any], threads: int
    ) -> None:
        """Say what to measure."""
        from benchmarks.parity import certify

        def measure() -> Certificate:
            done = certify(
                bundle, artefact, images, backend=backend, threads=threads, changed_limits=changed, record=False
            )
            return done.certificate

        self._measure = measure
        self.command = f"edgead parity {bundle.path} --artefact {artefact} --backend {backend}"

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Return nothing: the tests are added by the plugin, for there is no file to collect them from."""
        return []

    def certificate(self) -> Certificate:
        """Return the certificate; an artefact that cannot run fails every one of its tests, measured only once."""
        if self._outcome is None:
            try:
                self._outcome = self._measure()
            except Exception as error:
                self._outcome = error
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class GateTest(pytest.Item):
    """One gate of one artefact."""

    def runtest(self) -> None:
        """Hold the artefact against the gate.

        Raises:
            GateMissed: the gate was failed, or not measured.
        """
        certificate = self._parity.certificate()
        gate = next(gate for gate in certificate.gates if gate.name == self.name)
        if not gate.passed:
            raise GateMissed(_told(gate, certificate, self._parity.command))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Tell a missed gate, or wrong input, in plain lines without a traceback."""
        from edgead.errors import EdgeadError

        if isinstance(excinfo.value, (GateMissed, EdgeadError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the test as reports do."""
        return self.path, None, f"{self._parity.name}: {self.name}"

    @property
    def _parity(self) -> Parity:
        assert isinstance(self.parent, Parity)
        return self.parent


def _told(gate: Gate, certificate: Certificate, command: str) -> str:
    lines = [f"{certificate.artefact} on {certificate.backend}: {gate.sentence}"]
    if gate.note and gate.value is not None:
        lines.append(gate.note)
    dataset = certificate.dataset
    lines.append(
        f"on {certificate.images} images, {dataset.defective} of them defective, against {certificate.reference}"
    )
    return "\n".join([*lines, f"pictures and figures: {command}"])
