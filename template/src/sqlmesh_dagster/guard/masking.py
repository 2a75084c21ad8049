"""Secrets in a text become `***`: in each form in which a program may have written them. Pure."""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, quote_plus

from sqlmesh_dagster.guard.written_secrets import Span, is_placeholder, written_spans

MASK = "***"
_SHORTEST_PIECE = 8
"""Characters of a line of a key, or of a value that a message has cut, that are masked by themselves."""
_SHORTEST, _SHORTEST_ANYWHERE = 4, 6
"""Characters of a value that is masked at all, and of one that is also masked within a word."""
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "admin administrator changeme default development dagster database duckdb guest localhost main master"
        " password passwords postgres postgresql prod production public root sample secret secrets sqlmesh"
        " staging string superuser token tokens user username warehouse"
        # what a variable says that has only the name of a secret
        " always bearer disable disabled enable enabled example external internal kerberos oauth2 optional plaintext"
        " prefer require required snowflake bigquery databricks mysql column columns latest number schema select stable"
        " values",
    )
)
"""Words that are no secret even where somebody chose them for one: messages are made of them."""
_CUT = re.compile(r"\.{3}|…")
_BREAK = re.compile(r"\n|\\[nr]")
_FRAME = " \t\r│┃|'\"()"
"""What a program puts where it breaks a line: the sides of a box, quotes around each piece."""


@dataclass(frozen=True)
class Masks:
    """Values that no text may show, in any case.

    Attributes:
        parts: Forms of values that are masked wherever they stand, see `forms_of`; folded.
        words: Forms that are masked where they are no part of a word: words, and what is short.
    """

    parts: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()

    def including(self, values: Iterable[str]) -> Masks:
        """These, and further values; what is too short or too common to be masked is left out."""
        new = {form for value in values if is_maskable(value) for form in forms_of(value)}
        words = {_folded(form) for form in new if _is_word(form)}
        parts = {_folded(form) for form in new if not _is_word(form)}
        if words <= self.words and parts <= self.parts:
            return self
        return Masks(self.parts | parts, self.words | words)

    def mask(self, text: str) -> str:
        """The text, without these values and without what is written as a secret."""
        spans = sorted((*self._found(_folded(text)), *written_spans(text)))
        if not spans:
            return text
        parts, end = [], 0
        for start, stop in _merged(spans):
            parts += [text[end:start], MASK]
            end = stop
        return "".join((*parts, text[end:]))

    def _found(self, text: str) -> Iterator[Span]:
        for form in self.parts:
            yield from _places(text, form)
        for form in self.words:
            yield from (span for span in _places(text, form) if _is_whole(text, *span))
        for cut in _CUT.finditer(text):
            for form in (*self.parts, *self.words):
                yield from _beside_cut(text, form, *cut.span())
        if self._joined and _BREAK.search(text):
            yield from _across_lines(text, self._joined)

    @cached_property
    def _joined(self) -> frozenset[str]:
        """The forms without blanks, for texts whose lines a program has broken."""
        joined = ("".join(form.split()) for form in (*self.parts, *self.words))
        return frozenset(form for form in joined if len(form) >= _SHORTEST_PIECE)


def is_maskable(value: str) -> bool:
    """Whether a value can be told from ordinary words and numbers; `1`, `2025`, `order` and `prod` cannot."""
    value = value.strip()
    if is_placeholder(value) or value.lower() in _COMMON:
        return False
    return len(value) >= (_SHORTEST_ANYWHERE if value.isalpha() or value.isdigit() else _SHORTEST)


def _folded(text: str) -> str:
    """In lower case, character by character."""
    return text.replace("\u0130", "i").replace("\u03a3", "\u03c3").lower()


def _is_word(form: str) -> bool:
    """Whether it may be inside of another word. Letters in mixed case, as in base64, are no word."""
    is_plain = form.islower() or form.isupper() or form.istitle()
    return len(form) < _SHORTEST_ANYWHERE or (form.isalpha() and is_plain)


def forms_of(value: str) -> set[str]:
    """A value as it is, escaped, quoted for URLs and SQL, in base64; a key of several lines also line by line."""
    pieces = {value, value.strip(), " ".join(value.split())}
    # a key in a variable often has `\\n` where its lines end
    written = value.replace("\\n", "\n") if "-----BEGIN" in value else value
    lines = [line.strip() for line in written.splitlines() if not line.startswith("-----")]
    if len(lines) > 1:
        pieces.update(line for line in lines if len(line) >= _SHORTEST_PIECE)
        pieces.add("".join(lines))
    forms = {form for piece in pieces if piece for form in _escaped(piece)}
    forms |= {twice for form in forms for twice in (json.dumps(form)[1:-1], repr(form)[1:-1])}
    twice = {base64.b64encode(piece.encode()).decode() for piece in pieces}
    return forms | {form for piece in (*pieces, *twice) for form in _as_base64(piece)}


def _escaped(text: str) -> Iterator[str]:
    """By Python, JSON, HTML, SQL with doubled quotes or with backslashes, drivers' `%%`, a shell, and URLs."""
    yield from (text, text.replace("'", "''"), text.replace('"', '""'), text.replace("%", "%%"))
    yield from (text.replace("\\", "\\\\"), text.replace("'", "\\'"), text.replace("'", "'\"'\"'"))
    yield text.replace("\\", "\\\\").replace("'", "\\'")
    yield from (html.escape(text), html.escape(text, quote=False))
    yield html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    yield from (repr(text)[1:-1], ascii(text)[1:-1], repr(text.encode(errors="replace"))[2:-1])
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    yield re.sub(r"[<>&']", lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text)[1:-1])
    for safe in _SAFE_IN_URLS:
        quoted = quote(text, safe=safe)
        yield from (quoted, re.sub(r"%..", lambda match: match[0].lower(), quoted))
    for quoted in (quote_plus(text), quote(quote(text, safe=""), safe="")):
        yield from (quoted, re.sub(r"%..", lambda match: match[0].lower(), quoted))


_SAFE_IN_URLS = ("", "/", " +", ":", "@:", "/:@")
"""What writers of URLs leave as it is; SQLAlchemy a space and `+`."""


def _as_base64(text: str) -> Iterator[str]:
    """Wherever it begins in what was encoded, without the characters that depend on its neighbours."""
    data = text.encode()
    if len(data) < _SHORTEST_ANYWHERE:
        return
    yield data.hex()
    for offset in range(3):
        first, last = -(-offset * 8 // 6), (offset + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * offset + data).decode()[first:last]
            yield from (encoded, quote(encoded, safe=""))


def _places(text: str, form: str) -> Iterator[Span]:
    start = text.find(form)
    while start >= 0:
        yield start, start + len(form)
        start = text.find(form, start + 1)


def _is_whole(text: str, start: int, stop: int) -> bool:
    """Whether it is no part of a word; nor of a number, where it is not of letters alone."""
    neighbours = (text[start - 1 : start], text[stop : stop + 1])
    if text[start:stop].isalpha():
        return not any(letter.isalpha() for letter in neighbours)
    return not any(letter.isalnum() for letter in neighbours)


def _across_lines(text: str, forms: Iterable[str]) -> Iterator[Span]:
    """Where a value goes on in the next line, as a console, a printer of data or base64 breaks it."""
    pieces, places, length = [], [], 0
    for start, stop in _lines(text):
        for match in re.finditer(r"\S+", text[start:stop]):
            places.append((length, start + match.start()))
            pieces.append(match[0])
            length += len(match[0])
    joined, lengths = "".join(pieces), [place[0] for place in places]

    def place_of(index: int) -> int:
        at, begin = places[bisect_right(lengths, index) - 1]
        return begin + index - at

    for form in forms:
        for first, last in _places(joined, form):
            start, stop = place_of(first), place_of(last - 1) + 1
            if _BREAK.search(text, start, stop):
                yield start, stop


def _lines(text: str) -> Iterator[Span]:
    """Each line without its frame."""
    begin = 0
    for end, following in (*(match.span() for match in _BREAK.finditer(text)), (len(text), 0)):
        line = text[begin:end]
        start = begin + len(line) - len(line.lstrip(_FRAME))
        yield start, start + len(line.strip(_FRAME))
        begin = following


def _beside_cut(text: str, form: str, start: int, end: int) -> Iterator[Span]:
    """The beginning of a value right before `...`, or its end right after."""
    for length in range(min(len(form) - 1, start), _SHORTEST_PIECE - 1, -1):
        if text.endswith(form[:length], 0, start):
            yield start - length, start
            break
    for length in range(len(form) - 1, _SHORTEST_PIECE - 1, -1):
        if text.startswith(form[-length:], end):
            yield end, end + length
            break


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    begin, end = -1, -1
    for start, stop in spans:
        if start > end:
            if begin >= 0:
                yield begin, end
            begin, end = start, stop
        end = max(end, stop)
    yield begin, end
