"""ONNX Runtime with TensorRT: int8 by the network's own Q/DQ operators, never by a calibration table.

The engine is built on the board, as a phase of its own ("compile"), and kept for the next run of the same network
under the same versions, GPU and options (`agents.runtimes.built`). What TensorRT does not take runs on CUDA or the CPU.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import onnxruntime as ort

from agents.faults import AgentError
from agents.protocol import agent_pb2 as pb
from agents.runtimes import cuda
from agents.runtimes.base import Surroundings
from agents.runtimes.built import BuiltStore
from agents.runtimes.ort_provider import OrtProvider
from agents.runtimes.ort_session import CPU, OnnxRuntimeSession, Plan, installed_version, make_session

_PROVIDER = "TensorrtExecutionProvider"
#: Options that are the agent's own paths: never a host's to choose, and never told to one.
_PATHS = frozenset({"trt_engine_cache_path", "trt_timing_cache_path"})
#: Where the probe must start TensorRT but not build anything: no subgraph is as large as this.
_NO_ENGINE = {"trt_min_subgraph_size": "1000000"}
#: TensorRT's libraries of the versions that ONNX Runtime was released for, newest first.
_LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8")
_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
#: What of a board decides whether an engine fits it. At least one of the first three must be known to keep any.
_BOARD_FACTS = ("driver", "l4t", "jetpack", "gpu", "compute_capability")


class Tensorrt(OrtProvider):
    """The runtime `tensorrt`."""

    name = "tensorrt"
    provider = _PROVIDER
    others = (cuda.PROVIDER, CPU)
    tried_with = _NO_ENGINE

    def version(self) -> str:
        """Of ONNX Runtime and TensorRT."""
        found = tensorrt_version()
        return f"{installed_version()} with TensorRT {found}" if found else installed_version()

    def before_trying(self) -> None:
        """See `OrtProvider.before_trying`."""
        if _PROVIDER in ort.get_available_providers():
            cuda.preload()

    def load_in(self, data: bytes, options: pb.SessionOptions, surroundings: Surroundings) -> OnnxRuntimeSession:
        """See `BuildingRuntime.load_in`.

        A network with free dimensions is built for one sample here, and again when a larger batch comes first: before
        any timed block, because a block's batch is run once when it is loaded.
        """
        cuda.preload()
        folder = surroundings.home / "engines"
        folder.mkdir(mode=0o700)
        chosen = _options(folder, quantized=surroundings.quantized)
        facts = _facts(chosen, options, surroundings)
        store = BuiltStore(surroundings.built, surroundings.key) if surroundings.built is not None and facts else None
        kept = store is not None and store.fetch(facts, folder)
        if not kept:
            surroundings.begins("compile", "TensorRT builds the engine on this board")
        began = time.perf_counter()
        providers = [(_PROVIDER, chosen), (cuda.PROVIDER, cuda.OPTIONS), (CPU, {})]
        session = make_session(data, options, Plan(providers, [_PROVIDER], private=_PATHS), surroundings.home)
        if not kept:
            _build_for_one_sample(session)
            session.compile_ms = (time.perf_counter() - began) * 1e3
            if store is not None:
                store.keep(facts, folder)
        session.settings = {**session.settings, "engine": "kept from an earlier run" if kept else "built now"}
        return session


def _build_for_one_sample(session: OnnxRuntimeSession) -> None:
    """Have the engine built now where a free dimension would put it off to the first batch.

    Where more than the number of samples is free (an image's size), one sample of size 1 may not be a sample at all:
    then the engine is built when the first batch comes.

    Raises:
        AgentError: REFUSED when it cannot be built.
    """
    free = [axis for spec in session.inputs for axis, size in enumerate(spec.shape) if size < 0]
    if not free:
        return
    try:
        session.run(session.zeros())
    except AgentError:
        if not any(free):
            raise


def _options(folder: Path, *, quantized: bool) -> dict[str, str]:
    """Provider options. int8 needs Q/DQ: without them TensorRT would ask for the calibration table it never gets."""
    return {
        "device_id": "0",
        "trt_int8_enable": "1" if quantized else "0",
        "trt_fp16_enable": "0",  # the float network stays float32, as everywhere else
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_force_sequential_engine_build": "1",  # two builds at once disturb each other's kernel timings
    }


def _facts(chosen: Mapping[str, str], options: pb.SessionOptions, surroundings: Surroundings) -> dict[str, str]:
    """All that an engine depends on; empty when it is not known well enough, and nothing is kept then."""
    board = {name: surroundings.details[name] for name in _BOARD_FACTS if name in surroundings.details}
    version = tensorrt_version()
    if not version or not {"driver", "l4t", "jetpack"} & board.keys():
        return {}
    return {
        "network": surroundings.digest,
        "onnxruntime": installed_version(),
        "tensorrt": version,
        "session": options.SerializeToString(deterministic=True).hex(),
        **{name: value for name, value in chosen.items() if name not in _PATHS},
        **{f"board.{name}": value for name, value in board.items()},
    }


def tensorrt_version() -> str:
    """Of the library that would be loaded: "10.3.0"; "" when it cannot be told."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            number = int(library.getInferLibVersion())
        except (OSError, AttributeError):
            continue
        # NvInferVersion.h: major * 10000 + minor * 100 + patch since 10, major * 1000 + … before.
        scale = 10_000 if number >= 100_000 else 1000
        return f"{number // scale}.{number % scale // 100}.{number % 100}"
    for package in _PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""
