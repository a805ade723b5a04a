"""The DPU's time: what must hold for any network, and the published frame rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import harness
from benchmarks import dpu_networks, dpu_rows, fit_dpu
from harness.emulation.performance.dpu import DPU_ARCHS, DpuConfig, dpu_config
from harness.emulation.performance.dpu_layers import Work, works
from harness.emulation.performance.dpu_model import MODEL
from harness.emulation.performance.dpu_timing import host_values, time_on_dpu
from harness.emulation.performance.layers import NetworkShape
from harness.errors import UserError
from tests.harness.emulation.performance.networks import node, shape_of, weights

published = pytest.mark.skipif(not dpu_rows.available(), reason="../shared/facts and layer_graphs are not here")


@pytest.fixture(name="mobilenet", scope="module")
def _mobilenet() -> NetworkShape:
    return dpu_networks.mobilenet_v1(1.0, 224)


def test_the_whole_is_its_layers_and_the_host(mobilenet: NetworkShape) -> None:
    config = dpu_config(board="kv260")
    timed = time_on_dpu(mobilenet, config)
    layers_s = sum(layer.seconds or 0.0 for layer in timed.layers)
    host_s = 1e-3 * MODEL.host_ms + 1e-9 * (MODEL.host_ns_per_pixel * 224 * 224 + MODEL.host_ns_per_value * 1001)
    assert timed.seconds == pytest.approx(layers_s + host_s)
    assert timed.fps == pytest.approx(1 / timed.seconds)
    # one core: many threads hide the host and nothing else
    assert timed.fps_multi_thread == pytest.approx(1 / layers_s)
    assert timed.cycles == pytest.approx(layers_s * 300e6)
    assert sum(layer.cycles or 0.0 for layer in timed.layers) == pytest.approx(timed.cycles)


def test_no_layer_beats_the_peak_of_the_array_or_the_ports(mobilenet: NetworkShape) -> None:
    for arch in DPU_ARCHS:
        config = dpu_config(arch, 300, 1, "zcu104")
        found = works(mobilenet, config.arch)
        for layer in time_on_dpu(mobilenet, config).layers:
            work = found[layer.name]
            assert isinstance(work, Work)
            assert layer.seconds is not None
            assert layer.seconds >= work.moved_bytes / (32 * 300e6)
            macs = mobilenet.layer(layer.name).macs
            if macs:
                assert layer.utilization == pytest.approx(2 * macs / (int(arch[1:]) * 300e6 * layer.seconds))
                assert 0 < (layer.utilization or 0) <= 1


def test_more_of_anything_is_never_slower(mobilenet: NetworkShape) -> None:
    def rates(config: DpuConfig) -> tuple[float, float]:
        timed = time_on_dpu(mobilenet, config)
        return timed.fps, timed.fps_multi_thread or 0.0

    base = dpu_config("B1024", 200, 2, "zcu102", 8.0)
    for better in (
        dpu_config("B1024", 220, 2, "zcu102", 8.0),
        dpu_config("B4096", 200, 2, "zcu102", 8.0),
        dpu_config("B1024", 200, 2, "zcu102", 9.0),
    ):
        assert all(new > old for new, old in zip(rates(better), rates(base), strict=True)), better
    three = dpu_config("B1024", 200, 3, "zcu102", 8.0)
    assert rates(three)[0] == rates(base)[0]
    assert rates(base)[1] < rates(three)[1] < rates(base)[1] * 1.5


def test_cores_that_share_a_slow_memory_gain_nothing() -> None:
    network = dpu_networks.resnet((3, 4, 6, 3))
    slow = [time_on_dpu(network, dpu_config("B4096", 300, cores, "zcu102", 0.2)) for cores in (1, 4)]
    # 25.5 MB of weights and the maps at 0.2 GB/s: four cores wait for the same memory as one does
    assert all(0.2e9 / (timed.fps_multi_thread or 1.0) > 25.5e6 for timed in slow)
    assert (slow[1].fps_multi_thread or 0) == pytest.approx(slow[0].fps_multi_thread, rel=0.1)
    assert {layer.bound for layer in slow[0].layers if layer.op_type == "Conv"} == {"memory"}


def test_a_memory_of_ones_own_goes_through_the_front_door(tmp_path: Path) -> None:
    shape_of(tmp_path, [node("Conv", ["x", "w"], "c")], [weights("w", 64, 64, 1, 1)], (1, 64, 56, 56))
    path = tmp_path / "net.onnx"
    usual, slow = (harness.estimate(path, dpu="B4096", board="kv260", memory_gb_per_s=given) for given in (None, 1.0))
    moved = 64 * 64 + 2 * 64 * 56 * 56
    assert slow.timing.layers[0].seconds == pytest.approx(moved / 1e9 + MODEL.launch_us * 1e-6, rel=0.01)
    assert slow.fps < usual.fps
    with pytest.raises(UserError, match="exclude each other"):
        harness.estimate(path, bitstream="zcu102_int8", memory_gb_per_s=1.0)


def test_software_splits_the_groups_and_is_told(tmp_path: Path) -> None:
    network = shape_of(
        tmp_path,
        [
            node("Conv", ["x", "w"], "one"),
            node("Sigmoid", ["one"], "gate"),
            node("Conv", ["gate", "v"], "two"),
            node("Flatten", ["two"], "flat"),
            node("MatMul", ["flat", "flat2"], "product"),
        ],
        [weights("w", 8, 3, 1, 1), weights("v", 4, 8, 1, 1), weights("flat2", 64, 2)],
        (1, 3, 4, 4),
    )
    timed = {layer.name: layer for layer in time_on_dpu(network, dpu_config()).layers}
    assert [timed[name].group for name in ("one", "gate", "two", "flat", "product")] == [1, None, 2, 2, 2]
    assert (timed["gate"].where, timed["gate"].bound, timed["gate"].reason) == (
        "SW",
        "software",
        "a DPU has no Sigmoid",
    )
    assert timed["gate"].seconds == pytest.approx(8 * 16 * MODEL.host_ns_per_value * 1e-9)
    assert timed["flat"].seconds == 0
    assert "rename" in (timed["flat"].note or "")
    # 3 x 4 x 4 pixels; the sigmoid's 128 values and the 2 results
    assert host_values(network, dpu_config()) == (16, 128 + 2)


def test_a_layer_without_a_model_says_so(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], "conv"), node("LSTM", ["conv", "a", "b"], "lstm", hidden_size=2)]
    constants = [weights("w", 4, 4, 1), weights("a", 1, 8, 5), weights("b", 1, 8, 2)]
    timed = time_on_dpu(shape_of(tmp_path, nodes, constants, (3, 4, 5)), dpu_config())
    assert timed.layers[1].seconds is None
    assert timed.layers[1].reason == "a DPU has no LSTM; no model covers its time"


def test_a_network_that_a_dpu_cannot_run_at_all_is_the_users_error(tmp_path: Path) -> None:
    network = shape_of(tmp_path, [node("Sigmoid", ["x"], "s")], [], (1, 4))
    with pytest.raises(UserError, match="B4096 computes no layer of this network"):
        time_on_dpu(network, dpu_config())


def test_the_error_stands_beside_the_numbers(mobilenet: NetworkShape) -> None:
    error = time_on_dpu(mobilenet, dpu_config()).error
    assert error is MODEL.error
    assert error.rows == 64
    assert "14 networks" in error.fitted


@published
def test_built_networks_have_the_operations_of_their_rows() -> None:
    rows = {rate.row: rate.shape for rate in (*dpu_rows.rates(), *dpu_rows.rates_afterwards())}
    assert set(dpu_networks.BUILT) | set(dpu_networks.BUILT_AFTERWARDS) <= set(rows)
    for row, shape in rows.items():
        text = row.rsplit("_", 1)[1]
        gops = float(text[:-1]) / {"G": 1, "M": 1000}[text[-1]]
        assert shape.operations / 1e9 == pytest.approx(gops, rel=0.05), row


@published
def test_rows_that_are_held_out_are_within_the_promise() -> None:
    fitted = dpu_rows.fitted_networks()
    held = [rate for rate in dpu_rows.rates() if rate.network not in fitted]
    found = fit_dpu.errors(held, MODEL)
    assert len(held) == MODEL.error.rows
    assert found.mean == pytest.approx(MODEL.error.mean_percent, abs=0.05)
    assert found.median == pytest.approx(MODEL.error.median_percent, abs=0.05)
    assert found.mean <= 12
    assert found.median <= 6
    graphs = fit_dpu.errors([rate for rate in held if rate.has_graph], MODEL)
    assert graphs.mean <= 12
    assert graphs.median <= 6


@published
def test_networks_that_nothing_was_chosen_by_are_within_the_promise() -> None:
    found = fit_dpu.errors(dpu_rows.rates_afterwards(), MODEL)
    assert len(found.percent) == 16
    assert found.mean <= 12
    assert found.median <= 6


@published
def test_no_row_of_another_network_slipped_in() -> None:
    rows = {rate.row for rate in dpu_rows.rates()}
    assert "tf_mobilenetv2_cityscapes_1024_2048_132.74G" not in rows
    assert {rate.config.board.name for rate in dpu_rows.rates()} == {"zcu102", "zcu104", "kv260", "ultra96"}


@published
def test_the_fit_computes_what_the_product_says() -> None:
    for rate in dpu_rows.rates()[::7]:
        timed = time_on_dpu(rate.shape, rate.config)
        expected = timed.fps if rate.threads == "single" else timed.fps_multi_thread
        assert fit_dpu.modelled(rate, MODEL) == pytest.approx(expected)


@published
def test_fitting_anew_finds_the_constants_of_the_code() -> None:
    fitted = dpu_rows.fitted_networks()
    found = fit_dpu.fit([rate for rate in dpu_rows.rates() if rate.network in fitted])
    for name in ("array_efficiency", "side_efficiency", "port_bytes_per_cycle", "launch_us"):
        assert getattr(found, name) == pytest.approx(getattr(MODEL, name), rel=2e-3), name
    for name in ("host_ms", "host_ns_per_pixel", "host_ns_per_value"):
        assert getattr(found, name) == pytest.approx(getattr(MODEL, name), rel=2e-3), name
    assert found.memory_gb_per_s == pytest.approx(MODEL.memory_gb_per_s, rel=2e-3)


@published
def test_the_fit_finds_constants_that_made_the_rates() -> None:
    """Rates made by other constants: the fit must come back to those, so it is not only right on this one table."""
    fitted = dpu_rows.fitted_networks()
    rates = [rate for rate in dpu_rows.rates() if rate.network in fitted]
    truth = replace(
        MODEL,
        array_efficiency=0.8,
        side_efficiency=0.6,
        port_bytes_per_cycle=20.0,
        launch_us=15.0,
        host_ms=0.2,
        host_ns_per_pixel=15.0,
        memory_gb_per_s={"zcu102": 9.0, "zcu104": 11.0, "kv260": 11.0, "ultra96": 3.0},
    )
    found = fit_dpu.fit([replace(rate, fps=fit_dpu.modelled(rate, truth)) for rate in rates])
    assert found.array_efficiency == pytest.approx(0.8, rel=0.01)
    assert found.side_efficiency == pytest.approx(0.6, rel=0.02)
    assert found.launch_us == pytest.approx(15.0, rel=0.01)
    assert found.host_ns_per_pixel == pytest.approx(15.0, rel=0.01)
    assert found.memory_gb_per_s["ultra96"] == pytest.approx(3.0, rel=0.01)
