"""A board beside the reference, layer by layer: the same few samples through both, with intermediate tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from onnx import ModelProto

from harness.data import DataSpec, InputSpec, Preprocess, data_inputs, network_inputs, stream_batches
from harness.data.batch import cut, padded
from harness.emulation.arithmetic import Arithmetic
from harness.emulation.diagnose.compare import Arrays, Executable, Feed, compare
from harness.emulation.diagnose.values import Diagnosis
from harness.errors import BoardError, ExitCode, QuantrigError, UserError
from harness.host import host_environment
from harness.judge.verdict import worst
from harness.quantize import describe_own
from harness.quantize.external import scratch
from harness.quantize.graph import read_model, sha256_of
from harness.quantize.sequence import zero_state
from harness.quantize.writing import write_model
from harness.runs.board import board_key, check_identity, must_not_saturate
from harness.runs.locks import board_alone, machine_shared
from harness.runs.lowering import arithmetic_of
from harness.runs.observer import Observer
from harness.runs.plan import Plan
from harness.targets.client import AgentClient
from harness.targets.connect import connect
from harness.targets.target import Target
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
        precise, notices = exact_here(lowered is None)
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


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What diagnosing the targets of a run gave.

    Args:
        found: of each board that answered.
        failed: (target, error) of the others.
    """

    found: tuple[Diagnosis, ...]
    failed: tuple[tuple[str, QuantrigError], ...]

    @property
    def exit_code(self) -> ExitCode:
        """GOOD where every target could be compared, whatever was found; else what stood in the way."""
        return worst(error.exit_code for _, error in self.failed)


def diagnose_plan(plan: Plan, samples: int, observer: Observer) -> Diagnosed:
    """Every target of a run that is through, one after the other: each with the int8 network that the run made.

    Args:
        plan: the run's.
        samples: how many validation samples, the first ones.
        observer: told of the progress.

    Raises:
        UserError: samples that cannot be read.
    """
    feeds = first_samples(plan, samples)
    found: list[Diagnosis] = []
    failed: list[tuple[str, QuantrigError]] = []
    for target in plan.targets:

        def say(text: str, who: str = target.name) -> None:
            observer.progress(who, f"diagnose: {text}", 0, None)

        try:
            int8 = int8_network(plan, target)
            found.append(diagnose_on(target, plan.lab.path, int8, feeds, work_dir=plan.out / "logs", say=say))
            observer.finished(target.name, "diagnosed")
        except (BoardError, UserError) as error:
            failed.append((target.name, error))
            observer.finished(target.name, "not diagnosed")
    return Diagnosed(tuple(found), tuple(failed))


def int8_network(plan: Plan, target: Target) -> Path:
    """The int8 network that a run used for a target.

    Raises:
        UserError: it is not there.
    """
    made = plan.out / "artifacts" / f"{plan.job.name}.{target.environment}.int8.onnx"
    path = plan.job.quantized or made
    if not path.is_file():
        raise UserError(f"{target.name}: no int8 network at {path}; run without --diagnose to see why")
    return path


def diagnose_model(
    quantized: Path,
    data: str | Path | DataSpec | Iterable[Any],
    target: Target,
    lab: Path,
    *,
    samples: int = SAMPLES,
    preprocess: Preprocess | None = None,
    state: Mapping[str, str] | None = None,
) -> Diagnosis:
    """`diagnose_on` for an int8 network and data of one's own.

    Args:
        quantized: the int8 network; the rules that made it, where they stand in the file, take the place of the
            target's own.
        data: anything DATA names, or batches.
        target: which board.
        lab: the file it stands in.
        samples: how many, the first ones.
        preprocess: of named data.
        state: {input: output} of a recurrent network; every sample starts from zeros.

    Raises:
        UserError: bad input.
        BoardError: the board failed.
    """
    made = describe_own(quantized)
    if made.environment != "own":
        target = replace(target, environment=made.environment)  # type: ignore[arg-type] # written by our quantizer
    inputs = network_inputs(quantized)
    zeros = zero_state(inputs, state or {})
    fed = data_inputs(inputs, state or {})
    size = next((spec for spec in fed if spec.shape), fed[0]).fixed_batch or 1
    feeds = [{**feed, **zeros} for feed in _first(data, fed, samples, size, preprocess)]
    return diagnose_on(target, lab, quantized, feeds)


def _first(
    data: str | Path | DataSpec | Iterable[Any],
    inputs: Sequence[InputSpec],
    count_: int,
    size: int,
    preprocess: Preprocess | None,
) -> Iterator[Feed]:
    left = count_
    for batch in stream_batches(data, inputs, preprocess=preprocess, batch_size=max(1, count_)):
        for index in range(min(left, batch.real)):
            yield padded(cut(batch.inputs, slice(index, index + 1)), size)
        left -= min(left, batch.real)
        if not left:
            return
    if left == count_:
        raise UserError("data: no samples to compare on; give at least one")


def _lowered(quantized: Path, arithmetic: Arithmetic | None) -> Executable | None:
    if arithmetic is None:
        return None
    from harness.emulation import lower

    made = lower(quantized, arithmetic)
    return Executable(made.model, made.disabled_optimizers, f"lowered: {arithmetic.title} ({arithmetic.claim})")


def exact_here(needed: bool) -> tuple[bool, tuple[str, ...]]:
    """Whether ONNX Runtime must be told to be exact on this host, and what to say then."""
    host = host_environment()
    features = host["cpu_features"]
    known = set(features) if isinstance(features, list) else set()
    if not needed or host["architecture"] != "x86_64" or known & _VNNI:
        return False, ()
    return True, ("this host has no VNNI: the reference runs ONNX Runtime's slower, exact int8 kernels",)
