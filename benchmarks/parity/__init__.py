"""Parity as a gate: does an artefact still say what PyTorch said, on Good and on defective images?

``certify`` measures and judges, ``edgead parity`` writes the certificate and its page, ``edgead parity diff`` compares
two certificates across updates, ``benchmarks.pytest_plugin`` makes tests of them.
"""

from __future__ import annotations

from benchmarks.parity.certificate import Certificate, certificate_path, read_certificate
from benchmarks.parity.certifying import Certified, Images, certify, pairs
from benchmarks.parity.comparison import Comparison, compare
from benchmarks.parity.gates import Gate, Limits, judge, limits_for
from benchmarks.parity.images import Shown, choose
from benchmarks.parity.statistics import binomial_upper, bound_sentence, rank_correlation

__all__ = [
    "Certificate",
    "Certified",
    "Comparison",
    "Gate",
    "Images",
    "Limits",
    "Shown",
    "binomial_upper",
    "bound_sentence",
    "certificate_path",
    "certify",
    "choose",
    "compare",
    "judge",
    "limits_for",
    "pairs",
    "rank_correlation",
    "read_certificate",
]
