"""`Quantizer`: the whole line for one network and one environment, step by step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

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
from harness.quantize.calibrator import Calibration, calibrate
from harness.quantize.dynamic_range import DynamicRange, Scheme
from harness.quantize.external import scratch
from harness.quantize.graph import read_model, sha256_of
from harness.quantize.layer_error import layer_errors
from harness.quantize.layer_ranges import ACTIVATIONS, LayerRanges
from harness.quantize.mixed import Board, Latency, MixedPrecision, goal_of, mixed_precision
from harness.quantize.options import Options
from harness.quantize.placement import Layers
from harness.quantize.quantizer import QuantizedModel, quantize
from harness.quantize.rulebooks import rule_book
from harness.quantize.scales import check_method
from harness.quantize.sensitivity import SWEEP_STEPS, Progress, sensitivity
from harness.quantize.sequence import check_state, sequence_batches
from harness.quantize.session_content import StoredRanking
from harness.quantize.session_file import Which, embeddable, load_session, save_session
from harness.quantize.session_networks import Unpacked, find_network, is_network, missing
from harness.quantize.validation import MetricFunction, StandIn, ValidationResult, validate


class Quantizer:
    """Calibrate, look, quantize, validate.

    Example:
        >>> q = Quantizer("net.onnx", environment="cpu")  # doctest: +SKIP
        >>> ranges = q.calibrate("images/")  # doctest: +SKIP
        >>> q.quantize("net.int8.onnx")  # doctest: +SKIP

    Args:
        model: a float ONNX network; never changed.
        environment: gpu, cpu, fpga or host.
        state: {input: output} of a recurrent network. Its data then lack these inputs and come in the order of time;
            each network is fed the state that it made itself, from zeros on.

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

    def quantize(
        self,
        out: str | Path,
        exclude: Collection[str] = (),
        method: str = "auto",
        held_back: str | Path | DataSpec | Iterable[Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        recover: Collection[str] | None = None,
        preprocess: Preprocess | None = None,
        sqnr_target: float | None = None,
        agreement_target: float | None = None,
        accuracy_target: float | None = None,
        metric: str | MetricFunction = "accuracy_top1",
        most_float: int | None = None,
        latency: Latency | None = None,
        processes: int = 1,
        resume: str | Path | None = None,
        progress: Progress | None = None,
        target: Any = None,  # noqa: ANN401 (what a board is, harness.Quantizer knows)
        lab: Any = None,  # noqa: ANN401
    ) -> QuantizedModel:
        """Write the int8 network; with a target, the one with the fewest layers in float that meets it.

        Args:
            out: a single ONNX file.
            exclude: layers that stay float.
            method: see `harness.quantize.quantize`.
            held_back: data to score choices and the target on, in any form that `validate` takes.
            overrides: layer, or network input → `LayerOverride` or its fields, such as `{"method": "percentile"}`.
            recover: steps that may win accuracy back, each kept only where it helps; None: those of
                the rule book, empty: rounding to nearest.
            preprocess: of named image data.
            sqnr_target: SQNR of the scores, dB, at least.
            agreement_target: top-1 agreement with the float network, a share, at least.
            accuracy_target: what the metric may lose against the float network, points; needs labels.
            metric: `accuracy_top<K>` or a function of (first output, labels).
            most_float, latency, processes, resume, progress: see `harness.quantize.mixed.mixed_precision`.
            target: a real board of the lab, by name or as it is: of layers that gain the same, the one that costs least
                time there stays float. Timed in ABBA blocks, one network beside the all-int8 one.
            lab: a lab file or a `Lab`; None: ./targets.yaml.

        Returns:
            the network; its last note says whether the target figure was met, and `self.mixed` everything else.

        Raises:
            UserError: bad input, or the target is a stand-in, which has no times.
            BoardError: the board failed.
        """
        self._unchanged()
        goal = goal_of(sqnr_target, agreement_target, accuracy_target)
        batches, labels = (None, None) if held_back is None else samples_of(self._stream(held_back, preprocess))
        if target is not None and (goal is None or latency is not None):
            msg = (
                "target: a board times layers for sqnr_target, agreement_target or accuracy_target, in place of latency"
            )
            raise UserError(msg)
        options = Options.of(
            method=method,
            exclude=exclude,
            overrides=overrides,
            recover=recover,
            sqnr_target=sqnr_target,
            agreement_target=agreement_target,
            accuracy_target=accuracy_target,
            metric=metric,
            most_float=most_float,
        )
        if goal is not None:
            with nullcontext(latency) if target is None else self._board(target, lab, timed=True) as costs:
                mixed = mixed_precision(
                    self.model,
                    self._calibrated(),
                    environment=self.environment,
                    goal=goal,
                    out=Path(out),
                    held_back=batches,
                    labels=labels,
                    metric=metric,
                    method=method,
                    exclude=exclude,
                    recover=recover,
                    options={"overrides": overrides} if overrides else None,
                    latency=costs,
                    most_float=most_float,
                    processes=processes,
                    resume=None if resume is None else Path(resume),
                    progress=progress,
                )
            self.quantized, self.mixed, self.options = mixed.quantized, mixed, options
            return self.quantized
        self.quantized = quantize(
            self.model,
            self._calibrated(),
            environment=self.environment,
            method=method,
            exclude=exclude,
            out=Path(out),
            held_back=batches,
            overrides=overrides,
            recover=recover,
        )
        self.mixed, self.options = None, options
        return self.quantized

    def sensitivity(
        self,
        held_back: str | Path | DataSpec | Iterable[Any] | None = None,
        *,
        preprocess: Preprocess | None = None,
        method: str = "auto",
        metric: str | MetricFunction = "accuracy_top1",
        exclude: Collection[str] = (),
        overrides: Mapping[str, Any] | None = None,
        recover: Collection[str] = SWEEP_STEPS,
        processes: int = 1,
        resume: str | Path | None = None,
        progress: Progress | None = None,
        target: Any = None,  # noqa: ANN401 (what a board is, harness.Quantizer knows)
        lab: Any = None,  # noqa: ANN401
    ) -> pd.DataFrame:
        """Rank the int8 layers by what each costs, worst first; see `harness.quantize.sensitivity.sensitivity`.

        Args:
            held_back: data to measure on, in any form that `validate` takes; 16 samples tell an SQNR well enough.
                None: the few that the calibration remembered.
            preprocess: of named image data.
            method, metric, exclude, recover, processes, resume, progress: of that function.
            overrides: of `quantize`.
            target: a board of the lab, by name or as it is: all networks, the float one too, run there.
            lab: a lab file or a `Lab`; None: ./targets.yaml.

        Raises:
            UserError: bad input.
            BoardError: the board failed; what the journal holds is kept.
        """
        self._unchanged()
        batches, labels = (None, None) if held_back is None else samples_of(self._stream(held_back, preprocess))
        with nullcontext() if target is None else self._board(target, lab, timed=False) as runner:
            self.ranking = sensitivity(
                self.model,
                self._calibrated(),
                environment=self.environment,
                method=method,
                held_back=batches,
                labels=labels,
                metric=metric,
                exclude=exclude,
                recover=recover,
                options={"overrides": overrides} if overrides else None,
                processes=processes,
                resume=None if resume is None else Path(resume),
                progress=progress,
                runner=runner,
            )
            return self.ranking

    def layer_errors(
        self, data: str | Path | DataSpec | Iterable[Any], preprocess: Preprocess | None = None, *, local: bool = True
    ) -> pd.DataFrame:
        """Each layer's error between the float and the int8 network; see `harness.quantize.layer_error.layer_errors`.

        Args:
            data: anything DATA names, or an iterable of batches.
            preprocess: of named image data.
            local: also each layer alone.

        Raises:
            UserError: nothing was quantized yet.
        """
        made = self.int8_network("nothing to compare yet")
        self._unchanged()
        batches = (_labelled(batch)[0] for batch in self._stream(data, preprocess))
        return layer_errors(self.model, made, batches, local=local)

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

    def validate(
        self,
        data: str | Path | DataSpec | Iterable[Any],
        target: str | None = None,
        metrics: Sequence[str | MetricFunction] | None = None,
        preprocess: Preprocess | None = None,
    ) -> ValidationResult:
        """Float and int8 network side by side.

        Args:
            data: anything DATA names, or an iterable of (inputs, labels).
            target: None: on this machine; `harness.Quantizer`, which sees the boards too, takes one, and without one
                computes what the environment's board would. This class runs the Q/DQ network as it is.
            metrics: names or functions of (outputs, labels).
            preprocess: of named image data.

        Raises:
            UserError: nothing was quantized yet, a target is named, or the data are unusable.
        """
        if target is not None:
            msg = f"target {target!r}: this class knows no boards; use harness.Quantizer, or leave target=None"
            raise UserError(msg)
        made = self.int8_network("nothing to validate yet")
        # Without the state: each of the two networks makes its own.
        stream = stream_batches(data, self._inputs(), preprocess=preprocess)
        with self._stand_in(made) as stand_in:
            return validate(self.model, made, (_labelled(batch) for batch in stream), metrics, self.state, stand_in)

    def save(self, path: str | Path) -> Path:
        """Write the session: everything `load` needs to go on, in one file.

        Calibration, int8 network, mixed precision, ranking, options and state are stored in full; the two networks too
        where each is a single file of at most 64 MiB, else by path and digest.

        Raises:
            UserError: the place cannot be written.
        """
        networks: dict[Which, bytes] = {}
        found = embeddable(self.model, self.digest)
        if found is not None:
            networks["float"] = found
        made, mixed = self.quantized, self.mixed
        if made is not None:
            found = embeddable(made.path, made.digest)
            if found is not None:
                networks["int8"] = found
            made = replace(made, path=made.path.absolute())
            mixed = None if mixed is None else replace(mixed, quantized=made)
        save_session(
            Path(path),
            self.model.absolute(),
            self.digest,
            self.environment,
            self.calibration,
            networks=networks,
            state=self.state,
            quantized=made,
            mixed=mixed,
            ranking=None if self.ranking is None else StoredRanking.of(self.ranking),
            options=self.options,
        )
        return Path(path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: str | Path | None = None,
        state: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
    ) -> Self:
        """Read a session.

        The networks are taken from where they were, from beside the session, or out of it.

        Args:
            path: what `save` wrote.
            model: where the float network is now, when it has moved.
            state: of a recurrent network, as for the class; None: the session's.
            folder: unpack the networks that travel in the session here, in any case. None: only those that are nowhere
                else, into a temporary folder that is gone with this object.

        Raises:
            UserError: not a session, or the float network is gone or changed and does not travel in it. An int8 network
                that is gone is an error of whoever asks for it.
        """
        path = Path(path)
        content, calibration, networks = load_session(path)
        unpacked = Unpacked(None if folder is None else Path(folder))
        saved = Path(content.model)
        where = Path(model) if model is not None else None
        if where is None and (folder is not None or not saved.exists()):
            where = find_network(saved, content.digest, path.parent, networks.get("float"), unpacked)
        where = where or saved
        if model is None and not where.exists():
            raise missing(saved)
        quantizer = cls(where, content.environment, content.state if state is None else state)
        if quantizer.digest != content.digest:
            msg = f"{quantizer.model}: changed since the session was saved; give that network with model=…"
            if "float" in networks:
                msg += ", or folder=… for the one in the session"
            raise UserError(msg)
        made, mixed = content.quantized, content.mixed
        if made is not None:
            found = find_network(made.path, made.digest, path.parent, networks.get("int8"), unpacked)
            made = made if found is None else replace(made, path=found)
            mixed = None if mixed is None else replace(mixed, quantized=made)
        quantizer.calibration = calibration
        quantizer.quantized, quantizer.mixed, quantizer.options = made, mixed, content.options
        quantizer.ranking = None if content.ranking is None else content.ranking.table()
        quantizer._unpacked = unpacked
        return quantizer

    def _board(self, target: Any, lab: Any, *, timed: bool) -> AbstractContextManager[Board]:  # noqa: ANN401, ARG002
        """A connection to a board, for a sweep over variants; `harness.Quantizer` makes one.

        Raises:
            UserError: this class knows no boards.
        """
        msg = f"target {target!r}: this class knows no boards; use harness.Quantizer, or leave target=None"
        raise UserError(msg)

    def _stand_in(self, made: QuantizedModel) -> AbstractContextManager[StandIn | None]:  # noqa: ARG002
        """What runs here in place of an int8 network; `harness.Quantizer` has the boards' own arithmetic."""
        return nullcontext()

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
    pairs = [_labelled(batch) for batch in stream]
    labels = [given for _, given in pairs if given is not None]
    return [inputs for inputs, _ in pairs], np.concatenate(labels) if labels else None


def _labelled(batch: Batch) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    real = batch.real
    if real == batch.size:
        return dict(batch.inputs), batch.labels
    inputs = {
        name: np.asarray(value)[:real] if np.ndim(value) else np.asarray(value) for name, value in batch.inputs.items()
    }
    return inputs, batch.labels
