"""JTAG as a channel to an FPGA board: looks for what it takes, and says what is missing.

JTAG reaches the chip's memory, not a program's port: networks and images are written by a debug server's memory
commands through a JTAG-to-AXI bridge in the bitstream. Nothing here drives it; a package that does registers itself as
the channel `jtag` and is taken instead.
"""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Unreachable

if TYPE_CHECKING:
    from harness.targets.channels import ChannelRequest

#: Debug servers that can read and write a chip's memory, by the names of their commands.
SERVERS = ("xsdb", "hw_server", "openocd")
#: USB vendors of the cables of these boards (usb.ids): FTDI, which Digilent's and the boards' own cables are made of,
#: and Xilinx, with its Platform Cable.
_CABLES = {"0403": "FTDI", "03fd": "Xilinx"}
_USB = Path("/sys/bus/usb/devices")


def missing(usb: Path = _USB) -> list[str]:
    """What this machine lacks for JTAG, one phrase each; the last one always, since it cannot be seen from here.

    Args:
        usb: sysfs' folder of USB devices.
    """
    found = []
    if not any(shutil.which(name) for name in SERVERS):
        found.append(f"a debug server on this machine ({', '.join(SERVERS)}: none is in PATH)")
    vendors = {path.read_text().strip() for path in usb.glob("*/idVendor")} if usb.is_dir() else set()
    if not vendors & set(_CABLES):
        found.append(f"a JTAG cable on this machine's USB (of {' or '.join(_CABLES.values())}: none is there)")
    return [*found, "a bitstream with a JTAG-to-AXI bridge", "a package that moves networks through it, channel `jtag`"]


def jtag(request: ChannelRequest) -> AbstractContextManager[str]:
    """Say what it needs: no agent of ours is ever behind JTAG.

    Raises:
        Unreachable: always.
    """
    raise Unreachable(
        request.target,
        f"JTAG needs {'; '.join(missing())} (none is installed); or use the board's Ethernet: "
        'via: {address: "HOST:50443", tls: lab}',
    )
