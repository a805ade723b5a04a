"""What a network wants to be fed: names, dtypes and shapes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from harness.data.network_files import load_structure
from harness.errors import UserError


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a network.

    Args:
        name: as in the graph.
        dtype: numpy name, "float32".
        shape: with the batch axis first; None where the size is free. () is a scalar that has no batch axis: data
            give one number for it, the same for every sample.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """Shape of one sample: without the batch axis."""
        return self.shape[1:]

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the network insists on, None when it is free."""
        return self.shape[0] if self.shape else 1

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The dtype as numpy knows it."""
        return np.dtype(self.dtype)

    def describe(self) -> str:
        """Shape as messages print it: "float32[N,3,224,224]"."""
        return f"{self.dtype}{shape_text(self.shape)}"


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape as messages print it, "[N,3,224,224]": a free batch size is N, any other free size ?."""
    names = [
        "N" if size is None and axis == 0 else "?" if size is None else str(size) for axis, size in enumerate(shape)
    ]
    return f"[{','.join(names)}]"


def network_inputs(model: Path) -> tuple[InputSpec, ...]:
    """The inputs of an ONNX file that are not initializers; weights in other files are not read.

    Raises:
        UserError: not an ONNX file, or an input is not a tensor of a known type and rank.
    """
    return tuple(_spec(model, value) for value in _fed_inputs(_read_graph(model)))


def network_outputs(model: Path) -> tuple[tuple[str, tuple[int | None, ...] | None], ...]:
    """Name and shape of each output of an ONNX file; None where the file does not say the shape or a size.

    Raises:
        UserError: not an ONNX file.
    """
    return tuple((value.name, _declared_shape(value)) for value in _read_graph(model).output)


def data_inputs(inputs: Sequence[InputSpec], state: Mapping[str, str]) -> tuple[InputSpec, ...]:
    """The inputs that data must supply: all but the recurrent ones, which are fed from outputs.

    Args:
        inputs: of the network.
        state: the job's {input: output} of recurrent networks.

    Raises:
        UserError: `state` names something that is not an input.
    """
    names = [spec.name for spec in inputs]
    for name in state:
        if name not in names:
            raise UserError(f"state: '{name}' is not an input of the network; its inputs: {', '.join(names)}")
    return tuple(spec for spec in inputs if spec.name not in state)


def _read_graph(model: Path) -> onnx.GraphProto:
    if not model.is_file():
        raise UserError(f"{model}: no such file; give the path of an .onnx file")
    try:
        proto, _ = load_structure(model)
    except (DecodeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{model}: not a readable ONNX file ({reason}): truncated or another format; export it again"
        ) from None
    except OSError as error:
        raise UserError(f"{model}: cannot be read ({error.strerror}); check its permissions") from None
    inputs = _fed_inputs(proto.graph)
    if not proto.graph.node or not inputs or not proto.opset_import:
        lacks = "nodes" if not proto.graph.node else "inputs" if not inputs else "operator set"
        raise UserError(f"{model}: holds no network (it has no {lacks}): truncated or not ONNX; export it again")
    return proto.graph


def _fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    known = {tensor.name for tensor in graph.initializer}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in known]


def _spec(model: Path, value: onnx.ValueInfoProto) -> InputSpec:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or not tensor.HasField("shape"):
        what = (
            "has no shape; export it with one" if kind == "tensor_type" else "is not a tensor; only tensors can be fed"
        )
        raise UserError(f"{model}: input '{value.name}' {what}")
    try:
        dtype: npt.DTypeLike = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    except KeyError:
        raise UserError(f"{model}: input '{value.name}' has unknown type {tensor.elem_type}; export it again") from None
    if np.dtype(dtype).kind not in "fiub":
        raise UserError(f"{model}: input '{value.name}' is of type {np.dtype(dtype).name}; only numbers can be fed")
    return InputSpec(value.name, np.dtype(dtype).name, _declared_shape(value) or ())


def _declared_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value > 0 else None for d in tensor.shape.dim
    )
