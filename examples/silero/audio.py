"""The recording as Silero VAD hears it, and what is counted: frames on which a network decides as the float one did."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: 60 seconds of speech and silence with the float probability of each frame; beside the project, not part of it.
FOLDER = Path(__file__).parents[3] / "shared/data/audio_vad"
RATE = 16000
#: Samples of a frame, and how many of the frame before it are heard again with it (snakers4/silero-vad, utils_vad.py).
FRAME, CONTEXT = 512, 64


def frames() -> tuple[dict[str, NDArray[np.generic]], NDArray[np.int64]]:
    """All frames in the order of time.

    Returns:
        ({"input": float32 [1875, 576], "sr": the rate, of rank 0}, int64 [1875]: 1 where the float network hears
        speech).
    """
    with wave.open(str(FOLDER / "test_16k.wav")) as audio:
        heard = np.frombuffer(audio.readframes(audio.getnframes()), np.int16).astype(np.float32) / 32768
    whole = heard[: len(heard) // FRAME * FRAME].reshape(-1, FRAME)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), whole[:-1, -CONTEXT:]])
    probabilities = np.loadtxt(FOLDER / "test_16k_float_probs.csv")
    inputs = {"input": np.concatenate([before, whole], axis=1), "sr": np.array(RATE)}
    return inputs, (probabilities[-len(whole) :] >= 0.5).astype(np.int64)


def same_decision(outputs: Mapping[str, NDArray[np.generic]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 for each frame that the network decides at one half as the float network did, else 0."""
    speech = np.asarray(outputs["output"], np.float64).reshape(len(labels)) >= 0.5
    return np.asarray(speech == (labels == 1), np.float64)


def speech(outputs: Mapping[str, NDArray[np.generic]], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 for each frame in which the network hears speech, else 0: its mean is the share of speech."""
    return np.asarray(np.asarray(outputs["output"], np.float64).reshape(len(labels)) >= 0.5, np.float64)
