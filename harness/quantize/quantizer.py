"""From a float network and its calibration to the int8 network of an environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.candidate import Candidate
from harness.quantize.covering import covering, from_remembered
from harness.quantize.external import scratch
from harness.quantize.feed import Batch
from harness.quantize.graph import Graph, read_model, sha256_of, subgraphs
from harness.quantize.heads import mixed_heads
from harness.quantize.layer_names import LayerReport, as_prepared, report_layers
from harness.quantize.overrides import (
    LayerOverride,
    parse_overrides,
    resolve_overrides,
)
from harness.quantize.placement import Plan, make_plan
from harness.quantize.preparation import Prepared, prepare_model
from harness.quantize.recovery.effort import MOST_STEPS, rounding_steps
from harness.quantize.recovery.recover import Recovery, RecoveryStep, check_steps
from harness.quantize.recurrent.weights import takes_int8_weights
from harness.quantize.rescaling import Rescalings, to_json
from harness.quantize.rewrite import build
from harness.quantize.rulebooks import rule_book
from harness.quantize.rulebooks.rules import Bias, RuleBook
from harness.quantize.runtime import optimizers_that_break
from harness.quantize.scales import check_method
from harness.quantize.score import Scorer
from harness.quantize.shift_limits import note_of
from harness.quantize.weights import weights_follow_method
from harness.quantize.writing import check_target, data_file_of, fits_single_file, write_model

#: Key under which an int8 network carries how it was made.
METADATA_KEY = "quantrig.quantization"
#: Optimizer of ONNX Runtime that re-quantizes float weights beside int8 activations, per tensor, at session start:
#: with one layer left in float it turned 13.0 dB into 4.7 (ONNX Runtime 1.31.1).
REQUANTIZER = "WeightBiasQuantization"
#: Steps of recovery that a network of any size can be given.
_CHEAP_STEPS = frozenset({"bias-correction"})


@dataclass(frozen=True)
class QuantizedModel:
    """An int8 network and what a report says about it.

    Args:
        path: the QDQ ONNX file.
        digest: its sha256.
        environment: whose rules made it.
        method: how activation ranges were chosen; of `auto`, the one that won.
        quantized_layers: how many layers compute in int8, fused ones included.
        kept_float: (layer, reason) of each other layer.
        notes: lines for the reader.
        disabled_optimizers: ONNX Runtime optimizers that a session of this network must switch off.
        steps: what was tried to recover accuracy, in order.
    """

    path: Path
    digest: str
    environment: str
    method: str
    quantized_layers: int
    kept_float: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    disabled_optimizers: tuple[str, ...]
    steps: tuple[RecoveryStep, ...] = ()


@scratch()
def quantize(
    model: Path,
    calibration: Calibration,
    *,
    environment: str = "cpu",
    method: str = "auto",
    exclude: Collection[str] = (),
    out: Path,
    held_back: Sequence[Batch] | None = None,
    overrides: Mapping[str, Any] | None = None,
    recover: Collection[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> QuantizedModel:
    """Write the int8 form of a network for one environment.

    Args:
        model: the float network; not changed.
        calibration: of the same network and environment.
        environment: gpu, cpu, fpga or host.
        method: minmax, percentile, mse, entropy, histogram, or auto: the one of the environment's methods with
            the best SQNR of the network's output (before a final softmax) on `held_back`.
        exclude: names of layers that stay float.
        out: a single ONNX file, above 2 GB with `out`.data beside it; written whole or not at all.
        held_back: data to score choices on; None: the few samples that the calibration remembered.
        overrides: layer, or network input → `LayerOverride` or its fields, such as `{"method": "percentile"}`.
        recover: steps of recovery that may be used, of `harness.quantize.rulebooks.rules.STEPS`; each is kept only
            where it raises the SQNR on held-back data. None: those of the rule book; empty: rounding to nearest.
        progress: called with a line on what is being done.

    Raises:
        UserError: the calibration is of another network or environment, a layer or method is unknown, or the
            network is unusable.
    """
    model, out = Path(model), Path(out)
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    rules = rule_book(environment)
    digest = sha256_of(model)
    _check_calibration(model, calibration, digest, environment)
    allowed = check_steps(rules.recovery if recover is None else recover)
    if method != "auto":
        check_method(method)
    check_target(out, model)
    preparation = prepare_model(read_model(model), str(model))
    prepared = preparation.model
    graph = Graph(prepared)
    plan = make_plan(graph, rules, as_prepared(exclude, preparation))
    notes = list(rules.notes)
    steps: tuple[RecoveryStep, ...] = ()
    rescaled: Rescalings = {}
    if not plan.units:
        chosen, result = "none", build(prepared, plan, {}, {})
        if not any(takes_int8_weights(graph, node) and node.name not in exclude for node in graph.nodes):
            notes.append("nothing to quantize: the network stays float")
    else:
        heads = mixed_heads(graph, plan, held_back or calibration.kept, str(model))
        notes.extend(f"{layer!r} {reason}" for layer, reason in heads.items())
        given = _renamed(parse_overrides(overrides), preparation)
        observed = covering(calibration, graph, rules)
        apart: frozenset[str] = frozenset()
        while True:
            plan = make_plan(graph, rules, as_prepared(exclude, preparation), heads, apart)
            own = resolve_overrides(graph, plan, given)
            calibration, guessed = from_remembered(observed, graph, plan, str(model))
            candidate = Candidate(graph, plan, calibration.tensors, calibration.means, own)
            further = _beyond_shifts(candidate, _methods(rules, method, calibration))
            if further <= apart:
                break
            apart |= further
        notes.extend(
            f"{name!r}: its operands keep positions of their own, for the board's shifts" for name in sorted(apart)
        )
        if guessed:
            notes.append(
                f"ranges of {', '.join(guessed)} are those of {len(calibration.kept)} remembered samples; "
                "calibrate with layers='all' for those of all data"
            )
        if allowed - _CHEAP_STEPS and rounding_steps(graph, plan) > MOST_STEPS:
            allowed &= _CHEAP_STEPS
            notes.append("a network of this size gets bias correction alone: other recovery would take hours")
        samples = _Samples.of(calibration, held_back)
        if not samples.gate:
            chosen = "minmax" if method == "auto" else method
            scales = candidate.scales(chosen)
            result, final = candidate.network(scales, candidate.nearest(chosen, scales)), candidate
        else:
            scorer = Scorer(graph, samples.gate, "float network")
            # What rounding chooses anew says nothing about a method, unless it starts from the method's own window.
            weights = "rounding" not in allowed or weights_follow_method(rules)
            chosen, scores = _best_method(candidate, method, calibration, scorer, weights=weights)
            where = f"on {scorer.samples} {samples.whose} samples"
            if scores:
                listed = ", ".join(f"{name} {score:.1f}" for name, score in scores.items())
                notes.append(f"method {chosen}: best output SQNR {where} ({listed} dB)")

            def replan(changed: Graph) -> Plan:
                return make_plan(changed, rules, as_prepared(exclude, preparation), heads, apart)

            recovery = Recovery(chosen, scorer, samples.fit, replan, allowed, str(model), progress)
            made = recovery.best(candidate)
            result, steps, final = made.network, tuple(recovery.steps), made.candidate
            rescaled, plan = final.rescaled, final.plan  # with the layers that recovery put in
            notes.extend(f"{step} {where}" for step in steps)
            notes.extend(recovery.problems)
        moved = final.held(chosen).moved if rules.shifts is not None else ()
        if moved:
            notes.append(note_of(moved))
    notes.extend(plan.remarks)
    notes.extend(_control_flow_notes(graph))
    disabled = (*((REQUANTIZER,) if _requantizer_would_harm(plan) else ()), *optimizers_that_break(result))
    if not fits_single_file(result):
        notes.append(f"above 2 GB: its weights are in {data_file_of(out).name}, and it cannot travel to an agent")
    layers = report_layers(plan, preparation)
    _describe(result, digest, rules, layers, chosen, notes, disabled, rescaled)
    write_model(result, out)
    return QuantizedModel(
        out,
        sha256_of(out),
        environment,
        chosen,
        len(layers.quantized),
        tuple(layers.kept_float.items()),
        tuple(notes),
        disabled,
        steps,
    )


def _renamed(overrides: Mapping[str, LayerOverride], preparation: Prepared) -> dict[str, LayerOverride]:
    return {name: given for layer, given in overrides.items() for name in as_prepared([layer], preparation)}


def _check_calibration(model: Path, calibration: Calibration, digest: str, environment: str) -> None:
    if calibration.digest != digest:
        msg = f"{model}: the calibration belongs to another network ({calibration.digest[:12]}…); calibrate this one"
        raise UserError(msg)
    if calibration.environment != environment and calibration.layers != "all":
        msg = f"calibrated for {calibration.environment}, not {environment}; calibrate for it, or with layers='all'"
        raise UserError(msg)


def _requantizer_would_harm(plan: Plan) -> bool:
    weighted_float = bool(plan.kept_float)
    return weighted_float or plan.rules.bias is Bias.FLOAT


def _control_flow_notes(graph: Graph) -> list[str]:
    bodies = [node for node in graph.nodes if any(True for _ in subgraphs(node))]
    return [f"{node.op_type} {node.name!r}: its bodies stay float" for node in bodies]


@dataclass(frozen=True)
class _Samples:
    """Samples that layers are fitted to, and others that decide.

    Args:
        fit: one pass each.
        gate: what choices are scored on.
        whose: how a report calls the latter.
    """

    fit: tuple[Batch, ...]
    gate: tuple[Batch, ...]
    whose: str

    @staticmethod
    def of(calibration: Calibration, held_back: Sequence[Batch] | None) -> _Samples:
        """Of those given, or a quarter of the remembered ones, which ranges have seen but no fit will."""
        kept = calibration.kept
        if held_back:
            return _Samples(kept, tuple(held_back), "held-back")
        if len(kept) < 4:
            return _Samples(kept, kept, "calibration")
        gate = kept[3::4]
        return _Samples(tuple(item for index, item in enumerate(kept) if index % 4 != 3), gate, "calibration")


def _methods(rules: RuleBook, method: str, calibration: Calibration) -> tuple[str, ...]:
    """The methods that may choose the scales."""
    if method != "auto":
        return (method,)
    return rules.methods if calibration.has_histograms else ("minmax",)


def _beyond_shifts(candidate: Candidate, methods: Sequence[str]) -> frozenset[str]:
    """Concatenations whose operands the board cannot bring to one position, by whichever of the methods."""
    if candidate.plan.rules.shifts is None:
        return frozenset()
    return frozenset().union(*(candidate.held(method).apart for method in methods))


def _best_method(
    candidate: Candidate, method: str, calibration: Calibration, scorer: Scorer, *, weights: bool
) -> tuple[str, dict[str, float]]:
    """(method, score of each one tried in dB).

    Args:
        candidate: the network.
        method: a method, or auto.
        calibration: tells whether there are histograms to choose by.
        scorer: of networks.
        weights: score with int8 weights; not where recovery will choose other ones whatever the method.
    """
    rules = candidate.plan.rules
    if method != "auto":
        return method, {}
    scores = {}
    for name in _methods(rules, method, calibration):
        scales = candidate.scales(name)
        parameters = candidate.nearest(name, scales) if weights else {}
        scores[name] = scorer.score_db(candidate.network(scales, parameters), rules)
    return max(scores, key=lambda name: scores[name]), scores


def _describe(
    model: ModelProto,
    source: str,
    rules: RuleBook,
    layers: LayerReport,
    method: str,
    notes: Sequence[str],
    disabled: Sequence[str],
    rescaled: Rescalings,
) -> None:
    """Write into the file how it was made, for `details` and for whoever finds it later."""
    content: Mapping[str, object] = {
        "source": source,
        "environment": rules.environment,
        "target_library": rules.target_library,
        "method": method,
        "layers": list(layers.quantized),
        "kept_float": dict(layers.kept_float),
        "notes": list(notes),
        "disabled_optimizers": list(disabled),
        # Only where equalization or absorption was kept: what the tensors in between mean.
        **({"rescaled": to_json(rescaled)} if rescaled else {}),
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(content, sort_keys=True)
