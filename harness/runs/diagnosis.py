"""A board beside the reference, layer by layer: the same few samples through both, with intermediate tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import ModelProto

from harness.data.batch import padded
from harness.emulation.arithmetic import Arithmetic
from harness.emulation.diagnose.compare import Arrays, Executable, Feed, compare
from harness.emulation.diagnose.values import Diagnosis
from harness.errors import BoardError
from harness.host import host_environment
from harness.quantize import describe_own
from harness.quantize.external import scratch
from harness.quantize.graph import read_model, sha256_of
from harness.quantize.writing import write_model
from harness.runs.board import board_key, check_identity, must_not_saturate
from harness.runs.locks import board_alone, machine_shared
from harness.runs.lowering import arithmetic_of
from harness.runs.plan import Plan
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.lab import Target
from harness.targets.values import BoardInfo, SessionChoice

#: Samples that are compared unless told otherwise: each costs one transfer of all intermediate tensors.
SAMPLES = 4
#: CPU features of which x86 needs one to add int8 products in 32 bits.
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


@dataclass(frozen=True, eq=False)
class _Board:
    """A connected board that runs networks over the same feeds.

    Args:
        target: which.
        client: to its agent.
        info: what it says of itself.
        folder: for networks on their way.
        feeds: one sample each.
        numbers: names the files.
        say: told of each step.
    """

    target: Target
    client: AgentClient
    info: BoardInfo
    folder: Path
    feeds: Sequence[Feed]
    numbers: count[int]
    say: Callable[[str], None]

    def run(self, model: ModelProto, disabled: Sequence[str]) -> list[Arrays]:
        """Ship, load, run, and let the board forget the network again."""
        number = next(self.numbers)
        path = self.folder / f"diagnosed.{number}.onnx"
        write_model(model, path)
        digest = sha256_of(path)
        self.say(f"ship network {number + 1} of 2")
        shipped = self.client.ship(path, digest)
        prepared = self.client.prepare(
            digest,
            options=SessionChoice(
                runtime=self.target.runtime or "",
                intra_op_threads=self.target.threads or 0,
                disabled_optimizers=tuple(disabled),
                precise_x86_int8=must_not_saturate(self.info),
            ),
        )
        try:
            self.say(f"run network {number + 1} of 2")
            taken = {spec.name for spec in prepared.inputs}
            fed = ({name: np.asarray(x) for name, x in feed.items() if name in taken} for feed in self.feeds)
            answers = self.client.infer(prepared.network_id, fed)
            return [{name: np.asarray(value) for name, value in answer.items()} for answer in answers]
        finally:
            with suppress(BoardError):  # a board that is gone holds nothing any more
                if not prepared.already_loaded:
                    self.client.unload(prepared.network_id)
                if not shipped.skipped:
                    self.client.remove(digest)


def diagnose_on(
    target: Target,
    lab: Path,
    quantized: Path,
    feeds: Sequence[Feed],
    *,
    work_dir: Path | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Compare what one board computes with the reference of its environment.

    Args:
        target: which board; its environment is the network's.
        lab: the file it stands in.
        quantized: the int8 network, as Q/DQ.
        feeds: inputs, one sample each.
        work_dir: logs of an agent that is started here go into a folder there.
        stop: ends waiting.
        say: told what happens, in a few words.

    Raises:
        UserError: the network has no int8 layer, or cannot be lowered.
        BoardError: the board failed.
    """
    stop = stop if stop is not None else threading.Event()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="quantrig-diagnose-")))
        stack.enter_context(scratch())
        stack.enter_context(board_alone(board_key(target, lab), stop, lambda: say("waiting: another run has it")))
        say("connect")
        client = stack.enter_context(connect(target, work_dir=work_dir or folder / "logs", stop=stop))
        info = client.describe()
        check_identity(target, info)
        stack.enter_context(machine_shared(info.machine_id, stop))
        arithmetic = arithmetic_of(target)
        made = describe_own(quantized)
        as_it_is = Executable(read_model(quantized), made.disabled_optimizers, "Q/DQ through ONNX Runtime")
        lowered = _lowered(quantized, arithmetic)
        stands_in = not target.timed or info.emulated
        runs = lowered if lowered is not None and stands_in else as_it_is
        precise, notices = _exact_here(lowered is None)
        board = _Board(target, client, info, folder, feeds, count(), say)
        found = compare(
            as_it_is.model,
            lowered or as_it_is,
            runs,
            feeds,
            arithmetic=arithmetic,
            run_board=board.run,
            precise=precise,
        )
        return Diagnosis(
            target.name,
            target.environment,
            (lowered or as_it_is).text if lowered is not None else "Q/DQ through ONNX Runtime on this host",
            runs.text,
            len(feeds),
            found.layers,
            found.outputs_differing,
            found.outputs_values,
            (*notices, *found.notices),
        )


def first_samples(plan: Plan, number: int) -> list[Feed]:
    """The first validation samples of a run, one a feed; the state of a recurrent network as the float one makes it."""
    return [padded(feed, plan.fixed_batch or 1) for i in plan.samples[:number] for feed in plan.feeds([i])]


def diagnose_plan_target(
    plan: Plan, target: Target, quantized: Path, number: int, say: Callable[[str], None] = lambda _: None
) -> Diagnosis:
    """`diagnose_on` for one target of a run.

    Args:
        plan: the run's.
        target: one of its targets.
        quantized: the int8 network that the run made for it.
        number: how many samples.
        say: told what happens.
    """
    where = plan.out / "logs"
    return diagnose_on(target, plan.lab.path, quantized, first_samples(plan, number), work_dir=where, say=say)


def under_rules(target: Target, environment: str) -> Target:
    """The target with the environment that a network was made for."""
    return replace(target, environment=environment)  # type: ignore[arg-type] # checked by whoever made the network


def _lowered(quantized: Path, arithmetic: Arithmetic | None) -> Executable | None:
    if arithmetic is None:
        return None
    from harness.emulation import lower

    made = lower(quantized, arithmetic)
    return Executable(made.model, made.disabled_optimizers, f"lowered: {arithmetic.title} ({arithmetic.claim})")


def _exact_here(needed: bool) -> tuple[bool, tuple[str, ...]]:
    """Whether ONNX Runtime must be told to be exact on this host, and what to say then."""
    host = host_environment()
    features = host["cpu_features"]
    known = set(features) if isinstance(features, list) else set()
    if not needed or host["architecture"] != "x86_64" or known & _VNNI:
        return False, ()
    return True, ("this host has no VNNI: the reference runs ONNX Runtime's slower, exact int8 kernels",)
