"""What a session starts with: a network, the data it is shown, the ranges that were seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data import (
    Batch,
    DataSpec,
    InputSpec,
    Preprocess,
    data_inputs,
    network_inputs,
    network_outputs,
    stream_batches,
)
from harness.errors import UserError
from harness.quantize.calibration import Calibration
from harness.quantize.calibrator import calibrate
from harness.quantize.dynamic_range import DynamicRange, Scheme
from harness.quantize.external import scratch
from harness.quantize.graph import read_model, sha256_of
from harness.quantize.layer_ranges import ACTIVATIONS, LayerRanges
from harness.quantize.mixed import MixedPrecision
from harness.quantize.options import Options
from harness.quantize.placement import Layers
from harness.quantize.quantizer import QuantizedModel
from harness.quantize.rulebooks import rule_book
from harness.quantize.scales import check_method
from harness.quantize.sequence import check_state, sequence_batches
from harness.quantize.session_networks import Unpacked, is_network


class Calibrated:
    """A float network, and what is known of its ranges; `Quantizer` goes on from here.

    Args:
        model: a float ONNX network; never changed.
        environment: gpu, cpu, fpga or host.
        state: {input: output} of a recurrent network.

    Raises:
        UserError: the network is unreadable, the environment unknown, or `state` names no input or output.
    """

    def __init__(self, model: str | Path, environment: str = "cpu", state: Mapping[str, str] | None = None) -> None:
        rule_book(environment)
        self.model = Path(model)
        self.environment = environment
        read_model(self.model)
        self.state = dict(state or {})
        if self.state:
            outputs = [name for name, _ in network_outputs(self.model)]
            check_state(network_inputs(self.model), outputs, self.state)
        self.digest = sha256_of(self.model)
        self.calibration: Calibration | None = None
        self.quantized: QuantizedModel | None = None
        #: How the last `quantize` with a target went; None after one without.
        self.mixed: MixedPrecision | None = None
        #: How the last `quantize` was asked for.
        self.options: Options | None = None
        #: What the last `sensitivity` found.
        self.ranking: pd.DataFrame | None = None
        self._unpacked: Unpacked | None = None

    def calibrate(
        self,
        data: str | Path | DataSpec | Iterable[Any],
        layers: Layers = "needed",
        method: str = "auto",
        preprocess: Preprocess | None = None,
        processes: int = 1,
    ) -> pd.DataFrame:
        """Observe ranges; a failure leaves the session as it was.

        Args:
            data: anything DATA names, or an iterable of `{input: array[N, …]}` (labels beside it are ignored).
            layers: the tensors this environment needs, or the activations of all layers.
            method: what is going to choose the scales; anything but minmax collects histograms too.
            preprocess: of named image data.
            processes: how many share the work; the ranges are the same to the bit.

        Returns:
            the calibration table.

        Raises:
            UserError: bad data, an unknown method, or NaN or infinity in a layer.
        """
        if method != "auto":
            check_method(method)
        self._unchanged()
        batches = ({**batch.inputs} for batch in self._stream(data, preprocess))
        calibration = calibrate(
            self.model,
            batches,
            layers=layers,
            environment=self.environment,
            histograms=method != "minmax",
            processes=processes,
        )
        self.calibration = calibration
        return calibration.table()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The network's inputs, states included."""
        return tuple(spec.name for spec in network_inputs(self.model))

    def ranges(self) -> pd.DataFrame:
        """The calibration table again."""
        return self._calibrated().table()

    def histogram(self, layer: str, what: str = "Activations", scheme: Scheme = "MinMax") -> DynamicRange:
        """Dynamic range of a layer's weights, bias or activations.

        Args:
            layer: its name, or an input's.
            what: "Weights", "Bias" or "Activations"; the last needs a calibration that covers the layer.
            scheme: how the window is chosen.

        Raises:
            UserError: no such layer, or it was not observed.
        """
        self._unchanged()
        if what == ACTIVATIONS:
            self._calibrated()
        with scratch():
            return LayerRanges(self.model, self.calibration, self.environment).one(layer, what, scheme)

    def histograms(self, scheme: Scheme = "MinMax") -> dict[tuple[str, str], DynamicRange]:
        """Dynamic ranges of all layers: (layer, "Weights", "Bias" or "Activations") → range; see `histogram`.

        Before a calibration, of the learnables alone.

        Raises:
            UserError: the calibration collected no histograms.
        """
        self._unchanged()
        with scratch():
            ranges = LayerRanges(self.model, self.calibration, self.environment)
            return {(layer, what): found for layer, what, found in ranges.every(scheme)}

    def int8_network(self, otherwise: str = "no int8 network yet") -> QuantizedModel:
        """The int8 network made last, still as it was made.

        Raises:
            UserError: nothing was quantized yet (`otherwise` says it), or the file is gone or changed.
        """
        if self.quantized is None:
            msg = f"{otherwise}; call quantize() first"
            raise UserError(msg)
        if not is_network(self.quantized.path, self.quantized.digest):
            msg = f"{self.quantized.path}: the int8 network is gone or was changed; quantize again"
            raise UserError(msg)
        return self.quantized

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            msg = "not calibrated yet; call calibrate(data) first"
            raise UserError(msg)
        return self.calibration

    def _unchanged(self) -> None:
        if sha256_of(self.model) != self.digest:
            msg = f"{self.model}: changed on disk since this Quantizer was made; open a new one"
            raise UserError(msg)

    def _stream(self, data: str | Path | DataSpec | Iterable[Any], preprocess: Preprocess | None) -> Iterator[Batch]:
        """Batches of all inputs; those of a recurrent network with the state that the float network comes to."""
        if not self.state:
            return stream_batches(data, self._inputs(), preprocess=preprocess)
        return sequence_batches(self.model, data, self.state, preprocess)

    def _inputs(self) -> tuple[InputSpec, ...]:
        return data_inputs(network_inputs(self.model), self.state)


def samples_of(stream: Iterable[Batch]) -> tuple[list[dict[str, NDArray[Any]]], NDArray[Any] | None]:
    """A stream held in memory: batches without padding, and the labels of all samples."""
    pairs = [labelled(batch) for batch in stream]
    labels = [given for _, given in pairs if given is not None]
    return [inputs for inputs, _ in pairs], np.concatenate(labels) if labels else None


def labelled(batch: Batch) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Inputs without padding, and their labels."""
    real = batch.real
    if real == batch.size:
        return dict(batch.inputs), batch.labels
    inputs = {
        name: np.asarray(value)[:real] if np.ndim(value) else np.asarray(value) for name, value in batch.inputs.items()
    }
    return inputs, batch.labels
