"""The `gates:` section of a job or a policy, with the line of every mistake.

gates:
  accuracy: {non_inferior_by: 1 pt}
  latency_p99: {at_most: 20 ms}
  speedup:
    at_least: 1.2
    overrides: [{environments: [fpga], at_least: 3, source: [modelled], model_error: 10 %}]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from harness.errors import UserError
from harness.judge.gates_units import ALIASES, KNOWN, metric_name, network_of, parse_value, percentile_of, unit_of
from harness.judge.gates_values import Gate, Override, Scope
from harness.record.figure import Network, Source
from harness.record.gates import Rule
from harness.yamlfile import Document, FileModel, one_of, validate

Where = tuple[str | int, ...]
Value = int | float | str
Environment = Literal["gpu", "cpu", "fpga", "host"]
SourceName = Literal["measured", "emulated", "modelled"]
_GATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
#: A reader's word for the job's first metric.
HEADLINE = "accuracy"
#: Metrics that fall as a network gets better.
_LOWER_IS_BETTER = frozenset({"mse", "max_abs_diff", "mae", "rmse"})


class ScopeFile(FileModel):
    """Which targets are meant."""

    targets: list[str] | None = Field(default=None, min_length=1)
    tags: list[str] | None = Field(default=None, min_length=1)
    environments: list[Environment] | None = Field(default=None, min_length=1)
    boards: list[str] | None = Field(default=None, min_length=1)

    def value(self) -> Scope:
        """As the value that is handed on."""
        return Scope(*(tuple(words or ()) for words in (self.targets, self.tags, self.environments, self.boards)))


class _Changes(FileModel):
    non_inferior_by: Value | None = None
    at_least: Value | None = None
    at_most: Value | None = None
    source: list[SourceName] | None = Field(default=None, min_length=1)
    model_error: Value | None = None


class OverrideFile(ScopeFile, _Changes):
    """What differs on some targets."""

    skip: bool = False


class GateFile(_Changes):
    """One gate."""

    metric: str | None = None
    network: Literal["Floating-Point", "Quantized", "Ratio"] | None = None
    better: Literal["higher", "lower"] | None = None
    only: ScopeFile | None = None
    overrides: list[OverrideFile] = Field(default_factory=list)


def gates_of(
    document: Document, where: Where, files: Mapping[str, GateFile], metrics: Sequence[str]
) -> tuple[Gate, ...]:
    """The gates of a section.

    Args:
        document: names file and lines in errors.
        where: the section in it.
        files: gate by name, as the file's model read them.
        metrics: the job's (a function by its spec); the first is what `accuracy` means.

    Raises:
        UserError: an unknown metric, a value or unit that does not fit, no rule or two of them.
    """
    named = tuple(spec.rpartition(":")[2] for spec in metrics)
    return tuple(_gate(document, (*where, name), name, file, named) for name, file in files.items())


def _gate(document: Document, where: Where, name: str, file: GateFile, metrics: Sequence[str]) -> Gate:
    if not _GATE_NAME.fullmatch(name):
        raise document.error(where, f"gate '{name}': name it with letters, digits, _ . : - (64 at most)", at_key=True)
    rule, given = _rule(document, where, file)
    metric = _metric(document, where, name, file, rule, metrics)
    unit = unit_of(metric)
    difference = rule is Rule.NON_INFERIOR or metric.endswith("_delta")
    threshold = _number(document, (*where, rule.value), given, unit, difference=difference)
    if rule is Rule.NON_INFERIOR:
        if not threshold > 0:
            raise document.error((*where, rule.value), f"a margin is more than 0, not {given}; write 1 pt or 0.01")
        if unit == "fraction" and threshold >= 1:
            raise document.error(
                (*where, rule.value), f"a margin of {given} forgives any loss; 1 point is 1 pt or 0.01"
            )
        if file.network is not None:
            raise document.error((*where, "network"), "non_inferior_by compares the two networks; remove `network`")
    elif file.better is not None:
        raise document.error((*where, "better"), f"better belongs to non_inferior_by; {rule.value} says it already")
    network = Network.RATIO if rule is Rule.NON_INFERIOR else Network(file.network or network_of(metric))
    sources, error = _sources(document, where, file, None)
    overrides = tuple(
        _override(document, (*where, "overrides", number), one, rule, unit, difference=difference, gate_error=error)
        for number, one in enumerate(file.overrides)
    )
    return Gate(
        name=name,
        metric=metric,
        rule=rule,
        threshold=threshold,
        unit=unit,
        network=network,
        higher_is_better=(file.better or ("lower" if metric in _LOWER_IS_BETTER else "higher")) == "higher",
        sources=sources or (Source.MEASURED,),
        model_error=error,
        scope=Scope() if file.only is None else file.only.value(),
        overrides=overrides,
    )


def _rule(document: Document, where: Where, file: GateFile) -> tuple[Rule, Value]:
    given = [(rule, value) for rule in Rule if (value := getattr(file, rule.value)) is not None]
    if len(given) != 1:
        what = "asks for nothing" if not given else f"asks for {' and '.join(rule.value for rule, _ in given)}"
        raise document.error(where, f"gate '{where[-1]}' {what}; give one of {', '.join(Rule)}", at_key=True)
    return given[0]


def _metric(document: Document, where: Where, name: str, file: GateFile, rule: Rule, metrics: Sequence[str]) -> str:
    word = file.metric or name
    at, at_key = (where, True) if file.metric is None else ((*where, "metric"), False)
    if word == HEADLINE and word not in metrics:
        if not metrics:
            raise document.error(at, f"gate '{name}': the job has no metrics; add one, such as accuracy_top1")
        return metrics[0]
    metric = word if word in metrics else metric_name(word)
    if metric in metrics:
        return metric
    if rule is Rule.NON_INFERIOR:
        hint = one_of(word, [HEADLINE, *metrics])
        raise document.error(at, f"gate '{name}': '{word}' is no metric of the job{hint}", at_key=at_key)
    of_a_metric = metric.removesuffix("_delta") in metrics
    if metric not in KNOWN and percentile_of(metric) is None and not of_a_metric:
        hint = one_of(word, [*metrics, *KNOWN, *ALIASES, "latency_p99"])
        remedy = "" if file.metric else " (a gate with a name of its own says `metric:`)"
        raise document.error(at, f"gate '{name}': '{word}' is no metric{hint}{remedy}", at_key=at_key)
    return metric


def _override(
    document: Document,
    where: Where,
    file: OverrideFile,
    rule: Rule,
    unit: str,
    *,
    difference: bool,
    gate_error: float | None,
) -> Override:
    scope = file.value()
    if scope == Scope():
        raise document.error(where, "an override says where: give targets, tags, environments or boards")
    for other in Rule:
        if other is not rule and getattr(file, other.value) is not None:
            raise document.error(
                (*where, other.value), f"the gate asks for {rule.value}; an override changes its value"
            )
    given = getattr(file, rule.value)
    threshold = None if given is None else _number(document, (*where, rule.value), given, unit, difference=difference)
    sources, error = _sources(document, where, file, gate_error)
    if threshold is None and sources is None and error is None and not file.skip:
        raise document.error(
            where, f"the override changes nothing; give {rule.value}, source, model_error or skip: true"
        )
    return Override(scope, threshold, sources, error, file.skip)


def _sources(
    document: Document, where: Where, file: _Changes, inherited: float | None
) -> tuple[tuple[Source, ...] | None, float | None]:
    sources = None if file.source is None else tuple(Source(word) for word in dict.fromkeys(file.source))
    error = None
    if file.model_error is not None:
        error = _number(document, (*where, "model_error"), file.model_error, "fraction", difference=False)
        if not 0 < error < 1:
            raise document.error(
                (*where, "model_error"), f"model_error: {file.model_error} is not between 0 % and 100 %"
            )
    if sources is not None and Source.MODELLED in sources and error is None and inherited is None:
        remedy = "say how far the model may be off, such as `model_error: 10 %`"
        raise document.error((*where, "source"), f"a modelled figure has no interval; {remedy}")
    return sources, error


def _number(document: Document, where: Where, given: Value, unit: str, *, difference: bool) -> float:
    try:
        return parse_value(given, unit, difference=difference)
    except ValueError as error:
        raise document.error(where, f"{'.'.join(str(part) for part in where)}: {error}") from None


def gates_as_json(gates: Sequence[Gate]) -> dict[str, Any]:
    """The `gates:` section that means the same, thresholds as numbers in the metric's unit."""
    return {gate.name: _as_json(gate) for gate in gates}


def _as_json(gate: Gate) -> dict[str, Any]:
    plain: dict[str, Any] = {"metric": gate.metric, gate.rule.value: gate.threshold}
    if gate.rule is Rule.NON_INFERIOR:
        plain["better"] = "higher" if gate.higher_is_better else "lower"
    else:
        plain["network"] = gate.network.value
    plain["source"] = [source.value for source in gate.sources]
    if gate.model_error is not None:
        plain["model_error"] = gate.model_error
    if gate.scope != Scope():
        plain["only"] = _scope_json(gate.scope)
    if gate.overrides:
        plain["overrides"] = [_override_json(one, gate.rule) for one in gate.overrides]
    return plain


def _scope_json(scope: Scope) -> dict[str, list[str]]:
    named = {
        "targets": scope.targets,
        "tags": scope.tags,
        "environments": scope.environments,
        "boards": scope.boards,
    }
    return {name: list(words) for name, words in named.items() if words}


def _override_json(override: Override, rule: Rule) -> dict[str, Any]:
    plain: dict[str, Any] = dict(_scope_json(override.scope))
    if override.threshold is not None:
        plain[rule.value] = override.threshold
    if override.sources is not None:
        plain["source"] = [source.value for source in override.sources]
    if override.model_error is not None:
        plain["model_error"] = override.model_error
    return plain | ({"skip": True} if override.skip else {})


def must_hold_somewhere(gates: Sequence[Gate], held: set[str], where: str) -> None:
    """Refuse a gate that no target is asked.

    Args:
        gates: all of them.
        held: names of those that hold on at least one target.
        where: the file.

    Raises:
        UserError: names the gate.
    """
    for gate in gates:
        if gate.name not in held:
            raise UserError(
                f"{where}: gate '{gate.name}' holds on none of the chosen targets; change `only` or targets"
            )


class _Section(FileModel):
    gates: dict[str, GateFile]


def read_gates(plain: object, metrics: Sequence[str], label: str) -> tuple[Gate, ...]:
    """Gates from the plain data of a `gates:` section, such as `gates_as_json` writes.

    Args:
        plain: a mapping; None means none.
        metrics: the job's.
        label: names the place in errors.

    Raises:
        UserError: it is no such section.
    """
    if plain is None:
        return ()
    document = Document(label, {"gates": plain})
    return gates_of(document, ("gates",), validate(document, _Section).gates, metrics)
