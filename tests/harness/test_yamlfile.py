"""What a person gets to read for each way a YAML file can be wrong, and that good files arrive unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from harness.errors import UserError
from harness.yamlfile import MAX_SIZE_BYTES, Document, FileModel, parse_yaml, read_yaml, suggest, validate


class Inner(FileModel):
    method: str = "auto"
    layout: Literal["NCHW", "NHWC"] | None = None
    sizes: list[int] | None = None


class Outer(FileModel):
    name: str
    quantize: Inner | None = None
    many: dict[str, Inner] | None = None
    n: int = 0


def error_of(text: str) -> str:
    with pytest.raises(UserError) as caught:
        validate(parse_yaml(text, "job.yaml"), Outer)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nquantize:\n  metod: x", "job.yaml:3: unknown field 'metod' in quantize; did you mean 'method'?"),
        ("nam: a", "job.yaml:1: unknown field 'nam'; did you mean 'name'?"),
        ("name: a\nmany:\n  x: {}\n  y:\n    layut: NCHW", "job.yaml:5: unknown field 'layut' in many.y"),
        ("n: 1", "job.yaml:1: field 'name' is missing"),
        ("name: a\nmany:\n  x: 3", "job.yaml:3: many.x should be a mapping"),
        ("name: a\nn:\n  oops", "job.yaml:3: n should be a whole number, not 'oops'"),
        ("name: a\nn: true", "job.yaml:2: n should be a whole number, not True"),
        ("name: a\nn: '1'", "job.yaml:2: n should be a whole number, not '1'"),
        ("name: a\nn: 1.5", "job.yaml:2: n should be a whole number, not 1.5"),
        ("name: 3", "job.yaml:1: name should be text, not 3"),
        ("name:\nn: 1", "job.yaml:1: name should be text, not None"),
        (
            "name: a\nquantize: {layout: NCWH}",
            "job.yaml:2: quantize.layout should be 'NCHW' or 'NHWC', not 'NCWH'; did you",
        ),
        ("name: a\nquantize:\n  sizes:\n  - 1\n  - x", "job.yaml:5: quantize.sizes.1 should be a whole number"),
        ("name: a\nn: 1\nname: b", "job.yaml:3: field 'name' appears twice (first in line 1)"),
        ("name:\n\t- 1", "job.yaml:2: a tab where YAML wants spaces"),
        ("name: [a", "job.yaml:1: not valid YAML"),
        ("name: a\n---\nname: b", "job.yaml:2: a second document"),
        ("name: *nowhere", "job.yaml:1: not valid YAML: found undefined alias"),
        ("- a\n- b", "job.yaml:1: expected fields such as"),
        ("plain words", "job.yaml:1: expected fields such as"),
        ("", "job.yaml: the file is empty"),
        ("# only a comment\n", "job.yaml: the file is empty"),
        ("name: a\x07", "job.yaml: not YAML text"),
        ("name: !!python/object/apply:os.system [ls]", "job.yaml:1: tag"),
        ("name: !mine x", "job.yaml:1: tag"),
        ("? [a]\n: b", "job.yaml:1: a list or mapping cannot be a field's name"),
        ("x: &x [*x]", "job.yaml:1: nested deeper than 32 levels"),
        ("[" * 5000, "job.yaml: nested deeper than"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(text: str, expected: str) -> None:
    assert error_of(text).startswith(expected)


def test_a_misspelt_required_field_is_reported_as_misspelt_not_as_missing() -> None:
    assert "did you mean 'name'" in error_of("n: x\nnme: a")


def test_aliases_are_allowed_but_cannot_expand_without_end() -> None:
    shared = parse_yaml("a: &a {method: x}\nb: *a", "f")
    assert shared.data == {"a": {"method": "x"}, "b": {"method": "x"}}
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
    )
    with pytest.raises(UserError, match="values once its aliases"):
        parse_yaml(bomb, "f")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            read_yaml(path)
        return str(caught.value)

    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: é".encode("latin-1"))
    large = tmp_path / "large.yaml"
    large.write_bytes(b"name: " + b"x" * MAX_SIZE_BYTES)
    assert "is a folder" in message(tmp_path)
    assert "no such file" in message(tmp_path / "none.yaml")
    assert "not UTF-8 text (byte 0xe9 at offset 6)" in message(latin)
    assert "larger than 1 MiB" in message(large)


def test_a_byte_order_mark_is_not_part_of_the_first_field(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a")
    assert read_yaml(path).data == {"name": "a"}


def test_data_without_a_file_has_no_line_numbers() -> None:
    with pytest.raises(UserError, match=r"^job: unknown field 'metod' in quantize; did you mean 'method'\?$"):
        validate(Document("job", {"name": "a", "quantize": {"metod": "x"}}), Outer)


def test_no_suggestion_where_nothing_is_close() -> None:
    assert suggest("zzz", ["method", "layout"]) == ""


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), plain, min_size=1, max_size=4))
def test_plain_data_reads_as_ruamels_own_loader_reads_it(data: dict[str, object]) -> None:
    import io

    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(data, text)
    expected = YAML(typ="safe", pure=True).load(text.getvalue())
    if all(isinstance(key, str) for key in expected):
        assert parse_yaml(text.getvalue(), "f").data == expected
