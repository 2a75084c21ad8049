"""Secrets in a text become `***`: in each form in which a program may have written them. Pure."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

MASK = "***"
_SHORTEST_PIECE = 8
"""Characters of a line of a key, or of a value that a message has cut, that are masked by themselves."""
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "admin administrator changeme default development dagster database duckdb guest localhost main master"
        " password passwords postgres postgresql prod production public root sample secret secrets sqlmesh"
        " staging string superuser token tokens user username warehouse",
    )
)
"""Words that are no secret even where somebody chose them for one: messages are made of them."""
_NAMES = (
    r"pass(?:word|wd|phrase|code)?s?|pwd|secret|token|credential|api[_\-]?key|access[_\-]?key|key_?id|private[_\-]?key"
    r"|account_?key|shared_?key|signing_?key|encryption_?key|master_?key|connection_?string|authorization"
)
_QUOTED = r"''[^',;()]+''|'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\""
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        # a URL's password
        r"\w[\w+.\-]*://[^\s:/@'\"]*:(?P<secret>[^\s'\"]+)@",
        # password='…', "password": "…", secret => '…', in SQL, JSON, Python and connection strings
        rf"(?<![A-Za-z0-9])[\w.\-]*?(?:{_NAMES})[\w\-]*[\"']?\s*(?:=>|:=|=|:)\s*(?P<secret>{_QUOTED})",
        # password=… without quotes, where nothing is around the sign: `a.token = b.token` stays
        rf"(?<![A-Za-z0-9])[\w.\-]*?(?:{_NAMES})[\w\-]*=(?P<secret>[^\s'\"`=;,&<>(){{}}]+)",
        r"\bauthorization[\"']?\s*[:=]\s*[\"']?(?:\w+\s+)?(?P<secret>[^\s'\",;]{6,})",
        r"\bhooks\.slack\.com/\w+/(?P<secret>[\w/\-]+)",
        r"[?&](?:sig|signature|x-amz-signature)=(?P<secret>[^\s&'\"]+)",
        r"\b(?:bearer|basic)\s+(?P<secret>[\w.~+/\-]{8,}=*)",
        # what pydantic shows of an input: a password under a key that it does not know
        r"\binput_value=(?P<secret>.*?), input_type=",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<secret>.+?)(?:-----END|\Z)",
        # what issuers mark as theirs
        r"(?-i:\b(?P<secret>AKIA[0-9A-Z]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}"
        r"|xox[abprs]-[\w\-]{10,}|sk-[\w\-]{20,}|dapi[0-9a-f]{32}|AIza[\w\-]{35}"
        r"|eyJ[\w\-]{8,}\.[\w\-]+\.[\w\-]*))",
    )
)
_STATEMENTS = re.compile(
    r"\b(?:create|alter)\b[\w\s]*?\b(?:secret|user|role|login)\b|\bidentified\s+by\b|\bcredentials\b",
    re.IGNORECASE,
)
"""Statements in which a secret follows its name after a space."""
_SPACED = re.compile(
    rf"\b\w*(?:{_NAMES}|identified\s+by)\w*\s+(?P<secret>{_QUOTED})", re.IGNORECASE | re.DOTALL
)
_HINTS = (
    "://",
    "pass",
    "pwd",
    "secret",
    "token",
    "cred",
    "key",
    "connect",
    "author",
    "bearer",
    "bas",
    "nput_value",
    "dent",
)
_EXACT_HINTS = (
    "AKIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "sk-",
    "dapi",
    "AIza",
    "eyJ",
)
"""Each pattern needs one of these, the first ones in any case: most texts have none, and are not searched.

No `i`, for which a pattern that ignores case also takes letters that do not become one.
"""
_PLACEHOLDER = re.compile(r"\W*|[@$]\{?\w+\}?|\{\{.*\}\}|none|null|true|false", re.IGNORECASE)
_CUT = re.compile(r"\.{3}|…")
Span = tuple[int, int]


@dataclass(frozen=True)
class Masks:
    """Values that no text may show.

    Attributes:
        forms: Each value in each form, see `forms_of`.
    """

    forms: frozenset[str] = frozenset()

    def including(self, values: Iterable[str]) -> Masks:
        """These, and further values; what is too short or too common to be masked is left out."""
        new = {form for value in values if is_maskable(value) for form in forms_of(value)}
        return self if new <= self.forms else Masks(self.forms | new)

    def mask(self, text: str) -> str:
        """The text, without these values and without what is written as a secret."""
        spans = sorted((*self._found(text), *_written(text)))
        if not spans:
            return text
        parts, end = [], 0
        for start, stop in _merged(spans):
            parts += [text[end:start], MASK]
            end = stop
        return "".join((*parts, text[end:]))

    def _found(self, text: str) -> Iterator[Span]:
        cuts = [(m.start(), m.end()) for m in _CUT.finditer(text)]
        for form in self.forms:
            yield from _places(text, form)
            for start, end in cuts:
                yield from _beside_cut(text, form, start, end)


def is_maskable(value: str) -> bool:
    """Whether a value can be told from ordinary words and numbers; `1` and `prod` cannot."""
    value = value.strip()
    if _PLACEHOLDER.fullmatch(value) or value.lower() in _COMMON:
        return False
    if value.isalpha():
        return len(value) >= 8 or (len(value) >= 6 and not value.islower() and not value.istitle())
    return len(value) >= (6 if value.isdigit() else 5)


def forms_of(value: str) -> set[str]:
    """A value as it is, escaped, quoted for URLs and SQL, in base64; a key of several lines also line by line."""
    pieces = {value, value.strip(), " ".join(value.split())}
    lines = [line.strip() for line in value.splitlines() if not line.startswith("-----")]
    if len(lines) > 1:
        pieces.update(line for line in lines if len(line) >= _SHORTEST_PIECE)
        pieces.add("".join(lines))
    forms = {form for piece in pieces if piece for form in _escaped(piece)}
    forms |= {twice for form in forms for twice in (json.dumps(form)[1:-1], repr(form)[1:-1])}
    return forms | {form for piece in pieces for form in _as_base64(piece)}


def written_secrets(text: str) -> list[str]:
    """What a text says is a secret, such as the password of a URL."""
    return [text[start:stop].strip("'\"") for start, stop in _written(text)]


def _escaped(text: str) -> Iterator[str]:
    """By Python, JSON, HTML, SQL with doubled quotes or with backslashes, drivers' `%%`, a shell, and URLs."""
    yield from (text, text.replace("'", "''"), text.replace('"', '""'), text.replace("%", "%%"))
    yield from (text.replace("\\", "\\\\"), text.replace("'", "\\'"), text.replace("'", "'\"'\"'"))
    yield text.replace("\\", "\\\\").replace("'", "\\'")
    yield from (html.escape(text), html.escape(text, quote=False))
    yield from (repr(text)[1:-1], ascii(text)[1:-1], repr(text.encode(errors="replace"))[2:-1])
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
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
    if len(data) < _SHORTEST_PIECE:
        return
    yield from (data.hex(), data.hex().upper())
    for offset in range(3):
        first, last = -(-offset * 8 // 6), (offset + len(data)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * offset + data).decode()[first:last]


def _places(text: str, form: str) -> Iterator[Span]:
    """Where it is; a word counts as a whole one only. Letters in mixed case, as in base64, are none."""
    is_word = form.isalpha() and (form.islower() or form.isupper() or form.istitle())
    start = text.find(form)
    while start >= 0:
        stop = start + len(form)
        is_inside = is_word and (
            text[start - 1 : start].isalpha() or text[stop : stop + 1].isalpha()
        )
        if not is_inside:
            yield start, stop
        start = text.find(form, start + 1)


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


def _written(text: str) -> Iterator[Span]:
    folded = text.casefold()
    if not any(hint in folded for hint in _HINTS) and not any(h in text for h in _EXACT_HINTS):
        return
    patterns = (*_PATTERNS, _SPACED) if _STATEMENTS.search(text) else _PATTERNS
    for pattern in patterns:
        for match in pattern.finditer(text):
            start, stop = match.span("secret")
            if text[start] in "'\"" and stop - start > 1:
                start, stop = start + 1, stop - 1
            if not _PLACEHOLDER.fullmatch(text[start:stop]):
                yield start, stop


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    begin, end = -1, -1
    for start, stop in spans:
        if start > end:
            if begin >= 0:
                yield begin, end
            begin, end = start, stop
        end = max(end, stop)
    yield begin, end
