"""Which rows a target gets, with which values, and that nothing unknown turns into a number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.errors import BadResult
from harness.judge.caveats import STANDS_IN, how_made
from harness.judge.evaluate import Evaluation, evaluate
from harness.judge.gates import decide_gates
from harness.judge.gates_file import read_gates
from harness.judge.metrics import accuracy, own_metric, resolve_metrics
from harness.judge.statistics import tango
from harness.judge.summarize import EMULATED_TIME_NOTE, TargetContext, accuracy_figures, target_figures
from harness.quantize.recovery.recover import RecoveryStep
from harness.quantize.rulebooks.rules import NOT_BIT_EXACT
from harness.record.designs import DesignRecord, DesignRow
from harness.record.figure import Figure, Network, Source
from harness.record.gates import Outcome
from harness.record.networks import Loading, LoweredRecord, QuantizedRecord
from harness.record.target import TargetRecord
from harness.record.timing import BlockRecord

F, Q, R = Network.FLOAT, Network.QUANTIZED, Network.RATIO
IDS = [f"s{i}" for i in range(100)]
LABELS = np.arange(100) % 4
CONTRACT_ROWS = {
    "accuracy_top1",
    "fps",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "latency_p999_ms",
    "latency_p90_bound_ms",
    "latency_p95_bound_ms",
    "latency_p99_bound_ms",
    "latency_p999_bound_ms",
    "warm_up_s",
    "load_ms",
    "learnable_memory_bytes",
    "peak_memory_bytes",
    "cpu_percent",
    "temperature_c",
    "power_w",
    "energy_mj",
    "energy_net_mj",
    "observer_cost_percent",
}


def evaluation(network: Network, wrong: range) -> Evaluation:
    scores = np.eye(4)[LABELS] + 0.01 * np.arange(4)
    for i in wrong:
        scores[i] = np.roll(scores[i], 1)
    return evaluate([(IDS, {"y": scores}, LABELS)], [accuracy(1)], target="t", network=network)


FLOAT_EVAL = evaluation(F, range(10))  # 10 wrong
INT8_EVAL = evaluation(Q, range(8, 15))  # 7 wrong, 2 of them wrong in both


def loading(network: Network, *, already: bool = False) -> Loading:
    return Loading(network, 100.0, 1.0, 12.0, None, already, "onnxruntime", "1.31.1", ("CPUExecutionProvider",))


def blocks(pairs: int, per_block: int = 150) -> tuple[BlockRecord, ...]:
    rng = np.random.default_rng(8)
    made = []
    for pair in range(pairs):
        for network, ms in ((F, 2.0), (Q, 1.0)):
            ns = tuple(int(v) for v in rng.normal(ms * 1e6, 2e4, per_block))
            made.append(BlockRecord(network, pair, ns, 1000.0, sum(ns) / 1e9 + 0.01, 1, 0.2, 10**7))
    return tuple(made)


def record(source: Source = Source.MEASURED, environment: str = "cpu", status: str = "done") -> TargetRecord:
    notes = ("QDQ arithmetic, not bit-exact",) if environment != "cpu" else ()
    return TargetRecord(
        name="t",
        board="generic",
        environment=environment,
        via="local",
        source=source,
        status=status,
        error=None if status == "done" else "the agent's process died; `quantrig resume` completes it",
        quantized=QuantizedRecord(environment, "ab" * 32, "mse", 12, (), notes),
        loadings=(loading(F), loading(Q)),
        blocks=blocks(8) if source is Source.MEASURED else (),
    )


def figures_of(target: TargetRecord) -> dict[tuple[Network, str], Figure]:
    figures = target_figures(target, FLOAT_EVAL, INT8_EVAL, float_learnable_bytes=4000, quantized_learnable_bytes=1100)
    table = {(figure.network, figure.metric): figure for figure in figures}
    assert len(table) == len(figures), "a row twice"
    return table


def test_accuracy_rows_by_hand() -> None:
    table = figures_of(record())
    assert table[F, "accuracy_top1"].value == pytest.approx(0.90)
    assert table[Q, "accuracy_top1"].value == pytest.approx(0.93)
    wilson = binomtest(93, 100).proportion_ci(method="wilson")
    assert table[Q, "accuracy_top1"].ci_low == pytest.approx(wilson.low)
    delta = table[R, "accuracy_top1_delta"]
    assert delta.value == pytest.approx(0.03)  # int8 - float
    expected = tango(8, 5, 100)  # right in int8 only: 0…7; in float only: 10…14
    assert (delta.ci_low, delta.ci_high, delta.n) == (expected.low, expected.high, 100)
    assert "Floating-Point only: 5" in delta.note
    assert "Quantized only: 8" in delta.note
    assert f"p = {binomtest(5, 13).pvalue:.3g}" in delta.note
    assert table[R, "top1_agreement"].value == pytest.approx(0.87)


def test_measured_rows_are_complete_and_filled() -> None:
    table = figures_of(record())
    for network in (F, Q):
        assert {metric for net, metric in table if net is network} == CONTRACT_ROWS
    speed = table[R, "speedup"]
    assert speed.value == pytest.approx(2.0, rel=0.01)
    assert speed.ci_low is not None
    assert speed.ci_high is not None
    assert speed.ci_low < 2.0 < speed.ci_high
    assert speed.n == 8
    assert table[F, "latency_p99_ms"].value is not None
    assert table[F, "power_w"].value is None
    assert table[R, "learnable_memory_ratio"].value == pytest.approx(0.275)
    assert {figure.source for figure in table.values()} == {Source.MEASURED}
    assert table[F, "fps"].device == "onnxruntime 1.31.1 CPUExecutionProvider"


def test_p99_of_too_few_iterations_is_empty_with_the_reason() -> None:
    few = dataclasses.replace(record(), blocks=blocks(2, 150))
    row = figures_of(few)[F, "latency_p99_ms"]
    assert row.value is None
    assert "300 iterations in 2 blocks cannot carry p99" in row.note


def test_an_emulated_board_has_the_same_rows_without_any_time() -> None:
    emulated, measured = figures_of(record(Source.EMULATED, "gpu")), figures_of(record())
    assert emulated.keys() == measured.keys()
    for metric in ("fps", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "load_ms"):
        assert emulated[F, metric].value is None
        assert emulated[F, metric].note == EMULATED_TIME_NOTE
    assert emulated[R, "speedup"].value is None
    assert emulated[F, "peak_memory_bytes"].value is None
    assert emulated[Q, "accuracy_top1"].value == pytest.approx(0.93)
    assert {figure.source for figure in emulated.values()} == {Source.EMULATED}


def test_quantized_notes_stand_at_the_rows_they_concern() -> None:
    table = figures_of(record(Source.EMULATED, "gpu"))
    note = "QDQ arithmetic, not bit-exact"
    assert note in table[Q, "accuracy_top1"].note
    assert note in table[R, "top1_agreement"].note
    assert note not in table[F, "accuracy_top1"].note
    assert note not in table[Q, "fps"].note


def test_how_the_scales_were_found_is_no_caveat_of_a_figure() -> None:
    target = record(Source.EMULATED, "gpu")
    assert target.quantized is not None
    made = "method mse: best output SQNR on 10 held-back samples (minmax 31.3, mse 32.8 dB)"
    step = f"{RecoveryStep('bias-correction', 32.9, 37.9, kept=True)} on 10 held-back samples"
    other = str(RecoveryStep("rounding", -1.0, -2.5, kept=False, activations_only=True))
    stays = "nothing to quantize: the network stays float"
    notes = (NOT_BIT_EXACT, made, "analytic bias correction: +3.3 dB on 10 samples", step, other, stays)
    table = figures_of(dataclasses.replace(target, quantized=dataclasses.replace(target.quantized, notes=notes)))
    assert table[Q, "accuracy_top1"].note == f"{NOT_BIT_EXACT}; {stays}"
    assert how_made(notes) == notes[1:5]


def test_an_fpga_has_its_own_rows() -> None:
    table = figures_of(record(Source.EMULATED, "fpga"))
    for metric in ("clock_mhz", "conv_threads", "fc_threads", "lut_percent", "bram_percent", "dsp_percent"):
        assert table[F, metric].value is None
        assert table[Q, metric].note


def design(network: Network, fps: float | None) -> DesignRecord:
    rows = (
        DesignRow("fps", fps, "1/s", Source.MODELLED, "error of the model 5 %" if fps else "no float network"),
        DesignRow("dsp_percent", 15.595, "percent", Source.PUBLISHED, "a table"),
    )
    return DesignRecord(network, f"design of {network.value}", "ab" * 32, rows)


def fpga(float_fps: float | None) -> TargetRecord:
    return dataclasses.replace(record(Source.EMULATED, "fpga"), designs=(design(F, float_fps), design(Q, 19.2)))


def test_each_network_of_an_fpga_has_the_figures_of_its_own_design() -> None:
    table = figures_of(fpga(5.6))
    assert table.keys() == figures_of(record(Source.EMULATED, "fpga")).keys()  # the same rows, modelled or not
    for network, fps in ((F, 5.6), (Q, 19.2)):
        row = table[network, "fps"]
        assert (row.value, row.source, row.device) == (fps, Source.MODELLED, f"design of {network.value}")
        assert "error of the model" in row.note
        assert table[network, "dsp_percent"].source is Source.PUBLISHED
        assert table[network, "latency_p90_ms"].value is None
        assert table[network, "accuracy_top1"].source is Source.EMULATED
    speedup = table[R, "speedup"]
    assert speedup.value == pytest.approx(19.2 / 5.6)
    assert (speedup.source, speedup.ci_low) == (Source.MODELLED, None)


def test_without_a_float_rate_there_is_no_modelled_speedup() -> None:
    table = figures_of(fpga(None))
    assert (table[F, "fps"].value, table[F, "fps"].note) == (None, "no float network")
    assert table[Q, "fps"].value == 19.2
    assert (table[R, "speedup"].value, table[R, "speedup"].note) == (None, "no float network")


def test_a_model_never_speaks_for_a_board_that_was_measured() -> None:
    both = dataclasses.replace(record(environment="fpga"), designs=(design(F, 5.6), design(Q, 19.2)))
    table = figures_of(both)
    assert {figure.source for figure in table.values()} == {Source.MEASURED}
    assert table[Q, "fps"].value == pytest.approx(1000, rel=0.05)


def test_what_was_lowered_carries_its_claim_instead_of_the_caveat() -> None:
    assert STANDS_IN == NOT_BIT_EXACT
    lowered = LoweredRecord("gpu", "bit-exact to what is published", "cd" * 32, 9, (), ())
    table = figures_of(dataclasses.replace(record(Source.EMULATED, "gpu"), lowered=lowered))
    assert table[Q, "accuracy_top1"].note == "bit-exact to what is published"
    assert table[F, "accuracy_top1"].note == ""


def test_a_crashed_target_has_every_row_empty_with_the_reason() -> None:
    crashed, done = figures_of(record(status="crashed")), figures_of(record())
    assert crashed.keys() == done.keys()
    for figure in crashed.values():
        assert figure.value is None
        assert figure.note.startswith("crashed: the agent's process died")


def test_a_throttled_target_keeps_its_figures_and_says_so() -> None:
    table = figures_of(record(status="throttled"))
    assert table[F, "fps"].value is not None
    assert "throttled" in table[F, "fps"].note


def test_what_was_already_loaded_has_no_load_time() -> None:
    again = dataclasses.replace(record(), loadings=(loading(F, already=True), loading(Q)))
    table = figures_of(again)
    assert table[F, "load_ms"].value is None
    assert "already loaded" in table[F, "load_ms"].note
    assert table[Q, "load_ms"].value == 12.0


def test_a_hostile_boards_blocks_stop_its_summary() -> None:
    bad = dataclasses.replace(blocks(1)[0], latency_ns=(-1,))
    with pytest.raises(BadResult):
        figures_of(dataclasses.replace(record(), blocks=(bad,)))


def test_metrics_that_are_not_zero_or_one() -> None:
    def error(values: list[float], network: Network) -> Evaluation:
        metric = own_metric("m:mse", lambda outputs, _labels: outputs["y"][:, 0])
        chunk = (IDS[:3], {"y": np.array(values)[:, None]}, np.zeros(3))
        return evaluate([chunk], [metric], target="t", network=network)

    rows = accuracy_figures(TargetContext.of(record()), error([1.0, 2.0, 3.0], F), error([1.5, 2.0, 4.0], Q))
    table = {(figure.network, figure.metric): figure for figure in rows}
    delta = table[R, "mse_delta"]
    assert delta.value == pytest.approx(0.5)
    assert delta.ci_high == pytest.approx(0.5 + 4.302652729911275 * 0.5 / np.sqrt(3))
    assert table[R, "top1_agreement"].value is None


@pytest.mark.parametrize("metric", ["mean_accuracy", "miou"])
def test_samples_that_are_all_alike_are_no_certainty(metric: str) -> None:
    """Four right answers of four, by both networks: an interval of no width would pass any margin."""
    (resolved,) = resolve_metrics([metric], lambda _: pytest.fail("no import"))
    classes = np.arange(4) % 2
    masks = np.tile(classes[:, None, None], (1, 2, 2))
    outputs, labels = (masks, masks) if metric == "miou" else (np.eye(2)[classes], classes)
    first, second = (
        evaluate([(IDS[:4], {"y": outputs}, labels)], [resolved], target="t", network=network) for network in (F, Q)
    )
    rows = accuracy_figures(TargetContext.of(record()), first, second)
    table = {(figure.network, figure.metric): figure for figure in rows}
    own, delta = table[Q, metric], table[R, f"{metric}_delta"]
    assert (own.value, own.ci_low, own.ci_high) == (1.0, None, None)
    assert (delta.value, delta.ci_low, delta.ci_high) == (0.0, None, None)
    assert "no sample tells the networks apart" in delta.note
    gate = read_gates({"loss": {"metric": metric, "non_inferior_by": "1 pt", "source": [own.source]}}, [metric], "job")
    (decided,) = decide_gates(gate, [record()], rows)
    assert (decided.outcome, "take more samples" in decided.detail) == (Outcome.INCONCLUSIVE, True)


def test_networks_evaluated_on_different_samples_are_never_compared() -> None:
    other = dataclasses.replace(INT8_EVAL, ids=tuple(reversed(IDS)))
    with pytest.raises(ValueError, match="different samples"):
        accuracy_figures(TargetContext.of(record()), FLOAT_EVAL, other)
