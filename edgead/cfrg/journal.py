"""What a training leaves on disk after each epoch, and how one that was killed goes on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from edgead.cfrg import checkpoint
from edgead.cfrg.model import Cfrg
from edgead.config import TrainConfig
from edgead.errors import ConfigError


class Journal:
    """What a training leaves on disk: state after each epoch, metrics as JSON lines and for TensorBoard."""

    def __init__(self, folder: Path, config: TrainConfig, *, is_main: bool) -> None:
        self._state, self._metrics, self._board = folder / "state.pt", folder / "metrics.jsonl", folder / "tensorboard"
        # Where the files lie and how many help may change between a start and its resumption.
        self._recipe = config.model_dump_json(
            exclude={"devices": True, "workers": True, "textures": True, "dataset": {"root"}}
        )
        self._is_main = is_main
        self.history: list[dict[str, Any]] = []

    def begin(self) -> int:
        """Forget an earlier training in this folder; returns epoch 0."""
        if self._is_main:
            self._state.unlink(missing_ok=True)
            self._metrics.unlink(missing_ok=True)
        return 0

    def restore(self, cfrg: Cfrg, optimizer: torch.optim.Optimizer) -> int:
        """Load the last whole epoch; returns the epoch to go on with."""
        if not self._state.exists():
            raise ConfigError(f"{self._state}: nothing to resume; start without --resume")
        state = checkpoint.read(self._state)
        if state["recipe"] != self._recipe:
            raise ConfigError(
                f"{self._state}: was trained with another configuration "
                f"({_difference(state['recipe'], self._recipe)}); resume with the same one, or start without --resume"
            )
        cfrg.load_state_dict(state["weights"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        return int(state["epoch"])

    def write(self, record: dict[str, Any], cfrg: Cfrg, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Keep the state after ``epoch`` epochs."""
        self.history.append(record)
        if not self._is_main:
            return
        weights = {name: x.detach().cpu() for name, x in cfrg.state_dict().items() if not name.startswith("teacher.")}
        checkpoint.write(
            {
                "epoch": epoch,
                "recipe": self._recipe,
                "weights": weights,
                "optimizer": optimizer.state_dict(),
                "history": self.history,
            },
            self._state,
        )
        self._metrics.write_text("".join(json.dumps(line) + "\n" for line in self.history))
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self._board)) as board:
            for name, value in record.items():
                if name != "epoch":
                    board.add_scalar(name, value, epoch)


def _difference(old: str, new: str) -> str:
    before, after = json.loads(old), json.loads(new)
    names = [name for name in after if before.get(name) != after[name]]
    return ", ".join(f"{name} {before.get(name)} then, {after[name]} now" for name in names) or "an older format"
