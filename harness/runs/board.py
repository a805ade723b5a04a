"""What everybody who uses a board has to know of it: who it is, and how its int8 must be computed."""

from __future__ import annotations

from pathlib import Path

from harness.errors import Refused
from harness.record.figure import Network
from harness.targets.boards import ARM_FAMILIES, find_board
from harness.targets.target import Target
from harness.targets.values import BoardInfo

#: Without one of these, x86 adds pairs of int8 products in 16 bits and saturates (docs/quantization.md).
_VNNI = {"avx512_vnni", "avx_vnni"}


def board_key(target: Target, lab: Path) -> str:
    """The name under which a board is locked (see `locks.board_alone`).

    Args:
        lab: the file the target stands in.
    """
    if target.via.kind == "address":
        return f"address {target.via.address}"
    return f"{target.via.kind} {lab.absolute()} {target.entry_name}"


def check_identity(target: Target, info: BoardInfo) -> None:
    """Never publish one machine's times under another one's name.

    Raises:
        Refused: the lab file names an ARM board and the agent runs on something else.
    """
    kind = find_board(target.board)
    arm = info.architecture.startswith(("aarch64", "arm"))
    if not info.emulated and kind is not None and kind.family in ARM_FAMILIES and not arm:
        message = (
            f"targets.yaml says {target.board}, but the agent runs on {info.architecture}: correct `board:` "
            "or the address, or start the agent with --emulated"
        )
        raise Refused(target.name, message)


def runtime_for(target: Target, network: Network) -> str:
    """Name of the agent's runtime for a network; "" is the board's default.

    A DPU runs int8 only, so the float network of an FPGA board runs on its ARM cores, whatever runs the int8 one.
    """
    kind = find_board(target.board)
    on_arm = network is Network.FLOAT and kind is not None and kind.family == "xilinx"
    return "onnxruntime" if on_arm else target.runtime or ""


def must_not_saturate(info: BoardInfo) -> bool:
    """Whether int8 networks need `precise_x86_int8` there.

    A stand-in must compute what its board computes: an ARM core never saturates in 16 bits, so neither may x86.
    """
    return info.emulated and _saturates(info)


def arithmetic_note(info: BoardInfo, environment: str) -> str:
    """What a reader must know of int8 on that processor, and what was done about it; "" where it adds exactly.

    Args:
        environment: whose rules the network was quantized by; a GPU's part is not the processor's.
    """
    if not _saturates(info):
        return ""
    if info.emulated:
        return "int8 ran on ONNX Runtime's precise kernels: this x86 has no VNNI and would saturate"
    if environment == "gpu" or not info.cpu_features:  # not its part, or it does not tell
        return ""
    return (
        "int8 products saturate in 16 bits on this x86 without VNNI: measured as it is, nothing was done about it; "
        "its int8 accuracy is not that of another board"
    )


def _saturates(info: BoardInfo) -> bool:
    return info.architecture == "x86_64" and not _VNNI & set(info.cpu_features)
