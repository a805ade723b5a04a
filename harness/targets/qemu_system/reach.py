"""How a running board is reached: as an entry of targets.yaml would say it."""

from __future__ import annotations

from harness.targets.boards import find_board
from harness.targets.power.values import Power
from harness.targets.qemu_system.keys import Keys
from harness.targets.qemu_system.machine import Running
from harness.targets.qemu_system.recipe import Recipe
from harness.targets.target import Console, Ssh, Target, Via

#: A cold boot to a serving agent takes about 8 s; a busy machine of two processors several times that.
BOOT_TIMEOUT_S = 120.0


def ssh_of(keys: Keys, machine: Running) -> Ssh:
    """The login of a running board."""
    return Ssh("127.0.0.1", "root", keys.login, machine.ports.ssh, keys.fingerprint)


def target_of(recipe: Recipe, keys: Keys, machine: Running) -> Target:
    """A running board as an entry of targets.yaml."""
    kind = find_board(recipe.board)
    environment = kind.environment if kind is not None and kind.environment is not None else "cpu"
    via = Via("qemu", f"127.0.0.1:{machine.ports.agent}", keys.host_tls, recipe.machine)
    return Target(
        name=machine.name,
        board=recipe.board,
        environment=environment,
        via=via,
        base=machine.folder,
        ssh=ssh_of(keys, machine),
        console=Console(f"socket://127.0.0.1:{machine.ports.console}", boot_timeout_s=BOOT_TIMEOUT_S),
        power=Power(method="qmp", options={"socket": str(machine.power_socket)}, wait_s=1.0, timeout_s=20.0),
    )
