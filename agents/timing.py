"""Time on the board: warm-up until the latency is steady, and blocks of raw samples.

Values of the defaults: a run is warm after 10 iterations and 2 s at least, when the medians of the last three windows
of 1 s differ by less than 2 %; after 60 s it is called not warm.
"""

from __future__ import annotations

import functools
import gc
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb

#: Samples that one Block may carry: half a megabyte of the 4 MiB a message may have.
MAX_SAMPLES = 100_000

DEFAULT_MIN_ITERATIONS = 10
DEFAULT_MIN_DURATION_S = 2.0
DEFAULT_MAX_DURATION_S = 60.0
DEFAULT_WINDOW_S = 1.0
DEFAULT_TOLERANCE = 0.02
_WINDOWS = 3
_TICK_READINGS = 1000


def with_defaults(request: pb.WarmUpRequest) -> pb.WarmUpRequest:
    """`request` with every zero replaced by the default, checked.

    Raises:
        AgentError: INVALID for a value that is no positive number.
    """
    full = pb.WarmUpRequest(
        network_id=request.network_id,
        min_iterations=request.min_iterations or DEFAULT_MIN_ITERATIONS,
        min_duration_s=request.min_duration_s or DEFAULT_MIN_DURATION_S,
        max_duration_s=request.max_duration_s or DEFAULT_MAX_DURATION_S,
        window_s=request.window_s or DEFAULT_WINDOW_S,
        tolerance=request.tolerance or DEFAULT_TOLERANCE,
    )
    for name in ("min_duration_s", "max_duration_s", "window_s", "tolerance"):
        value = getattr(full, name)
        if not 0 < value < float("inf"):  # NaN is neither
            raise AgentError(Fault.INVALID, f"{name} {value} must be a positive number")
    return full


def check_block(request: pb.TimeBlockRequest) -> pb.TimeBlockRequest:
    """`request` with its caps filled in, checked.

    Raises:
        AgentError: INVALID.
    """
    full = pb.TimeBlockRequest(
        network_id=request.network_id,
        min_iterations=max(request.min_iterations, 1),
        min_duration_s=request.min_duration_s,
        max_iterations=request.max_iterations or MAX_SAMPLES,
    )
    if not 0 <= full.min_duration_s < float("inf"):
        raise AgentError(Fault.INVALID, f"min_duration_s {full.min_duration_s} must be a number, 0 or more")
    if full.max_iterations > MAX_SAMPLES:
        raise AgentError(Fault.INVALID, f"max_iterations {full.max_iterations}: at most {MAX_SAMPLES}")
    if full.min_iterations > full.max_iterations:
        message = f"min_iterations {full.min_iterations} is more than max_iterations {full.max_iterations}"
        raise AgentError(Fault.INVALID, message)
    return full


def warm_up(run: Callable[[], object], request: pb.WarmUpRequest) -> pb.WarmUpReply:
    """Run until the medians of the last three windows agree, or the cap.

    Args:
        run: one inference.
        request: from `with_defaults`.

    Returns:
        All but `first_ms`, which only the caller can know.
    """
    medians: list[float] = []
    window: list[int] = []
    iterations = 0
    steady = False
    began = window_began = time.perf_counter()
    while True:
        before = time.perf_counter_ns()
        run()
        window.append(time.perf_counter_ns() - before)
        iterations += 1
        now = time.perf_counter()
        if now - window_began >= request.window_s:
            medians.append(statistics.median(window))
            window.clear()
            window_began = now
            enough = iterations >= request.min_iterations and now - began >= request.min_duration_s
            recent = medians[-_WINDOWS:]
            agree = len(recent) == _WINDOWS and max(recent) - min(recent) < request.tolerance * min(recent)
            steady = enough and agree
        if steady or now - began >= request.max_duration_s:
            return pb.WarmUpReply(steady=steady, iterations=iterations, duration_s=now - began)


def time_block(run: Callable[[], object], request: pb.TimeBlockRequest, batch_size: int) -> pb.Block:
    """One block: the latency of every single run, on the monotonic clock.

    Args:
        run: one inference.
        request: from `check_block`.
        batch_size: samples that one run takes.
    """
    clock = time.perf_counter_ns
    tick_ns = clock_tick_ns()
    samples: list[int] = []
    keep = samples.append
    least, most = request.min_iterations, request.max_iterations
    gc.collect()
    gc.disable()
    try:
        started_unix_s = time.time()
        cpu_began = time.process_time()
        began = clock()
        least_end = began + round(request.min_duration_s * 1e9)
        count = 0
        while True:
            before = clock()
            run()
            after = clock()
            keep(after - before)
            count += 1
            if count >= most or (count >= least and after >= least_end):
                break
        cpu_time_s = time.process_time() - cpu_began
    finally:
        gc.enable()
    info = time.get_clock_info("perf_counter")
    implementation = info.implementation.replace("clock_gettime(", "").rstrip(")")
    return pb.Block(
        latency_ns=samples,
        started_unix_s=started_unix_s,
        duration_s=(after - began) / 1e9,
        clock=f"perf_counter: {implementation}",
        clock_resolution_ns=info.resolution * 1e9,
        clock_tick_ns=tick_ns,
        batch_size=batch_size,
        cpu_time_s=cpu_time_s,
        peak_memory_bytes=peak_memory_bytes(),
    )


@functools.cache
def clock_tick_ns() -> int:
    """The smallest step between readings of the clock, one after the other: what it resolves, or what asking it costs.

    Whichever is larger bounds how short a latency can be told. Measured once for a process, in some 0.1 ms.
    """
    clock = time.perf_counter_ns
    readings = [clock() for _ in range(_TICK_READINGS)]
    steps = [later - earlier for earlier, later in itertools.pairwise(readings) if later > earlier]
    if not steps:  # coarser than all these readings together: one whole step, from edge to edge
        edge = _next_edge()
        steps = [_next_edge() - edge]
    return min(steps)


def _next_edge() -> int:
    """The clock's next value, waited for."""
    began = now = time.perf_counter_ns()
    while now == began:
        now = time.perf_counter_ns()
    return now


def peak_memory_bytes() -> int:
    """High-water mark of this process's resident set; 0 where the kernel does not say.

    Not getrusage: its ru_maxrss survives exec, so a child would report its parent's.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
