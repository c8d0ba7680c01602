"""``train.yaml`` in a run's folder: the configuration of its training, so that ``--resume`` needs no flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgead.cli.answer import write_text

if TYPE_CHECKING:
    from edgead.config import TrainConfig

NAME = "train.yaml"
_STATE = "training/state.pt"  # written after each whole epoch, by edgead.cfrg.train


@contextmanager
def kept(config: TrainConfig, run: Path) -> Iterator[None]:
    """Keep a configuration, all defaults written out, while its training runs.

    A training that ends before its first whole epoch (an image that cannot be read, weights that do not fit) leaves
    the run's folder as it was: the configuration there belongs to the state beside it.
    """
    import yaml

    path, begun = run / NAME, _written_ns(run / _STATE)
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    try:
        yield
    except BaseException:
        if _written_ns(run / _STATE) in (None, begun):
            if before is None:
                path.unlink(missing_ok=True)
            else:
                write_text(path, before)
            for folder in made:
                if not any(folder.iterdir()):
                    folder.rmdir()
        raise


def _written_ns(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None
