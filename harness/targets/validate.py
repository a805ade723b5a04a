"""Everything an agent returns is checked here before the rest of the host sees it.

An agent may be broken or hostile. What cannot be true is a `BadResult`; a sensor value that cannot be true is unknown
(None). Text is shortened and stripped of control characters; escaping for HTML or CSV is the report's work.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from agents.protocol import agent_pb2 as pb
from harness.errors import BadResult
from harness.targets.values import (
    AssignedNodes,
    BoardInfo,
    LoadedInfo,
    PolicyInfo,
    PreparedNetwork,
    Programmed,
    RuntimeInfo,
    TelemetrySample,
    TensorInfo,
    TimedBlock,
    WarmUp,
)

#: Longest text kept of anything an agent says of itself; the longest real CPU model name seen has 60 characters.
MAX_TEXT = 200
#: Longest one-line error text taken over from an agent.
MAX_DETAILS = 600
#: Entries of a repeated field: a CPU has some 200 flags, a board some 30 sensors.
MAX_ENTRIES = 512
#: Names of nodes that an agent sends of one network.
MAX_NODES = 4096
#: Largest believable size, bytes (a pebibyte).
MAX_BYTES = 1 << 50
#: Longest believable duration, seconds (a day).
MAX_DURATION_S = 86_400.0
#: Most declared inputs or outputs, and most dimensions of one.
MAX_TENSORS = 256
MAX_RANK = 16
#: Most bytes of outputs taken from a board for one batch: 12 full-HD segmentation maps of 21 float32 classes.
MAX_TENSOR_BYTES = 1 << 31
#: What a tensor may be made of; nothing that could carry a Python object.
DTYPES = frozenset(
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64".split()  # noqa: SIM905 a table
)
#: Timer granularity and loop overhead allowed between the sum of samples and the block's own duration.
CLOCK_SLACK = 0.01

_IDENTIFIER = re.compile(r"[a-z0-9-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def clean_text(value: str, limit: int = MAX_TEXT) -> str:
    """One printable line: control, format and surrogate characters become spaces, runs of spaces one, then cut."""
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in value[: 4 * limit])
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class Checker:
    """Checks the answers of one target; every complaint names the target, the call and the remedy.

    Args:
        target: name in targets.yaml.
    """

    def __init__(self, target: str) -> None:
        self._target = target

    def fail(self, what: str) -> NoReturn:
        """Raise the `BadResult` for a value that cannot be."""
        raise BadResult(self._target, f"the agent returned {what}; its results are not used: update or restart it")

    def identifier(self, value: str, what: str) -> str:
        """`value` when it is a well-formed identifier."""
        if not _IDENTIFIER.fullmatch(value):
            self.fail(f"a malformed {what} {clean_text(value, 40)!r}")
        return value

    def digest(self, value: str, what: str) -> str:
        """`value` when it is 64 lower-case hex digits."""
        if not _DIGEST.fullmatch(value):
            self.fail(f"a malformed {what} {clean_text(value, 40)!r}")
        return value

    def number(self, value: float, what: str, *, low: float = 0.0, high: float = MAX_DURATION_S) -> float:
        """`value` when it is finite and within [low, high]."""
        if not (math.isfinite(value) and low <= value <= high):
            self.fail(f"{what} = {value!r}, outside {low:g} … {high:g}")
        return float(value)

    def size(self, value: int, what: str) -> int:
        """A number of bytes."""
        if not 0 <= value <= MAX_BYTES:
            self.fail(f"{what} = {value} bytes")
        return int(value)

    def count(self, values: Iterable[object], what: str, limit: int = MAX_ENTRIES) -> None:
        """Refuse a repeated field that is longer than any board's could be."""
        length = len(values)  # type: ignore[arg-type]  # protobuf containers are sized; their stubs say Iterable
        if length > limit:
            self.fail(f"{length} entries of {what} (at most {limit})")

    def texts(self, values: Iterable[str], what: str) -> tuple[str, ...]:
        """A bounded list of clean lines."""
        self.count(values, what)
        return tuple(clean_text(v) for v in values)

    def board(self, d: pb.BoardDescription) -> BoardInfo:
        """A board's description."""
        self.count(d.runtimes, "runtimes", 64)
        self.count(d.loaded, "loaded networks", 256)
        self.count(d.details, "details")
        if d.machine_id:
            self.digest(d.machine_id, "machine id")
        return BoardInfo(
            agent_version=clean_text(d.agent_version, 64),
            protocol_version=d.protocol_version,
            board=clean_text(d.board, 64),
            emulated=d.emulated,
            model=clean_text(d.model),
            hostname=clean_text(d.hostname, 64),
            machine_id=d.machine_id,
            boot_id=clean_text(d.boot_id, 64),
            os=clean_text(d.os),
            architecture=clean_text(d.architecture, 64),
            python_version=clean_text(d.python_version, 64),
            cpu_model=clean_text(d.cpu_model),
            cpu_count=int(self.number(d.cpu_count, "cpu_count", high=65_536)) or None,
            cpu_features=self.texts(d.cpu_features, "cpu_features"),
            memory_total_bytes=self.size(d.memory_total_bytes, "memory_total") or None,
            memory_available_bytes=self.size(d.memory_available_bytes, "memory_available") or None,
            storage_quota_bytes=self.size(d.storage_quota_bytes, "storage_quota") or None,
            storage_used_bytes=self.size(d.storage_used_bytes, "storage_used"),
            storage_free_bytes=self.size(d.storage_free_bytes, "storage_free"),
            runtimes=tuple(
                RuntimeInfo(
                    name=clean_text(r.name, 64),
                    version=clean_text(r.version, 64),
                    providers=self.texts(r.providers, "providers"),
                    problem=clean_text(r.problem),
                )
                for r in d.runtimes
            ),
            loaded=tuple(
                LoadedInfo(
                    network_id=self.identifier(n.network_id, "network id"),
                    digest=self.digest(n.digest, "digest of a loaded network"),
                    runtime=clean_text(n.runtime, 64),
                    resident_bytes=self.size(n.resident_bytes, "resident_bytes"),
                )
                for n in d.loaded
            ),
            policy=PolicyInfo(
                allow_loops=d.policy.allow_loops,
                max_artifact_bytes=self.size(d.policy.max_artifact_bytes, "max_artifact_bytes"),
                max_tensor_bytes=self.size(d.policy.max_tensor_bytes, "max_tensor_bytes"),
                child_memory_bytes=self.size(d.policy.child_memory_bytes, "child_memory_bytes"),
                memory_limit_kind=clean_text(d.policy.memory_limit_kind, 32),
                prepare_timeout_s=self.number(d.policy.prepare_timeout_s, "prepare_timeout_s"),
                batch_timeout_s=self.number(d.policy.batch_timeout_s, "batch_timeout_s"),
                max_loaded_networks=d.policy.max_loaded_networks,
            ),
            details={clean_text(name, 64): clean_text(value) for name, value in d.details.items()},
        )

    def tensor_info(self, spec: pb.TensorSpec) -> TensorInfo:
        """A declared input or output of a prepared network."""
        if not spec.name or len(spec.name) > MAX_TEXT:
            self.fail(f"a tensor named {clean_text(spec.name, 40)!r}")
        if spec.dtype not in DTYPES:
            self.fail(f"tensor {clean_text(spec.name, 60)!r} of type {clean_text(spec.dtype, 40)!r}")
        if len(spec.shape) > MAX_RANK or any(not -1 <= d <= MAX_TENSOR_BYTES for d in spec.shape):
            self.fail(f"tensor {clean_text(spec.name, 60)!r} with an impossible shape")
        return TensorInfo(name=spec.name, dtype=spec.dtype, shape=tuple(spec.shape))

    def tensor_infos(self, specs: Iterable[pb.TensorSpec], what: str) -> tuple[TensorInfo, ...]:
        """Declared inputs or outputs: bounded in number, no name twice."""
        self.count(specs, what, MAX_TENSORS)
        infos = tuple(self.tensor_info(s) for s in specs)
        if len({i.name for i in infos}) != len(infos):
            self.fail(f"two {what} of one name")
        return infos

    def prepared(self, ready: pb.PreparedNetwork, digest: str) -> PreparedNetwork:
        """A prepared network."""
        outputs = self.tensor_infos(ready.outputs, "outputs")
        if not outputs:
            self.fail("a network without outputs")
        return PreparedNetwork(
            network_id=self.identifier(ready.network_id, "network id"),
            digest=digest,
            already_loaded=ready.already_loaded,
            inputs=self.tensor_infos(ready.inputs, "inputs"),
            outputs=outputs,
            start_ms=self._phase_ms(ready.start_ms, "start_ms"),
            check_ms=self._phase_ms(ready.check_ms, "check_ms"),
            load_ms=self._phase_ms(ready.load_ms, "load_ms"),
            compile_ms=self._phase_ms(ready.compile_ms, "compile_ms") if ready.HasField("compile_ms") else None,
            runtime=clean_text(ready.runtime, 64),
            runtime_version=clean_text(ready.runtime_version, 64),
            providers=self.texts(ready.providers, "providers"),
            resident_bytes=self.size(ready.resident_bytes, "resident_bytes"),
            assigned=self._assigned(ready.assigned),
            settings=self._settings(ready.settings),
        )

    def _assigned(self, groups: Sequence[pb.ProviderNodes]) -> tuple[AssignedNodes, ...]:
        """Who runs which nodes: bounded, and no more of an operator than nodes."""
        self.count(groups, "providers with nodes", 64)
        found = []
        for group in groups:
            self.count(group.operators, "operators of a provider")
            self.count(group.nodes, "nodes of a provider", MAX_NODES)
            operators = {clean_text(name, 64): int(count) for name, count in group.operators.items()}
            if sum(operators.values()) > group.count:
                self.fail(f"{sum(operators.values())} operators in {group.count} nodes")
            nodes = tuple(clean_text(name) for name in group.nodes)
            found.append(AssignedNodes(clean_text(group.provider, 64), int(group.count), operators, nodes))
        return tuple(found)

    def _settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        """What a session was given: bounded, one line each."""
        self.count(settings, "settings", 256)
        return {clean_text(name, 128): clean_text(value) for name, value in sorted(settings.items())}

    def programmed(self, reply: pb.ProgramReply) -> Programmed:
        """What was programmed before; a network is in a design."""
        if reply.network_loaded and not reply.design_loaded:
            self.fail("a network that is loaded in a design that is not")
        return Programmed(
            reply.design_loaded,
            reply.network_loaded,
            clean_text(reply.boot_id, 64),
            self.digest(reply.device, "fingerprint of the device"),
        )

    def _phase_ms(self, value: float, what: str) -> float:
        return self.number(value, what, high=MAX_DURATION_S * 1e3)

    def phase(self, done: pb.PhaseDone) -> tuple[str, float]:
        """Name and duration (ms) of a phase of preparing."""
        return clean_text(done.name, 64), self._phase_ms(done.duration_ms, "duration of a phase, ms")

    def warm_up(self, reply: pb.WarmUpReply, elapsed_s: float) -> WarmUp:
        """How a warm-up went; it cannot have lasted longer than the host waited for it."""
        high_s = elapsed_s * (1 + CLOCK_SLACK) + CLOCK_SLACK
        return WarmUp(
            steady=reply.steady,
            iterations=reply.iterations,
            duration_s=self.number(reply.duration_s, "duration of the warm-up, s", high=high_s),
            first_ms=self.number(reply.first_ms, "first_ms"),
        )

    def block(self, block: pb.Block, asked: pb.TimeBlockRequest, elapsed_s: float) -> TimedBlock:
        """A timed block: as many samples as asked for, each positive, their sum within the block's own duration.

        The block cannot have lasted longer than the host waited for it (`elapsed_s`). A block that is too *fast*
        cannot be proved wrong from here.
        """
        taken = len(block.latency_ns)
        if not 1 <= taken <= asked.max_iterations:
            self.fail(f"{taken} latency samples where 1 … {asked.max_iterations} were asked for")
        if taken < min(asked.min_iterations, asked.max_iterations):
            self.fail(f"{taken} latency samples where at least {asked.min_iterations} were asked for")
        duration_s = self.number(
            block.duration_s, "duration of a block, s", high=elapsed_s * (1 + CLOCK_SLACK) + CLOCK_SLACK
        )
        latency_ns = tuple(block.latency_ns)
        if min(latency_ns) == 0:
            self.fail("a latency of 0 ns")
        if sum(latency_ns) > (duration_s * (1 + CLOCK_SLACK) + 1e-3) * 1e9:
            self.fail(f"latencies that add up to {sum(latency_ns) / 1e9:g} s in a block of {duration_s:g} s")
        # Threads cannot burn more processor time than wall time on every logical processor there can be.
        cpu_time_s = self.number(block.cpu_time_s, "cpu_time_s", high=65_536 * (duration_s + 1))
        return TimedBlock(
            latency_ns=latency_ns,
            started_unix_s=self.number(block.started_unix_s, "started_unix_s", high=1e11),
            duration_s=duration_s,
            clock=clean_text(block.clock, 64),
            clock_resolution_ns=self.number(block.clock_resolution_ns, "clock_resolution_ns", high=1e9),
            batch_size=int(self.number(block.batch_size, "batch_size", low=1, high=1 << 20)),
            cpu_time_s=cpu_time_s,
            peak_memory_bytes=self.size(block.peak_memory_bytes, "peak_memory_bytes"),
            clock_tick_ns=self.number(block.clock_tick_ns, "clock_tick_ns", high=1e9) or None,
        )

    def telemetry(self, sample: pb.TelemetrySample) -> TelemetrySample:
        """One telemetry sample; what a sensor cannot have measured is unknown."""
        self.count(sample.cpu, "CPU cores", 65_536)
        self.count(sample.temperature_c, "temperatures")
        self.count(sample.power_mw, "power rails")
        self.count(sample.clocks_mhz, "clocks")

        def known(field: str, low: float, high: float) -> float | None:
            value = getattr(sample, field)
            return _plausible(value, low, high) if sample.HasField(field) else None  # type: ignore[arg-type]

        return TelemetrySample(
            unix_s=self.number(sample.unix_s, "time of a telemetry sample", high=1e11),
            ram_used_mb=known("ram_used_mb", 0, MAX_BYTES / 1e6),
            ram_total_mb=known("ram_total_mb", 0, MAX_BYTES / 1e6),
            cpu_percent=tuple(_plausible(c.percent, 0, 100) if c.HasField("percent") else None for c in sample.cpu),
            gpu_percent=known("gpu_percent", 0, 100),
            # A switched-off Tegra sensor reads -256 °C, a broken thermistor several thousand.
            temperature_c=_plausible_map(sample.temperature_c.items(), -100, 300),
            # A rail that feeds back (battery, regenerating motor) reads below zero.
            power_mw=_plausible_map(sample.power_mw.items(), -1e7, 1e7),
            total_power_mw=known("total_power_mw", -1e7, 1e7),
            total_power_rail=clean_text(sample.total_power_rail, 64) if sample.HasField("total_power_rail") else None,
            throttled=sample.throttled if sample.HasField("throttled") else None,
            clock_mhz=known("clock_mhz", 0, 1e5),
            throttled_by=self.texts(sample.throttled_by, "reasons of throttling"),
            clocks_mhz=_plausible_map(sample.clocks_mhz.items(), 0, 1e5),
        )


def _plausible(value: float, low: float, high: float) -> float | None:
    return float(value) if math.isfinite(value) and low <= value <= high else None


def _plausible_map(items: Iterable[tuple[str, float]], low: float, high: float) -> dict[str, float]:
    checked = ((clean_text(key, 64), _plausible(value, low, high)) for key, value in items)
    return {key: value for key, value in checked if value is not None}
