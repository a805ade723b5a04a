"""The one check that the operators' proofs share."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings

from tests.harness.emulation.reference.agreement import Agreement, compare, kernels_differ
from tests.harness.emulation.reference.drawing import Array
from tests.harness.emulation.reference.written import Written

#: Arithmetics with one rounding per layer.
INTEGER = ["dpu", "mathworks", "host"]

_OPTIONS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
often = settings(max_examples=12, deadline=None, suppress_health_check=_OPTIONS)


def agree(net: Written, arithmetic: str, feed: dict[str, Array], folder: Path, *layers: str) -> Agreement:
    """No integer and no output differs; the named layers are computed in integers, by the lowering and by the page."""
    path = net.save(folder / "net.onnx")
    found = compare(path, arithmetic, feed)
    assert found.differing == {}, found.lowered.notices
    assert found.hardware >= set(layers), found.lowered.notices
    assert not found.reference.software & set(layers)
    if any(node.op_type == "Conv" for node in net.nodes):
        assert kernels_differ(path, found, feed) == {}
    return found
