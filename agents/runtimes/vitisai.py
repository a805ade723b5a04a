"""ONNX Runtime with AMD's Vitis AI provider: the DPU runs what it takes of a Q/DQ network, the ARM cores the rest.

The provider is told two paths, its configuration and its cache. Both are the agent's own choice: the configuration is
the board's, installed with the provider, and the cache lies in the process's private folder instead of a folder that
every user of the board can write to, which is the provider's default.
"""

from __future__ import annotations

import hashlib
import stat
import time
from pathlib import Path

from agents.faults import AgentError, Fault
from agents.protocol import agent_pb2 as pb
from agents.runtimes.base import Surroundings
from agents.runtimes.built import BuiltStore
from agents.runtimes.ort_provider import OrtProvider
from agents.runtimes.ort_session import CPU, OnnxRuntimeSession, Plan, installed_version, make_session

PROVIDER = "VitisAIExecutionProvider"
#: Where AMD's packages put the provider's configuration (UG1414 3.5, "Programming with VOE", and board images since).
CONFIGURATIONS = ("etc/vaip_config.json", "usr/bin/vaip_config.json", "usr/share/vaip/vaip_config.json")
_PATHS = frozenset({"config_file", "cache_dir", "cache_key", "cacheDir", "cacheKey"})
_BOARD_FACTS = ("dpu_fingerprint", "vart")


class VitisAi(OrtProvider):
    """The runtime `vitisai`."""

    name = "vitisai"
    provider = PROVIDER

    def load_in(self, data: bytes, options: pb.SessionOptions, surroundings: Surroundings) -> OnnxRuntimeSession:
        """See `BuildingRuntime.load_in`."""
        if not surroundings.quantized:
            message = (
                "a DPU runs int8 only and this network has no Q/DQ operators: its float form runs on the ARM cores"
            )
            raise AgentError(Fault.REFUSED, f"{message}: choose runtime onnxruntime for it")
        configuration = _configuration(surroundings.root)
        folder = surroundings.home / "vitisai"
        folder.mkdir(mode=0o700)
        names = ("cache_dir", "cache_key") if _release() >= (1, 18) else ("cacheDir", "cacheKey")
        chosen = {"config_file": str(configuration), names[0]: str(folder), names[1]: surroundings.digest}
        facts = _facts(configuration, options, surroundings)
        store = BuiltStore(surroundings.built, surroundings.key) if surroundings.built is not None and facts else None
        kept = store is not None and store.fetch(facts, folder)
        if not kept:
            surroundings.begins("compile", "Vitis AI compiles the network on this board")
        began = time.perf_counter()
        plan = Plan([(PROVIDER, chosen), (CPU, {})], [PROVIDER], private=_PATHS)
        session = make_session(data, options, plan, surroundings.home)
        if not kept:
            session.compile_ms = (time.perf_counter() - began) * 1e3
            if store is not None:
                store.keep(facts, folder)
        session.settings = {**session.settings, "compiled": "kept from an earlier run" if kept else "now"}
        return session


def _configuration(root: Path) -> Path:
    """The board's own file.

    Raises:
        AgentError: REFUSED when there is none, or others than its owner can write to it.
    """
    for name in CONFIGURATIONS:
        path = root / name
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise AgentError(Fault.REFUSED, f"{path} can be changed by anyone: make it writable by its owner only")
        return path.resolve()
    message = f"this board has no configuration of Vitis AI's provider ({', '.join(f'/{n}' for n in CONFIGURATIONS)})"
    raise AgentError(Fault.REFUSED, f"{message}: install the provider's package whole")


def _facts(configuration: Path, options: pb.SessionOptions, surroundings: Surroundings) -> dict[str, str]:
    """What the compiled form depends on; empty when the DPU's fingerprint is not known: nothing is kept then."""
    board = {name: surroundings.details[name] for name in _BOARD_FACTS if name in surroundings.details}
    if "dpu_fingerprint" not in board:
        return {}
    return {
        "network": surroundings.digest,
        "onnxruntime": installed_version(),
        "configuration": hashlib.sha256(configuration.read_bytes()).hexdigest(),
        "session": options.SerializeToString(deterministic=True).hex(),
        **{f"board.{name}": value for name, value in board.items()},
    }


def _release() -> tuple[int, int]:
    major, _, rest = installed_version().partition(".")
    return int(major), int(rest.partition(".")[0] or 0)
