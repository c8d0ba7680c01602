"""Certificates as JUnit XML: one test case a gate, so that any CI shows which one an artefact misses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.parity.certificate import Certificate
from edgead.bundle_file import write_whole


def write_junit(path: Path, certificates: Sequence[Certificate]) -> None:
    """Write a suite a certificate; a gate that was not measured is a failure of the type ``not measured``.

    Raises:
        ArtefactError: the file cannot be written.
    """
    root = ElementTree.Element("testsuites", name="edgead parity")
    for certificate in certificates:
        root.append(_suite(certificate))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
    write_whole(path, lambda temporary: _write(temporary, text))


def _suite(certificate: Certificate) -> ElementTree.Element:
    failed = sum(not gate.passed for gate in certificate.gates)
    name = f"edgead.parity.{certificate.artefact}.{certificate.backend}"
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(certificate.gates)),
        failures=str(failed),
        errors="0",
        skipped="0",
        timestamp=certificate.made.isoformat(),
    )
    properties = ElementTree.SubElement(suite, "properties")
    facts = {
        "artefact_sha256": certificate.sha256,
        "checkpoint_sha256": certificate.checkpoint_sha256,
        "images": str(certificate.images),
        "images_sha256": certificate.dataset.sha256,
        **{f"version.{library}": version for library, version in sorted(certificate.libraries.items())},
    }
    for key, value in facts.items():
        ElementTree.SubElement(properties, "property", name=key, value=value)
    for gate in certificate.gates:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=gate.name)
        if not gate.passed:
            failure = ElementTree.SubElement(case, "failure", type=gate.status, message=gate.sentence)
            failure.text = gate.note or gate.sentence
        elif gate.note:
            ElementTree.SubElement(case, "system-out").text = f"{gate.sentence}; {gate.note}"
    return suite


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
