"""The SSH rungs for a board that QEMU emulates (`via: {qemu: …, address: …}`): its init is its supervisor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BoardError

if TYPE_CHECKING:
    from harness.targets.target import Target

#: How long init may take to start a new agent, s; it waits a second between two tries.
RESPAWN_S = 10
#: Ends the agent's process and waits for the one that init starts in its place; 3: this board's init starts none.
_RESTART = """
[ -e /run/quantrig/agent ] || exit 3
old=$(cat /run/agent.pid 2>/dev/null)
[ -z "$old" ] || kill -9 "$old" 2>/dev/null
left=$1
while :; do
  new=$(cat /run/agent.pid 2>/dev/null)
  if [ -n "$new" ] && [ "$new" != "$old" ] && kill -0 "$new" 2>/dev/null; then
    sleep 1
    kill -0 "$new" 2>/dev/null && echo "$new" && exit 0
  fi
  [ "$left" -gt 0 ] || exit 4
  left=$((left - 1))
  sleep 1
done
"""


def with_lab_key(target: Target) -> Target:
    """The target as it is, or with the emulated lab's own key where its `ssh:` names none."""
    if target.via.machine is None or target.ssh is None or target.ssh.key is not None:
        return target
    from harness.targets.qemu_system.image import home
    from harness.targets.qemu_system.keys import Keys

    keys = Keys(home() / "keys")
    if not keys.login.is_file():
        return target
    ssh = target.ssh
    pinned = ssh.host_key if ssh.host_key is not None else keys.fingerprint
    return replace(target, ssh=replace(ssh, user=ssh.user or "root", key=keys.login, host_key=pinned))


def restart_emulated_agent(target: Target, *, log: Path | None = None) -> str:
    """Restart the agent of a running emulated board over SSH.

    Args:
        target: with `via: {qemu: MACHINE, address: …}` and `ssh:`.
        log: everything said is appended there.

    Returns:
        One line: what was restarted.

    Raises:
        UserError: an agent that was not provisioned on a board without one of its own.
        BoardError: the board cannot be reached, or its init starts no new agent.
    """
    from harness.targets.ssh.service import restart_agent  # here, so that paramiko is loaded by who needs it
    from harness.targets.ssh.session import open_session

    ours = with_lab_key(target)
    with open_session(ours, log=log) as session:
        done = session.run(["sh", "-c", _RESTART, "sh", str(RESPAWN_S)], check=False, quiet=True)
    if done.status == 3:  # a bare one, onto which an agent was provisioned
        return restart_agent(ours, log=log)
    if done.status:
        raise BoardError(
            target.name,
            f"the board's init started no agent that stays, within {RESPAWN_S} s; see /var/log/agent.log there",
        )
    return f"the board's init started another agent (pid {done.out.strip()})"
