"""The fields of ONNX's messages, by number (onnx/onnx-ml.proto of ONNX 1.23, IR version 14).

A test compares every entry with the descriptors of the installed `onnx` package.
"""

from __future__ import annotations

from agents.wire import Field, Kind


def _int(name: str, *, many: bool = False, slot: str = "") -> Field:
    return Field(name, Kind.VARINT, many, slot=slot)


def _text(name: str, *, many: bool = False, slot: str = "") -> Field:
    return Field(name, Kind.TEXT, many, slot=slot)


def _one(name: str, message: str, slot: str = "") -> Field:
    return Field(name, Kind.MESSAGE, message=message, slot=slot)


def _many(name: str, message: str) -> Field:
    return Field(name, Kind.MESSAGE, repeated=True, message=message)


_PROPS = "StringStringEntryProto"

MESSAGES: dict[str, dict[int, Field]] = {
    "ModelProto": {
        1: _int("ir_version"),
        2: _text("producer_name"),
        3: _text("producer_version"),
        4: _text("domain"),
        5: _int("model_version"),
        6: _text("doc_string"),
        7: _one("graph", "GraphProto"),
        8: _many("opset_import", "OperatorSetIdProto"),
        14: _many("metadata_props", _PROPS),
        20: _many("training_info", "TrainingInfoProto"),
        25: _many("functions", "FunctionProto"),
        26: _many("configuration", "DeviceConfigurationProto"),
    },
    "OperatorSetIdProto": {1: _text("domain"), 2: _int("version")},
    "StringStringEntryProto": {1: _text("key"), 2: _text("value")},
    "DeviceConfigurationProto": {1: _text("name"), 2: _int("num_devices"), 3: _text("device", many=True)},
    "TrainingInfoProto": {
        1: _one("initialization", "GraphProto"),
        2: _one("algorithm", "GraphProto"),
        3: _many("initialization_binding", _PROPS),
        4: _many("update_binding", _PROPS),
    },
    "GraphProto": {
        1: _many("node", "NodeProto"),
        2: _text("name"),
        5: _many("initializer", "TensorProto"),
        10: _text("doc_string"),
        11: _many("input", "ValueInfoProto"),
        12: _many("output", "ValueInfoProto"),
        13: _many("value_info", "ValueInfoProto"),
        14: _many("quantization_annotation", "TensorAnnotation"),
        15: _many("sparse_initializer", "SparseTensorProto"),
        16: _many("metadata_props", _PROPS),
    },
    "TensorAnnotation": {1: _text("tensor_name"), 2: _many("quant_parameter_tensor_names", _PROPS)},
    "FunctionProto": {
        1: _text("name"),
        4: _text("input", many=True),
        5: _text("output", many=True),
        6: _text("attribute", many=True),
        7: _many("node", "NodeProto"),
        8: _text("doc_string"),
        9: _many("opset_import", "OperatorSetIdProto"),
        10: _text("domain"),
        11: _many("attribute_proto", "AttributeProto"),
        12: _many("value_info", "ValueInfoProto"),
        13: _text("overload"),
        14: _many("metadata_props", _PROPS),
    },
    "NodeProto": {
        1: _text("input", many=True),
        2: _text("output", many=True),
        3: _text("name"),
        4: _text("op_type"),
        5: _many("attribute", "AttributeProto"),
        6: _text("doc_string"),
        7: _text("domain"),
        8: _text("overload"),
        9: _many("metadata_props", _PROPS),
        10: _many("device_configurations", "NodeDeviceConfigurationProto"),
    },
    "NodeDeviceConfigurationProto": {
        1: _text("configuration_id"),
        2: _many("sharding_spec", "ShardingSpecProto"),
        3: _int("pipeline_stage"),
    },
    "ShardingSpecProto": {
        1: _text("tensor_name"),
        2: _int("device", many=True),
        3: _many("index_to_device_group_map", "IntIntListEntryProto"),
        4: _many("sharded_dim", "ShardedDimProto"),
    },
    "IntIntListEntryProto": {1: _int("key"), 2: _int("value", many=True)},
    "ShardedDimProto": {1: _int("axis"), 2: _many("simple_sharding", "SimpleShardedDimProto")},
    "SimpleShardedDimProto": {
        1: _int("dim_value", slot="dim"),
        2: _text("dim_param", slot="dim"),
        3: _int("num_shards"),
    },
    "AttributeProto": {
        1: _text("name"),
        2: Field("f", Kind.FIXED32),
        3: _int("i"),
        4: Field("s", Kind.BYTES),
        5: _one("t", "TensorProto"),
        6: _one("g", "GraphProto"),
        7: Field("floats", Kind.FIXED32, repeated=True),
        8: _int("ints", many=True),
        9: Field("strings", Kind.BYTES, repeated=True),
        10: _many("tensors", "TensorProto"),
        11: _many("graphs", "GraphProto"),
        13: _text("doc_string"),
        14: _one("tp", "TypeProto"),
        15: _many("type_protos", "TypeProto"),
        20: _int("type"),
        21: _text("ref_attr_name"),
        22: _one("sparse_tensor", "SparseTensorProto"),
        23: _many("sparse_tensors", "SparseTensorProto"),
    },
    "TensorProto": {
        1: _int("dims", many=True),
        2: _int("data_type"),
        3: _one("segment", "TensorProto.Segment"),
        4: Field("float_data", Kind.FIXED32, repeated=True),
        5: _int("int32_data", many=True),
        6: Field("string_data", Kind.BYTES, repeated=True),
        7: _int("int64_data", many=True),
        8: _text("name"),
        9: Field("raw_data", Kind.BYTES),
        10: Field("double_data", Kind.FIXED64, repeated=True),
        11: _int("uint64_data", many=True),
        12: _text("doc_string"),
        13: _many("external_data", _PROPS),
        14: _int("data_location"),
        16: _many("metadata_props", _PROPS),
    },
    "TensorProto.Segment": {1: _int("begin"), 2: _int("end")},
    "SparseTensorProto": {
        1: _one("values", "TensorProto"),
        2: _one("indices", "TensorProto"),
        3: _int("dims", many=True),
    },
    "ValueInfoProto": {
        1: _text("name"),
        2: _one("type", "TypeProto"),
        3: _text("doc_string"),
        4: _many("metadata_props", _PROPS),
    },
    "TypeProto": {
        1: _one("tensor_type", "TypeProto.Tensor", "value"),
        4: _one("sequence_type", "TypeProto.Sequence", "value"),
        5: _one("map_type", "TypeProto.Map", "value"),
        6: _text("denotation"),
        7: _one("opaque_type", "TypeProto.Opaque", "value"),
        8: _one("sparse_tensor_type", "TypeProto.SparseTensor", "value"),
        9: _one("optional_type", "TypeProto.Optional", "value"),
    },
    "TypeProto.Tensor": {1: _int("elem_type"), 2: _one("shape", "TensorShapeProto")},
    "TypeProto.SparseTensor": {1: _int("elem_type"), 2: _one("shape", "TensorShapeProto")},
    "TypeProto.Sequence": {1: _one("elem_type", "TypeProto")},
    "TypeProto.Map": {1: _int("key_type"), 2: _one("value_type", "TypeProto")},
    "TypeProto.Optional": {1: _one("elem_type", "TypeProto")},
    "TypeProto.Opaque": {1: _text("domain"), 2: _text("name")},
    "TensorShapeProto": {1: _many("dim", "TensorShapeProto.Dimension")},
    "TensorShapeProto.Dimension": {
        1: _int("dim_value", slot="value"),
        2: _text("dim_param", slot="value"),
        3: _text("denotation"),
    },
}
