"""From what a job names as its data to a `DataSet`, whatever the form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.arrays import ArrayDataSet, ArrayFitter, load_npz
from harness.data.batch import Batch, DataSet, batches
from harness.data.folder import FolderDataSet
from harness.data.functions import call_function, is_function_spec
from harness.data.images import ImagePipeline
from harness.data.inputs import InputSpec
from harness.data.label_map import LabelMap
from harness.data.preprocess import Preprocess
from harness.data.stream import is_whole, pieces, spool, take_apart
from harness.errors import UserError

#: Share of the samples that calibrates when the job does not say.
DEFAULT_CALIBRATION = 0.2


@dataclass(frozen=True, slots=True)
class DataSpec:
    """The `data:` section of a job.

    Args:
        source: folder, .npz, or module:function; a path is relative to the job file unless absolute.
        calibration: samples that calibrate, as a count or (float) a fraction; the rest validate.
        seed: of the split.
        label_offset: added to every label (1 where the network has a background class 0).
        labels: of a folder: masks or boxes in files of their own, a folder or .json relative to the source, else to
            the job file; None: classes by labels.csv or folder.
        label_map: of those, from what is stored to classes.
    """

    source: str
    calibration: int | float = DEFAULT_CALIBRATION
    seed: int = 0
    label_offset: int = 0
    labels: str | None = None
    label_map: LabelMap | None = None


def open_data(spec: DataSpec, preprocess: Preprocess, inputs: Sequence[InputSpec], base: Path) -> DataSet:
    """Open the data of a job for the inputs of a network.

    Args:
        spec: the job's `data:`.
        preprocess: the job's `preprocess:`.
        inputs: that the data must supply (`data_inputs` leaves recurrent ones out).
        base: folder of the job file.

    Raises:
        UserError: the data cannot be found or read, or does not fit the inputs; one line with the remedy.
    """
    path = locate_source(spec.source, base)
    _check_label_fields(spec, path)
    if path is None:
        result = call_function(spec.source, base)
        fitter = ArrayFitter(inputs, preprocess, spec.source)
        if is_whole(result):
            arrays, labels = take_apart(result, spec.source)
            return ArrayDataSet(arrays, labels, fitter, spec.source, spec.label_offset)
        return spool(result, fitter, spec.source, spec.label_offset)
    if path.is_dir():
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise UserError(
                f"{path}: a folder of images feeds one input, the network has {len(inputs)} ({names}); "
                "use .npz or module:function"
            )
        files = None if spec.labels is None else _locate_labels(spec.labels, path, base)
        return FolderDataSet(path, ImagePipeline(preprocess, inputs[0]), spec.label_offset, files, spec.label_map)
    arrays, labels = load_npz(path)
    return ArrayDataSet(arrays, labels, ArrayFitter(inputs, preprocess, str(path)), path.name, spec.label_offset)


def _check_label_fields(spec: DataSpec, path: Path | None) -> None:
    """Refuse fields that would be ignored."""
    if spec.labels is not None and (path is None or not path.is_dir()):
        raise UserError("data.labels: only a folder of images has label files; return the labels with the arrays")
    if spec.label_map is not None and spec.labels is None:
        raise UserError("data.label_map: of masks and boxes only (data.labels); shift classes with data.label_offset")
    if spec.labels is not None and spec.label_offset:
        raise UserError("data.label_offset: of classes only; masks and boxes take data.label_map")


def _locate_labels(labels: str, folder: Path, base: Path) -> Path:
    beside = (folder / Path(labels).expanduser()).resolve()
    return beside if beside.exists() else (base / Path(labels).expanduser()).resolve()


def locate_source(source: str, base: Path) -> Path | None:
    """The folder or .npz that `source` names; None when it is a module:function instead.

    Raises:
        UserError: no such path, or a file that is no .npz.
    """
    path = (base / Path(source).expanduser()).resolve()
    if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
        return path
    if path.is_file():
        raise UserError(f"{path}: not a folder and not an .npz; give one of them, or module:function")
    if is_function_spec(source):
        return None
    raise UserError(f"{path}: no such data; give a folder of images, an .npz, or module:function")


def stream_batches(
    data: str | Path | DataSpec | Iterable[Any],
    inputs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | None = None,
    base: Path | None = None,
    batch_size: int = 32,
) -> Iterator[Batch]:
    """All samples of anything that the Python API takes as data, batch by batch.

    Args:
        data: a DATA name (read from disk as it goes), or an iterable of {input: array[N, …]} or (inputs, labels),
            consumed once, one batch per piece.
        inputs: that the data must supply.
        preprocess: None: nothing but fitting dtype and layout.
        base: folder that relative names start from; None: the current one.
        batch_size: samples per batch where `data` is a name.

    Raises:
        UserError: as `open_data` and `stream.pieces`.
    """
    steps = preprocess or Preprocess()
    if isinstance(data, str | Path | DataSpec):
        spec = data if isinstance(data, DataSpec) else DataSpec(str(data))
        dataset = open_data(spec, steps, inputs, base or Path.cwd())
        yield from batches(dataset, range(len(dataset)), batch_size, fixed=False)
        return
    for _, batch in pieces([data] if is_whole(data) else data, ArrayFitter(inputs, steps, "data")):
        yield batch
