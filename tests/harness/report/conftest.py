"""A run as the demo leaves it, built through the judge from seeded evidence, and one whose every text is hostile."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.judge.evaluate import Evaluation, evaluate
from harness.judge.metrics import accuracy
from harness.judge.summarize import target_figures
from harness.record.designs import DesignRecord, DesignRow, Programming
from harness.record.figure import Network, Source
from harness.record.networks import Loading, LoweredRecord, QuantizedRecord, Shipment
from harness.record.run import RunRecord
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord

F, Q = Network.FLOAT, Network.QUANTIZED
CLAIM = "bit-exact to the published semantics of MathWorks' processor, not to silicon"
DIGEST = {F: "3f" * 32, Q: "a0" * 32}

#: What a hostile board, job file or data set may call itself.
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "a|b\nc\r\n| d",
    "\x1b[31mred\x1b[0m\x07",
    "[bold red]x[/bold red]",
    "\N{RIGHT-TO-LEFT OVERRIDE}evil",
    "{{ 7*7 }}",
    "]]>&amp;<!--",
    "\x00\ufffe",
    "https://evil.example/x.js",
    "![x](javascript:alert(1))",
)


def _blocks(rng: np.random.Generator, pairs: int) -> tuple[BlockRecord, ...]:
    made = []
    for pair in range(pairs):
        drift = 1 + 0.004 * pair
        for network, scale in ((F, 0.412), (Q, 0.235)):
            ms = scale * drift * (1 + rng.gamma(2, 0.02, 360)) * rng.normal(1, 0.004)
            ns = tuple(int(v * 1e6) for v in ms)
            made.append(BlockRecord(network, pair, ns, 1.79e9 + pair, sum(ns) / 1e9 * 1.002, 1, 0.2, 61_400_000 + pair))
    return tuple(made)


def _evaluation(network: Network, seed: int, wrong: int) -> Evaluation:
    rng = np.random.default_rng(seed)
    labels = np.arange(360) % 10
    scores = rng.normal(0, 0.3, (360, 10)) + 6 * np.eye(10)[labels]
    for i in rng.choice(360, wrong, replace=False):
        scores[i] = np.roll(scores[i], 1)
    ids = [f"digit-{i:04d}" for i in range(360)]
    return evaluate([(ids, {"logits": scores}, labels)], [accuracy(1)], target="t", network=network)


def _target(name: str, board: str, environment: str, source: Source, seed: int) -> tuple[TargetRecord, int]:
    rng = np.random.default_rng(seed)
    measured = source is Source.MEASURED
    loadings = tuple(
        Loading(
            network,
            214.0,
            1.9,
            6.4 if network is F else 9.7,
            None,
            False,
            "onnxruntime",
            "1.31.1",
            ("CPUExecutionProvider",),
            *((2400, 1.0, True, 0.9) if measured else ()),
        )
        for network in (F, Q)
    )
    notes: tuple[str, ...] = ("method mse: best output SQNR on 10 held-back samples (minmax 31.3, mse 32.8 dB)",)
    if environment != "cpu":
        notes = ("QDQ arithmetic, not bit-exact", *notes)
    kept = (("Softmax_12", "softmax stays float: its output needs more than 8 bits"), ("Reshape_3", "moves data only"))
    record = TargetRecord(
        name=name,
        board=board,
        environment=environment,
        via="local" if measured else "emulated",
        source=source,
        status="done",
        description={
            "model": "generic PC",
            "architecture": "x86_64",
            "cpu_features": ["avx2", "avx512_vnni"],
            "cpu_count": 2,
            "emulated": not measured,
            "runtimes": [{"name": "onnxruntime", "version": "1.31.1", "providers": ["CPUExecutionProvider"]}],
        },
        quantized=QuantizedRecord(environment, DIGEST[Q], "mse", 9, kept, notes),
        shipments=(
            Shipment(F, DIGEST[F], 147_112, 0, skipped=True),
            Shipment(Q, DIGEST[Q], 51_228, 51_228, skipped=False),
        ),
        loadings=loadings,
        blocks=_blocks(rng, 8) if measured else (),
    )
    return record, seed


def _fpga(record: TargetRecord) -> TargetRecord:
    """As a stand-in for an FPGA leaves it: lowered, modelled, programmed."""

    def design(network: Network, name: str, fps: float, threads: int, lut: float) -> DesignRecord:
        how = "error of the model 5.0 % mean, 4.0 % median on 9 published rows; fitted on LogoNet"
        rows = (
            DesignRow("fps", fps, "1/s", Source.MODELLED, how),
            DesignRow("latency_p50_ms", 1e3 / fps, "ms", Source.MODELLED, how),
            DesignRow("clock_mhz", 220.0, "MHz", Source.PUBLISHED),
            DesignRow("conv_threads", float(threads), "", Source.PUBLISHED),
            DesignRow("fc_threads", float(threads // 4), "", Source.PUBLISHED),
            DesignRow("lut_percent", lut, "percent", Source.PUBLISHED, "resource table"),
            DesignRow("bram_percent", None, "percent", Source.EMULATED, "not published"),
        )
        log = (f"compiling for {name}", "  1  Conv_0   Conv  (HW)", "  2  Softmax_1  Softmax  (SW)  notice: in float")
        return DesignRecord(network, name, "d1" * 32, rows, how, log)

    return dataclasses.replace(
        record,
        lowered=LoweredRecord("mathworks", CLAIM, "10" * 32, 9, ("Softmax_12 (Softmax): software: float",), ("X",)),
        designs=(design(F, "zcu102_single", 5.6213, 16, 93.198), design(Q, "zcu102_int8", 18.9, 64, 62.31)),
        programming=tuple(
            Programming(network, name, "d1" * 32, DIGEST[network], "boot-7", "fe" * 32, True, network is Q)
            for network, name in ((F, "zcu102_single"), (Q, "zcu102_int8"))
        ),
    )


def build_run() -> RunRecord:
    """Three targets that finished and one whose agent died."""
    made = [
        _target("this-machine", "generic", "cpu", Source.MEASURED, 1),
        _target("jetson-emulated", "jetson-orin-nano", "gpu", Source.EMULATED, 2),
        _target("rpi-emulated", "raspberry-pi-4", "cpu", Source.EMULATED, 3),
        _target("zcu102-emulated", "zcu102", "fpga", Source.EMULATED, 4),
    ]
    made[3] = (_fpga(made[3][0]), 4)
    error = "the agent's process died (SIGKILL) during timing; `quantrig resume 20260714-1015-digits` completes it"
    made[2] = (dataclasses.replace(made[2][0], status="crashed", error=error), 3)
    figures = []
    for record, seed in made:
        figures += target_figures(
            record,
            _evaluation(F, 99, 7),
            _evaluation(Q, 99 + seed, 8 + seed),
            float_learnable_bytes=134_184,
            quantized_learnable_bytes=34_410,
        )
    return RunRecord(
        run_id="20260714-1015-digits",
        job_name="digits",
        job={"name": "digits", "model": "digits.onnx", "data": {"source": "sklearn:digits", "calibration": 100}},
        model_digest=DIGEST[F],
        profile="quick",
        split="validation",
        samples=360,
        calibration_samples=100,
        started="2026-07-14T10:15:00+00:00",
        finished="2026-07-14T10:15:41+00:00",
        host={"quantrig": "0.1.0", "python": "3.13.5", "cpu": "AMD EPYC", "onnxruntime": "1.31.1", "flags": ["avx2"]},
        targets=tuple(record for record, _ in made),
        figures=tuple(figures),
        notes=("quick profile: intervals are wider than a release needs",),
    )


def poison(record: RunRecord) -> RunRecord:
    """Every free text replaced by a hostile one."""
    texts = iter(HOSTILE * 200)
    renamed = {target.name: f"{target.name} {next(texts)}" for target in record.targets}
    targets = tuple(
        dataclasses.replace(
            target,
            name=renamed[target.name],
            board=next(texts),
            via=next(texts),
            error=next(texts) if target.error else None,
            description={next(texts): next(texts), "nested": {next(texts): [next(texts)]}},
            quantized=QuantizedRecord(
                target.environment, next(texts), next(texts), 3, ((next(texts), next(texts)),), HOSTILE
            ),
            notes=HOSTILE,
            lowered=None if target.lowered is None else LoweredRecord("dpu", next(texts), next(texts), 1, HOSTILE, ()),
            designs=tuple(
                dataclasses.replace(
                    one,
                    design=next(texts),
                    note=next(texts),
                    compile_log=HOSTILE,
                    rows=tuple(dataclasses.replace(row, note=next(texts)) for row in one.rows),
                )
                for one in target.designs
            ),
            programming=tuple(
                dataclasses.replace(one, design=next(texts), boot_id=next(texts), device=next(texts))
                for one in target.programming
            ),
            loadings=tuple(
                dataclasses.replace(load, runtime=next(texts), providers=(next(texts),)) for load in target.loadings
            ),
        )
        for target in record.targets
    )
    figures = tuple(
        dataclasses.replace(
            figure, target=renamed[figure.target], board=next(texts), device=next(texts), note=next(texts)
        )
        for figure in record.figures
    )
    return dataclasses.replace(
        record,
        job_name=HOSTILE[0],
        job={next(texts): next(texts)},
        host={next(texts): next(texts)},
        profile=next(texts),
        targets=targets,
        figures=figures,
        notes=HOSTILE,
    )


@pytest.fixture(scope="session")
def run_record() -> RunRecord:
    """What the demo leaves, with one crashed target."""
    return build_run()


@pytest.fixture(scope="session")
def hostile_record(run_record: RunRecord) -> RunRecord:
    """The same run from boards and files that attack the reader."""
    return poison(run_record)
