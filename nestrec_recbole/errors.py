"""What goes wrong because of what a user gave: one line that says what, where, and what to do."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

NAMED = 50  # names in a line, at most; of more, such as users, ...
EXAMPLES = 5  # ... only so many
COMPARED = 20_000  # names among which the nearest is looked for, at most: it takes half a second


class NestRecError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """What an error says in its first line; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_one_line(error: BaseException) -> str:
    """An error in one line; with its kind, where it is not one of ours that explains itself."""
    if isinstance(error, NestRecError):
        return " ".join(str(error).split())
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


def where_raised(error: BaseException) -> str:
    """File, line and function that an error comes from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, with the nearest right one."""
    known = sorted(known)
    lower = {k.lower(): k for k in known}
    compared = lower if len(known) <= COMPARED else {name.lower()} & lower.keys()
    near = difflib.get_close_matches(name.lower(), compared, n=1)
    shown = known if len(known) <= NAMED else known[:EXAMPLES]
    names = ", ".join(shown) + (f" and {len(known) - len(shown):,} more" if len(known) > len(shown) else "")
    hint = f"did you mean {lower[near[0]]!r}?" if near else f"known: {names}"
    return f"unknown {kind} {name!r}; {hint}"
