"""Putting functions in the place of RecBole's: once, so that what others have put around them since stays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def replace_once(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    """Put a function in the place of RecBole's own, in a module or class; one of somebody else's is left there."""
    if getattr(owner, name).__module__.startswith("recbole."):
        setattr(owner, name, ours)


def wrap_once(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put around a method of RecBole's what ``around`` makes of it, unless something is around it already."""
    theirs = getattr(owner, name)
    if not hasattr(theirs, "__wrapped__"):
        setattr(owner, name, functools.wraps(theirs)(around(theirs)))
