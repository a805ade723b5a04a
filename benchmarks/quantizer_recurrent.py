"""What int8 costs recurrent networks: Silero VAD's speech frames (an LSTM), the digits of examples/gru (a GRU).

    python -m benchmarks.quantizer_recurrent --environments cpu,fpga

Silero VAD hears 60 seconds as 1,875 frames of 512 samples and gives the probability of speech for each. Float and int8
network run over all of them, each fed the state that it made itself; counted is on how many frames both say the same at
a threshold of one half. Ranges come from the first third of the recording, the rest was never seen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.figures import Effort, Goal, Result, Row
from harness.quantize import QuantizedModel, Quantizer

SHARED = Path(__file__).parents[2] / "shared" / "data"
ENVIRONMENTS = ("cpu", "gpu", "fpga", "host")
#: Samples of a frame, and how many of the frame before it are heard again with it (snakers4/silero-vad, utils_vad.py).
FRAME, CONTEXT = 512, 64
STATE = {"state": "stateN"}
#: Least share of frames on which int8 decides as float does.
LEAST_SAME = 0.99
#: Share of the recording that ranges are taken from.
CALIBRATION = 1 / 3
#: Every so-manieth calibration frame is kept from the ranges, to choose between methods on.
_HELD_BACK = 8


@dataclass(frozen=True)
class Decisions:
    """Float and int8 side by side, frame by frame.

    Args:
        environment: whose rules.
        reference: the float network's probabilities [frames].
        other: the int8 network's.
        seen: how many frames from the start had a part in its making.
        cpu_s: CPU seconds from the float network to the int8 file.
        model: what the quantizer says of its result.
    """

    environment: str
    reference: NDArray[np.float32]
    other: NDArray[np.float32]
    seen: int
    cpu_s: float
    model: QuantizedModel

    @property
    def same(self) -> float:
        """Share of frames with the same decision."""
        return float(self._agrees.mean())

    @property
    def same_unseen(self) -> float:
        """The same of the frames that nothing was calibrated on."""
        return float(self._agrees[self.seen :].mean())

    @property
    def _agrees(self) -> NDArray[np.bool_]:
        return np.asarray((self.reference >= 0.5) == (self.other >= 0.5))


def missing() -> str | None:
    """Why the recording cannot be used here, None when it can."""
    needed = (SHARED / "models/silero_vad_16k_op15.onnx", SHARED / "audio_vad/test_16k.wav")
    gone = [path.name for path in needed if not path.is_file()]
    return f"{', '.join(gone)} not beside the repository" if gone else None


def frames(path: Path) -> NDArray[np.float32]:
    """A recording of 16 kHz, 16 bits, one channel, as [frames, CONTEXT + FRAME]; the first context is silence."""
    with wave.open(str(path)) as audio:
        heard = np.frombuffer(audio.readframes(audio.getnframes()), np.int16).astype(np.float32) / 32768
    whole = heard[: len(heard) // FRAME * FRAME].reshape(-1, FRAME)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), whole[:-1, -CONTEXT:]])
    return np.concatenate([before, whole], axis=1)


def probabilities(model: Path, heard: NDArray[np.float32], disabled_optimizers: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    """Speech probability of each frame [frames], the network fed its own state from zeros on."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled_optimizers) or None
    )
    state = np.zeros((2, 1, 128), np.float32)
    found = np.empty(len(heard), np.float32)
    rate = np.array(16000)
    for index in range(len(heard)):
        output, state = session.run(
            ["output", "stateN"], {"input": heard[index : index + 1], "state": state, "sr": rate}
        )
        found[index] = output[0, 0]
    return found


def speech_decisions(environment: str, out: Path, limit: int | None = None) -> Decisions:
    """Quantize Silero VAD by the rules of an environment and compare its decisions.

    Args:
        environment: gpu, cpu, fpga or host.
        out: the int8 file.
        limit: only the first so many frames.
    """
    model = SHARED / "models/silero_vad_16k_op15.onnx"
    heard = frames(SHARED / "audio_vad/test_16k.wav")[:limit]
    seen = int(len(heard) * CALIBRATION)
    started = time.process_time()
    complete = list(_with_states(model, heard[:seen]))
    quantizer = Quantizer(model, environment, state=STATE)
    quantizer.calibrate([feed for index, feed in enumerate(complete) if index % _HELD_BACK])
    made = quantizer.quantize(out, held_back=complete[::_HELD_BACK])
    cpu_s = time.process_time() - started
    reference = probabilities(model, heard)
    other = probabilities(made.path, heard, made.disabled_optimizers)
    return Decisions(environment, reference, other, seen, cpu_s, made)


def _with_states(model: Path, heard: NDArray[np.float32]) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Complete feeds, so that some can be held back without a gap in the sequence."""
    from harness.quantize.sequence import with_states

    steps = ({"input": frame[None], "sr": np.array(16000)} for frame in heard)
    yield from with_states(model, steps, STATE, {"state": np.zeros((2, 1, 128), np.float32)})


def run(effort: Effort) -> Result:
    """All environments; a try-out hears the first ten seconds."""
    if reason := missing():
        return Result((), (f"speech frames of Silero VAD: {reason}",))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for environment in ENVIRONMENTS:
            found = speech_decisions(environment, Path(folder, "int8.onnx"), 300 if effort.is_quick else None)
            print(f"  {told(found)}", flush=True)
            rows.append(_row(found))
    return Result(tuple(rows))


def told(found: Decisions) -> str:
    """One line, as soon as it is known."""
    return (
        f"silero {found.environment}: {100 * found.same:.2f} % of {len(found.reference)} frames as float, "
        f"{100 * found.same_unseen:.2f} % of the unseen, {found.model.method}, {found.cpu_s:.1f} CPU s"
    )


def _row(found: Decisions) -> Row:
    return Row(
        f"Silero VAD, {found.environment}: speech frames decided as by the float network",
        "%",
        (100 * found.same,),
        goal=Goal("ours", least=100 * LEAST_SAME),
        note=f"of {len(found.reference)}; {100 * found.same_unseen:.2f} % of the frames never calibrated on",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizer_recurrent", description=__doc__)
    parser.add_argument("--environments", default=",".join(ENVIRONMENTS), help="whose rules")
    parser.add_argument("--keep", type=Path, help="folder for the int8 files")
    arguments = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    with tempfile.TemporaryDirectory() as temporary:
        for environment in arguments.environments.split(","):
            found = speech_decisions(environment, Path(arguments.keep or temporary, f"silero.{environment}.onnx"))
            print(told(found))
            for note in found.model.notes:
                print(f"  {note}")


if __name__ == "__main__":
    main()
