"""From a float network and its calibration to the int8 network of an environment."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from harness.errors import UserError
from harness.quantize.calibrator import Calibration
from harness.quantize.correction import bias_corrections
from harness.quantize.external import scratch
from harness.quantize.feed import Batch
from harness.quantize.graph import Graph, read_model, sha256_of, subgraphs
from harness.quantize.heads import mixed_heads
from harness.quantize.layer_names import LayerReport, as_prepared, report_layers
from harness.quantize.observe import TensorStats
from harness.quantize.overrides import (
    NO_OVERRIDES,
    LayerOverride,
    Overrides,
    group_scale,
    parse_overrides,
    resolve_overrides,
)
from harness.quantize.placement import Plan, make_plan
from harness.quantize.preparation import Prepared, prepare_model
from harness.quantize.recurrent.weights import takes_int8_weights
from harness.quantize.rewrite import build
from harness.quantize.rulebooks import rule_book
from harness.quantize.rulebooks.rules import Bias, RuleBook
from harness.quantize.scales import Affine, check_method
from harness.quantize.score import Scorer
from harness.quantize.weights import LayerParameters, layer_parameters
from harness.quantize.writing import check_target, data_file_of, fits_single_file, write_model

#: Key under which an int8 network carries how it was made.
METADATA_KEY = "quantrig.quantization"
#: Optimizer of ONNX Runtime that re-quantizes float weights beside int8 activations, per tensor, at session start:
#: with one layer left in float it turned 13.0 dB into 4.7 (ONNX Runtime 1.31.1).
REQUANTIZER = "WeightBiasQuantization"
#: Improvement below which a correction is not worth a changed bias, dB.
_WORTH_DB = 0.1


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
    """

    path: Path
    digest: str
    environment: str
    method: str
    quantized_layers: int
    kept_float: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    disabled_optimizers: tuple[str, ...]


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

    Raises:
        UserError: the calibration is of another network or environment, a layer or method is unknown, or the
            network is unusable.
    """
    model, out = Path(model), Path(out)
    rules = rule_book(environment)
    digest = sha256_of(model)
    _check_calibration(model, calibration, digest, environment)
    if method != "auto":
        check_method(method)
    check_target(out, model)
    preparation = prepare_model(read_model(model), str(model))
    prepared = preparation.model
    graph = Graph(prepared)
    plan = make_plan(graph, rules, as_prepared(exclude, preparation))
    notes = list(rules.notes)
    if not plan.units:
        chosen, result = "none", build(prepared, plan, {}, {})
        if not any(takes_int8_weights(graph, node) and node.name not in exclude for node in graph.nodes):
            notes.append("nothing to quantize: the network stays float")
    else:
        heads = mixed_heads(graph, plan, held_back or calibration.kept, str(model))
        if heads:
            plan = make_plan(graph, rules, as_prepared(exclude, preparation), heads)
            notes.extend(f"{layer!r} {reason}" for layer, reason in heads.items())
        own = resolve_overrides(graph, plan, _renamed(parse_overrides(overrides), preparation))
        choice = _Choice(prepared, graph, plan, calibration, held_back, own)
        chosen, result, remarks = choice.best(method)
        notes.extend(remarks)
    notes.extend(plan.remarks)
    notes.extend(_control_flow_notes(graph))
    disabled = (REQUANTIZER,) if _requantizer_would_harm(plan) else ()
    if not fits_single_file(result):
        notes.append(f"above 2 GB: its weights are in {data_file_of(out).name}, and it cannot travel to an agent")
    layers = report_layers(plan, preparation)
    _describe(result, digest, rules, layers, chosen, notes, disabled)
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


class _Choice:
    """Tries methods on one network and keeps what measures best."""

    def __init__(
        self,
        model: ModelProto,
        graph: Graph,
        plan: Plan,
        calibration: Calibration,
        held_back: Sequence[Batch] | None,
        overrides: Overrides = NO_OVERRIDES,
    ) -> None:
        self.overrides = overrides
        self.model = model
        self.graph = graph
        self.plan = plan
        self.calibration = calibration
        samples: Sequence[Batch] = held_back if held_back else calibration.kept
        self.scorer = Scorer(graph, samples, "float network") if samples else None
        self.whose = "held-back" if held_back else "calibration"

    def best(self, method: str) -> tuple[str, ModelProto, list[str]]:
        """(method, network, remarks)."""
        rules = self.plan.rules
        remarks: list[str] = []
        methods: tuple[str, ...] = (method,)
        if method == "auto":
            methods = rules.methods if self.calibration.has_histograms and self.scorer else ("minmax",)
        candidates = {name: self.build(name) for name in methods}
        if self.scorer is None:
            return methods[0], candidates[methods[0]], remarks
        scores = {name: self.scorer.score_db(network, rules) for name, network in candidates.items()}
        chosen = max(scores, key=lambda name: scores[name])
        if method == "auto":
            listed = ", ".join(f"{name} {score:.1f}" for name, score in scores.items())
            remarks.append(
                f"method {chosen}: best output SQNR on {self.scorer.samples} {self.whose} samples ({listed} dB)"
            )
        network = candidates[chosen]
        corrected = self.build(
            chosen, bias_corrections(self.graph, self.plan, self.calibration.means, self.parameters(chosen, {}))
        )
        gained = self.scorer.score_db(corrected, rules) - scores[chosen]
        if gained >= _WORTH_DB:
            remarks.append(f"analytic bias correction: {gained:+.1f} dB on {self.scorer.samples} {self.whose} samples")
            network = corrected
        return chosen, network, remarks

    def scales(self, method: str) -> dict[str, Affine]:
        """Scale and zero point of each group of tensors."""
        return {group: self.scale(group, members, method) for group, members in self.plan.observed.items()}

    def scale(self, group: str, members: Sequence[str], method: str) -> Affine:
        stats: TensorStats | None = None
        for name in members:
            seen = self.calibration.tensors.get(name)
            if seen is None:
                msg = f"calibration lacks the tensor {name!r}; calibrate again with layers='all'"
                raise UserError(msg)
            stats = seen if stats is None else stats.merged(seen)
        assert stats is not None, group
        return group_scale(self.plan, self.overrides, group, stats, method)

    def parameters(self, method: str, corrections: Mapping[str, NDArray[np.float64]]) -> dict[str, LayerParameters]:
        """Weights and biases rounded to nearest."""
        scales = self.scales(method)
        return {
            unit.name: layer_parameters(
                self.graph,
                unit,
                self.overrides.rules_of(unit, self.plan.rules),
                self.overrides.method_of(unit, method),
                float(scales[group].scale) if (group := self.plan.group_of.get(unit.data[0].tensor)) else None,
                corrections.get(unit.name),
            )
            for unit in self.plan.units
            if unit.weight is not None
        }

    def build(self, method: str, corrections: Mapping[str, NDArray[np.float64]] | None = None) -> ModelProto:
        """The int8 network of a method."""
        return build(self.model, self.plan, self.scales(method), self.parameters(method, corrections or {}))


def _describe(
    model: ModelProto,
    source: str,
    rules: RuleBook,
    layers: LayerReport,
    method: str,
    notes: Sequence[str],
    disabled: Sequence[str],
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
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(content, sort_keys=True)
