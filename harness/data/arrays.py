"""Samples that come as arrays: .npz files, what a function returns, what a Python caller hands in."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np

from harness.data.batch import Array, Batch, Labels, cut, rows
from harness.data.images import ImagePipeline, check_dtype
from harness.data.inputs import InputSpec, shape_text
from harness.data.preprocess import Preprocess
from harness.data.tensors import as_dtype, require_finite
from harness.data.truth import Truth, truth_of
from harness.errors import UserError
from harness.yamlfile import suggest


class ArrayFitter:
    """Turns arrays by name into what the network's inputs take.

    Without preprocessing, arrays are taken as they are: in the network's own layout, converted to its dtype where no
    value changes, with axes of length 1 added or removed. A preprocessing that treats all values alike (scale, one
    mean, one std) applies to any array; any other one takes the array for images [N,H,W] or [N,H,W,C] (RGB).

    Args:
        inputs: that the data must supply.
        preprocess: the job's.
        source: how messages name the data.
    """

    def __init__(self, inputs: Sequence[InputSpec], preprocess: Preprocess, source: str) -> None:
        if not inputs:
            raise UserError(f"{source}: the network has no input that data could fill")
        if len(inputs) > 1 and not preprocess.identity:
            names = ", ".join(spec.name for spec in inputs)
            raise UserError(
                f"preprocess: the network has {len(inputs)} inputs ({names}); preprocess in the data itself"
            )
        self.inputs = tuple(inputs)
        self.preprocess = preprocess
        self.source = source
        check_dtype(preprocess, inputs[0])
        self._pipeline = None if preprocess.elementwise else ImagePipeline(preprocess, inputs[0])

    def match(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays under the names of the inputs, with the sample axis checked.

        A single array of another name is taken for the single input.

        Raises:
            UserError: a missing or unknown name, or arrays of different lengths.
        """
        names = [spec.name for spec in self.inputs]
        found = dict(arrays)
        if len(names) == 1 and len(found) == 1:
            found = {names[0]: next(iter(found.values()))}
        for name in names:
            if name not in found:
                unknown = [key for key in found if key not in names]
                raise UserError(
                    f"{self.source}: no array for input '{name}'; it has {', '.join(found) or 'none'}: "
                    f"rename or add it{suggest(name, unknown)}"
                )
        for key in found:
            if key not in names:
                raise UserError(
                    f"{self.source}: array '{key}' is no input; the inputs are {', '.join(names)}: remove it"
                )
        count, first = None, ""
        scalars = {spec.name for spec in self.inputs if not spec.shape}
        for name in names:
            if name in scalars:
                found[name] = self._one_number(found[name], name)
                continue
            if found[name].ndim == 0:
                raise UserError(f"{self.source}: array '{name}' has no sample axis; give [N, …], one row a sample")
            count = len(found[name]) if count is None else count
            first = first or name
            if len(found[name]) != count:
                raise UserError(
                    f"{self.source}: {len(found[name])} samples of '{name}' but {count} of '{first}'; "
                    "the first axis must be the samples in every array"
                )
        return {name: found[name] for name in names}

    def _one_number(self, x: Array, name: str) -> Array:
        """What a scalar input gets: one number, however often the data repeat it."""
        if not x.size or (x != x.reshape(-1)[0]).any():
            raise UserError(
                f"{self.source}: input '{name}' takes one number for all samples; give an array of rank 0, np.array(…)"
            )
        return np.asarray(x.reshape(-1)[0])

    def fit(self, arrays: Mapping[str, Array], ids: Sequence[str]) -> dict[str, Array]:
        """Preprocess matched arrays of some samples.

        Raises:
            UserError: wrong shape or dtype, NaN.
        """
        names = [f"{self.source} sample {name}" for name in ids]
        return {spec.name: self._one(arrays[spec.name], spec, names) for spec in self.inputs}

    def _one(self, x: Array, spec: InputSpec, names: Sequence[str]) -> Array:
        if x.dtype.kind not in "fiub":
            raise UserError(f"{self.source}: array for '{spec.name}' is of type {x.dtype}; give numbers")
        if self._pipeline is not None:
            return self._images(self._pipeline, x, names)
        if not self.preprocess.identity:
            steps = self.preprocess
            x = (x.astype(np.float32) * np.float32(steps.scale) - np.float32(steps.mean[0])) / np.float32(steps.std[0])
        if spec.dtype == "bool" and x.dtype.kind != "b":
            raise UserError(f"{self.source}: array for '{spec.name}' is of type {x.dtype}; the network takes bool")
        if not spec.shape:
            require_finite(x.reshape(1), [self.source], spec.name)
            return as_dtype(x.reshape(1), spec.numpy_dtype, [self.source], spec.name).reshape(())
        require_finite(x, names, spec.name)
        x = as_dtype(self._shaped(x, spec), spec.numpy_dtype, names, spec.name)
        return np.ascontiguousarray(x)

    def _shaped(self, x: Array, spec: InputSpec) -> Array:
        wanted, given = spec.sample_shape, x.shape[1:]
        if len(given) == len(wanted) and all(w in {None, g} for w, g in zip(wanted, given, strict=True)):
            return x
        # Axes of length 1 carry no order: [N,28,28] is [N,1,28,28].
        lean = [size for size in wanted if size != 1]
        rest = [size for size in given if size != 1]
        if len(lean) == len(rest) and all(w in {None, g} for w, g in zip(lean, rest, strict=True)):
            sizes = iter(rest)
            return x.reshape(len(x), *(1 if size == 1 else next(sizes) for size in wanted))
        raise UserError(
            f"{self.source}: samples of shape {list(given)} where input '{spec.name}' takes "
            f"{shape_text(spec.shape)} (first axis = samples); reshape them"
        )

    def _images(self, pipeline: ImagePipeline, x: Array, names: Sequence[str]) -> Array:
        if x.ndim == 3:
            x = x[..., np.newaxis]
        if x.ndim != 4 or x.shape[-1] not in {1, 3}:
            raise UserError(
                f"{self.source}: with `preprocess:` arrays are images [N,H,W] or [N,H,W,C], not {list(x.shape)}; "
                "give them so, or drop channels, layout, resize, crop and per-channel values"
            )
        if x.dtype == np.uint8:
            images = [pipeline.from_array(image, name) for image, name in zip(x, names, strict=True)]
            return pipeline.finish(images, names)
        if pipeline.preprocess.resize or pipeline.preprocess.crop or x.shape[-1] != pipeline.count:
            raise UserError(
                f"{self.source}: images of type {x.dtype} are neither resized nor converted to {pipeline.channels}; "
                "give uint8 pixels"
            )
        require_finite(x, names, pipeline.spec.name)
        ordered = x[..., ::-1] if pipeline.channels == "bgr" else x
        tensor = pipeline.finish(ordered, names)  # type: ignore[arg-type]
        return self._shaped(tensor, pipeline.spec)


class ArrayDataSet:
    """A `DataSet` over arrays in memory (or mapped from a file).

    Args:
        arrays: by input name, first axis = samples; any numeric dtype, converted when read.
        labels: integers [N]; masks, boxes or targets as `truth.truth_of` takes them; or None.
        fitter: to the network's inputs.
        name: how messages name the data.
        label_offset: added to every label.
    """

    def __init__(
        self, arrays: Mapping[str, Array], labels: object, fitter: ArrayFitter, name: str, label_offset: int = 0
    ) -> None:
        self._fitter = fitter
        self._arrays = fitter.match(arrays)
        count = rows(self._arrays)
        if not count:
            raise UserError(f"{fitter.source}: holds no samples; the first axis of every array must be the samples")
        self.name = name
        self.label_source = f"labels of {name}"
        self.ids = tuple(str(index) for index in range(count))
        self.truth: Truth | None = truth_of(labels, count, fitter.source)
        plain = None if self.truth is not None else as_labels(labels, count, fitter.source)
        self.labels = None if plain is None else plain + label_offset
        self.read([0])  # wrong shapes and dtypes show now, not in the middle of a run

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: Sequence[int]) -> Batch:
        """See `DataSet.read`."""
        chosen = list(indices)
        ids = tuple(self.ids[index] for index in chosen)
        inputs = self._fitter.fit(cut(self._arrays, chosen), ids)
        return Batch(ids, inputs, None if self.labels is None else self.labels[chosen])

    @cached_property
    def _digest(self) -> str:
        whole = hashlib.sha256(repr((self._fitter.preprocess, self._fitter.inputs)).encode())
        labelled = {} if self.labels is None else {"labels": cast(Array, self.labels)}
        for name, x in {**self._arrays, **labelled}.items():
            whole.update(repr((name, x.dtype.str, x.shape)).encode())
            parts = range(0, len(x), 256) if x.ndim else ()
            for start in parts:  # a mapped file is not read into memory at once
                whole.update(np.ascontiguousarray(x[start : start + 256]).data)
            if not x.ndim:
                whole.update(x.tobytes())
        if self.truth is not None:
            whole.update(self.truth.digest().encode())
        return whole.hexdigest()

    def digest(self) -> str:
        """See `DataSet.digest`."""
        return self._digest


def as_labels(labels: object, count: int, source: str) -> Labels | None:
    """Class numbers as int64 [N].

    Raises:
        UserError: not whole numbers, or not one per sample.
    """
    if labels is None:
        return None
    try:
        x = np.asarray(labels)
    except ValueError:
        raise UserError(f"{source}: labels are ragged; give one class number per sample") from None
    if x.dtype.kind not in "iu":
        raise UserError(f"{source}: labels of type {x.dtype}; give whole class numbers (int64)")
    if x.shape not in {(count,), (count, 1)}:
        raise UserError(f"{source}: labels of shape {list(x.shape)} for {count} samples; give [{count}]")
    return x.reshape(count).astype(np.int64)


def load_npz(path: Path) -> tuple[dict[str, Array], Array | None]:
    """Arrays of an .npz by name, and `labels` where it has them. Pickled objects are never loaded.

    Raises:
        UserError: not an .npz, damaged, empty, or with object arrays.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{path}: a single array, not an .npz; save it with numpy.savez")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise UserError(f"{path}: holds Python objects, which are not loaded; save plain numeric arrays") from None
        raise UserError(f"{path}: not a readable .npz ({error}); save it with numpy.savez") from None
    except (OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(f"{path}: not a readable .npz ({error}); save it again with numpy.savez") from None
    labels = arrays.pop("labels", None)
    if not arrays:
        raise UserError(f"{path}: holds no input array; give one per network input")
    return arrays, labels
