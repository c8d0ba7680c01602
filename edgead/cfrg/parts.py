"""The networks of CFRG one by one, with a name for every tensor between them: for export and parity by network.

pixels --> teacher --> teacher_1..L --> recovery --> recovery_1..L --+
   |                        +----------------------------------------+--> segmentation --> logits
   +--> student --> student_1..L ------------------------------------+
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgead.cfrg.model import Cfrg


@dataclass(frozen=True)
class Part:
    """One network as tensors in, tensors out.

    Attributes:
        module: takes a list of the inputs, returns a list of the outputs.
        inputs, outputs: names of the tensors; ``pixels`` is the normalised image ``(N, 3, H, W)``.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parts(cfrg: Cfrg) -> dict[str, Part]:
    """List the networks by name, in the order in which they run."""
    levels = range(1, len(cfrg.teacher.channels) + 1)
    teacher, student, recovery = (
        tuple(f"{name}_{level}" for level in levels) for name in ("teacher", "student", "recovery")
    )
    return {
        "teacher": Part(_Network(cfrg, "teacher"), ("pixels",), teacher),
        "student": Part(_Network(cfrg, "student"), ("pixels",), student),
        "recovery": Part(_Network(cfrg, "recovery"), teacher, recovery),
        "segmentation": Part(_Segmentation(cfrg), (*teacher, *student, *recovery), ("logits",)),
    }


def tensors(cfrg: Cfrg, images: Tensor) -> dict[str, Tensor]:
    """Compute every tensor between the networks from uint8 ``(N, H, W, 3)`` RGB images."""
    with torch.inference_mode():
        known = {"pixels": cfrg.normalise(images)}
        for part in parts(cfrg).values():
            known.update(zip(part.outputs, part.module([known[name] for name in part.inputs]), strict=True))
    return known


class _Network(nn.Module):
    """A network under the name that it has in Cfrg, so that its layers keep their paths."""

    def __init__(self, cfrg: Cfrg, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, getattr(cfrg, name))
        self.eval()

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        network = getattr(self, self.name)
        return list(network(inputs if self.name == "recovery" else inputs[0]))


class _Segmentation(nn.Module):
    """The segmentation network with the cosine head that gates it."""

    def __init__(self, cfrg: Cfrg) -> None:
        super().__init__()
        self.cosine = cfrg.cosine
        self.segmentation = cfrg.segmentation
        self.eval()

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        count = len(inputs) // 3
        teacher, student, recovery = inputs[:count], inputs[count : 2 * count], inputs[2 * count :]
        return [self.segmentation(teacher, student, self.cosine(teacher, student, recovery))]
