"""A release on disk: a run with raw blocks, samples and outputs as runs leave them, judged by a policy and bundled."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from harness.data.network_files import network_digest
from harness.evidence.container import write_container
from harness.evidence.keys import fingerprint, public_pem, sign
from harness.evidence.manifest import MANIFEST, PUBLIC_KEY, SIGNATURE, Listed, dump_manifest, load_manifest
from harness.evidence.policy import load_policy
from harness.evidence.qualify import judge_runs, publish_decision
from harness.judge.agreement import agreement
from harness.judge.evaluate import Evaluation, evaluate
from harness.judge.metrics import accuracy
from harness.judge.reference import Apart, save_apart, save_reference
from harness.judge.samples import write_samples
from harness.judge.summarize import target_figures
from harness.quantize import learnable_memory_bytes
from harness.record.figure import Network, Source
from harness.record.networks import Loading, QuantizedRecord, SamplesRecord, Shipment
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord, StoppingRule
from harness.report.publish import publish
from harness.runs.outputs import OutputStore
from harness.store import open_store

F, Q = Network.FLOAT, Network.QUANTIZED
N, CLASSES, CHUNK = 240, 5, 100
RUN = "20261121-100000-toy-0001"
POLICY = """name: toy-release
jobs: [job.yaml]
targets: [rpi]
profile: quick
gates:
  accuracy: {non_inferior_by: 10 pt}
  speedup: {at_least: 1.2}
  latency_p90: {at_most: 3 ms}
  learnable_memory: {at_most: 1 MB}
  lsb: {at_most: 1}
key: keys
out: out
"""


@dataclass(frozen=True)
class Release:
    """What `make_release` left."""

    folder: Path
    bundle: Path
    key: Ed25519PrivateKey
    run: Path


def _network(path: Path, dtype: type[np.generic]) -> None:
    weights = numpy_helper.from_array(np.ones((CLASSES, 16), dtype), "w")
    scale = numpy_helper.from_array(np.array(0.5, np.float32), "s")
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["wf"])] if dtype is np.int8 else []
    nodes.append(helper.make_node("Gemm", ["x", "wf" if nodes else "w"], ["y"], transB=1))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [weights, scale] if nodes[:-1] else [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _blocks(rng: np.random.Generator, scatter: float) -> tuple[BlockRecord, ...]:
    made = []
    for pair in range(8):
        drift = 1 + 0.004 * pair
        for network, ms in ((F, 2.0), (Q, 1.2)):
            ns = (1e6 * ms * drift * rng.normal(1, scatter) * (1 + rng.gamma(2, 0.02, 120))).astype(int)
            made.append(
                BlockRecord(
                    network, pair, tuple(ns.tolist()), 1.79e9 + pair, ns.sum() / 1e9 * 1.01, 1, 0.1, 5_000_000 + pair
                )
            )
    return tuple(made)


def scores() -> tuple[dict[Network, NDArray[np.float32]], NDArray[np.int64]]:
    """Class scores of both networks and the labels: 12 samples wrong in float, 15 in int8, 9 of them in both."""
    rng = np.random.default_rng(11)
    labels = rng.integers(0, CLASSES, N)
    clean = rng.normal(0, 0.2, (N, CLASSES)) + 4 * np.eye(CLASSES)[labels]
    found = {}
    for network, wrong in ((F, range(12)), (Q, range(3, 18))):
        own = clean + (rng.normal(0, 0.02, clean.shape) if network is Q else 0)
        for index in wrong:
            own[index] = np.roll(own[index], 1)
        found[network] = own.astype(np.float32)
    return found, labels


def reference(board: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the exact reference would have said: three values of the board are a little off."""
    right = board.copy()
    right[[3, 100, 239], [0, 2, 4]] += np.float32(0.02)
    return right


def make_release(
    folder: Path, policy: str = POLICY, *, scatter: float = 0.004, stopping: StoppingRule | None = None
) -> Release:
    """Write job, lab, policy, a finished run and its bundle into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _network(folder / "toy.onnx", np.float32)
    out = folder / "run"
    (out / "artifacts").mkdir(parents=True)
    int8 = out / "artifacts" / "toy.cpu.int8.onnx"
    _network(int8, np.int8)
    np.savez(folder / "data.npz", x=np.zeros((N, 16), np.float32), labels=np.zeros(N, np.int64))
    (folder / "job.yaml").write_text("name: toy\nmodel: toy.onnx\ndata: {source: data.npz}\n")
    (folder / "targets.yaml").write_text("targets:\n  rpi: {board: generic, environment: cpu, via: local}\n")
    (folder / "policy.yaml").write_text(policy)
    key = Ed25519PrivateKey.generate()
    store = open_store(str(folder / "q.db"))
    try:
        _run(folder, out, int8, store, scatter, stopping)
        asked = load_policy(folder / "policy.yaml")
        judged = judge_runs(asked, [RUN], store)
        done = publish_decision(asked, judged, store, out=folder / "out", key=key)
    finally:
        store.close()
    return Release(folder, done.bundle, key, out)


def _run(folder: Path, out: Path, int8: Path, store: object, scatter: float, stopping: StoppingRule | None) -> None:
    from harness.store import Store

    assert isinstance(store, Store)
    digests = {F: network_digest(folder / "toy.onnx"), Q: network_digest(int8)}
    job: dict[str, object] = {
        "name": "toy",
        "path": str(folder / "job.yaml"),
        "model": str(folder / "toy.onnx"),
        "metrics": ["accuracy_top1"],
    }
    target = TargetRecord(
        "rpi",
        "generic",
        "cpu",
        "local",
        Source.MEASURED,
        "done",
        description={"model": "toy board"},
        quantized=QuantizedRecord("cpu", digests[Q], "minmax", 1, (), ()),
        shipments=tuple(Shipment(one, digests[one], 100, 100, False) for one in (F, Q)),
        loadings=tuple(
            Loading(one, 1.0, 1.0, 2.0, None, False, "onnxruntime", "1.23", ("CPUExecutionProvider",), 100, 1.0, True)
            for one in (F, Q)
        ),
        blocks=_blocks(np.random.default_rng(5), scatter),
        stopping=stopping,
    )
    store.create_run(
        RUN, job_name="toy", started="2026-11-21T10:00:00+00:00", out=out, model_digest=digests[F], request={}
    )
    store.save_target(RUN, target)
    outputs = OutputStore(store, RUN, "rpi", out)
    values, labels = scores()
    ids = [f"s{i:03d}" for i in range(N)]
    evaluations: list[Evaluation] = []
    kept = []
    for network in (F, Q):
        for chunk, start in enumerate(range(0, N, CHUNK)):
            outputs.add(network, chunk, {"y": values[network][start : start + CHUNK]})
        evaluations.append(
            evaluate([(ids, {"y": values[network]}, labels)], [accuracy(1)], target="rpi", network=network)
        )
        path, digest = write_samples(out, "rpi", evaluations[-1], labels)
        kept.append(SamplesRecord(network, path, digest, ("accuracy_top1",)))
    target = replace(target, samples=tuple(kept))
    figures = target_figures(
        target,
        *evaluations,
        float_learnable_bytes=learnable_memory_bytes(folder / "toy.onnx"),
        quantized_learnable_bytes=learnable_memory_bytes(int8),
        agree=agreement(values[F], values[Q]),
    )
    right = reference(values[Q])
    off = np.abs(right.astype(np.float64) - values[Q].astype(np.float64))
    step = np.array([float(np.abs(right).max()) / 127])
    basis = "1/127 of the reference's largest output, which stays float"
    apart = Apart(
        tuple(ids), ("y",), off.max(axis=1, keepdims=True), (off > 0).sum(axis=1, keepdims=True), step, N * CLASSES,
        basis, "here",
    )  # fmt: skip
    save_apart(out, "rpi", apart)
    save_reference(out, "rpi", {"y": right})
    from harness.judge.context import TargetContext

    figures.append(apart.figure(TargetContext.of(target)))
    record = RunRecord(
        RUN, "toy", job, digests[F], "quick", "validation", N, 60, "2026-11-21T10:00:00+00:00",
        "2026-11-21T10:01:00+00:00", {"quantrig": "0.1.0"}, (target,), tuple(figures),
    )  # fmt: skip
    publish(record, out)


def contents(bundle: Path) -> dict[str, bytes]:
    """The entries, by Python's own zip reader."""
    with zipfile.ZipFile(bundle) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(path: Path, entries: dict[str, bytes]) -> Path:
    """A container of exactly these entries."""
    with path.open("wb") as file:
        write_container(file, entries)
    return path


def resigned(path: Path, entries: dict[str, bytes], key: Ed25519PrivateKey) -> Path:
    """A bundle with a list and a signature that fit these entries: what a forger with a key of their own makes."""
    import hashlib

    others = {name: content for name, content in entries.items() if name not in {MANIFEST, SIGNATURE}}
    others[PUBLIC_KEY] = public_pem(key.public_key())
    listed = {
        name: Listed(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        for name, content in others.items()
    }
    old = load_manifest(entries[MANIFEST])
    manifest = dump_manifest(old.model_copy(update={"entries": listed, "signed_by": fingerprint(key.public_key())}))
    return write(path, {MANIFEST: manifest, SIGNATURE: sign(key, manifest), **dict(sorted(others.items()))})


def run_json(entries: dict[str, bytes]) -> dict[str, object]:
    """The run's record as plain JSON."""
    found: dict[str, object] = json.loads(entries[f"runs/{RUN}/run.json"])
    return found
