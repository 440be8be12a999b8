"""Cleaning of item texts: markup out, Unicode normalised, one line, bounded length."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser

LONGEST_RAW = 20_000  # characters looked at: the parser of the standard library takes quadratic time on broken markup
CONTROL = r"[\x00-\x1f\x7f\x{85}\x{2028}\x{2029}]"  # to DuckDB: what an atomic file cannot hold
_SKIPPED = ("script", "style")
_NOT_PLAIN = re.compile(r"[^ -;=?-~]|&|  ")  # anything but single-spaced ASCII without markup
# Controls, formats such as the soft hyphen, surrogates, private use and unassigned; a zero-width joiner binds emoji.
_NOT_TEXT = ("Cc", "Cf", "Cs", "Co", "Cn")
_JOINER = "\u200d"


class _Text(HTMLParser):
    """Collects what a browser would show; a tag between two words parts them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """``<![...>`` is a comment, as in a browser; the standard library fails on most of them."""
        end = self.rawdata.find(">", i)
        return end + 1 if end >= 0 else -1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in _SKIPPED
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _SKIPPED and self._hidden > 0
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def strip_html(text: str) -> str:
    """Text without tags, comments, scripts and styles; entities become characters.

    Examples
    --------
    >>> strip_html("Salt<br>&amp; pepper <b>5 &lt; 6</b>")
    'Salt & pepper  5 < 6 '
    """
    parser = _Text()
    end = text.rfind(">") + 1  # what opens after it never closes, and is looked for again and again
    parser.feed(text[:end] + text[end:].replace("<", "&lt;"))
    parser.close()
    return "".join(parser.parts)


def clean_text(text: str, *, lower: bool = False, max_length: int = 5000) -> str:
    r"""Clean a text for an atomic file.

    HTML is stripped by a parser, Unicode brought to NFKC, control and format characters dropped, runs of white space
    (tabs and line breaks too) made one space, and the result cut at a word's end. Cleaning a clean text changes
    nothing, unless it holds escaped markup: each pass unescapes once.

    Parameters
    ----------
    text : str
    lower : bool
        Lower case.
    max_length : int
        Characters of the result at most.

    Returns
    -------
    str
        One line without tabs; empty where nothing is left.

    Examples
    --------
    >>> clean_text("<p>Caf&eacute;\tau&nbsp;lait</p>")
    'Caf\xe9 au lait'
    """
    text = text[:LONGEST_RAW]
    if _NOT_PLAIN.search(text):
        if "<" in text or "&" in text:
            text = strip_html(text)
        text = unicodedata.normalize("NFKC", text)
        text = "".join(c for c in text if c.isspace() or c == _JOINER or unicodedata.category(c) not in _NOT_TEXT)
        text = " ".join(text.split())
    text = text.strip()
    if lower:
        text = text.lower()
    return text if len(text) <= max_length else _cut(text, max_length)


def _cut(text: str, length: int) -> str:
    """Cut between words where there is a gap in the last fifth, else where the length is reached."""
    gap = text.rfind(" ", length * 4 // 5, length + 1)
    return text[: gap if gap > 0 else length].rstrip()
