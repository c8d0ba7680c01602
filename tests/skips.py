"""In continuous integration (``CI=true``) nothing is skipped: a part that is missing fails its tests.

Elsewhere a test may skip where a library or the data set beside the repository is missing. Tests that need a GPU are
not skipped but deselected, by their marker.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

Report = pytest.TestReport | pytest.CollectReport


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


def refuse_skip(report: Report) -> None:
    """Turn a report of a skip into a failure with the same reason; an expected failure (xfail) stands."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason.removeprefix('Skipped: ')}; with CI=true nothing may be skipped"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if in_ci():
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield  # a file that skips as a whole: pytest.importorskip at its top
    if in_ci():
        refuse_skip(report)
    return report
