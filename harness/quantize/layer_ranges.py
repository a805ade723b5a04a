"""The dynamic ranges of a network, looked up by the names of the calibration table: layer, and what of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.dynamic_range import DynamicRange, Scheme, of_stats, of_values
from harness.quantize.graph import Graph, read_model
from harness.quantize.learnables import learnables
from harness.quantize.observe import TensorStats
from harness.quantize.preparation import prepare_model
from harness.quantize.rulebooks import rule_book
from harness.quantize.rulebooks.rules import Sign
from harness.quantize.tables import learnable_tensors

ACTIVATIONS = "Activations"


class LayerRanges:
    """A network's dynamic ranges; the network is read and prepared once.

    Args:
        model: the float network.
        calibration: of it; None: learnables only.
        environment: whose integers: only those of `host` may be unsigned.
    """

    def __init__(self, model: Path, calibration: Calibration | None, environment: str) -> None:
        prepared = prepare_model(read_model(model), str(model))
        self._graph = Graph(prepared.model)
        self._calibrated = calibration is not None
        # Outside `host` every rule book's integers are signed, or not powers of two.
        self._unsigned = None if rule_book(environment).activation.sign is Sign.BY_RANGE else False
        self._learnables = _learnable_tensors(self._graph)
        self._results: dict[str, tuple[str, ...]] = {name: (name,) for name in self._graph.inputs}
        self._results |= {node.name: tuple(node.output) for node in self._graph.nodes}
        for layer, tensor in prepared.removed.items():
            self._results.setdefault(layer, (tensor,))
        self._seen = {} if calibration is None else calibration.tensors

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of inputs and layers, those that preparing removed included, in the network's order."""
        return tuple(dict.fromkeys((*self._results, *(layer for layer, _ in self._learnables))))

    def one(self, layer: str, what: str, scheme: Scheme) -> DynamicRange:
        """Dynamic range of one row of the calibration table.

        Args:
            layer: its name, or an input's.
            what: Weights, Bias, another parameter, or Activations.
            scheme: how the window is chosen.

        Raises:
            UserError: no such layer or parameter, it was not observed, or it holds nothing finite.
        """
        if layer not in self.layers:
            msg = f"the network has no layer {layer!r}{nearest(layer, self.layers)}"
            raise UserError(msg)
        if what != ACTIVATIONS:
            tensor = self._learnables.get((layer, what))
            if tensor is None:
                has = [name for owner, name in self._learnables if owner == layer]
                msg = f"layer {layer!r} has no {what!r}; it has {', '.join([*has, ACTIVATIONS])}"
                raise UserError(msg)
            found = self._of_learnable(tensor, scheme)
            if found is None:
                msg = f"{what} of layer {layer!r} are empty, or hold NaN or infinity: they have no dynamic range"
                raise UserError(msg)
            return found
        stats = self._stats(layer)
        if stats is None:
            msg = f"layer {layer!r} was not observed; calibrate with layers='all'"
            if not self._calibrated:
                msg = "not calibrated yet; call calibrate(data) first"
            raise UserError(msg)
        return of_stats(stats, scheme, unsigned=self._unsigned)

    def every(self, scheme: Scheme) -> Iterator[tuple[str, str, DynamicRange]]:
        """(layer, what, range) of all that is known, layer by layer; what is empty or not finite is left out.

        Raises:
            UserError: the calibration collected no histograms.
        """
        parameters: dict[str, list[str]] = {}
        for layer, what in self._learnables:
            parameters.setdefault(layer, []).append(what)
        for layer in self.layers:
            for what in parameters.get(layer, ()):
                found = self._of_learnable(self._learnables[layer, what], scheme)
                if found is not None:
                    yield layer, what, found
            stats = self._stats(layer)
            if stats is not None:
                yield layer, ACTIVATIONS, of_stats(stats, scheme, unsigned=self._unsigned)

    def _of_learnable(self, tensor: str, scheme: Scheme) -> DynamicRange | None:
        value = self._graph.array(tensor)
        if not value.size or not np.isfinite(value).all():
            return None
        return of_values(value, scheme, unsigned=False)

    def _stats(self, layer: str) -> TensorStats | None:
        for name in self._results.get(layer, ()):
            stats = self._seen.get(name)
            if stats is not None and stats.count:
                return stats
        return None


def _learnable_tensors(graph: Graph) -> dict[tuple[str, str], str]:
    """(layer, parameter) → constant; the rows of the calibration table, and what other layers learn."""
    found = {(layer, what): tensor for layer, what, tensor in learnable_tensors(graph)}
    rows = set(found.values())
    for item in learnables(graph.model):
        # A body's constants are known inside it only; a bias added after a matrix product is the product's.
        if graph.is_constant(item.tensor) and item.tensor not in rows:
            found.setdefault((item.layer, item.parameter), item.tensor)
    return found


def nearest(layer: str, layers: Iterable[str]) -> str:
    """The end of an error on a wrong name: the name that was meant, if one is near."""
    near = difflib.get_close_matches(layer, list(layers), n=1)
    return f"; did you mean {near[0]!r}?" if near else "; see the rows of the calibration table"
