"""YAML files checked against a pydantic model: one clear line about what may not stand in them.

Unknown keys are refused with the nearest valid one, doubled keys and wrong types in one line that names the file.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from edgead.errors import ConfigError, nearest

_Model = TypeVar("_Model", bound=BaseModel)


def load(model: type[_Model], path: str | Path) -> _Model:
    """Read a YAML file as ``model``; relative paths in it count from its folder.

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    source = Path(path)
    return check(model, _read_yaml(source), name=str(source), folder=source.absolute().parent)


def check(model: type[_Model], values: object, *, name: str, folder: Path | None = None) -> _Model:
    """Validate ``values`` as ``model``; ``name`` is what errors call their source.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    try:
        return model.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        # A misspelt key is missing under its own name too: that it is unknown says more.
        # Defaults that wait for a key that is wrong are no errors of the file's own.
        found = [each for each in error.errors() if each["type"] != "default_factory_not_called"]
        first, *others = sorted(found, key=lambda each: each["type"] != "extra_forbidden")
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{name}: {_describe(model, first)}{more}") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key cannot stand twice: PyYAML would keep the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); expected a YAML file") from error
    try:
        values = yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}; mend the YAML there") from error
    except yaml.YAMLError as error:  # characters that YAML forbids, such as NUL
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; mend the YAML there") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: holds {found}; expected 'key: value' lines")
    return values


def _describe(model: type[BaseModel], error: Any) -> str:
    where, kind, value = error["loc"], error["type"], error["input"]
    if kind not in ("extra_forbidden", "missing"):
        where = _keys(model, where)
    key = ".".join(str(step) for step in where)
    if kind == "extra_forbidden":
        return f"unknown key '{key}'{nearest(str(where[-1]), _section(model, where[:-1]).model_fields)}"
    if kind == "missing":
        return f"the key '{key}' is missing; add it"
    if kind == "value_error" and not where:
        return str(error["ctx"]["error"])
    if kind == "literal_error":
        return f"{key}: unknown value {value!r}{nearest(str(value), _literals(error))}"
    shown = repr(value) if len(repr(value)) <= 60 else f"{type(value).__name__}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{key}: {shown} is wrong; expected {message}" if key else f"{shown} is wrong; expected {message}"


def _literals(error: Any) -> list[str]:
    return [word.strip("' ") for word in error["ctx"]["expected"].replace(" or ", ", ").split(",")]


def _section(model: type[BaseModel], where: tuple[int | str, ...]) -> type[BaseModel]:
    """Find the model whose keys stand at ``where``, through tuples and optional sections."""
    for step in where:
        if isinstance(step, str) and step in model.model_fields:
            model = next(_models(model.model_fields[step].annotation), model)
    return model


def _keys(model: type[BaseModel], where: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Cut a location after the keys of the file: pydantic appends which type of a union did not fit."""
    for depth, step in enumerate(where):
        if isinstance(step, str) and step not in _section(model, where[:depth]).model_fields:
            return where[:depth]
    return where


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
