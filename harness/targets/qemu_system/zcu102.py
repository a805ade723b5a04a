"""The device tree of QEMU's `xlnx-zcu102`, as far as a board of this lab needs it.

The tree that Xilinx's kernel brings asks a power-management firmware for every clock, and QEMU has none: a kernel waits
for it without an end. Here all clocks are fixed. Addresses and interrupts: UG1085 (Zynq UltraScale+ Device Technical
Reference Manual), tables 'System Interrupts' and 'PS I/O Peripherals Registers'; they are those of QEMU's model.
"""

from __future__ import annotations

from harness.targets.qemu_system.devicetree import Node, flatten

#: Clocks of a model run nothing; the drivers derive dividers from them that nobody sees.
_CLOCK_HZ = 100_000_000
#: Phandles: the interrupt controller, the clock.
_GIC, _CLOCK = 1, 2
#: Interrupt specifiers: shared or private, and what triggers them.
_SHARED, _PRIVATE, _LEVEL_HIGH, _ALL_CORES_LEVEL_LOW = 0, 1, 4, 0xF08


def device_tree(processors: int, *, seed: bytes = b"") -> bytes:
    """The tree for a number of Cortex-A53, 1 to 4.

    Args:
        processors: that the machine has.
        seed: for the kernel's random numbers: this machine has no source of its own.
    """
    chosen = {"stdout-path": "serial0:115200n8"}
    return flatten(
        Node(
            {
                "compatible": ["xlnx,zynqmp-zcu102", "xlnx,zynqmp"],
                "model": "ZynqMP ZCU102 of QEMU, fixed clocks",
                "#address-cells": 2,
                "#size-cells": 2,
                "interrupt-parent": _GIC,
            },
            {
                "chosen": Node({**chosen, "rng-seed": seed} if seed else chosen),
                "aliases": Node(
                    {"serial0": "/serial@ff000000", "serial1": "/serial@ff010000", "mmc0": "/mmc@ff160000"}
                ),
                "cpus": Node({"#address-cells": 1, "#size-cells": 0}, {f"cpu@{n}": _cpu(n) for n in range(processors)}),
                "psci": Node({"compatible": "arm,psci-0.2", "method": "smc"}),
                "timer": Node(
                    {
                        "compatible": "arm,armv8-timer",
                        "interrupts": [
                            word for number in (13, 14, 11, 10) for word in (_PRIVATE, number, _ALL_CORES_LEVEL_LOW)
                        ],
                    }
                ),
                "clock": Node(
                    {
                        "compatible": "fixed-clock",
                        "#clock-cells": 0,
                        "clock-frequency": _CLOCK_HZ,
                        "phandle": _CLOCK,
                    }
                ),
                "interrupt-controller@f9010000": Node(
                    {
                        "compatible": "arm,gic-400",
                        "#interrupt-cells": 3,
                        "interrupt-controller": True,
                        "reg": [
                            word
                            for address, size in (
                                (0xF9010000, 0x10000),
                                (0xF9020000, 0x20000),
                                (0xF9040000, 0x20000),
                                (0xF9060000, 0x20000),
                            )
                            for word in (0, address, 0, size)
                        ],
                        "interrupts": [_PRIVATE, 9, 0xF04],
                        "phandle": _GIC,
                    }
                ),
                "serial@ff000000": _serial(0xFF000000, 21),
                "serial@ff010000": _serial(0xFF010000, 22),
                "ethernet@ff0b0000": _device(
                    ["cdns,zynqmp-gem", "cdns,gem"], 0xFF0B0000, 57, ["pclk", "hclk", "tx_clk", "rx_clk", "tsu_clk"],
                    queues=2, **{"phy-mode": "rgmii-id"},
                ),
                "mmc@ff160000": _device(["arasan,sdhci-8.9a"], 0xFF160000, 48, ["clk_xin", "clk_ahb"]),
            },
        )
    )  # fmt: skip


def _cpu(number: int) -> Node:
    return Node({"compatible": "arm,cortex-a53", "device_type": "cpu", "reg": number, "enable-method": "psci"})


def _serial(address: int, interrupt: int) -> Node:
    return _device(["cdns,uart-r1p12", "xlnx,xuartps"], address, interrupt, ["uart_clk", "pclk"])


def _device(
    compatible: list[str], address: int, interrupt: int, clocks: list[str], queues: int = 1, **more: str
) -> Node:
    """A device; the Cadence network card has two queues, which share a line."""
    return Node(
        {
            "compatible": compatible,
            "reg": [0, address, 0, 0x1000],
            "interrupts": [_SHARED, interrupt, _LEVEL_HIGH] * queues,
            "clocks": [_CLOCK] * len(clocks),
            "clock-names": clocks,
            **more,
        }
    )
