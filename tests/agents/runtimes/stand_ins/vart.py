"""Stands in for AMD's `vart`: a DPU of fingerprint `dpu.json` that adds one to every int8.

As on the board, a model that was compiled for another DPU aborts the whole process (../shared/facts/
xilinx_samples.txt, "CHECK fingerprint fail").
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import xir
from numpy.typing import NDArray

_DPU = json.loads(Path(__file__).with_name("dpu.json").read_text())


class Tensor:
    """One input or output."""

    dtype = "xint8"

    def __init__(self, name: str, dims: list[int], fix_point: int) -> None:
        self.name = name
        self.dims = dims
        self._fix_point = fix_point

    def get_attr(self, name: str) -> int:
        assert name == "fix_point"
        return self._fix_point


class Runner:
    """A network on the DPU."""

    def __init__(self, subgraph: xir.Subgraph) -> None:
        self._dims = subgraph.get_attr("dims")

    @staticmethod
    def create_runner(subgraph: xir.Subgraph, mode: str) -> Runner:
        assert mode == "run"
        model, board = subgraph.get_attr("dpu_fingerprint"), int(_DPU["fingerprint"], 16)
        if model != board:
            sys.stderr.write(f"F0307 17:43:17 fingerprint check failure: model {model:#x} dpu {board:#x}\n")
            os.abort()
        return Runner(subgraph)

    def _tensor(self, name: str) -> Tensor:
        assert isinstance(self._dims, list)
        return Tensor(name, self._dims, 6)

    def get_input_tensors(self) -> list[Tensor]:
        return [self._tensor("in_fix")]

    def get_output_tensors(self) -> list[Tensor]:
        return [self._tensor("out_fix")]

    def execute_async(self, inputs: list[NDArray[np.int8]], outputs: list[NDArray[np.int8]]) -> tuple[int, int]:
        outputs[0][...] = inputs[0] + 1
        return (1, 0)

    def wait(self, job: tuple[int, int]) -> int:
        assert job == (1, 0)
        return 0
