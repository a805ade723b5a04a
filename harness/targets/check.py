"""Is every board of the lab fit for a run? Asked of all at once."""

from __future__ import annotations

import hashlib
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from harness._version import __version__
from harness.errors import BoardError, UserError
from harness.targets.canary import Canary, CanaryVerdict, canary, judge
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.cross_isa import IsaCase, IsaFinding, compare_with_host
from harness.targets.quarantine import quarantined
from harness.targets.values import BoardInfo, SessionChoice

if TYPE_CHECKING:
    from harness.targets.lab import Target

#: Agents asked at once: waiting costs nothing, but agents started here share this machine.
AT_ONCE = 8
#: Below this a network of usual size (tens of MB) and its runtime do not fit; the board is reported as short.
LOW_MEMORY_BYTES = 256 << 20
LOW_STORAGE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """What one target answered; None where it did not come that far.

    Args:
        reachable: its agent answers and is accepted.
        problem: why it is not fit, one line; None when it is.
        warnings: what a run will survive, one line each.
        round_trip_ms: fastest of a few smallest calls.
        canary: what its int8 arithmetic does.
        cross_isa: largest difference from this host by form of the network; None where nothing was compared.
        remarks: what was found beside that, one line each.
    """

    name: str
    board: str
    environment: str
    via: str
    reachable: bool
    problem: str | None
    warnings: tuple[str, ...] = ()
    agent_version: str | None = None
    protocol_version: int | None = None
    emulated: bool | None = None
    runtime: str | None = None
    providers: tuple[str, ...] = ()
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    storage_free_bytes: int | None = None
    round_trip_ms: float | None = None
    canary: str | None = None
    cross_isa: dict[str, float] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether a run may count on it."""
        return self.problem is None

    def as_json(self) -> dict[str, object]:
        """The same as plain JSON values, for `--json`."""
        return {**asdict(self), "fit": self.fit}


def check_targets(
    targets: Sequence[Target],
    *,
    work_dir: Path | None = None,
    stop: threading.Event | None = None,
    on_result: Callable[[TargetHealth], None] | None = None,
    cases: Callable[[], Sequence[IsaCase]] | None = None,
) -> list[TargetHealth]:
    """Ask every target, several at once; a target that fails is a result, not an exception.

    Args:
        targets: entries of the lab file.
        work_dir: where started agents keep their logs; a temporary folder when None.
        stop: ends the check early.
        on_result: called as each answer comes, from the thread that asked.
        cases: networks to compare boards of another instruction set with this host by; asked for once, if at all.

    Returns:
        One result a target, in the order of `targets`.
    """
    if not targets:
        return []
    reference = canary()
    with tempfile.TemporaryDirectory(prefix="quantrig-check-") as temporary:
        folder = Path(temporary)
        network = folder / "canary.onnx"
        network.write_bytes(reference.model)

        comparison = _Comparison(cases, folder)

        def ask(target: Target) -> TargetHealth:
            health = _check(target, network, reference, comparison, work_dir or folder, stop)
            if on_result is not None:
                on_result(health)
            return health

        with ThreadPoolExecutor(min(AT_ONCE, len(targets)), thread_name_prefix="check") as pool:
            return list(pool.map(ask, targets))


def _check(
    target: Target,
    network: Path,
    reference: Canary,
    comparison: _Comparison,
    work_dir: Path,
    stop: threading.Event | None,
) -> TargetHealth:
    base = _Known(target.name, target.board, target.environment, target.via.kind)
    aside = quarantined(target)
    story = None if aside is None else aside.sentence
    try:
        with connect(target, work_dir=work_dir, stop=stop) as agent:
            base.info = agent.describe()
            base.round_trip_ms = _round_trip_ms(agent)
            base.canary = _fly(agent, network, reference, base.info)
            base.findings, base.remark = comparison.of(agent, base.info)
    except (BoardError, UserError) as error:
        text = error.message if isinstance(error, BoardError) else str(error).removeprefix(f"{target.name}: ")
        return base.health(text if story is None else f"{story}; today: {text}")
    return base.health(story)


class _Comparison:
    """Compares boards with this host; the host's own outputs are computed once, and only when they are needed."""

    def __init__(self, cases: Callable[[], Sequence[IsaCase]] | None, folder: Path) -> None:
        self._make = cases
        self._folder = folder
        self._cases: Sequence[IsaCase] | None = None
        self._guard = threading.Lock()

    def of(self, agent: AgentClient, info: BoardInfo) -> tuple[tuple[IsaFinding, ...], str | None]:
        """What was found, and a remark when nothing was compared although it should."""
        if self._make is None or info.architecture == platform.machine():
            return (), None
        ours = metadata.version("onnxruntime")
        theirs = [one.version for one in info.runtimes if one.name == "onnxruntime" and not one.problem]
        if ours not in theirs:
            other = theirs[0] if theirs else "none"
            return (), f"not compared with this host: ONNX Runtime {other} there, {ours} here"
        with self._guard:
            if self._cases is None:
                self._cases = self._make()
        return compare_with_host(agent, self._cases, self._folder), None


@dataclass
class _Known:
    """What is known of a target so far."""

    name: str
    board: str
    environment: str
    via: str
    info: BoardInfo | None = None
    round_trip_ms: float | None = None
    canary: CanaryVerdict | None = None
    findings: tuple[IsaFinding, ...] = ()
    remark: str | None = None

    def health(self, problem: str | None) -> TargetHealth:
        info = self.info
        if info is None:
            return TargetHealth(self.name, self.board, self.environment, self.via, reachable=False, problem=problem)
        usable = next((r for r in info.runtimes if r.version and not r.problem), None)
        if problem is None and usable is None:
            why = "; ".join(f"{r.name}: {r.problem}" for r in info.runtimes) or "none installed"
            problem = f"no runtime can be used on the board ({why}); install onnxruntime there"
        if problem is None and self.canary is CanaryVerdict.DIFFERS:
            problem = "its integer arithmetic differs from the definition of the operators; update its runtime"
        if problem is None and (failed := [one for one in self.findings if not one.passed]):
            problem = f"it computes something else than this host ({failed[0].sentence}): update its runtime"
        return TargetHealth(
            name=self.name,
            board=self.board,
            environment=self.environment,
            via=self.via,
            reachable=True,
            problem=problem,
            warnings=tuple(self._warnings(info)),
            agent_version=info.agent_version,
            protocol_version=info.protocol_version,
            emulated=info.emulated,
            runtime=f"{usable.name} {usable.version}" if usable else None,
            providers=usable.providers if usable else (),
            memory_total_bytes=info.memory_total_bytes,
            memory_available_bytes=info.memory_available_bytes,
            storage_free_bytes=info.storage_free_bytes,
            round_trip_ms=self.round_trip_ms,
            canary=None if self.canary is None else self.canary.value,
            cross_isa={one.name: one.worst for one in self.findings} or None,
            remarks=tuple(self._remarks()),
        )

    def _remarks(self) -> list[str]:
        said = [self.remark] if self.remark else []
        if self.findings:
            said.append(f"against this host: {', '.join(one.sentence for one in self.findings)}")
        return said

    def _warnings(self, info: BoardInfo) -> list[str]:
        said = []
        if info.agent_version != __version__:
            said.append(f"its agent is version {info.agent_version}, this host {__version__}: install the same")
        if info.board != self.board:
            said.append(
                f"the agent says it is {info.board!r}: correct `board` in targets.yaml or start it with --board"
            )
        if self.canary is CanaryVerdict.SATURATES:
            said.append("int8 products saturate in 16 bits (x86 without VNNI): int8 accuracy is not that of a board")
        if info.memory_available_bytes is not None and info.memory_available_bytes < LOW_MEMORY_BYTES:
            said.append(f"only {info.memory_available_bytes >> 20} MiB of memory are free: end other programs")
        if info.storage_free_bytes is not None and info.storage_free_bytes < LOW_STORAGE_BYTES:
            said.append(f"only {info.storage_free_bytes >> 20} MiB of storage are free: remove files")
        return said


def _round_trip_ms(agent: AgentClient) -> float:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        agent.await_serving(5.0)
        times.append((time.perf_counter() - begun) * 1e3)
    return min(times)


def _fly(agent: AgentClient, network: Path, reference: Canary, info: BoardInfo | None) -> CanaryVerdict:
    """Ship the canary, run it once, put it away.

    It asks for the processor's own arithmetic, so an accelerator's runtime is passed over where it is the default.
    """
    digest = hashlib.sha256(reference.model).hexdigest()
    known = () if info is None else info.runtimes
    plain = "onnxruntime" if any(one.name == "onnxruntime" and not one.problem for one in known) else ""
    agent.ship(network, digest, None)
    prepared = agent.prepare(digest, options=SessionChoice(runtime=plain, intra_op_threads=1))
    try:
        (outputs,) = agent.infer(prepared.network_id, [reference.inputs])
    finally:
        agent.unload(prepared.network_id)
    return judge(outputs, reference)
