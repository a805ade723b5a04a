"""Scales and rounding against the reference vectors, published formulas and brute force."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.quantize.dynamic_range import of_stats, of_values
from harness.quantize.observe import TensorStats
from harness.quantize.rulebooks import RULE_BOOKS
from harness.quantize.rulebooks.rules import Rounding
from harness.quantize.scales import (
    Affine,
    activation_scale,
    fix_position,
    minmax_exponent,
    msb_window,
    round_to_integers,
)

#: A sample whose Histogram window is uniquely 2^3..2^-3.
WINDOWED = np.array([0.03125, 0.125, 0.1875, 0.25, 0.5, 1, 2.1, -2.125, 4, 8.25, 16.25], np.float32)


def stats_of(values: np.ndarray) -> TensorStats:
    return TensorStats.empty(histograms=True).seeing(np.asarray(values, np.float32))


def test_reference_vectors(vectors_csv: Path) -> None:
    with vectors_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        x = np.array(float(row["x"]))
        affine = Affine(np.float32(row["scale"]), 0, -128, 127)
        away = affine.quantize(x, Rounding.HALF_AWAY)
        assert int(away) == int(row["half_away_int8"]), row
        assert int(affine.quantize(x, Rounding.HALF_EVEN)) == int(row["half_even_int8"]), row
        assert float(away) * float(row["scale"]) == float(row["value"]), row
        view = of_values(x.reshape(1), "MinMax", unsigned=False)
        assert list(view.counts) == [int(row["msb"])] or x < 1e-40, row


def test_half_up_differs_from_half_away_on_negative_ties_only() -> None:
    ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_to_integers(ties, Rounding.HALF_UP).tolist() == [-2, -1, 0, 1, 2, 3]
    assert round_to_integers(ties, Rounding.HALF_AWAY).tolist() == [-3, -2, -1, 1, 2, 3]
    assert round_to_integers(ties, Rounding.HALF_EVEN).tolist() == [-2, -2, 0, 0, 2, 2]


def test_window_holds_most_significant_bits() -> None:
    stats = stats_of(WINDOWED)
    assert stats.msb is not None
    assert msb_window(stats.msb, unsigned=False) == (3, -3)
    view = of_stats(stats, "Histogram", unsigned=False)
    assert view.scale == 0.125
    assert sum(count for bit, count in view.counts.items() if not view.is_grey(bit)) == 9
    assert (view.overflow, view.underflow) == (1, 1)  # 16.25 and 0.03125; both from histograms alone


def test_losses_from_histograms_equal_those_of_the_values() -> None:
    values = np.random.default_rng(3).normal(size=20_000).astype(np.float32) * 3
    exact = of_values(values, "Histogram", unsigned=False)
    estimated = of_stats(stats_of(values), "Histogram", unsigned=False)
    assert (exact.overflow, exact.underflow) == (estimated.overflow, estimated.underflow)
    assert exact.precision_loss is not None
    assert exact.overflow + exact.underflow + exact.precision_loss <= values.size


def test_grey_bins_are_not_zero() -> None:
    """Bit -4 lies outside 2^3..2^-3, yet [0.0625, 0.125) rounds to one step; -16 is exact."""
    affine = Affine(np.float32(0.125), 0, -128, 127)
    assert affine.quantize(np.array([0.0625, 0.1249, -16.0]), Rounding.HALF_AWAY).tolist() == [1, 1, -128]


def test_unsigned_takes_one_bit_more() -> None:
    """Unsigned 0..9.457 takes 2^-4, signed 2^-3."""
    assert minmax_exponent(9.457, 8) == -4
    assert minmax_exponent(9.457, 7) == -3
    affine = activation_scale(stats_of(np.array([0, 9.457])), RULE_BOOKS["host"].activation, "minmax")
    assert float(affine.quantize(np.array(9.457), Rounding.HALF_AWAY)) * float(affine.scale) == 9.4375


@settings(max_examples=200, deadline=None)
@given(magnitude=st.floats(1e-20, 1e20), bits=st.sampled_from([7, 8]))
def test_minmax_exponent_is_the_smallest(magnitude: float, bits: int) -> None:
    exponent = minmax_exponent(magnitude, bits)
    assert math.floor(magnitude / 2.0**exponent + 0.5) <= 2**bits - 1
    assert math.floor(magnitude / 2.0 ** (exponent - 1) + 0.5) > 2**bits - 1


@settings(max_examples=200, deadline=None)
@given(low=st.floats(-1e6, 0), high=st.floats(1e-6, 1e6))
def test_fix_position_is_the_published_formula(low: float, high: float) -> None:
    extent = max(low / -128.5, high / 127.5)
    assert 2.0 ** -fix_position(low, high) >= extent
    assert 2.0 ** -(fix_position(low, high) + 1) < extent


def test_position_search_finds_the_least_squared_error() -> None:
    # Mostly small values and one outlier: clipping it costs less than coarse steps do.
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=200_000) * 0.2, [9.0]]).astype(np.float32)
    chosen = activation_scale(stats_of(values), RULE_BOOKS["fpga"].activation, "mse", position_search=True)
    first = fix_position(float(values.min()), float(values.max()))

    def error(position: int) -> float:
        step = 2.0**-position
        rounded = np.clip(np.floor(values.astype(np.float64) / step + 0.5), -128, 127) * step
        return float(((rounded - values) ** 2).sum())

    best = min(range(first, first + 5), key=error)
    assert float(chosen.scale) == 2.0**-best
    assert best > first


ranges = st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)).map(sorted)


@settings(max_examples=200, deadline=None)
@given(extent=ranges, environment=st.sampled_from(sorted(RULE_BOOKS)))
def test_minmax_represents_zero_exactly_and_covers_the_range(extent: list[float], environment: str) -> None:
    rules = RULE_BOOKS[environment]
    affine = activation_scale(
        stats_of(np.array(extent)), rules.activation, "minmax", position_search=rules.position_search
    )
    assert affine.qmin <= affine.zero_point <= affine.qmax
    if rules.activation.symmetric:
        assert affine.zero_point == 0
    if rules.activation.power_of_two:
        assert np.frexp(affine.scale)[0] == 0.5
    # Half a step beyond the last level still rounds to it.
    slack = 0.51 * float(affine.scale) + 1e-12
    assert affine.low - slack <= extent[0]
    assert affine.high + slack >= extent[1]


def test_the_representable_range_stays_inside_a_fused_clip() -> None:
    kind = RULE_BOOKS["cpu"].activation
    for upper in (6.0, 1.0, 0.3, 7.7):
        stats = stats_of(np.array([0.0, upper]))
        affine = activation_scale(stats, kind, "minmax", bounds=(0.0, upper))
        assert np.float32(255 * affine.scale) <= np.float32(upper)
        assert affine.zero_point == 0


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
@pytest.mark.parametrize("environment", ["cpu", "gpu"])
def test_outliers_are_clipped(method: str, environment: str) -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(size=400_000), [40.0]]).astype(np.float32)
    kind = RULE_BOOKS[environment].activation
    whole = activation_scale(stats_of(values), kind, "minmax")
    clipped = activation_scale(stats_of(values), kind, method)
    assert clipped.high < 0.7 * whole.high
    assert clipped.high > 2  # but not the body of the distribution


def test_mse_is_close_to_the_best_clipping_found_on_the_values_themselves() -> None:
    values = np.random.default_rng(2).laplace(size=100_000).astype(np.float32)

    def error(affine: Affine) -> float:
        back = (affine.quantize(values).astype(np.float64) - affine.zero_point) * float(affine.scale)
        return float(((back - values) ** 2).mean())

    top = float(np.abs(values).max())
    best = min(error(Affine(np.float32(share * top / 127), 0, -128, 127)) for share in np.linspace(0.1, 1, 91))
    chosen = activation_scale(stats_of(values), RULE_BOOKS["gpu"].activation, "mse")
    assert error(chosen) <= 1.03 * best
    assert error(chosen) < 0.8 * error(activation_scale(stats_of(values), RULE_BOOKS["gpu"].activation, "minmax"))


def test_methods_without_histograms_say_so() -> None:
    stats = TensorStats.empty(histograms=False).seeing(np.array([0.0, 1.0], np.float32))
    with pytest.raises(UserError, match="needs histograms"):
        activation_scale(stats, RULE_BOOKS["cpu"].activation, "percentile")
    with pytest.raises(UserError, match="choose one of minmax"):
        activation_scale(stats, RULE_BOOKS["cpu"].activation, "kl")


def test_a_tensor_of_zeros_gets_a_usable_scale() -> None:
    for rules in RULE_BOOKS.values():
        for method in ("minmax", "mse", "percentile", "entropy", "histogram"):
            affine = activation_scale(
                stats_of(np.zeros(9)), rules.activation, method, position_search=rules.position_search
            )
            assert np.isfinite(affine.scale)
            assert affine.scale > 0
