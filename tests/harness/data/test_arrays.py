"""Arrays from .npz files, functions and Python callers: how they meet the inputs, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data import (
    Batch,
    DataSet,
    DataSpec,
    InputSpec,
    Preprocess,
    PreprocessFile,
    batches,
    open_data,
    stream_batches,
)
from harness.errors import UserError

ONE = (InputSpec("x", "float32", (None, 2, 3)),)
TWO = (InputSpec("a", "float32", (None, 2)), InputSpec("b", "int64", (None,)))
NUMBERS = np.arange(24, dtype=np.float64).reshape(4, 2, 3)


def npz(folder: Path, **arrays: Any) -> Path:  # noqa: ANN401 - any field
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def opened(path: Path | str, inputs: tuple[InputSpec, ...] = ONE, base: Path = Path("/"), **steps: Any) -> DataSet:  # noqa: ANN401 - any field
    return open_data(DataSpec(str(path), label_offset=10), PreprocessFile(**steps).value(), inputs, base)


def test_npz_by_name_with_labels(tmp_path: Path) -> None:
    path = npz(tmp_path, b=np.array([5, 6], np.uint8), a=np.ones((2, 2)), labels=np.array([1, 0], np.uint8))
    data = opened(path, TWO)
    batch = data.read([1])
    assert batch.inputs["a"].dtype == np.float32
    assert batch.inputs["b"].dtype == np.int64
    assert batch.inputs["b"].tolist() == [6]
    assert data.labels is not None
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [11, 10]
    assert (data.ids, data.name, len(data)) == (("0", "1"), "data.npz", 2)


def test_one_array_of_any_name_is_the_one_input(tmp_path: Path) -> None:
    data = opened(npz(tmp_path, images=NUMBERS))
    np.testing.assert_array_equal(data.read([3, 1]).inputs["x"], NUMBERS[[3, 1]])
    assert data.labels is None


def test_axes_of_length_one_come_and_go(tmp_path: Path) -> None:
    path = npz(tmp_path, x=NUMBERS)
    got = opened(path, (InputSpec("x", "float32", (1, 1, 2, 1, 3)),)).read([0, 2]).inputs["x"]
    assert got.shape == (2, 1, 2, 1, 3)
    np.testing.assert_array_equal(got.reshape(2, 2, 3), NUMBERS[[0, 2]])


def test_scaling_fits_any_array_and_channels_make_it_an_image(tmp_path: Path) -> None:
    got = opened(npz(tmp_path, x=NUMBERS), scale=0.5, mean=1, std=2).read([1]).inputs["x"]
    np.testing.assert_array_equal(got, (NUMBERS[[1]] * 0.5 - 1) / 2)  # exact: all are multiples of 1/4
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), np.uint8)
    inputs = (InputSpec("x", "float32", (1, 3, 6, 5)),)
    for stored in (images, images.astype(np.float32)):
        got = opened(npz(tmp_path, x=stored), inputs, channels="bgr", mean=[1, 2, 3]).read([0, 1]).inputs["x"]
        np.testing.assert_array_equal(
            got, images[..., ::-1].transpose(0, 3, 1, 2) - np.array([1, 2, 3]).reshape(3, 1, 1)
        )


@pytest.mark.parametrize(
    ("arrays", "inputs", "expected"),
    [
        ({"x": np.zeros((4, 3, 2))}, ONE, r"samples of shape \[3, 2\] where input 'x' takes \[N,2,3\]"),
        ({"x": np.float32(1)}, ONE, "array 'x' has no sample axis"),
        ({"x": np.zeros((0, 2, 3))}, ONE, "holds no samples"),
        ({"x": np.array(["a"])}, ONE, "is of type <U1; give numbers"),
        ({"x": np.array([{}])}, ONE, "holds Python objects, which are not loaded"),
        ({"x": np.full((1, 2, 3), np.nan)}, ONE, "sample 0: input 'x' holds NaN or infinity"),
        ({"x": np.full((1, 2, 3), 1e300)}, ONE, "sample 0: input 'x' holds values that float32 cannot"),
        ({"x": NUMBERS, "labels": np.zeros(3, int)}, ONE, r"labels of shape \[3\] for 4 samples"),
        ({"x": NUMBERS, "labels": np.zeros(4)}, ONE, "labels of type float64; give whole class numbers"),
        ({"labels": np.zeros(4, int)}, ONE, "holds no input array"),
        ({"a": np.zeros((4, 2))}, TWO, r"no array for input 'b'; it has a"),
        ({"a": np.zeros((4, 2)), "B": np.zeros(4)}, TWO, r"no array for input 'b'; it has a, B: rename"),
        ({"a": np.zeros((4, 2)), "b": np.zeros(4, int), "c": np.zeros(4)}, TWO, "array 'c' is no input"),
        ({"a": np.zeros((4, 2)), "b": np.zeros(3, int)}, TWO, "3 samples of 'b' but 4 of 'a'"),
        ({"a": np.zeros((4, 2)), "b": np.full(4, 0.5)}, TWO, "sample 0: input 'b' holds values that int64 cannot"),
    ],
)
def test_each_misfit_is_one_line(
    tmp_path: Path, arrays: dict[str, Any], inputs: tuple[InputSpec, ...], expected: str
) -> None:
    path = npz(tmp_path, **arrays)
    with pytest.raises(UserError, match=expected) as caught:
        opened(path, inputs)
    assert "\n" not in str(caught.value)
    assert "data.npz" in str(caught.value)


def test_nan_in_a_later_sample_is_found_when_it_is_read(tmp_path: Path) -> None:
    bad = NUMBERS.copy()
    bad[2, 1, 1] = np.inf
    data = opened(npz(tmp_path, x=bad))
    assert data.read([0, 1, 3]).real == 3
    with pytest.raises(UserError, match="sample 2: input 'x' holds NaN or infinity"):
        data.read([1, 2])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"plain text"])
def test_files_that_are_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"not a readable .npz|holds Python objects"):
        opened(tmp_path / "data.npz")


def test_a_cut_npz_and_a_lone_array(tmp_path: Path) -> None:
    path = npz(tmp_path, x=np.random.default_rng(0).random((50, 2, 3)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"not a readable .npz"):
        opened(path)
    with path.open("wb") as file:
        np.save(file, NUMBERS)
    with pytest.raises(UserError, match=r"a single array, not an .npz"):
        opened(path)


MODULE = """
import numpy as np
X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
L = [0, 1, 2, 3]
def mapping(): return {"x": X, "labels": L}
def pair(): return {"x": X}, L
def array_pair(): return X, np.array(L)
def array(): return X
def stream():
    for i in (0, 1, 3): yield X[i:i + 1 + (i == 1)], L[i:i + 1 + (i == 1)]
def mappings(): return [{"x": X[:3], "labels": L[:3]}, {"x": X[3:], "labels": L[3:]}]
def two_mappings(): return {"x": X[:3]}, {"x": X[3:]}
def number(): return 7
def fails(): raise KeyError("oh")
def dies():
    yield {"x": X}
    raise OSError("disk on fire")
def turns():
    yield {"x": X}
    yield {"x": X.astype(np.int32)}
def forgets():
    yield X, L
    yield X, None
def nothing(): return iter(())
def wrong(): return [{"x": X}, "words"]
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize("form", ["mapping", "pair", "array_pair", "array", "stream", "mappings", "two_mappings"])
def test_every_form_a_function_may_return_is_the_same_data(module: Path, form: str) -> None:
    data = opened(f"mine:{form}", base=module)
    np.testing.assert_array_equal(data.read([3, 0]).inputs["x"], NUMBERS[[3, 0]])
    assert len(data) == 4
    if form in {"array", "two_mappings"}:
        assert data.labels is None
    else:
        assert data.labels is not None
        assert data.labels.tolist() == [10, 11, 12, 13]


def test_the_digest_is_that_of_the_samples_not_of_their_form(module: Path) -> None:
    digests = {opened(f"mine:{form}", base=module).digest() for form in ("mapping", "pair", "stream", "mappings")}
    assert len(digests) == 1
    assert opened("mine:array", base=module).digest() not in digests


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("number", r"mine:number: a int is no data; give an iterable of"),
        ("fails", r"mine:fails failed: KeyError: 'oh' \(mine.py:\d+\)"),
        ("dies", r"mine:dies failed: OSError: disk on fire \(mine.py:\d+\)"),
        ("turns", r"samples of 'x' change from float32\[2, 3\] to int32\[2, 3\]"),
        ("forgets", "piece 1 lacks labels unlike those before"),
        ("nothing", "gave no samples"),
        ("wrong", "piece 1 is of type str; give"),
    ],
)
def test_each_failure_of_a_function_is_one_line(module: Path, name: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        opened(f"mine:{name}", base=module)
    assert "\n" not in str(caught.value)


def test_a_stream_is_consumed_piece_by_piece() -> None:
    taken: list[int] = []

    def pieces() -> Iterator[dict[str, Any]]:
        for index in range(3):
            taken.append(index)
            yield {"x": NUMBERS[index : index + 1]}

    stream = stream_batches(pieces(), ONE)
    assert taken == []
    first = next(stream)
    assert taken == [0]
    np.testing.assert_array_equal(first.inputs["x"], NUMBERS[:1])
    assert [batch.ids for batch in stream] == [("1",), ("2",)]


def test_a_stream_takes_every_form_that_names_data(tmp_path: Path) -> None:
    path = npz(tmp_path, x=NUMBERS)
    forms: list[Any] = [path, str(path), [{"x": NUMBERS}], {"x": NUMBERS}, NUMBERS, (NUMBERS, [0, 1, 2, 3])]
    for data in forms:
        got = np.concatenate([batch.inputs["x"] for batch in stream_batches(data, ONE, batch_size=3)])
        np.testing.assert_array_equal(got, NUMBERS)


def test_a_used_up_generator_is_an_error_not_an_empty_calibration() -> None:
    used = iter([{"x": NUMBERS}])
    list(used)
    with pytest.raises(UserError, match="a generator that was used up"):
        list(stream_batches(used, ONE))


def test_batches_cover_the_indices_once_and_pad_with_the_last_sample(tmp_path: Path) -> None:
    data = opened(npz(tmp_path, x=NUMBERS, labels=np.arange(4)))
    free = list(batches(data, [3, 0, 2], 2, fixed=False))
    fixed = list(batches(data, [3, 0, 2], 2, fixed=True))
    assert [batch.ids for batch in free] == [batch.ids for batch in fixed] == [("3", "0"), ("2",)]
    assert [batch.size for batch in free] == [2, 1]
    assert [(batch.size, batch.real) for batch in fixed] == [(2, 2), (2, 1)]
    np.testing.assert_array_equal(fixed[1].inputs["x"], NUMBERS[[2, 2]])
    assert fixed[1].labels is not None
    assert fixed[1].labels.tolist() == [12]
    assert isinstance(fixed[0], Batch)


def test_preprocessing_of_several_inputs_is_the_datas_own_business(tmp_path: Path) -> None:
    path = npz(tmp_path, a=np.zeros((1, 2)), b=np.zeros(1, int))
    with pytest.raises(UserError, match=r"preprocess: the network has 2 inputs \(a, b\)"):
        open_data(DataSpec(str(path)), Preprocess(scale=2), TWO, tmp_path)


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no such data; give a folder of images, an .npz, or module:function"):
        opened("nothing", base=tmp_path)
    with pytest.raises(UserError, match=r"notes.txt: not a folder and not an .npz"):
        opened("notes.txt", base=tmp_path)
