"""Target: one entry of targets.yaml as a value, with how it is reached and what belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.targets.board_settings import Settings
from harness.targets.boards import Environment
from harness.targets.power.values import Power

DpuArch = Literal["B512", "B800", "B1024", "B1152", "B1600", "B2304", "B3136", "B4096"]
ViaKind = Literal["local", "emulated", "qemu", "address", "channel"]
ServiceKind = Literal["system", "user", "supervisor"]


@dataclass(frozen=True, slots=True)
class Via:
    """How a target is reached.

    Args:
        kind: local (an agent started here, really measured), emulated or qemu (a stand-in here), address (on a board).
        address: HOST:PORT or unix:PATH; None unless kind is "address", or "qemu" with a machine that runs already.
        tls: folder with ca.pem, host.pem and host-key.pem; whether it exists is checked on connecting.
        machine: of QEMU's system mode; None: user mode.
        channel: of kind "channel": the plug-in that brings the agent's port here (`harness.targets.channels`).
        options: its own words.
    """

    kind: ViaKind
    address: str | None = None
    tls: Path | None = None
    machine: str | None = None
    channel: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ssh:
    """A login on the board, to install and start its agent.

    Args:
        host: name or number.
        user: None: this machine's user.
        key: private key; None: those of the SSH agent and of `~/.ssh`.
        port: of its SSH server.
        host_key: fingerprint (`SHA256:…`) that its key must have; None: known_hosts decides.
        python: interpreter on the board, a name or a path; None: the first of 3.10 or newer.
        folder: on the board, absolute, where the agent lives; None: the usual one of the login.
        service: who starts the agent: the system's systemd, the login's own, our supervisor; None: what is there.
    """

    host: str
    user: str | None = None
    key: Path | None = None
    port: int = 22
    host_key: str | None = None
    python: str | None = None
    folder: str | None = None
    service: ServiceKind | None = None


@dataclass(frozen=True, slots=True)
class RuntimePackages:
    """What the agent's environment on the board is made of, beyond the public packages.

    Args:
        wheel: a runtime that the user brings, in place of the public onnxruntime.
        system_site_packages: whether the board's own Python packages (TensorRT's bindings) can be imported.
    """

    wheel: Path | None = None
    system_site_packages: bool = False


@dataclass(frozen=True, slots=True)
class Console:
    """The board's serial console.

    Args:
        url: a device's path or a pyserial URL (`rfc2217://`, `socket://`).
        baud: its speed.
        prompt: regular expression of its login prompt; None: what getty prints.
        boot_timeout_s: how long a boot to that prompt may take.
    """

    url: str
    baud: int = 115_200
    prompt: str | None = None
    boot_timeout_s: float = 180.0


@dataclass(frozen=True, slots=True)
class Bitstream:
    """Which programmable-logic design runs which network."""

    float_network: str | None = None
    int8_network: str | None = None


@dataclass(frozen=True, slots=True)
class Dpu:
    """Which AMD DPUCZDX8G the board's logic holds.

    Args:
        arch: B512 … B4096, the peak operations of one core and cycle.
        clock_mhz: None: what is usual on the board.
        cores: the same.
    """

    arch: DpuArch
    clock_mhz: float | None = None
    cores: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of targets.yaml.

    Args:
        name: [a-z0-9-]{1,64}.
        board: a kind that `harness.targets.boards` knows.
        environment: whose rules quantize for it.
        via: how it is reached.
        tags: free words that selections and test markers ask for.
        bitstream: MathWorks' designs, which exclude `dpu`: programmable logic holds one design.
        threads: of the runtime; None: its own choice.
        runtime: name of the agent's runtime; None: the board's default.
        base: folder of the lab file; relative paths in it start there.
        dpu: the processor in its logic.
        packages: what provisioning installs beside the agent.
        settings: of the board, while it is timed.
        batch: samples per inference, in a sweep (`runs.sweep`); None: the job's.
        entry: in a sweep, the entry that it is one setting of.
    """

    name: str
    board: str
    environment: Environment
    via: Via
    base: Path
    ssh: Ssh | None = None
    console: Console | None = None
    power: Power | None = None
    tags: tuple[str, ...] = ()
    bitstream: Bitstream | None = None
    threads: int | None = None
    runtime: str | None = None
    dpu: Dpu | None = None
    packages: RuntimePackages = RuntimePackages()
    settings: Settings | None = None
    batch: int | None = None
    entry: str = ""

    @property
    def entry_name(self) -> str:
        """Its name in the lab file: the settings of a sweep are one board."""
        return self.entry or self.name

    @property
    def timed(self) -> bool:
        """Whether its times are those of the board; a stand-in has the board's arithmetic only."""
        return self.via.kind in {"local", "address", "channel"}
