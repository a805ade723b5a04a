"""Stands in for a vendor's build of ONNX Runtime: copied as `onnxruntime/__init__.py` beside an agent.

It loads the real package, computes with its CPU provider, and puts before it what a vendor's build adds: providers in
the list of available ones, each with the options that its parser knows (any other one fails as ONNX Runtime's
ProviderOptionsParser does), each taking the operators that `vendor.json` says; TensorRT's engines and Vitis AI's
compiled models as files where their options say. What every session was given is appended to `sessions.jsonl`.

`vendor.json`: {"providers": {name: [operators]}, "broken": [names], "old": bool, "build_s": seconds, "fails": text}.
"broken" providers are listed but cannot be started: ONNX Runtime leaves them out of the session without an error.
"old": a version that cannot be asked who runs what, only profiled.
"""

# ruff: noqa: ANN401 - the library it stands in for is untyped

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_VENDOR = json.loads((_HERE / "vendor.json").read_text())
#: onnxruntime.ai, pages of the execution providers: the options each one's parser knows.
_TENSORRT = """
    device_id user_compute_stream trt_max_workspace_size trt_max_partition_iterations trt_min_subgraph_size
    trt_fp16_enable trt_bf16_enable trt_int8_enable trt_int8_calibration_table_name
    trt_int8_use_native_calibration_table trt_dla_enable trt_dla_core trt_engine_cache_enable
    trt_engine_cache_path trt_engine_cache_prefix trt_dump_subgraphs trt_force_sequential_engine_build
    trt_context_memory_sharing_enable trt_layer_norm_fp32_fallback trt_timing_cache_enable
    trt_timing_cache_path trt_force_timing_cache trt_detailed_build_log trt_build_heuristics_enable
    trt_cuda_graph_enable trt_builder_optimization_level trt_sparsity_enable trt_auxiliary_streams
    trt_tactic_sources trt_extra_plugin_lib_paths trt_profile_min_shapes trt_profile_max_shapes
    trt_profile_opt_shapes trt_engine_decryption_enable trt_engine_decryption_lib_path
    trt_engine_hw_compatible trt_op_types_to_exclude
"""
_CUDA = """
    device_id user_compute_stream gpu_mem_limit arena_extend_strategy cudnn_conv_algo_search
    do_copy_in_default_stream cudnn_conv_use_max_workspace cudnn_conv1d_pad_to_nc1d enable_cuda_graph
    enable_skip_layer_norm_strict_mode use_tf32 prefer_nhwc use_ep_level_unified_stream
"""
#: Vitis AI's takes any.
_KNOWN = {
    "TensorrtExecutionProvider": set(_TENSORRT.split()),
    "CUDAExecutionProvider": set(_CUDA.split()),
    "XnnpackExecutionProvider": {"intra_op_num_threads"},
    "CPUExecutionProvider": set(),
}
_CPU = "CPUExecutionProvider"
_ENGINE = b"ftrt engine of the stand-in for "


def _load_real() -> Any:
    """The installed package, under its own name: the import that runs this file returns what lies there then."""
    del sys.modules["onnxruntime"]
    path = list(sys.path)
    sys.path[:] = [entry for entry in path if Path(entry or ".").resolve() != _HERE.parent]
    try:
        return importlib.import_module("onnxruntime")
    finally:
        sys.path[:] = path


_REAL = _load_real()
_RealSession = _REAL.InferenceSession


class _Group:
    """OrtEpAssignedSubgraph."""

    def __init__(self, ep_name: str, nodes: list[Any]) -> None:
        self.ep_name = ep_name
        self._nodes = nodes

    def get_nodes(self) -> list[Any]:
        return self._nodes


class Session:
    """InferenceSession with the vendor's providers."""

    def __init__(
        self,
        model: bytes,
        sess_options: Any = None,
        providers: list[str] | None = None,
        provider_options: list[dict[str, str]] | None = None,
        **more: Any,
    ) -> None:
        names = list(providers or [_CPU])
        options = [dict(one) for one in provider_options or [{} for _ in names]]
        with (_HERE / "sessions.jsonl").open("a") as log:
            log.write(
                json.dumps(
                    {"providers": names, "options": options, "more": sorted(more), "environment": sorted(os.environ)}
                )
                + "\n"
            )
        for name, given in zip(names, options, strict=True):
            for key in given:
                if name in _KNOWN and key not in _KNOWN[name]:
                    where = "provider_options_utils.h:148 onnxruntime::ProviderOptionsParser::Parse"
                    raise RuntimeError(f'[ONNXRuntimeError] : 1 : FAIL : {where} Unknown provider option: "{key}".')
        self._options = dict(zip(names, options, strict=True))
        self._providers = [name for name in names if name not in _VENDOR["broken"]]
        if _CPU not in self._providers:
            self._providers.append(_CPU)
        # To know the operators as they were before the CPU's own fusions.
        asked = _REAL.SessionOptions()
        asked.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        asked.graph_optimization_level = _REAL.GraphOptimizationLevel.ORT_ENABLE_BASIC
        told = _RealSession(model, asked, providers=[_CPU]).get_provider_graph_assignment_info()
        self._nodes = [node for group in told for node in group.get_nodes()]
        self._groups = self._split()
        self._static = True
        self._session = _RealSession(
            model, sess_options, providers=[_CPU], disabled_optimizers=more.get("disabled_optimizers")
        )
        self._static = all(isinstance(size, int) for one in self._session.get_inputs() for size in one.shape)
        self._made = False
        if self._static:
            self._compile()

    def _split(self) -> list[_Group]:
        least = int(self._options.get("TensorrtExecutionProvider", {}).get("trt_min_subgraph_size", "1"))
        groups: list[_Group] = []
        for node in self._nodes:
            for name in self._providers:
                takes = _VENDOR["providers"].get(name)
                if name == _CPU or (takes is not None and node.op_type in takes and least <= len(self._nodes)):
                    groups.append(_Group(name, [node]))
                    break
        return groups

    def _compile(self) -> None:
        """What a compiling provider does when it knows all shapes: at creation, or when the first batch comes."""
        self._made = True
        used = {group.ep_name for group in self._groups}
        if "TensorrtExecutionProvider" in used:
            self._build_engine(self._options["TensorrtExecutionProvider"])
        if "VitisAIExecutionProvider" in used:
            self._build_xmodel(self._options["VitisAIExecutionProvider"])

    def _build_engine(self, options: dict[str, str]) -> None:
        if options.get("trt_int8_enable") != "1" and any("quantize" in node.op_type.lower() for node in self._nodes):
            message = "Int8 precision has been set for a layer or layer output, but int8 is not configured"
            raise RuntimeError(f"[ONNXRuntimeError] : 11 : EP_FAIL : Internal Error ({message} in the builder)")
        folder = Path(options["trt_engine_cache_path"])
        engine = folder / "TensorrtExecutionProvider_TRTKernel_graph_network_1234567890_0_0_sm87.engine"
        if engine.exists():
            if not engine.read_bytes().startswith(_ENGINE):
                raise RuntimeError("[ONNXRuntimeError] : 11 : EP_FAIL : could not deserialize engine from cache")
            _note("loaded the engine")
            return
        self._take_time()
        engine.write_bytes(_ENGINE + str(len(self._nodes)).encode())
        if not self._static:
            engine.with_suffix(".profile").write_bytes(b"flexbuffer")
        (Path(options["trt_timing_cache_path"]) / "TensorrtExecutionProvider_cache_sm87.timing").write_bytes(b"timing")
        _note("built the engine")

    def _build_xmodel(self, options: dict[str, str]) -> None:
        if not Path(options["config_file"]).is_file():
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : vaip config file cannot be opened")
        key = options.get("cache_key") or options["cacheKey"]
        folder = Path(options.get("cache_dir") or options["cacheDir"]) / key
        if (folder / "compiled.AMD.xmodel").exists():
            _note("loaded the xmodel")
            return
        self._take_time()
        folder.mkdir(parents=True)
        (folder / "compiled.AMD.xmodel").write_bytes(b"xmodel")
        (folder / "context.json").write_text("{}")
        _note("built the xmodel")

    @staticmethod
    def _take_time() -> None:
        if _VENDOR["fails"]:
            raise RuntimeError(_VENDOR["fails"])
        threading.Event().wait(_VENDOR["build_s"])

    def run(self, names: list[str] | None, feeds: dict[str, Any], options: Any = None) -> list[Any]:
        if not self._made:
            self._compile()
        return list(self._session.run(names, feeds, options))

    def get_providers(self) -> list[str]:
        return list(self._providers)

    def get_inputs(self) -> list[Any]:
        return list(self._session.get_inputs())

    def get_outputs(self) -> list[Any]:
        return list(self._session.get_outputs())

    def end_profiling(self) -> str:
        path = str(self._session.end_profiling())
        events = json.loads(Path(path).read_text())
        for event in events:
            operator = event.get("args", {}).get("op_name")
            if event.get("cat") == "Node" and operator:
                taking = [name for name in self._providers if operator in _VENDOR["providers"].get(name, ())]
                event["args"]["provider"] = taking[0] if taking else _CPU
        Path(path).write_text(json.dumps(events))
        return path


def _assignment(session: Session) -> list[_Group]:
    return session._groups


def _available() -> list[str]:
    return [*_VENDOR["providers"], *_VENDOR["broken"], _CPU]


def _note(what: str) -> None:
    with (_HERE / "sessions.jsonl").open("a") as log:
        log.write(json.dumps({"did": what}) + "\n")


if not _VENDOR["old"]:
    Session.get_provider_graph_assignment_info = _assignment  # type: ignore[attr-defined]
_REAL.InferenceSession = Session
_REAL.get_available_providers = _available
