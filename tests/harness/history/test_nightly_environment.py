"""What a figure depended on: which fields, and whose doing a difference is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.history.environment import Cause, differences, environment
from harness.record.figure import Network, Source
from harness.record.networks import Loading, QuantizedRecord
from harness.record.run import RunRecord
from harness.record.target import TargetRecord

DESCRIPTION: dict[str, Any] = {
    "agent_version": "0.1.0", "machine_id": "m1", "boot_id": "first boot", "os": "Ubuntu 22.04, Linux 5.15.136-tegra",
    "architecture": "aarch64", "cpu_model": "Cortex-A78AE", "cpu_count": 6, "cpu_features": ["asimddp"],
    "memory_total_bytes": 8_000_000_000, "memory_available_bytes": 5_000_000_000, "python_version": "3.10.12",
    "details": {"jetpack": "6.0", "power_mode": "15W", "governor": "schedutil", "throttled_since_boot": "no"},
}  # fmt: skip


def loading(network: Network, version: str = "1.22.0") -> Loading:
    return Loading(
        network, 1.0, 1.0, 1.0, None, False, "onnxruntime", version, ("CPUExecutionProvider",),
        settings={"intra_op_num_threads": "2", "disabled_optimizers": "" if network is Network.FLOAT else "X"},
    )  # fmt: skip


def target(**changes: Any) -> TargetRecord:  # noqa: ANN401 (any field)
    record = TargetRecord(
        "jetson", "jetson-orin-nano", "gpu", "address", Source.MEASURED, "done", description=DESCRIPTION,
        quantized=QuantizedRecord("gpu", "a" * 64, "minmax", 10, (), ()),
        loadings=(loading(Network.FLOAT), loading(Network.QUANTIZED)),
    )  # fmt: skip
    return replace(record, **changes)


def run(**changes: Any) -> RunRecord:  # noqa: ANN401 (any field)
    record = RunRecord(
        "r", "job", {"data": {"source": "x"}, "metrics": ["accuracy_top1"]}, "f" * 64, "quick", "validation", 400, 100,
        "2026-01-01T00:00:00+00:00", None, {"quantrig": "0.1.0", "onnxruntime": "1.23.0"}, (),
    )  # fmt: skip
    return replace(record, **changes)


def causes(before: dict[str, str], after: dict[str, str]) -> set[tuple[Cause, str]]:
    return {(one.cause, one.name) for one in differences(before, after)}


def test_nothing_differs_from_night_to_night_on_the_same_machine() -> None:
    rebooted = DESCRIPTION | {
        "boot_id": "second boot",
        "memory_available_bytes": 1,
        "memory_total_bytes": 7_999_000_000,
    }
    rebooted["details"] = DESCRIPTION["details"] | {"throttled_since_boot": "yes"}
    assert not causes(environment(target(), run()), environment(target(description=rebooted), run(run_id="s")))


def test_each_cause_is_told_apart() -> None:
    before = environment(target(), run())

    def changed(key: str, value: object) -> set[tuple[Cause, str]]:
        return causes(before, environment(target(description=DESCRIPTION | {key: value}), run()))

    details = DESCRIPTION["details"]
    assert changed("os", "Ubuntu 22.04, Linux 5.15.148-tegra") == {(Cause.MACHINE, "os")}
    assert changed("machine_id", "m2") == {(Cause.MACHINE, "machine_id")}
    assert changed("details", details | {"jetpack": "6.1"}) == {(Cause.MACHINE, "jetpack")}
    assert changed("details", details | {"power_mode": "MAXN"}) == {(Cause.MACHINE, "power_mode")}
    assert changed("agent_version", "0.2.0") == {(Cause.RUNTIME, "agent")}
    newer = tuple(loading(network, "1.23.0") for network in (Network.FLOAT, Network.QUANTIZED))
    assert causes(before, environment(target(loadings=newer), run())) == {(Cause.RUNTIME, "onnxruntime")}
    assert causes(before, environment(target(), run(model_digest="e" * 64))) == {(Cause.MODEL, "float network")}
    assert causes(before, environment(target(), run(samples=300))) == {(Cause.DATA, "samples")}
    other = replace(target(), quantized=QuantizedRecord("gpu", "b" * 64, "minmax", 10, (), ()))
    assert causes(before, environment(other, run())) == {(Cause.CODE, "int8 network")}
    assert causes(before, environment(target(), run(host={"quantrig": "0.2.0", "onnxruntime": "1.23.0"}))) == {
        (Cause.CODE, "quantrig")
    }


def test_what_one_side_does_not_know_is_no_difference() -> None:
    lost = target(description=None, loadings=(), quantized=None)
    assert not differences(environment(target(), run()), environment(lost))
    assert "machine.os" not in environment(lost)


def test_the_machine_comes_first_and_digests_are_short() -> None:
    found = differences(
        {"code.int8 network": "a" * 64, "runtime.onnxruntime": "1.22.0"},
        {"code.int8 network": "b" * 64, "runtime.onnxruntime": "1.23.0"},
    )
    assert [str(one) for one in found] == ["onnxruntime 1.22.0 → 1.23.0", f"int8 network {'a' * 12} → {'b' * 12}"]
