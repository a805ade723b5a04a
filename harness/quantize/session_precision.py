"""How a session makes its int8 network: by the rules alone, or with the fewest layers in float that meet a target."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from harness.data import (
    DataSpec,
    Preprocess,
)
from harness.errors import UserError
from harness.quantize.goal import goal_of
from harness.quantize.layer_error import layer_errors
from harness.quantize.layer_latency import Board, Latency
from harness.quantize.mixed import mixed_precision
from harness.quantize.options import Options
from harness.quantize.quantizer import QuantizedModel, quantize
from harness.quantize.sensitivity import SWEEP_STEPS, Progress, sensitivity
from harness.quantize.session_ranges import Calibrated, labelled, samples_of
from harness.quantize.validation import MetricFunction
from harness.quantize.variants import Asked


class Quantizing(Calibrated):
    """The steps that choose what is int8: quantizing, ranking layers, looking where errors come from."""

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
        asked = self._asked(
            held_back, preprocess, overrides, method=method, metric=metric, exclude=exclude, recover=recover
        )
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
                    goal=goal,
                    out=Path(out),
                    latency=costs,
                    most_float=most_float,
                    processes=processes,
                    resume=None if resume is None else Path(resume),
                    progress=progress,
                    **asked,
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
            held_back=asked.get("held_back"),
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
        asked = self._asked(
            held_back, preprocess, overrides, method=method, metric=metric, exclude=exclude, recover=recover
        )
        with nullcontext() if target is None else self._board(target, lab, timed=False) as runner:
            self.ranking = sensitivity(
                self.model,
                self._calibrated(),
                processes=processes,
                resume=None if resume is None else Path(resume),
                progress=progress,
                runner=runner,
                **asked,
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
        batches = (labelled(batch)[0] for batch in self._stream(data, preprocess))
        return layer_errors(self.model, made, batches, local=local)

    def _asked(
        self,
        data: str | Path | DataSpec | Iterable[Any] | None,
        preprocess: Preprocess | None,
        overrides: Mapping[str, Any] | None,
        **asked: Unpack[Asked],
    ) -> Asked:
        """What decides the variants of the network, the held-back data read into memory."""
        asked["environment"] = self.environment
        if data is not None:
            asked["held_back"], asked["labels"] = samples_of(self._stream(data, preprocess))
        if overrides:
            asked["options"] = {"overrides": overrides}
        return asked

    def _board(self, target: Any, lab: Any, *, timed: bool) -> AbstractContextManager[Board]:  # noqa: ANN401, ARG002
        """A connection to a board, for a sweep over variants; `harness.Quantizer` makes one.

        Raises:
            UserError: this class knows no boards.
        """
        msg = f"target {target!r}: this class knows no boards; use harness.Quantizer, or leave target=None"
        raise UserError(msg)
