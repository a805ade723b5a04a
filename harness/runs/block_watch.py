"""Telemetry beside timed blocks: a stream on a thread of its own, a verdict on every pair, and rest for a hot board.

    with BlockWatch(client, clocks, stop, interval_s=0.2, say=print, keep=save) as watch:
        idle = watch.idle("before", 5.0)
        with watch.warming(Network.FLOAT):
            client.warm_up(…)
        watch.begin(pair)
        halves = watch.judged(halves)      # with the reasons in `disturbed`
        watch.rest(halves)

Every fourth pair runs without the stream, so that a run can say what watching cost it (`judge.observer_cost`). What the
board counts over such a pair (throttling, over-current) the first sample after it tells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

from harness.errors import BoardError
from harness.judge.rails import drawn
from harness.judge.throttling import clock_name, cool_down_s, pair_reasons, steady_clock
from harness.record.figure import Network
from harness.record.timing import BlockRecord, IdleWindow, SteadyClock, TelemetryRecord
from harness.runs.interrupt import Interrupted
from harness.targets.client import AgentClient
from harness.targets.values import TelemetrySample

#: Of every so many pairs one is not watched: the third, seventh, eleventh…, so that eight pairs have two.
UNWATCHED_EVERY = 4
_UNWATCHED_AT = 2

#: Samples a second: the rate of docs/telemetry.md's figures, and its double for blocks under a second.
INTERVAL_S = 0.2
SHORT_BLOCK_INTERVAL_S = 0.1

#: How long a board may owe the sample after a pair: a vendor's tool that starts takes up to two seconds.
_OWED_S = 5.0


def interval_for(block_s: float) -> float:
    """Seconds between samples beside blocks of that length."""
    return INTERVAL_S if block_s >= 1.0 else SHORT_BLOCK_INTERVAL_S


def idle_for(block_s: float) -> float:
    """Seconds that a board is left alone before and after its blocks, where a rail tells its power: five blocks."""
    return max(5 * block_s, 1.0)


class TelemetryStream:
    """The agent's telemetry, taken by a thread; started and stopped as often as wanted."""

    def __init__(self, client: AgentClient, interval_s: float) -> None:
        self._client = client
        self.interval_s = interval_s
        self._changed = threading.Condition()
        self._points: list[TelemetryRecord] = []
        self._thread: threading.Thread | None = None
        self._leave = threading.Event()
        self._error: BoardError | None = None

    @property
    def running(self) -> bool:
        """Whether samples are coming."""
        return self._thread is not None

    def start(self) -> None:
        """Begin, if it is not running."""
        if self._thread is None:
            self._leave = threading.Event()
            self._thread = threading.Thread(target=self._take, args=(self._leave,), name="telemetry", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End with the sample that comes next; a board that sends none any more is not waited for."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._leave.set()
            thread.join(_OWED_S)

    def points(self, since: int = 0) -> list[TelemetryRecord]:
        """All samples from the `since`-th on, in the order they came.

        Raises:
            BoardError: the stream broke.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            return self._points[since:]

    def after(self, unix_s: float) -> bool:
        """Wait for a sample later than that, by the board's clock; False when the board owes it for too long.

        Raises:
            BoardError: the stream broke.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error is not None or (bool(self._points) and self._points[-1].unix_s > unix_s),
                _OWED_S + self.interval_s,
            )
            if self._error is not None:
                raise self._error
            return bool(self._points) and self._points[-1].unix_s > unix_s

    def _take(self, leave: threading.Event) -> None:
        samples = self._client.telemetry(self.interval_s)
        try:
            for sample in samples:
                with self._changed:
                    self._points.append(telemetry_record(sample))
                    self._changed.notify_all()
                if leave.is_set():
                    break
        except BoardError as error:
            with self._changed:
                if not leave.is_set():  # whoever stopped it does not care how it ended
                    self._error = error
                self._changed.notify_all()
        finally:
            close = getattr(samples, "close", None)
            if close is not None:
                close()


class BlockWatch:
    """Watches one board while it times two networks.

    Args:
        client: of the board.
        on_cpu: for each network, whether all its providers are the CPU's: which clock to watch.
        stop: set when the run is to end.
        interval_s: between samples, 0.1 or more.
        say: one line for the user.
        keep: called between pairs with the samples that came since the last call.
    """

    def __init__(
        self,
        client: AgentClient,
        on_cpu: Mapping[Network, bool],
        stop: threading.Event,
        *,
        interval_s: float,
        say: Callable[[str], None],
        keep: Callable[[Sequence[TelemetryRecord]], None],
    ) -> None:
        self._on_cpu = on_cpu
        self._stop = stop
        self._say = say
        self._keep = keep
        self._stream = TelemetryStream(client, interval_s)
        self._kept = 0
        self._clocks: dict[Network, SteadyClock] = {}
        self._rejected_in_a_row = 0
        self._rested_s = 0.0

    def __enter__(self) -> BlockWatch:
        self._stream.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.stop()
        if error is None:
            self._keep_new()

    @property
    def steady_clocks(self) -> dict[Network, SteadyClock]:
        """What warm-up found, by network."""
        return dict(self._clocks)

    @property
    def rested_s(self) -> float:
        """Seconds spent cooling down."""
        return self._rested_s

    def idle(self, when: str, seconds: float) -> IdleWindow | None:
        """Leave the board alone for that long, with nothing but the stream; None where no rail tells its power.

        The first quarter is left out of the window: what ran before still shows in a rail's reading.

        Raises:
            Interrupted: the run is to end.
            BoardError: the stream broke.
        """
        self._stream.start()
        first = len(self._stream.points())
        began = time.monotonic()
        while True:
            if self._stop.wait(self._stream.interval_s):
                raise Interrupted
            points = self._stream.points(first)
            if len(points) >= 2 and all(drawn(point) is None for point in points[:2]):
                return None
            passed_s = time.monotonic() - began
            if passed_s >= seconds and (len(points) >= 4 or passed_s >= seconds + _OWED_S):
                break
        late = [point.unix_s for point in points[len(points) // 4 :]]
        return IdleWindow(when, late[0], late[-1] - late[0]) if len(late) >= 2 else None

    @contextmanager
    def warming(self, network: Network) -> Iterator[None]:
        """Around a network's warm-up: learns the clock it settles at."""
        self._stream.start()
        first = len(self._stream.points())
        yield
        points = self._stream.points(first)
        name = clock_name(points, on_cpu=self._on_cpu.get(network, False))
        if (found := steady_clock(points, name)) is not None:
            self._clocks[network] = found

    def begin(self, pair: int) -> None:
        """Before the first half of a pair: start the stream, or stop it for a pair that is not watched."""
        if pair % UNWATCHED_EVERY == _UNWATCHED_AT:
            self._stream.stop()
        else:
            self._stream.start()

    def judged(self, halves: Sequence[BlockRecord]) -> tuple[BlockRecord, ...]:
        """The blocks of one pair with the verdict on it.

        Raises:
            BoardError: the stream broke.
        """
        watched = self._stream.running
        self._stream.start()
        began_s = min(block.started_unix_s for block in halves)
        ended_s = max(block.started_unix_s + block.duration_s for block in halves)
        if not self._stream.after(ended_s):
            self._say(f"no telemetry after pair {halves[0].pair}: nobody can say whether the board was throttled in it")
        points = self._stream.points()
        first = max((at for at, point in enumerate(points) if point.unix_s < began_s), default=0)
        last = next((at for at, point in enumerate(points) if point.unix_s > ended_s), len(points) - 1)
        reasons = pair_reasons(halves, points[first : last + 1], self._clocks)
        self._keep_new()
        return tuple(replace(block, disturbed=reasons, watched=watched) for block in halves)

    def rest(self, halves: Sequence[BlockRecord], deadline: float | None = None) -> None:
        """After a rejected pair: let the board cool down, longer each time, up to two minutes in all.

        Args:
            halves: the pair, judged.
            deadline: on `time.monotonic`: a budget's end, which no rest goes beyond.

        Raises:
            Interrupted: the run is to end.
        """
        reasons = halves[0].disturbed
        if not reasons:
            self._rejected_in_a_row = 0
            return
        self._rejected_in_a_row += 1
        pause_s = cool_down_s(self._rejected_in_a_row, self._rested_s)
        if deadline is not None:
            pause_s = min(pause_s, max(deadline - time.monotonic(), 0.0))
        resting = f"; resting {pause_s:.0f} s" if pause_s >= 1 else ""
        self._say(f"pair {halves[0].pair} rejected: {'; '.join(reasons)}{resting}")
        self._rested_s += pause_s
        if pause_s and self._stop.wait(pause_s):
            raise Interrupted

    def _keep_new(self) -> None:
        points = self._stream.points()
        if len(points) > self._kept:
            self._keep(points[self._kept :])
            self._kept = len(points)


def telemetry_record(sample: TelemetrySample) -> TelemetryRecord:
    """What a run keeps of a sample."""
    return TelemetryRecord(
        sample.unix_s,
        dict(sample.temperature_c),
        dict(sample.power_mw),
        sample.total_power_mw,
        sample.total_power_rail,
        sample.throttled,
        sample.clock_mhz,
        sample.ram_used_mb,
        tuple(sample.throttled_by),
        dict(sample.clocks_mhz),
    )
