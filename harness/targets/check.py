"""Is every board of the lab fit for a run? Asked of all at once."""

from __future__ import annotations

import hashlib
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError, UserError
from harness.targets.canary import Canary, CanaryVerdict, canary, judge
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.cross_isa import IsaCase, IsaFinding, compare_with_host
from harness.targets.health import Known, TargetHealth
from harness.targets.quarantine import quarantined
from harness.targets.values import BoardInfo, SessionChoice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.targets.target import Target

#: Agents and boards started here share this machine. Those at an address only wait, and are all asked at once.
AT_ONCE = 8
#: More threads than any lab has boards.
MOST_AT_ONCE = 128
#: From the connection to the verdict; a board that hangs in the middle holds nobody up for longer.
LIMIT_S = 150.0
#: Between two attempts to end the calls of a board that is late.
_AGAIN_S = 0.2

__all__ = ["TargetHealth", "check_targets"]


def check_targets(
    targets: Sequence[Target],
    *,
    work_dir: Path | None = None,
    stop: threading.Event | None = None,
    on_result: Callable[[TargetHealth], None] | None = None,
    cases: Callable[[], Sequence[IsaCase]] | None = None,
    limit_s: float = LIMIT_S,
) -> list[TargetHealth]:
    """Ask every target, all at once; a target that fails is a result, not an exception.

    Args:
        targets: entries of the lab file.
        work_dir: where started agents keep their logs; a temporary folder when None.
        stop: ends the check early.
        on_result: called as each answer comes, from the thread that asked.
        cases: networks to compare boards of another instruction set with this host by; asked for once, if at all.
        limit_s: for one board, once it answers.

    Returns:
        One result a target, in the order of `targets`.
    """
    if not targets:
        return []
    stop = stop if stop is not None else threading.Event()
    reference = canary()
    with tempfile.TemporaryDirectory(prefix="quantrig-check-") as temporary:
        folder = Path(temporary)
        network = folder / "canary.onnx"
        network.write_bytes(reference.model)
        examiner = _Examiner(network, reference, _Comparison(cases, folder), work_dir or folder, stop, limit_s)
        started_here = threading.Semaphore(AT_ONCE)

        def ask(target: Target) -> TargetHealth:
            with nullcontext() if target.via.address is not None else started_here:
                health = examiner.examine(target)
            if on_result is not None and not stop.is_set():
                on_result(health)
            return health

        with ThreadPoolExecutor(min(MOST_AT_ONCE, len(targets)), thread_name_prefix="check") as pool:
            asked = [pool.submit(ask, target) for target in targets]
            try:
                wait(asked)
            except BaseException:  # Ctrl-C: end the calls under way, so that started agents are ended in order
                stop.set()
                examiner.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            return [one.result() for one in asked]


class _Examiner:
    """Asks one board after another, each in a thread of its own."""

    def __init__(
        self,
        network: Path,
        reference: Canary,
        comparison: _Comparison,
        work_dir: Path,
        stop: threading.Event,
        limit_s: float,
    ) -> None:
        self._network = network
        self._reference = reference
        self._comparison = comparison
        self._work_dir = work_dir
        self._stop = stop
        self._limit_s = limit_s
        self._guard = threading.Lock()
        self._asking: set[AgentClient] = set()

    def cancel(self) -> None:
        """End every call under way; `stop` was set before."""
        with self._guard:
            asking = list(self._asking)
        for agent in asking:
            agent.cancel()

    def examine(self, target: Target) -> TargetHealth:
        """One board's verdict."""
        began = time.monotonic()
        known = Known(target)
        aside = quarantined(target)
        story = None if aside is None else aside.sentence
        late = threading.Event()
        trouble: str | None = None
        try:
            with connect(target, work_dir=self._work_dir, stop=self._stop) as agent, self._limited(agent, late):
                self._ask(agent, known)
        except (BoardError, UserError) as error:
            trouble = error.message if isinstance(error, BoardError) else str(error).removeprefix(f"{target.name}: ")
        if late.is_set():
            trouble = f"it hangs: not checked within {self._limit_s:.0f} s; restart its agent, or reboot the board"
        if trouble is not None and story is not None:
            trouble = f"{story}; today: {trouble}"
        return known.health(trouble or story, time.monotonic() - began)

    def _ask(self, agent: AgentClient, known: Known) -> None:
        known.info = info = agent.describe()
        known.round_trip_ms = _round_trip_ms(agent)
        if not info.emulated:  # a stand-in's temperatures are those of this machine
            known.sample = next(iter(agent.telemetry(interval_s=0.1, duration_s=0.1)), None)
        known.canary = _fly(agent, self._network, self._reference, info)
        known.findings, remark = self._comparison.of(agent, info)
        known.remarks = (remark,) if remark else ()

    @contextmanager
    def _limited(self, agent: AgentClient, late: threading.Event) -> Iterator[None]:
        """The agent may be cancelled while the block runs: by `cancel`, or because it takes too long."""
        over = threading.Event()

        def watch() -> None:
            if over.wait(self._limit_s):
                return
            late.set()
            while not over.wait(_AGAIN_S):  # a call that begins a moment later is ended too
                agent.cancel()

        watcher = threading.Thread(target=watch, name=f"limit-{agent.target}", daemon=True)
        with self._guard:
            self._asking.add(agent)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            with self._guard:
                self._asking.discard(agent)


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
        with suppress(BoardError):  # what ended the inference says more
            agent.unload(prepared.network_id)
    return judge(outputs, reference)
