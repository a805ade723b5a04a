"""Bytes of a serial line become the same lines however they are cut."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from harness.targets.console.text import MAX_LINE_CHARACTERS, LineAssembler, clean


def lines_of(*chunks: bytes) -> list[str]:
    assembler = LineAssembler()
    return [line for chunk in chunks for line in assembler.feed(chunk)]


def test_carriage_returns_and_empty_lines() -> None:
    assert lines_of(b"one\r\ntwo\r\r\n\r\n\nthree\rfour\n") == ["one", "two", "three", "four"]
    assert lines_of(b"one\r", b"\ntwo\n") == ["one", "two"]


def test_colours_titles_and_cursors_go() -> None:
    said = b"[  \x1b[0;32m  OK  \x1b[0m] \x1b]0;root@pi\x07Started\x1b[K \x1b(Bssh\x1bP1$r0m\x1b\\.\x1b7\x1b[?25l\r\n"
    assert lines_of(said) == ["[    OK  ] Started ssh."]


def test_bytes_that_are_no_text() -> None:
    assert lines_of(b"caf\xc3\xa9 caf\xe9\n") == ["café caf\N{REPLACEMENT CHARACTER}"]
    assert lines_of(b"a\x00b\x08c\x7f\td\xc2\x85e\n") == ["abc de"]


def test_noise_without_a_lines_end_does_not_grow_for_ever() -> None:
    assembler = LineAssembler()
    found = [line for _ in range(100) for line in assembler.feed(b"U" * 1000)]
    assert max(map(len, found)) == MAX_LINE_CHARACTERS
    assert sum(map(len, found)) + len(assembler.partial) == 100_000


def test_a_prompt_is_seen_before_its_line_ends_and_an_escape_in_it_is_not() -> None:
    assembler = LineAssembler()
    assert assembler.feed(b"hello\r\n\x1b[1mpi login: \x1b[0") == ["hello"]
    assert assembler.partial == "pi login:"
    assert assembler.feed(b"m") == []
    assert assembler.flush() == "pi login:"
    assert assembler.partial == ""


@given(
    st.lists(
        st.sampled_from(
            [b"\r", b"\n", b"\x1b[31m", b"\x1b]0;t\x07", b"\xc3\xa9", b"\xff", b"word", b" ", b"\x1b", b"["]
        )
        | st.binary(max_size=8)
    ),
    st.data(),
)
def test_where_the_reads_fall_changes_nothing(pieces: list[bytes], data: st.DataObject) -> None:
    said = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=6)))
    chunks = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    whole, parts = LineAssembler(), LineAssembler()
    expected = whole.feed(said)
    assert [line for chunk in chunks for line in parts.feed(chunk)] == expected
    assert parts.partial == whole.partial
    for line in expected:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)
