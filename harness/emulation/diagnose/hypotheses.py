"""Which mistake, made in one layer, gives exactly the integers that the board returned?

Every hypothesis recomputes the layer from the board's own inputs with one thing done otherwise. It holds only if no
value differs; several may hold, since many mistakes look alike on few values, and all that hold are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.emulation.diagnose.layer import Int64
from harness.emulation.diagnose.recompute import Ingredients, Recomputation, Round, Way
from harness.emulation.diagnose.sums import spread_over
from harness.emulation.diagnose.values import Kind

#: Values looked at first, half of them differing ones: nearly every wrong hypothesis fails there.
_FIRST_LOOK = 4096
#: Fewer differing values than this do not tell a mistake of single channels from chance.
_FEW = 4
#: How near to a half a value is when the order of single-precision sums decides, in steps.
_NEAR = 1e-3
_Make = Callable[[], Ingredients]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One thing done otherwise.

    Args:
        kind: how to name it.
        make: the ingredients with it.
        way: how they are finished.
    """

    kind: Kind
    make: _Make
    way: Way


def explain(layer: Recomputation, board: Int64) -> tuple[Kind, ...]:
    """Every kind of mistake that reproduces the board's integers.

    Args:
        layer: recomputed from the board's own inputs.
        board: what the board returned, of any shape with as many elements.
    """
    flat = board.reshape(-1)
    right = layer.integers(layer.whole, layer.way)
    if right is None or right.shape != flat.shape or np.array_equal(right, flat):
        return ()
    look = _first_look(flat != right)
    found = tuple(one.kind for one in hypotheses(layer) if _holds(layer, one, flat, look))
    if found:
        return found
    found = _in_some_channels(layer, right, flat, look)
    return found or tuple(one.kind for one in _with_roundings(layer) if _holds(layer, one, flat, look))


def near_halves(layer: Recomputation, right: Int64, board: Int64) -> bool:
    """Whether the board differs by one step only, and only where the exact value is next to a half.

    Asked only of arithmetics with single precision in them: elsewhere sums are exact.

    Args:
        layer: recomputed from the board's own inputs.
        right: what the reference makes of them.
        board: what the board returned.
    """
    v = layer.in_steps(layer.whole, layer.way) if layer.single else None
    if v is None:
        return False
    flat = board.reshape(-1)
    wrong = flat != right.reshape(-1)
    one_step = np.abs(flat[wrong] - right.reshape(-1)[wrong]).max(initial=0) <= 1
    return bool(one_step and np.all(np.abs(v[wrong] - np.floor(v[wrong]) - 0.5) < _NEAR))


def _with_roundings(layer: Recomputation) -> Iterator[Hypothesis]:
    """Each mistake together with another rounding: two things done otherwise."""
    for one in hypotheses(layer):
        if one.way.rounding is not layer.way.rounding:
            continue
        for rule in Round:
            if rule is layer.way.rounding:
                continue
            kind = Kind(f"{one.kind.name} and rounding {rule}", f"{one.kind.text}; besides, it rounds {rule}")
            yield Hypothesis(kind, one.make, replace(one.way, rounding=rule))


def _holds(layer: Recomputation, one: Hypothesis, flat: Int64, look: np.ndarray) -> bool:
    made = one.make()
    first = layer.integers(made.take(look), one.way)
    if first is None or not np.array_equal(first, flat[look]):
        return False
    return np.array_equal(layer.integers(made, one.way), flat)  # type: ignore[arg-type] # the first look was no None


def _in_some_channels(layer: Recomputation, right: Int64, flat: Int64, look: np.ndarray) -> tuple[Kind, ...]:
    """Mistakes made in some output channels only: the differing ones follow it, all others are right."""
    product = layer.product
    if product is None:
        return ()
    count = product.shape[product.channel_axis]
    channel = np.asarray(spread_over(np.arange(count), product.shape, product.channel_axis))
    wrong = np.unique(channel[flat != right])
    if not 0 < wrong.size < count or np.count_nonzero(flat != right) < _FEW:
        return ()
    inside = np.flatnonzero(np.isin(channel, wrong))
    few = look[np.isin(channel[look], wrong)]
    names = ", ".join(str(int(one)) for one in wrong[:8]) + (f" and {wrong.size - 8} more" if wrong.size > 8 else "")
    where = f"in channel{'s' if wrong.size > 1 else ''} {names} only"
    found = []
    for one in hypotheses(layer):
        made = one.make()
        first = layer.integers(made.take(few), one.way)
        if first is not None and np.array_equal(first, flat[few]):
            every = layer.integers(made.take(inside), one.way)
            if every is not None and np.array_equal(every, flat[inside]):
                found.append(Kind(f"{one.kind.name} ({where})", f"{where}: {one.kind.text}"))
    return tuple(found)


def _first_look(differs: np.ndarray) -> np.ndarray:
    wrong, equal = np.flatnonzero(differs), np.flatnonzero(~differs)
    return np.concatenate([_spread(wrong, _FIRST_LOOK // 2), _spread(equal, _FIRST_LOOK // 2)])


def _spread(places: np.ndarray, most: int) -> np.ndarray:
    if places.size <= most:
        return places
    return places[np.linspace(0, places.size - 1, most).astype(np.intp)]


def hypotheses(layer: Recomputation) -> Iterator[Hypothesis]:
    """Everything that is tried, the cheap and frequent ones first."""
    whole, way = layer.whole, layer.way
    yield from _roundings(layer, whole, way)
    if layer.layer.activations:
        names = " and ".join(node.op_type for node, _ in layer.layer.activations)
        kind = Kind(f"{names} missing", f"the fused {names} is left out")
        yield Hypothesis(kind, lambda: whole, replace(way, activations=False))
    kind = Kind("wraps around", "what does not fit into 8 bits wraps around instead of saturating")
    yield Hypothesis(kind, lambda: whole, replace(way, saturate=False))
    if whole.shortcut is not None:
        kind = Kind("shortcut missing", "the quantized shortcut is not added")
        yield Hypothesis(kind, lambda: replace(whole, shortcut=None), way)
    if layer.product is not None:
        yield from _biases(layer, whole, way)
        yield from _zero_points(layer, way)
        yield from _accumulators(layer, way)


def _has_own_constants(layer: Recomputation) -> bool:
    """Whether the DPU computes this layer with other constants than the file has."""
    if layer.arithmetic is None or not layer.arithmetic.dpu_units:
        return False
    if layer.whole.plain is not None and not np.array_equal(layer.whole.plain, layer.whole.real):  # type: ignore[arg-type]
        return True
    return any(node.op_type in {"LeakyRelu", "HardSigmoid", "HardSwish"} for node, _ in layer.layer.activations)


def _roundings(layer: Recomputation, whole: Ingredients, way: Way) -> Iterator[Hypothesis]:
    variants: Sequence[tuple[str, str, Way]] = [("", "", way)]
    if _has_own_constants(layer):
        name, text = "constants of the file", "slopes as the file has them, not as the DPU has them"
        if whole.plain is not None:
            name, text = "average by division", "the sum of a window is divided, not multiplied by the DPU's factor"
        variants = [*variants, (f"{name}, ", f"{text}; ", replace(way, plain=True))]
    for name, text, base in variants:
        for rule in Round:
            if rule is way.rounding and not base.plain:
                continue
            kind = Kind(f"{name}rounding {rule}", f"{text}rounds {rule} where the reference rounds {way.rounding}")
            if rule is way.rounding:
                kind = Kind(name.rstrip(", "), text.rstrip("; "))
            yield Hypothesis(kind, lambda: whole, replace(base, rounding=rule))


def _biases(layer: Recomputation, whole: Ingredients, way: Way) -> Iterator[Hypothesis]:
    if whole.float_bias is not None:
        bias = whole.float_bias
        for kind, changed in (
            (Kind("bias missing", "the bias is not added"), np.zeros_like(bias)),
            (Kind("bias doubled", "the bias counts twice"), bias * 2),
            (Kind("bias halved", "the bias counts half"), bias / 2),
        ):
            yield Hypothesis(kind, lambda changed=changed: replace(whole, float_bias=changed), way)  # type: ignore[misc]
    bias_ = whole.bias
    if bias_ is not None:
        shifts = (
            (Kind("bias missing", "the bias is not added"), bias_ * 0),
            (Kind("bias +1", "every integer of the bias is one step too high"), bias_ + 1),
            (Kind("bias -1", "every integer of the bias is one step too low"), bias_ - 1),
            (Kind("bias shifted left by one bit", "the bias counts twice: its shift is off by one bit"), bias_ << 1),
            (
                Kind("bias shifted right by one bit", "the bias counts half: its shift is off by one bit, floor"),
                bias_ >> 1,
            ),
            (Kind("bias negated", "the bias is subtracted"), -bias_),
            *_rolled(layer, bias_),
        )
        for kind, shifted in shifts:
            yield Hypothesis(kind, lambda shifted=shifted: replace(whole, bias=shifted), way)  # type: ignore[misc]
        kind = Kind("bias halved", "the bias counts half: its shift is off by one bit, the lost bit kept")
        if whole.bias_step is not None:
            half = whole.bias_step / 2
            yield Hypothesis(kind, lambda: replace(whole, bias_step=half), way)
    assert whole.acc is not None
    acc = whole.acc
    for name, step in (("+1", 1), ("-1", -1)):
        kind = Kind(f"accumulator {name}", f"every sum is off by {name} in the accumulator's last bit")
        yield Hypothesis(kind, lambda step=step: replace(whole, acc=acc + step), way)  # type: ignore[misc]


def _rolled(layer: Recomputation, bias: Int64) -> Iterator[tuple[Kind, Int64]]:
    """The bias of a neighbouring output channel."""
    product = layer.product
    assert product is not None
    shaped = bias.reshape(product.shape)
    for name, by in (("before", 1), ("after", -1)):
        kind = Kind(f"bias of the channel {name}", f"each output channel gets the bias of the channel {name} it")
        yield kind, np.roll(shaped, by, axis=product.channel_axis).reshape(-1)


def _zero_points(layer: Recomputation, way: Way) -> Iterator[Hypothesis]:
    whole, product = layer.whole, layer.product
    assert product is not None
    assert whole.acc is not None
    acc = whole.acc
    for shift in (128, -128, 1, -1):
        kind = Kind(
            f"zero point of the weights off by {shift}", f"the weights' zero point is wrong: w {shift:+d} is multiplied"
        )
        yield Hypothesis(
            kind,
            lambda shift=shift: replace(whole, acc=acc + shift * product.input_sum.reshape(-1)),  # type: ignore[misc]
            way,
        )
    zero = product.operand.step.zero_point
    if zero:
        sums = np.asarray(spread_over(product.weight_sum, product.shape, product.channel_axis), np.int64)
        kind = Kind("zero point of the input ignored", f"the input's zero point {zero} is not subtracted")
        yield Hypothesis(kind, lambda: replace(whole, acc=acc + zero * sums), way)


def _accumulators(layer: Recomputation, way: Way) -> Iterator[Hypothesis]:
    whole, product = layer.whole, layer.product
    assert product is not None
    assert whole.acc is not None
    acc = whole.acc
    kind = Kind("16-bit accumulator, saturating", "the whole sum saturates at 16 bits")
    yield Hypothesis(kind, lambda: replace(whole, acc=np.clip(acc, -32768, 32767)), way)
    kind = Kind("16-bit accumulator, wrapping", "the whole sum wraps around at 16 bits")
    yield Hypothesis(kind, lambda: replace(whole, acc=(acc + 32768) % 65536 - 32768), way)
    if product.can_pair:
        kind = Kind(
            "16-bit saturation of pairs",
            "products of unsigned activations and signed weights are added in pairs that saturate at 16 bits, as x86 "
            "with AVX2 and without VNNI does (vpmaddubsw); neighbours along kernel row, kernel column, channel",
        )
        yield Hypothesis(kind, lambda: replace(whole, acc=product.paired.reshape(-1)), way)
