"""`Quantizer`: the whole line for one network and one environment, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from harness.data import (
    DataSpec,
    Preprocess,
    stream_batches,
)
from harness.errors import UserError
from harness.quantize.quantizer import QuantizedModel
from harness.quantize.session_content import StoredRanking
from harness.quantize.session_file import Which, embeddable, load_session, save_session
from harness.quantize.session_networks import Unpacked, find_network, missing
from harness.quantize.session_precision import Quantizing
from harness.quantize.session_ranges import labelled
from harness.quantize.validation import MetricFunction, StandIn, ValidationResult, validate


class Quantizer(Quantizing):
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
            return validate(self.model, made, (labelled(batch) for batch in stream), metrics, self.state, stand_in)

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

    def _stand_in(self, made: QuantizedModel) -> AbstractContextManager[StandIn | None]:  # noqa: ARG002
        """What runs here in place of an int8 network; `harness.Quantizer` has the boards' own arithmetic."""
        return nullcontext()
