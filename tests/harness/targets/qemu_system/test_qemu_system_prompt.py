"""A board is up when its console asks for a login, whatever the kernel writes behind the question."""

from __future__ import annotations

import pytest

from harness.targets.qemu_system.golden import asks_for_a_login


@pytest.mark.parametrize(
    ("line", "asks"),
    [
        ("quantrig-board login: ", True),
        ("quantrig-board login: [    2.931194] IPv6: ADDRCONF(NETDEV_CHANGE): eth0: link becomes ready", True),
        ("[    2.931194] IPv6: ADDRCONF(NETDEV_CHANGE): eth0: link becomes ready", False),
        ("Last login: Sat Nov 21 10:00:00", False),
        ("", False),
    ],
)
def test_a_prompt(line: str, asks: bool) -> None:
    assert asks_for_a_login(line) is asks
