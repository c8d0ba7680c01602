"""Types of OPC 40100-1 (Machine Vision), as far as a station shows them: names and numbers are the specification's.

A client that knows the specification finds each type under its node id. Of the object types only the name is given:
what an object of them has stands at the object. docs/opcua.md says what is covered.
"""

from __future__ import annotations

from typing import Any

from edgead.errors import require

MACHINE_VISION = "http://opcfoundation.org/UA/MachineVision"
RESULT_READY = 1024
VISION_SYSTEM, STATE_MACHINE, AUTOMATIC = 1003, 1017, 1021
RECIPES, RECIPE_FOLDER, RECIPE = 1004, 1008, 1002
RESULTS, RESULT_FOLDER, RESULT = 1007, 1016, 2002
RESULT_DATA = 3006

_OBJECT_TYPES = {  # name: node id, node id of the supertype in namespace 0
    "VisionSystemType": (VISION_SYSTEM, 58),
    "VisionStateMachineType": (STATE_MACHINE, 2771),
    "VisionAutomaticModeStateMachineType": (AUTOMATIC, 2771),
    "RecipeManagementType": (RECIPES, 58),
    "RecipeFolderType": (RECIPE_FOLDER, 61),
    "RecipeType": (RECIPE, 58),
    "ResultManagementType": (RESULTS, 58),
    "ResultFolderType": (RESULT_FOLDER, 61),
    "ResultReadyEventType": (RESULT_READY, 2041),
}
STATES = {  # name: node id, number, type that has it
    "Preoperational": (5028, 1, STATE_MACHINE),
    "Halted": (5029, 2, STATE_MACHINE),
    "Error": (5030, 3, STATE_MACHINE),
    "Operational": (5031, 4, STATE_MACHINE),
    "Initialized": (5056, 5, AUTOMATIC),
    "Ready": (5057, 6, AUTOMATIC),
    "SingleExecution": (5058, 7, AUTOMATIC),
    "ContinuousExecution": (5059, 8, AUTOMATIC),
}
_PLAIN = {"Boolean": 1, "Int32": 6, "UInt32": 7, "String": 12, "ByteString": 15, "LocalizedText": 21, "Any": 24}
_PLAIN |= {"NodeId": 17, "Duration": 290, "UtcTime": 294, "UInt64": 9, "Double": 11}
_BINARY_ID = "Id:String Version:String? Hash:ByteString? HashAlgorithm:String? Description:LocalizedText?"
_DESCRIBED = "Id:String Description:LocalizedText?"
_STRUCTURES = {  # name: node id, node id of its binary encoding, fields (? marks what may be absent, * an array)
    "BinaryIdBaseDataType": (3019, 5027, _BINARY_ID),
    "ConfigurationIdDataType": (3008, 5090, _BINARY_ID),
    "RecipeIdExternalDataType": (3002, 5002, _BINARY_ID),
    "RecipeIdInternalDataType": (3013, 5268, _BINARY_ID),
    "JobIdDataType": (3016, 5008, "Id:String"),
    "MeasIdDataType": (3015, 5006, _DESCRIBED),
    "PartIdDataType": (3004, 5013, _DESCRIBED),
    "ProductIdDataType": (3003, 5224, _DESCRIBED),
    "ResultIdDataType": (3021, 5274, "Id:String"),
    "ProcessingTimesDataType": (
        3005,
        5016,
        "StartTime:UtcTime EndTime:UtcTime AcquisitionDuration:Duration? ProcessingDuration:Duration?",
    ),
    "ResultDataType": (
        RESULT_DATA,
        5018,
        "ResultId:ResultIdDataType HasTransferableDataOnFile:Boolean? IsPartial:Boolean IsSimulated:Boolean? "
        "ResultState:Int32 MeasId:MeasIdDataType? PartId:PartIdDataType? "
        "ExternalRecipeId:RecipeIdExternalDataType? InternalRecipeId:RecipeIdInternalDataType "
        "ProductId:ProductIdDataType? ExternalConfigurationId:ConfigurationIdDataType? "
        "InternalConfigurationId:ConfigurationIdDataType JobId:JobIdDataType CreationTime:UtcTime "
        "ProcessingTimes:ProcessingTimesDataType? ResultContent:Any*?",
    ),
}
_ENUMS = {"TriStateBooleanDataType": (3014, ("FALSE", "TRUE", "DONTCARE"))}
RESULT_FIELDS = tuple(field.rstrip("?*").split(":") for field in _STRUCTURES["ResultDataType"][2].split())
EVENT_FIELDS = tuple((name, kind) for name, kind in RESULT_FIELDS if name != "HasTransferableDataOnFile")


class Types:
    """The types in the address space of a server.

    Attributes:
        index: of the specification's namespace.
    """

    def __init__(self, server: Any, index: int) -> None:
        self.index = index
        self._server = server
        self._ua: Any = require("asyncua.ua", extra="opcua")
        self._numbers = {name: row[0] for name, row in _STRUCTURES.items()}
        self._numbers |= {name: row[0] for name, row in _ENUMS.items()}

    def node_id(self, number: int) -> Any:
        """Return a node id of the specification's namespace."""
        return self._ua.NodeId(number, self.index)

    def name(self, name: str) -> Any:
        """Return a browse name of the specification's namespace."""
        return self._ua.QualifiedName(name, self.index)

    def data_type(self, name: str) -> Any:
        """Return the node id of a data type by its name."""
        return self._ua.NodeId(_PLAIN[name]) if name in _PLAIN else self.node_id(self._numbers[name])

    def variant_type(self, name: str) -> Any:
        """Return how a value of a data type travels."""
        kinds = self._ua.VariantType
        match name:
            case "Any":
                return kinds.Variant
            case "UtcTime":
                return kinds.DateTime
            case "Duration":
                return kinds.Double
            case _ if name in _ENUMS:
                return kinds.Int32
            case _:
                return kinds.ExtensionObject if name in _STRUCTURES else kinds[name]

    async def add(self) -> None:
        """Enter all types, so that values of them can be made: ``asyncua.ua.ResultDataType()``."""
        ua, server = self._ua, self._server
        for name, (number, values) in _ENUMS.items():
            await self._enum(name, number, values)
        for name, (number, encoding, fields) in _STRUCTURES.items():
            await self._structure(name, number, encoding, fields)
        await server.load_data_type_definitions()
        for name, (number, base) in _OBJECT_TYPES.items():
            await server.get_node(ua.NodeId(base)).add_object_type(self.node_id(number), self.name(name))
        variable = server.get_node(ua.ObjectIds.BaseDataVariableType)
        await variable.add_variable_type(self.node_id(RESULT), self.name("ResultType"), self.node_id(RESULT_DATA))
        ready = server.get_node(self.node_id(RESULT_READY))
        for name, kind in EVENT_FIELDS:
            node_id = ua.NodeId(f"ResultReadyEventType.{name}", self.index)
            await ready.add_property(node_id, self.name(name), None, datatype=self.data_type(kind))
        for name, (number, place, owner) in STATES.items():
            kind = server.get_node(self.node_id(owner))
            state = await kind.add_object(
                self.node_id(number), self.name(name), ua.NodeId(ua.ObjectIds.StateType), False
            )
            value = await state.get_child("0:StateNumber")
            await value.write_value(ua.Variant(place, ua.VariantType.UInt32))

    async def _enum(self, name: str, number: int, values: tuple[str, ...]) -> None:
        from asyncua.common.structures104 import new_enum

        await new_enum(self._server, self.node_id(number), self.name(name), list(values))

    async def _structure(self, name: str, number: int, encoding: int, fields: str) -> None:
        from asyncua.common.manage_nodes import create_encoding

        ua, is_id = self._ua, fields == _BINARY_ID and name != "BinaryIdBaseDataType"
        base = self.node_id(3019) if is_id else ua.NodeId(ua.ObjectIds.Structure)
        node = await self._server.get_node(base).add_data_type(self.node_id(number), self.name(name))
        binary = ua.QualifiedName("Default Binary", 0)
        await create_encoding(node, self.node_id(encoding), binary)
        definition = ua.StructureDefinition()
        definition.BaseDataType = base
        definition.DefaultEncodingId = self.node_id(encoding)
        definition.Fields = [self._field(*field.split(":")) for field in fields.split()]
        kinds = ua.StructureType
        definition.StructureType = kinds.StructureWithOptionalFields if "?" in fields else kinds.Structure
        await node.write_data_type_definition(definition)

    def _field(self, name: str, kind: str) -> Any:
        field = self._ua.StructureField()
        field.Name = name
        field.DataType = self.data_type(kind.rstrip("?*"))
        field.IsOptional = kind.endswith("?")
        field.ValueRank = 1 if "*" in kind else -1
        field.ArrayDimensions = []
        return field
