"""What a process keeps of the memory that it no longer uses."""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's numbers of them, of malloc.h
_LARGE, _FREE = 1 << 20, 8 << 20


def keep_little() -> None:
    """Have tensors of a megabyte and more given back when they are freed; elsewhere than under glibc, do nothing.

    As it is, glibc keeps freed memory for the next tensor, which seldom fits: a process that trains on batches of many
    lengths grows to several times what it uses.
    """
    if (malloc := _glibc()) is not None:
        malloc.mallopt(_MMAP_THRESHOLD, _LARGE)
        malloc.mallopt(_TRIM_THRESHOLD, _FREE)


def give_back() -> None:
    """Give back what is freed already; elsewhere than under glibc, do nothing."""
    if (malloc := _glibc()) is not None:
        malloc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
