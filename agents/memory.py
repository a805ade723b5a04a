"""Keeping the serving process small on a board with little memory: what glibc holds back is given up."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # <malloc.h>
#: One for each thread, the default, multiplies what is held back after an upload.
_ARENAS = 2


def use_few_arenas() -> None:
    """Let all threads share two heaps; to be called before they start. Nothing happens without glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return freed memory to the kernel, at the end of a call that moved much data."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
