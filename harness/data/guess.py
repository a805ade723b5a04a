"""What a first job file can say about a network and its data, and what it can only guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harness.data.arrays import load_npz
from harness.data.batch import rows
from harness.data.folder import Listing, list_folder
from harness.data.images import ImagePipeline
from harness.data.inputs import InputSpec
from harness.data.network_files import load_structure
from harness.data.preprocess import Preprocess

#: Images looked at to learn their size.
_LOOKED_AT = 32
#: From here on a fixed number of calibration samples is enough; below, a fifth is taken.
_MANY_SAMPLES = 500
_NORMALISATIONS = {
    "0..1": "scale: 1/255",
    "-1..1 (TensorFlow)": "scale: 1/127.5, mean: 1",
    "ImageNet (PyTorch)": "scale: 1/255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]",
    "Caffe": "channels: bgr, mean: [104, 117, 123]",
    "0..255": "",
}


@dataclass(frozen=True, slots=True)
class Guess:
    """The fields of a first job.yaml.

    Args:
        inputs: as messages describe them.
        summary: what the data holds.
        calibration: count or fraction.
        label_offset: with `offset_reason`, None when there is nothing to shift.
        preprocess: the YAML flow mapping, None when there is none to write.
        reason: why it is so, and what of it is guessed.
        alternatives: other normalisations in use, one a line.
        batch: that the network insists on, or None.
    """

    inputs: str
    summary: str
    calibration: int | float
    label_offset: int
    offset_reason: str | None
    preprocess: str | None
    reason: str
    alternatives: tuple[str, ...]
    batch: int | None
    metrics: tuple[str, ...]


def guess(model: Path, inputs: Sequence[InputSpec], source: Path | None) -> Guess:
    """Look at a network and its data.

    Args:
        model: the ONNX file.
        inputs: of the network.
        source: folder or .npz; None: a function, which is not called here.

    Raises:
        UserError: the data cannot be read, or cannot feed the network.
    """
    classes = _classes(model)
    described = ", ".join(f"{spec.name} {spec.describe()}" for spec in inputs)
    count: int | None = None
    labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None = None
    steps: str | None = None
    reason = "arrays are taken as they are"
    others: tuple[str, ...] = ()
    summary = "a function: not called by init"
    if source is not None and source.is_dir():
        listing = list_folder(source)
        count, labels = len(listing.ids), listing.labels
        summary = f"{count} images, {'no labels' if labels is None else f'labels {labels.min()}..{labels.max()}'}"
        steps, reason, others = _image_steps(listing, inputs[0], classes)
    elif source is not None:
        arrays, raw = load_npz(source)
        count = rows(arrays)
        summary = f"{count} samples of {', '.join(arrays)}{'' if raw is not None else ', no labels'}"
        if raw is not None and raw.dtype.kind in "iu" and raw.size:
            labels = raw.astype(np.int64)
    offset, offset_reason = (0, None) if labels is None else _offset(labels, classes)
    batch = inputs[0].fixed_batch
    return Guess(
        inputs=described,
        summary=summary,
        calibration=100 if count is None or count >= _MANY_SAMPLES else 0.2,
        label_offset=offset,
        offset_reason=offset_reason,
        preprocess=steps,
        reason=reason,
        alternatives=others,
        batch=batch,
        metrics=("accuracy_top1", "accuracy_top5") if (classes or 0) >= 100 else ("accuracy_top1",),
    )


def _image_steps(listing: Listing, spec: InputSpec, classes: int | None) -> tuple[str, str, tuple[str, ...]]:
    """The preprocessing of images: (flow mapping, reason, other normalisations)."""
    pipeline = ImagePipeline(Preprocess(), spec)
    sizes = set()
    for path in listing.paths[:_LOOKED_AT]:
        try:
            with Image.open(path) as image:
                sizes.add((image.height, image.width))
        except OSError:
            continue  # one damaged image does not change the guess; reading it names it
    parts = [f"layout: {pipeline.layout}", f"channels: {pipeline.channels}"]
    height, width = pipeline.height, pipeline.width
    guessed = ["channels"] if pipeline.channels != "gray" else []
    if height and width and sizes != {(height, width)}:
        guessed.insert(0, "resize")
        if height == width and height >= 128 and len(sizes) != 1:
            parts.append(f"resize: {round(height * 8 / 7)}, crop: {height}")  # 256 → 224, the habit of ImageNet
        else:
            parts.append(f"resize: [{height}, {width}]")
    name = _normalisation(pipeline, classes)
    if name is not None:
        parts.append(_NORMALISATIONS[name])
        guessed.append(f"normalisation ({name})")
    reason = f"guessed: {', '.join(guessed)}" if guessed else "read off the network and the images"
    lines = [f"{other}: {text or 'no scale, mean or std'}" for other, text in _NORMALISATIONS.items() if other != name]
    others = ("instead of the normalisation guessed, networks in use also take:", *lines) if name is not None else ()
    return f"{{{', '.join(parts)}}}", reason, others


def _normalisation(pipeline: ImagePipeline, classes: int | None) -> str | None:
    if pipeline.spec.numpy_dtype.kind != "f":
        return None
    if pipeline.layout == "NHWC":
        return "-1..1 (TensorFlow)"
    if pipeline.channels != "gray" and (classes or 0) >= 1000:
        return "ImageNet (PyTorch)"
    return "0..1"


def _offset(labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]], classes: int | None) -> tuple[int, str | None]:
    low, high = int(labels.min()), int(labels.max())
    if classes == 1001 and high < 1000:
        return 1, "guessed: 1001 classes, where class 0 is usually 'background' and label_index + 1 is the class"
    if classes is not None and high == classes and low >= 1:
        return -1, f"guessed: labels {low}..{high} for {classes} classes start at 1"
    return 0, None


def _classes(model: Path) -> int | None:
    """How many classes the first output tells apart, None when its shape does not say."""
    output = load_structure(model)[0].graph.output[0]
    sizes = [dim.dim_value for dim in output.type.tensor_type.shape.dim][1:]
    large = [size for size in sizes if size != 1]
    return large[0] if len(large) == 1 and large[0] > 1 else None
