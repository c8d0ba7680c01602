"""Nodes of an OPC UA server: objects, variables and checked methods, with their paths for ids."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from edgead.errors import require
from edgead.runtime.outputs.opcua_types import Types

_OWN = ("GetVerdictsAfter",)  # methods that no specification has
Call = Callable[..., Awaitable[Any]]


class Nodes:
    """What is below one object, found again by path: "ResultManagement.Results".

    Args:
        own: index of the namespace that has the nodes, and the names that no specification gives.
        variables: by path, all that were added.
    """

    def __init__(self, server: Any, kinds: Types, own: int) -> None:
        self.variables: dict[str, Any] = {}
        self._ua: Any = require("asyncua.ua", extra="opcua")
        self._server, self._types, self._own = server, kinds, own

    async def object(self, parent: Any, path: str, kind: Any, *, name: str = "") -> Any:
        kind = self._types.node_id(kind) if isinstance(kind, int) else kind
        qualified = self._ua.QualifiedName(name, self._own) if name else self._types.name(path)
        return await parent.add_object(self._node_id(parent, path), qualified, kind, False)

    async def variable(
        self, parent: Any, name: str, kind: str, value: Any = None, *, own: bool = False, is_property: bool = False
    ) -> Any:
        qualified = self._ua.QualifiedName(name, self._own) if own else self._types.name(name)
        add = parent.add_property if is_property else parent.add_variable
        node_id = self._node_id(parent, name)
        variant = None if value is None else self.variant(value, kind)
        node = await add(node_id, qualified, variant, datatype=self._types.data_type(kind))
        self.variables[str(node_id.Identifier).partition(".")[2]] = node
        return node

    async def method(
        self,
        parent: Any,
        name: str,
        inputs: dict[str, str] | None,
        outputs: dict[str, str],
        call: Call,
    ) -> Any:
        """Add a method; where ``inputs`` is None it takes whatever comes."""
        qualified = self._ua.QualifiedName(name, self._own) if name in _OWN else self._types.name(name)

        async def checked(_parent: Any, *arguments: Any) -> Any:
            problem = None if inputs is None else self._mistake(inputs, arguments)
            if problem is not None:
                return problem
            answer = await call(*(argument.Value for argument in arguments))
            if not isinstance(answer, list):
                return answer
            return [self.variant(value, kind) for value, kind in zip(answer, outputs.values(), strict=True)]

        described = [[self._argument(*item) for item in (some or {}).items()] for some in (inputs, outputs)]
        return await parent.add_method(self._node_id(parent, name), qualified, checked, *described)

    def _mistake(self, inputs: dict[str, str], arguments: tuple[Any, ...]) -> Any:
        codes = self._ua.StatusCodes
        if len(arguments) != len(inputs):
            return self._ua.StatusCode(
                codes.BadArgumentsMissing if len(arguments) < len(inputs) else codes.BadTooManyArguments
            )
        for argument, kind in zip(arguments, inputs.values(), strict=True):
            wanted = self._types.variant_type(kind)
            is_structure = wanted is self._ua.VariantType.ExtensionObject
            if argument.is_array or argument.VariantType is not wanted:
                return self._ua.StatusCode(codes.BadInvalidArgument)
            if is_structure and not isinstance(argument.Value, getattr(self._ua, kind)):
                return self._ua.StatusCode(codes.BadInvalidArgument)
        return None

    def _argument(self, name: str, kind: str) -> Any:
        argument = self._ua.Argument()
        argument.Name = name
        argument.DataType = self._types.data_type(kind.rstrip("*"))
        argument.ValueRank = 1 if kind.endswith("*") else -1
        return argument

    def variant(self, value: Any, kind: str) -> Any:
        if value is None:
            return self._ua.Variant(None)
        return self._ua.Variant(value, self._types.variant_type(kind.rstrip("*")), is_array=isinstance(value, list))

    async def write(self, path: str, value: Any, kind: str) -> None:
        await self._server.write_attribute_value(
            self.variables[path].nodeid, self._ua.DataValue(self.variant(value, kind))
        )

    def _node_id(self, parent: Any, name: str) -> Any:
        above = parent.nodeid.Identifier
        return self._ua.NodeId(f"{above}.{name}" if isinstance(above, str) else name, self._own)
