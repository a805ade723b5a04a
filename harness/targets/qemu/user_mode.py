"""How an agent is started under QEMU's user mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.targets.qemu.binary import find_qemu
from harness.targets.qemu.processors import processor_of
from harness.targets.qemu.rootfs import make_root, place_agent
from harness.targets.qemu.tree import current_tree
from harness.targets.spawn import Interpreter

if TYPE_CHECKING:
    from harness.targets.target import Target

#: Of private memory, for the agent and each of its children: 2 GiB as on any board, and QEMU's translated code with
#: its bookkeeping, 0.25 GiB for an agent with its runtime loaded (docs/qemu.md).
DATA_LIMIT_BYTES = 2304 << 20


def check_ready(target: Target) -> None:
    """Say before a run starts what would stop it later.

    Raises:
        UserError: no emulator, no processor like the board's, no tree.
    """
    find_qemu(target.name)
    processor_of(target.name, target.board)
    current_tree(target.name)


@contextmanager
def guest_python(target: Target) -> Iterator[Interpreter]:
    """The Python that runs the target's agent; its tree stays while the block runs.

    Raises:
        UserError: as `check_ready`.
    """
    qemu = find_qemu(target.name)
    processor = processor_of(target.name, target.board)
    tree = current_tree(target.name)
    with tree.in_use():
        script = make_root(tree, qemu, processor, target.board)
        yield Interpreter(
            (str(script),),
            {
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(place_agent(tree)),
                # As for every child of an agent: networks stay in the lab.
                "ORT_DISABLE_TELEMETRY": "1",
            },
            # The agent's own RLIMIT_AS means nothing here: QEMU leaves out what a guest asks of it, because its own
            # address space would not fit. Private memory can be limited from outside, and is inherited by children;
            # done only where the agent has no control groups (spawn.py says why).
            data_limit_bytes=DATA_LIMIT_BYTES,
        )
