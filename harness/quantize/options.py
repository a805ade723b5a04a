"""How the last `quantize` of a session was asked for: what it takes to ask for it again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from harness.quantize.overrides import parse_overrides


@dataclass(frozen=True)
class Options:
    """Arguments of `Quantizer.quantize` that decide what the network is; data and boards are not among them.

    Args:
        method, recover, sqnr_target, agreement_target, accuracy_target, most_float: as there.
        exclude: layers, in the order given.
        overrides: layer → the fields that are set.
        metric: its name; a function by its module and name, and has to be given anew.
    """

    method: str = "auto"
    exclude: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    recover: tuple[str, ...] | None = None
    sqnr_target: float | None = None
    agreement_target: float | None = None
    accuracy_target: float | None = None
    metric: str = "accuracy_top1"
    most_float: int | None = None

    @staticmethod
    def of(
        *,
        exclude: Collection[str],
        overrides: Mapping[str, Any] | None,
        recover: Collection[str] | None,
        metric: Any,  # noqa: ANN401 (a name or a function)
        **others: Any,  # noqa: ANN401 (of the types above)
    ) -> Options:
        """From the arguments as they were given."""
        name = metric if isinstance(metric, str) else f"{metric.__module__}:{getattr(metric, '__qualname__', metric)}"
        return Options(
            exclude=tuple(exclude),
            overrides={layer: one.as_json() for layer, one in parse_overrides(overrides).items()},
            recover=None if recover is None else tuple(recover),
            metric=name,
            **others,
        )

    def arguments(self) -> dict[str, Any]:
        """What differs from the defaults, as keyword arguments of `Quantizer.quantize`; a metric only by its name."""
        default = Options()
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: value
            for name, value in given.items()
            if value != getattr(default, name) and not (name == "metric" and ":" in value)
        }
