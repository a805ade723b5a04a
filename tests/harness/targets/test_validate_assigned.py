"""Who ran which node, as an agent says it: bounded and possible, or not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.protocol import agent_pb2 as pb
from harness.errors import BadResult
from harness.record.figure import Network
from harness.runs.board import runtime_for
from harness.targets.lab import parse_lab
from harness.targets.validate import Checker
from harness.targets.values import AssignedNodes, PreparedNetwork

DIGEST = "a" * 64


def checked(**fields: object) -> PreparedNetwork:
    outputs = [pb.TensorSpec(name="y", dtype="float32", shape=[1])]
    ready = pb.PreparedNetwork(network_id="n-1", outputs=outputs, **fields)  # type: ignore[arg-type]
    return Checker("bench").prepared(ready, DIGEST)


def test_what_a_sound_agent_says_is_kept() -> None:
    group = pb.ProviderNodes(provider="CPUExecutionProvider", count=3, operators={"Conv": 2}, nodes=["first"])
    made = checked(assigned=[group], settings={"intra_op_num_threads": "2"})
    assert made.assigned == (AssignedNodes("CPUExecutionProvider", 3, {"Conv": 2}, ("first",)),)
    assert made.settings == {"intra_op_num_threads": "2"}


def test_an_agent_of_an_older_version_says_nothing() -> None:
    made = checked()
    assert (made.assigned, dict(made.settings)) == ((), {})


@pytest.mark.parametrize(
    "group",
    [
        pb.ProviderNodes(provider="p", count=1, operators={"Conv": 2}),
        pb.ProviderNodes(provider="p", count=9, nodes=["n"] * 5000),
        pb.ProviderNodes(provider="p", count=2**31, operators={f"o{i}": 1 for i in range(1000)}),
    ],
)
def test_the_impossible_is_refused(group: pb.ProviderNodes) -> None:
    with pytest.raises(BadResult):
        checked(assigned=[group])


def test_a_flood_of_settings_is_refused_and_their_text_cleaned() -> None:
    with pytest.raises(BadResult):
        checked(settings={f"s{i}": "" for i in range(1000)})
    assert dict(checked(settings={"a\x1b[31m": "b\nc"}).settings).keys().isdisjoint({"a\x1b[31m"})


def test_a_dpu_boards_float_network_is_for_its_arm_cores() -> None:
    text = """
targets:
  kria: {board: kv260, via: {address: "unix:/x"}, runtime: vitisai}
  orin: {board: jetson-orin-nano, via: {address: "unix:/x"}}
"""
    targets = parse_lab(text, Path("targets.yaml")).targets
    assert runtime_for(targets["kria"], Network.FLOAT) == "onnxruntime"
    assert runtime_for(targets["kria"], Network.QUANTIZED) == "vitisai"
    assert runtime_for(targets["orin"], Network.FLOAT) == runtime_for(targets["orin"], Network.QUANTIZED) == ""
