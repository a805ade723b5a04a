"""What a figure depended on, by cause: the machine, the runtime, the model, the data, or our own code.

    fields = environment(record.target, run)   # {"machine.os": "…", "runtime.onnxruntime": "1.23.0", …}
    differences(before, after)                 # (Difference("runtime", "onnxruntime", "1.22.0", "1.23.0"),)

A step in a series that coincides with a change of the machine or its runtime is the machine's; else model, data and
code are asked. Only what is known on both sides is compared: an older record that lacks a field says nothing about it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.record.run import RunRecord
from harness.record.target import TargetRecord


class Cause(StrEnum):
    """Whose doing a change of surroundings is."""

    MACHINE = "machine"  # another board, kernel, JetPack, firmware, power or clock mode
    RUNTIME = "runtime"  # what executes networks on it: runtime, providers, session settings, agent
    MODEL = "model"  # the float network
    DATA = "data"  # samples and labels
    CODE = "code"  # quantrig, its quantizer and what it made, the job's settings


#: These cut a series: what was measured before and after is not the same instrument.
OF_MACHINE = (Cause.MACHINE, Cause.RUNTIME)

#: Names of `BoardDescription` (agent.proto) that say which machine it is and how it is set.
_DESCRIPTION = ("model", "machine_id", "os", "architecture", "cpu_model", "cpu_count", "cpu_features")
#: Of its `details` (docs/telemetry.md): those that are settings or versions, not readings.
_DETAILS = (
    "serial", "governor", "clocks_locked", "l4t", "jetpack", "power_mode", "power_mode_id", "firmware", "application",
    "dpu_arch", "dpu_fingerprint", "dpu_clock_mhz", "dpu_cores", "dpu_ip", "gpu", "driver", "power_limit_w",
    "gpu_max_clock_mhz",
)  # fmt: skip
#: Digests are shown by this many digits.
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is not what it was."""

    cause: Cause
    name: str
    old: str
    new: str

    def __str__(self) -> str:
        """As a reader sees it: "onnxruntime 1.22.0 → 1.23.0"."""
        return f"{self.name} {_short(self.old)} → {_short(self.new)}"


def environment(target: TargetRecord, run: RunRecord | None = None) -> dict[str, str]:
    """Everything known that the figures of `target` depended on.

    Args:
        target: its record; one that was never reached gives no fields of the machine.
        run: the run it belongs to, for the model, the data and the host; None where only the target's record is left.

    Returns:
        "cause.name" → value as text; what is unknown is missing.
    """
    fields: dict[str, object] = {}
    _machine(fields, target)
    _runtime(fields, target)
    if target.quantized is not None:
        fields["code.int8 network"] = target.quantized.digest
        fields["code.method"] = target.quantized.method
    if target.lowered is not None:
        fields["code.lowered network"] = target.lowered.digest
    if run is not None:
        _run(fields, target, run)
    return {name: str(value) for name, value in fields.items() if value not in (None, "", [], {})}


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Difference, ...]:
    """The fields known on both sides whose values differ, the machine's first."""
    order = list(Cause)
    found = []
    for name in before.keys() & after.keys():
        cause, _, field = name.partition(".")
        if before[name] != after[name] and cause in order:
            found.append(Difference(Cause(cause), field, before[name], after[name]))
    return tuple(sorted(found, key=lambda one: (order.index(one.cause), one.name)))


def _machine(fields: dict[str, object], target: TargetRecord) -> None:
    description = target.description or {}
    if target.via:
        fields["machine.reached"] = target.via
    for name in _DESCRIPTION:
        value = description.get(name)
        fields[f"machine.{name}"] = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    memory = description.get("memory_total_bytes")
    if isinstance(memory, int):  # a kernel update moves it by a few MB, another board by more
        fields["machine.memory"] = f"{memory / 2**30:.0f} GiB"
    details = description.get("details")
    if isinstance(details, Mapping):
        for name in _DETAILS:
            fields[f"machine.{name}"] = details.get(name)


def _runtime(fields: dict[str, object], target: TargetRecord) -> None:
    description = target.description or {}
    fields["runtime.agent"] = description.get("agent_version")
    fields["runtime.python"] = description.get("python_version")
    details = description.get("details")
    if isinstance(details, Mapping):
        fields["runtime.vart"] = details.get("vart")
    for loading in target.loadings:
        network = loading.network.value
        if loading.runtime_version:
            fields[f"runtime.{loading.runtime}"] = loading.runtime_version
        fields[f"runtime.providers of {network}"] = ", ".join(loading.providers)
        # which optimizers are off follows from the network, so it is no change of the runtime
        settings = {name: value for name, value in loading.settings.items() if name != "disabled_optimizers"}
        fields[f"runtime.session of {network}"] = ", ".join(f"{k}={v}" for k, v in sorted(settings.items()))


def _run(fields: dict[str, object], target: TargetRecord, run: RunRecord) -> None:
    fields["model.float network"] = run.model_digest
    job = run.job
    data = job.get("data")
    fields["data.source and split"] = _digest({"data": data, "preprocess": job.get("preprocess"), "split": run.split})
    fields["data.samples"] = f"{run.samples} validated, {run.calibration_samples} calibrated"
    fields["code.quantrig"] = run.host.get("quantrig")
    fields["code.profile"] = run.profile
    fields["code.job settings"] = _digest(
        {name: job.get(name) for name in ("batch", "metrics", "postprocess", "quantize", "quantized", "state")}
    )
    # calibration runs on the host, with the host's runtime, whatever the board has
    for name in ("onnxruntime", "onnx", "numpy"):
        fields[f"code.host {name}"] = run.host.get(name)
    if target.via in {"emulated", "qemu"}:  # this host is the machine
        fields["machine.host cpu"] = run.host.get("cpu_model")


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: str) -> str:
    if len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:_SHORT]
    return value if len(value) <= 60 else f"{value[:59]}…"
