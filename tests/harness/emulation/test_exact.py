"""Expressions that are exact by construction, against Python's fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from harness.emulation.exact import Expressions, NotExact, Value, bits_of, carrier_for
from harness.quantize.runtime import open_session


def _expressions() -> Expressions:
    numbers = itertools.count()
    return Expressions(lambda wanted: f"{wanted}_{next(numbers)}")


def _run(expressions: Expressions, value: Value, feed: dict[str, np.ndarray]) -> np.ndarray:
    kinds = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
    graph = helper.make_graph(
        expressions.nodes,
        "expression",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feed.items()],
        [helper.make_tensor_value_info(value.name, kinds[value.carrier], None)],
        [numpy_helper.from_array(array, name) for name, array in expressions.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return np.asarray(open_session(model, "expression", threads=1).run(None, feed)[0])


@pytest.mark.parametrize(
    ("units", "expected"), [(2**24, "float32"), (2**24 + 1, "float64"), (2**53, "float64"), (2**53 + 1, None)]
)
@pytest.mark.parametrize("bits", [-3, 0, 11])
def test_the_carrier_is_the_narrowest_that_holds_every_multiple(units: int, expected: str | None, bits: int) -> None:
    bound = units / Fraction(2) ** bits
    if expected is None:
        with pytest.raises(NotExact, match="54 bits"):
            carrier_for(-bound, Fraction(0), bits)
    else:
        assert carrier_for(-bound, Fraction(0), bits) == expected


@given(st.integers(-(2**60), 2**60).filter(bool), st.integers(-40, 40))
def test_the_resolution_divides_and_is_the_coarsest(numerator: int, exponent: int) -> None:
    number = numerator * Fraction(2) ** exponent
    bits = bits_of(number)
    assert (number * Fraction(2) ** bits).denominator == 1
    assert (number * Fraction(2) ** (bits - 1)).denominator == 2


def test_a_third_has_no_resolution() -> None:
    with pytest.raises(NotExact, match="power of two"):
        bits_of(Fraction(1, 3))


_NUMBERS = st.builds(lambda n, e: n * Fraction(2) ** e, st.integers(-999, 999), st.integers(-12, 6))
_STEPS = st.one_of(
    st.tuples(st.sampled_from(["plus", "times"]), _NUMBERS),
    st.tuples(st.just("clip"), st.tuples(_NUMBERS, _NUMBERS).map(sorted)),
    st.tuples(st.sampled_from(["floor", "positive", "negative", "double"]), st.none()),
    st.tuples(st.sampled_from(["add", "subtract", "multiply"]), st.just("y")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_STEPS, max_size=6), st.lists(st.integers(-128, 255), min_size=8, max_size=8))
def test_expressions_compute_what_fractions_do_or_refuse(steps: list[tuple[str, Any]], integers: list[int]) -> None:
    e = _expressions()
    feed = {"x": np.asarray(integers[:4], np.float32), "y": np.asarray(integers[4:], np.float32)}
    value = Value("x", "float32", Fraction(-128), Fraction(255), 0)
    other = Value("y", "float32", Fraction(-128), Fraction(255), 0)
    expected, others = [Fraction(n) for n in integers[:4]], [Fraction(n) for n in integers[4:]]
    for kind, given_ in steps:
        try:
            match kind:
                case "plus":
                    value, expected = e.plus(value, given_), [x + given_ for x in expected]
                case "times":
                    value, expected = e.times(value, given_), [x * given_ for x in expected]
                case "clip":
                    low, high = given_
                    value, expected = e.clip(value, low, high), [min(max(x, low), high) for x in expected]
                case "floor":
                    value, expected = e.floor(value), [Fraction(x.__floor__()) for x in expected]
                case "positive":
                    value, expected = e.positive(value), [max(x, Fraction(0)) for x in expected]
                case "negative":
                    value, expected = e.negative(value), [min(x, Fraction(0)) for x in expected]
                case "double":
                    value = e.as_carrier(value, "float64")
                case _:
                    value = getattr(e, kind)(value, other)
                    signs = {"add": 1, "subtract": -1}
                    expected = [
                        x * y if kind == "multiply" else x + signs[kind] * y
                        for x, y in zip(expected, others, strict=True)
                    ]
        except NotExact:
            break
        assert all(value.low <= x <= value.high for x in expected)
        assert all((x * Fraction(2) ** value.bits).denominator == 1 for x in expected)
    if value.name in {"x", "y"}:
        return
    found = _run(e, value, feed)
    assert [Fraction(float(x)) for x in np.broadcast_to(found, 4)] == expected
