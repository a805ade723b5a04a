"""How one agent was started: the operator's choices and their defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1 << 20

#: A protobuf file cannot be larger than 2 GiB, so no single-file ONNX is.
MAX_ARTIFACT_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class AgentConfig:
    """Everything `serve` was told. Sizes in bytes, times in seconds."""

    listen: str = "127.0.0.1:50443"  # HOST:PORT or unix:PATH
    board: str = ""  # "" = detect
    board_root: Path | None = None  # None = "/"; another tree for tests
    emulated: bool = False
    data_dir: Path = Path()
    tls_dir: Path | None = None
    signing_key: Path | None = None  # None = signing-key.pem in tls_dir, where there is one
    quota_bytes: int = 4096 * MEBIBYTE
    child_memory_bytes: int = 2048 * MEBIBYTE
    max_tensor_bytes: int = 1024 * MEBIBYTE  # of one declared tensor; the child's own limit bounds the sum
    allow_loops: bool = False
    prepare_timeout_s: float = 300.0
    batch_timeout_s: float = 60.0
    host_timeout_s: float = 120.0  # a stalled host holds a network, or a file's turn, no longer than this
    max_networks: int = 8
    memory_limit: str = "auto"  # or one of agents.limits.KINDS

    @property
    def max_artifact_bytes(self) -> int:
        """Largest file that an upload may declare."""
        return min(self.quota_bytes, MAX_ARTIFACT_BYTES)


def usual_prepare_timeout_s(family: str) -> float:
    """How long loading a network may take when the operator does not say.

    Args:
        family: of the board; TensorRT and Vitis AI compile on theirs, a large network for more than ten minutes on a
            small Jetson, and give signs of life meanwhile.
    """
    return 1800.0 if family in ("jetson", "nvidia", "xilinx") else AgentConfig().prepare_timeout_s


def default_data_dir() -> Path:
    """The platform's place for a program's state: /var/lib for root, $XDG_STATE_HOME for anyone else."""
    if os.geteuid() == 0:
        return Path("/var/lib/quantrig-agent")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "quantrig-agent"
