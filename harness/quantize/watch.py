"""Watching the tensors of a float network, pass by pass, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.quantize.calibration import Calibration, means_of
from harness.quantize.finite import non_finite_constant
from harness.quantize.float_pass import FloatPass
from harness.quantize.graph import Graph
from harness.quantize.layout import by_channel, flat
from harness.quantize.observer import Observer, Place, Places
from harness.quantize.placement import Layers, make_plan, tensors_to_observe
from harness.quantize.preparation import Prepared
from harness.quantize.rulebooks import rule_book
from harness.quantize.runtime import open_session, run_session
from harness.quantize.tables import calibration_rows

#: Shapes of inputs whose layout is remembered.
_MAX_SHAPES = 64


class Watch:
    """Runs passes and remembers what the tensors held; nothing of it grows with their number.

    Args:
        prepared: the float network.
        what: how to call it in an error.
        layers: "needed" or "all".
        environment: whose rule book says what is needed.
        histograms: collect distributions too.
        threads: of the runtime; None: as many as host work may take.

    Raises:
        UserError: an argument is unknown, or the network unusable.
    """

    def __init__(
        self,
        prepared: Prepared,
        what: str,
        *,
        layers: Layers,
        environment: str,
        histograms: bool,
        threads: int | None = None,
    ) -> None:
        if layers not in {"needed", "all"}:
            msg = f"layers: {layers!r} is neither 'needed' nor 'all'"
            raise UserError(msg)
        self._prepared = prepared
        self._what = what
        self._layers = layers
        self._environment = environment
        self._graph = Graph(prepared.model)
        self._plan = make_plan(self._graph, rule_book(environment))
        names = tensors_to_observe(self._graph, self._plan, layers)
        self._fed = tuple(name for name in names if name in self._graph.inputs)
        inner = tuple(name for name in names if name not in self._graph.inputs)
        self._observer = Observer(names, histograms=histograms, summed=tuple(self._plan.mean_axis))
        self._places: dict[tuple[str, tuple[int, ...]], Places] = {}
        # Exposing more than the needed tensors would stop the runtime from fusing what it can.
        self._float_pass = FloatPass(prepared.model, inner, self._plan.mean_axis, what, threads) if inner else None
        # With nothing to see inside, one pass still shows whether the network runs.
        self._unproven = None if inner else open_session(prepared.model, what, threads=threads)

    def see(self, inputs: Mapping[str, NDArray[Any]], before: int) -> None:
        """Run one pass and count its tensors.

        Args:
            inputs: what `feed.passes` yields.
            before: how many samples came before, for the error.

        Raises:
            UserError: the network cannot run on it, or a tensor holds NaN or infinity.
        """
        for name in self._fed:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and reported as such
                values = np.ascontiguousarray(inputs[name], np.float32).reshape(-1)
            self._count(values, self._fed_places(name, inputs[name].shape), before)
        if self._float_pass is not None:
            self._count(*self._float_pass.run(inputs), before)
        elif self._unproven is not None:
            run_session(self._unproven, inputs, self._what)
            self._unproven = None

    def _fed_places(self, name: str, shape: tuple[int, ...]) -> Places:
        places = self._places.get((name, shape))
        if places is None:
            if len(self._places) >= _MAX_SHAPES:
                self._places.clear()
            axis = self._plan.mean_axis.get(name)
            layout = flat(shape) if axis is None else by_channel(shape, axis)
            places = self._places[name, shape] = Places((Place(name, 0, layout),))
        return places

    def _count(self, values: NDArray[np.float32], places: Places, before: int) -> None:
        bad = self._observer.count(values, places)
        if bad is not None:
            raise self._complaint(bad.name, values[bad.start : bad.start + bad.layout.size], before)

    def _complaint(self, name: str, values: NDArray[np.float32], before: int) -> UserError:
        kind = "NaN" if np.isnan(values).any() else "infinity"
        where, remedy = f"input {name!r}", "clean the data"
        if name in self._graph.producer:
            constant = non_finite_constant(self._graph, name)
            where, remedy = f"layer {self._graph.producer[name].name!r}", "check the network"
            if constant is not None:
                remedy = f"initializer {constant!r} is not finite: {remedy}"
        return UserError(f"{self._what}: {where} holds {kind} at sample {before + 1} or soon after; {remedy}")

    def calibration(self, digest: str, samples: int) -> Calibration:
        """What was seen, without any kept sample.

        Args:
            digest: sha256 of the network's file.
            samples: how many there were.
        """
        stats, sums = self._observer.stats(), self._observer.sums()
        rows = calibration_rows(self._prepared, self._graph, self._plan, stats, self._layers)
        return Calibration(
            digest, self._environment, self._layers, samples, stats, means_of(sums), rows=tuple(rows), sums=sums
        )
