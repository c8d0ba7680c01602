"""What an OPC UA client sees: a vision system after OPC 40100-1, and its last verdict in plain variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgead.errors import require
from edgead.runtime.outputs import opcua_types as types
from edgead.runtime.outputs.opcua_nodes import Nodes
from edgead.runtime.outputs.opcua_results import Result, Results
from edgead.runtime.outputs.opcua_types import Types
from edgead.runtime.outputs.recipe import Recipe
from edgead.runtime.outputs.sender import Condition

EDGEAD = "urn:edgead"
_PLAIN = {
    "Sequence": "UInt64",
    "EventId": "String",
    "Trigger": "UInt64",
    "Part": "String",
    "Verdict": "String",
    "Score": "Double",
    "Unsure": "Double",
    "Ng": "Double",
    "LatencyMs": "Double",
    "Json": "String",
}
_IDS = {  # arguments of GetResultListFiltered that are ids
    "MeasId": "MeasIdDataType",
    "PartId": "PartIdDataType",
    "ExternalRecipeId": "RecipeIdExternalDataType",
    "InternalRecipeId": "RecipeIdInternalDataType",
    "ExternalConfigurationId": "ConfigurationIdDataType",
    "InternalConfigurationId": "ConfigurationIdDataType",
    "ProductId": "ProductIdDataType",
    "JobId": "JobIdDataType",
}
_RESULT_LIST = {"ResultState": "Int32", **_IDS, "MaxResults": "UInt32", "StartIndex": "UInt32", "Timeout": "Int32"}
_RECIPE_IDS = {"ExternalId": "RecipeIdExternalDataType", "InternalIdIn": "RecipeIdInternalDataType"}
_WHEN_PREPARED = {"InternalIdOut": "RecipeIdInternalDataType", "IsCompleted": "Boolean", "Error": "Int32"}
_RECIPE_LIST = {
    "ExternalId": "RecipeIdExternalDataType",
    "ProductId": "ProductIdDataType",
    "IsPrepared": "TriStateBooleanDataType",
    "MaxResults": "UInt32",
    "StartIndex": "UInt32",
    "Timeout": "Int32",
}
_PREPARED, _PREPARED_ANY = 1, 2  # TriStateBooleanDataType
_ABSENT = ("HasTransferableDataOnFile", "IsSimulated", "ExternalRecipeId", "ProductId", "ExternalConfigurationId")
_COMPONENTS = {name: kind for name, kind in types.RESULT_FIELDS if name not in _ABSENT}


class Space:
    """The nodes of one station.

    Args:
        server: an initialised server that does not listen yet.
        note: takes one line about what a client was refused.
    """

    def __init__(
        self, server: Any, *, station: str, recipe: Recipe, results: Results, note: Callable[[str], None]
    ) -> None:
        self._ua: Any = require("asyncua.ua", extra="opcua")
        self._server, self._station, self._recipe, self._results, self._note = server, station, recipe, results, note
        self._types: Types
        self._nodes: Nodes
        self._event: Any = None
        self._refusal: Any = None
        self._condition, self._has_judged = Condition.READY, False

    async def add(self) -> None:
        """Enter types and nodes."""
        server, ua = self._server, self._ua
        self._types = Types(server, await server.register_namespace(types.MACHINE_VISION))
        self._nodes = Nodes(server, self._types, await server.register_namespace(EDGEAD))
        await self._types.add()
        self._system = await self._nodes.object(
            server.nodes.objects, "station", types.VISION_SYSTEM, name=self._station
        )
        await self._add_states()
        await self._add_recipes()
        await self._add_results()
        verdict = await self._nodes.object(self._system, "Verdict", ua.NodeId(ua.ObjectIds.BaseObjectType))
        for name, kind in _PLAIN.items():
            await self._nodes.variable(verdict, name, kind, own=True)
        self._event = await self._generator(self._types.node_id(types.RESULT_READY))
        for name, kind in types.EVENT_FIELDS:  # of properties without a value, asyncua takes Null for the type
            self._event.event.data_types[name] = self._types.variant_type(kind)
        self._refusal = await self._generator(ua.NodeId(ua.ObjectIds.BaseEventType))
        await self.show(Condition.READY)

    async def show(self, condition: Condition) -> None:
        """Show how the station is, in its state machines."""
        self._condition = condition
        match condition:
            case Condition.READY | Condition.BUSY:
                await self._enter("Operational", "ContinuousExecution" if self._has_judged else "Ready")
            case Condition.ENDED:
                await self._enter("Halted", None)
            case Condition.DIED:
                await self._enter("Error", None)

    async def publish(self, result: Result) -> None:
        """Show one result and fire its event."""
        if not self._has_judged:
            self._has_judged = True
            await self.show(self._condition)
        for name, value in result.values.items():
            await self._nodes.write(f"Verdict.{name}", value, _PLAIN[name])
        await self._nodes.write("ResultManagement.Results.Latest", result.data, "ResultDataType")
        for name, kind in _COMPONENTS.items():
            await self._nodes.write(f"ResultManagement.Results.Latest.{name}", getattr(result.data, name), kind)
        event = self._event.event
        for name, _ in types.EVENT_FIELDS:
            setattr(event, name, getattr(result.data, name))
        event.Severity = 100 if result.fields["verdict"] == "OK" else 500
        await self._fire(self._event, f"{result.values['Part'] or 'a part'}: {result.fields['verdict']}")

    async def _fire(self, generator: Any, message: str) -> None:
        """Fire an event of the vision system, for those too who listen to the server."""
        ua, event = self._ua, generator.event
        event.Message = ua.LocalizedText(message)
        event.emitting_node = self._system.nodeid
        await generator.trigger()
        event.emitting_node = ua.NodeId(ua.ObjectIds.Server)
        await self._server.iserver.subscription_service.trigger_event(event)

    async def _generator(self, kind: Any) -> Any:
        generator = await self._server.get_event_generator(kind, self._system.nodeid)
        await self._server.nodes.server.set_event_notifier([self._ua.EventNotifier.SubscribeToEvents])
        return generator

    async def _enter(self, state: str, mode: str | None) -> None:
        await self._write_state("VisionStateMachine", state)
        await self._write_state("VisionStateMachine.AutomaticModeStateMachine", mode)

    async def _write_state(self, machine: str, state: str | None) -> None:
        ua = self._ua
        text, node_id = (self._nodes.variables[f"{machine}.CurrentState{end}"] for end in ("", ".Id"))
        if state is None:
            inactive = ua.DataValue(StatusCode=ua.StatusCode(ua.StatusCodes.BadStateNotActive))
            for node in (text, node_id):
                await self._server.write_attribute_value(node.nodeid, inactive)
            return
        await text.write_value(ua.Variant(ua.LocalizedText(state, "en"), ua.VariantType.LocalizedText))
        await node_id.write_value(ua.Variant(self._types.node_id(types.STATES[state][0]), ua.VariantType.NodeId))

    async def _add_states(self) -> None:
        machine = await self._machine(self._system, "VisionStateMachine", types.STATE_MACHINE)
        mode = await self._machine(machine, "AutomaticModeStateMachine", types.AUTOMATIC)
        for owner, names in (
            (machine, ("Halt", "Reset", "SelectModeAutomatic")),
            (mode, ("StartSingleJob", "StartContinuous", "Abort", "Stop")),
        ):
            for name in names:
                method = await self._nodes.method(owner, name, None, {}, self._refuse)
                for attribute in (self._ua.AttributeIds.Executable, self._ua.AttributeIds.UserExecutable):
                    value = self._ua.DataValue(self._ua.Variant(False, self._ua.VariantType.Boolean))
                    await method.write_attribute(attribute, value)

    async def _machine(self, parent: Any, name: str, number: int) -> Any:
        machine = await self._nodes.object(parent, name, number)
        current = await machine.get_child("0:CurrentState")
        path = str(machine.nodeid.Identifier).partition(".")[2]
        self._nodes.variables[f"{path}.CurrentState"] = current
        self._nodes.variables[f"{path}.CurrentState.Id"] = await current.get_child("0:Id")
        return machine

    async def _add_recipes(self) -> None:
        management = await self._nodes.object(self._system, "RecipeManagement", types.RECIPES)
        await self._nodes.method(management, "PrepareRecipe", _RECIPE_IDS, _WHEN_PREPARED, self._prepare)
        await self._nodes.method(management, "UnprepareRecipe", None, {}, self._refuse)
        answer = {"IsComplete": "Boolean", "ResultCount": "UInt32", "RecipeHandle": "UInt32"}
        answer |= {"RecipeList": "RecipeIdInternalDataType*", "Error": "Int32"}
        await self._nodes.method(management, "GetRecipeListFiltered", _RECIPE_LIST, answer, self._list_recipes)
        folder = await self._nodes.object(management, "Recipes", types.RECIPE_FOLDER)
        recipe = await self._nodes.object(folder, self._recipe.name, types.RECIPE, name=self._recipe.name)
        kind = "RecipeIdInternalDataType"
        await self._nodes.variable(recipe, "InternalId", kind, self._results.recipe_id, is_property=True)
        await self._nodes.variable(recipe, "IsPrepared", "Boolean", True, is_property=True)
        for name, value in (("Artefact", self._recipe.name.rpartition("/")[2]), ("Sha256", self._recipe.sha256)):
            await self._nodes.variable(recipe, name, "String", value, own=True)
        for name, limit in (("Unsure", self._recipe.unsure), ("Ng", self._recipe.ng)):
            await self._nodes.variable(recipe, name, "Double", float("nan") if limit is None else limit, own=True)
        await self._nodes.method(recipe, "Prepare", {}, {"IsCompleted": "Boolean", "Error": "Int32"}, self._is_prepared)
        await self._nodes.method(recipe, "Unprepare", None, {}, self._refuse)

    async def _add_results(self) -> None:
        management = await self._nodes.object(self._system, "ResultManagement", types.RESULTS)
        one = {"ResultId": "ResultIdDataType", "Timeout": "Int32"}
        found = {"ResultHandle": "UInt32", "Result": "ResultDataType", "Error": "Int32"}
        await self._nodes.method(management, "GetResultById", one, found, self._get_result)
        parts = {name: kind + "*" * (name == "ResultContent") for name, kind in types.RESULT_FIELDS}
        del parts["ResultId"]
        parts = {"HasTransferableDataOnFile": parts.pop("HasTransferableDataOnFile"), "ResultHandle": "UInt32", **parts}
        await self._nodes.method(
            management, "GetResultComponentsById", one, {**parts, "Error": "Int32"}, self._get_components
        )
        several = {"IsComplete": "Boolean", "ResultCount": "UInt32", "ResultHandle": "UInt32"}
        several |= {"ResultList": "ResultDataType*", "Error": "Int32"}
        await self._nodes.method(management, "GetResultListFiltered", _RESULT_LIST, several, self._list_results)
        after, texts = {"Sequence": "UInt64", "MaxResults": "UInt32"}, {"Verdicts": "String*", "IsComplete": "Boolean"}
        await self._nodes.method(management, "GetVerdictsAfter", after, texts, self._list_after)
        folder = await self._nodes.object(management, "Results", types.RESULT_FOLDER)
        latest = await self._nodes.variable(folder, "Latest", "ResultDataType")
        plain, kind = self._ua.ObjectIds.BaseDataVariableType, self._ua.ObjectIds.HasTypeDefinition
        await latest.delete_reference(self._ua.NodeId(plain), kind, True, False)
        await latest.add_reference(self._types.node_id(types.RESULT), kind, True, False)
        for name, field in _COMPONENTS.items():
            await self._nodes.variable(latest, name, field)

    # Methods that clients call: a list of variants, or a status.

    async def _refuse(self, *_: Any) -> Any:
        return await self._refused("a station starts and stops by itself, and runs one bundle as long as it runs")

    async def _refused(self, why: str) -> Any:
        self._note(f"a client was refused: {why}")
        await self._fire(self._refusal, f"refused: {why}")
        return self._ua.StatusCode(self._ua.StatusCodes.BadNotSupported)

    async def _prepare(self, external: Any, internal: Any) -> Any:
        name = _id(internal) or _id(external)
        if name != self._recipe.name:
            return await self._refused(
                f"no recipe {name[:200]!r} here: this station has one engine, which runs {self._recipe.name!r}; "
                "start a station with the other bundle"
            )
        return [self._results.recipe_id, True, 0]

    async def _is_prepared(self) -> Any:
        return [True, 0]

    async def _list_recipes(self, external: Any, product: Any, prepared: int, _most: int, begin: int, _: int) -> Any:
        is_ours = _id(external) in ("", self._recipe.name) and _id(product) in ("", self._recipe.product)
        found = [self._results.recipe_id][begin:] if is_ours and prepared in (_PREPARED, _PREPARED_ANY) else []
        return [True, len(found), 0, found, 0]

    async def _get_result(self, result_id: Any, _timeout: int) -> Any:
        result = self._results.by_id(_id(result_id))
        return self._gone() if result is None else [0, result.data, 0]

    async def _get_components(self, result_id: Any, _timeout: int) -> Any:
        result = self._results.by_id(_id(result_id))
        if result is None:
            return self._gone()
        values = [getattr(result.data, name) for name, _ in types.RESULT_FIELDS if name != "ResultId"]
        return [values[0], 0, *values[1:], 0]

    def _gone(self) -> Any:
        return self._ua.StatusCode(self._ua.StatusCodes.BadNotFound)

    async def _list_results(self, state: int, *arguments: Any) -> Any:
        ids = {name: _id(value) for name, value in zip(_IDS, arguments, strict=False)}
        most, begin, _ = arguments[len(_IDS) :]
        found, is_all = self._results.filtered(state, ids, begin, most)
        return [is_all, len(found), 0, [result.data for result in found], 0]

    async def _list_after(self, sequence: int, most: int) -> Any:
        found, is_all = self._results.after(sequence, most)
        return [[result.body for result in found], is_all]


def _id(value: Any) -> str:
    return str(value.Id or "") if value is not None else ""
