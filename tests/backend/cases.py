"""The networks that the `onnx` package brings for testing backends, with inputs that they accept."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TypeProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import DATA_DIR, load_model_tests

#: The kinds whose networks lie inside the package. The light ones are whole classifiers whose weights are constants
#: filled in by nodes: the structure of the networks that the package's `real` kind would download.
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")

Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One network of the backend tests.

    Args:
        kind: one of `KINDS`.
        name: the package's name of the test.
        source: the package's own record, or the file of a network that has none.
    """

    kind: str
    name: str
    source: TestCase | Path

    @property
    def identity(self) -> str:
        """Unique among all cases: the same name occurs in several kinds."""
        return f"{self.kind}:{self.name.removeprefix('test_')}"

    @property
    def sampled(self) -> bool:
        """Whether the case is the one in 24 that every test run takes; decided by its name alone."""
        return self.kind != "light" and hashlib.sha256(self.identity.encode()).digest()[0] % 24 == 0

    def model(self) -> ModelProto:
        """The network."""
        if isinstance(self.source, Path):
            return onnx.load(self.source)
        if self.source.model is not None:
            copy = ModelProto()
            copy.CopyFrom(self.source.model)
            return copy
        return onnx.load(self._folder / "model.onnx")

    @property
    def _folder(self) -> Path:
        assert isinstance(self.source, TestCase)
        assert self.source.model_dir is not None
        return Path(self.source.model_dir)

    def own_inputs(self) -> list[Any]:
        """The test's own first set of inputs: arrays, or lists and None for sequences and optionals."""
        if isinstance(self.source, Path):
            return [_random_input(value) for value in onnx.load(self.source).graph.input]
        if self.source.data_sets is not None:
            return [_plain(value) for value in self.source.data_sets[0][0]]
        files = sorted(
            (self._folder / "test_data_set_0").glob("input_*.pb"),
            key=lambda path: int(path.stem.removeprefix("input_")),
        )
        return [_read(path, value.type) for path, value in zip(files, self.model().graph.input, strict=False)]


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case, in an order that is the same on every machine."""
    return tuple(sorted(_cases(), key=lambda case: case.identity))


def _cases() -> Iterator[Case]:
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package overflows on purpose while it makes its cases
        for kind in KINDS[:-1]:
            for test in load_model_tests(kind=kind):
                case = Case(kind, test.name, test)
                if case.identity not in seen:
                    seen.add(case.identity)
                    yield case
    for path in Path(DATA_DIR, "light").glob("*.onnx"):
        yield Case("light", path.stem, path)


def _plain(value: Any) -> Any:  # noqa: ANN401  # as wide as ONNX's types
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _read(path: Path, kind: TypeProto) -> Any:  # noqa: ANN401  # as wide as ONNX's types
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _random_input(value: onnx.ValueInfoProto) -> NDArray[np.float32]:
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def feeds(case: Case, model: ModelProto) -> list[Feed]:
    """What to calibrate with: the test's own inputs, then the same with every float one replaced by random values.

    Integers and booleans keep the test's values: they are indices, lengths, masks and shapes.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input]
    own = dict(zip(names, case.own_inputs(), strict=False))
    own = {name: value for name, value in own.items() if name not in constants}
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(case.identity.encode()).digest()[:4], "big"))
    drawn = {
        name: np.asarray(rng.normal(size=value.shape), value.dtype)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        else value
        for name, value in own.items()
    }
    return [own, drawn]
