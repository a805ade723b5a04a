"""The graph that a stand-in runs in place of the int8 network: the board's own arithmetic as plain ONNX."""

from __future__ import annotations

from pathlib import Path

from harness.emulation import lower
from harness.emulation.arithmetic import Arithmetic, find_arithmetic
from harness.errors import UserError
from harness.quantize.writing import as_single_file
from harness.record.networks import LoweredRecord
from harness.runs.networks import NetworkFile, digest_of
from harness.targets.target import Target


def arithmetic_of(target: Target) -> Arithmetic | None:
    """Whose numbers a stand-in for that target computes; None where ONNX Runtime's own are the board's (cpu)."""
    if target.environment == "cpu":
        return None
    if target.environment == "fpga" and target.bitstream is not None:
        return find_arithmetic("mathworks")
    return find_arithmetic(target.environment)


def lowered_file(
    int8: NetworkFile, arithmetic: Arithmetic, out: Path, known: LoweredRecord | None = None
) -> tuple[NetworkFile, LoweredRecord]:
    """Lower an int8 network, or take over what an earlier try of the run lowered.

    Args:
        int8: as the quantizer wrote it.
        arithmetic: whose numbers.
        out: the file to write.
        known: what an earlier try ran.

    Returns:
        (file, record): the file's learnable memory is that of the int8 network; lowered weights lie in float32.

    Raises:
        UserError: it cannot be lowered, or no longer to what the earlier try ran.
    """
    if known is not None and out.exists() and digest_of(out) == known.digest:
        return _file(out, int8, known.disabled_optimizers), known
    made = lower(int8.path, arithmetic)
    hardware = sum(layer.where == "HW" for layer in made.layers)
    if not hardware:
        raise UserError("no layer of it is int8 there")
    made.save(out)
    file = _file(out, int8, made.disabled_optimizers)
    if known is not None and known.digest != file.digest:
        raise OtherNetwork(
            f"the {arithmetic.name} form of the int8 network is not the one that the run began with; "
            "start a new run with `quantrig run`"
        )
    record = LoweredRecord(
        arithmetic=arithmetic.name,
        claim=arithmetic.claim,
        digest=file.digest,
        hardware_layers=hardware,
        software=made.notices,
        disabled_optimizers=made.disabled_optimizers,
    )
    return file, record


class OtherNetwork(UserError):
    """What a resumed run would join is not of one kind."""


def _file(path: Path, int8: NetworkFile, disabled_optimizers: tuple[str, ...]) -> NetworkFile:
    single = as_single_file(path, path.with_suffix(".single.onnx"))
    return NetworkFile(
        single, digest_of(single), single.stat().st_size, int8.learnable_bytes, tuple(disabled_optimizers)
    )
