"""What a text itself says is a secret, though nobody knows it: `password=…`, a URL's password, a key. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

Span = tuple[int, int]
_Rule = tuple[tuple[str, ...], re.Pattern[str]]

_NAMES = (
    r"pass(?!ed|es|ing|ive|enger|port)(?:word|wd|phrase|code)?s?|pwd|secret|token|credential|api[_\-]?key|access[_\-]?key|key_?id|private[_\-]?key"
    r"|account_?key|shared_?key|signing_?key|encryption_?key|master_?key|connection_?string|authorization"
    r"|access_?signature|subscription[_\-]?key|functions?[_\-]key"
)
_PASSWORD = r"pass(?:word|wd|phrase|code)"
_NAME = re.compile(rf"{_NAMES}|identified\s+by", re.IGNORECASE)
_NAME_HINTS = (
    "pass",
    "pwd",
    "secret",
    "token",
    "cred",
    "key",
    "connect",
    "auth",
    "signature",
    "identified",
)
"""Each name has one of these, and so has what makes a user."""
_NAMED: tuple[str, ...] = ()
"""Instead of its hints, for a pattern that needs one of the names."""
_QUOTED = r"''[^',;()]+''|'(?:[^']|'')*'|\\+\"(?:[^\"\\]|\\+[^\"\\])*\\+\"|\"(?:[^\"\\]|\\.)*\""  # `\"…\"`: within JSON
_OPEN = r"[^\s'\"`(),;<>{}\[\]\\]{4,}"
"""A value without quotes in a sentence, a header or an ini file."""
_SAID = (
    r"(?:required|missing|invalid|expired|empty|incorrect|unknown|optional|unset|rejected|accepted|wrong|denied"
    r"|authentication|protected|enabled|disabled|varchar|string|integer|boolean|hidden|masked|nothing|encrypted)\b"
)
"""What messages say of a password."""
_PATTERNS = tuple(
    (hints, re.compile(pattern, re.IGNORECASE | re.DOTALL))
    for hints, pattern in (
        # a URL's password, or the long token that stands for user and password; what takes the URL for a
        # file, as DuckDB does without an extension, leaves one slash
        ((":/",), r"(?<![\w+.\-])\w[\w+.\-]*:/{1,2}[^\s:/@'\"]*:(?P<secret>[^\s'\"]+)@"),
        (("://",), r"(?<![\w+.\-])\w[\w+.\-]*://(?P<secret>[\w\-.~%]{20,})@"),
        # Oracle's user/password@place
        (("oracle",), r"\bjdbc:oracle:\w+:[^\s/@'\"]+/(?P<secret>[^\s@'\"]+)@"),
        (
            ("sqlplus", "sqlldr", "expdp", "impdp"),
            r"\b(?:sqlplus|sqlldr|expdp|impdp)\b[^\n]{0,200}?\s[\"']?[\w$#]+/(?P<secret>[^\s@'\"/]+)@",
        ),
        # a line of Postgres' password file: host:port:database:user:password
        (
            (":5432:", ":5433:", ":6432:", ":*:"),
            r"(?:^|(?<=[\s'\"`]))[\w.\-*/]+:(?:5432|5433|6432|\*):[^\s:]+:[^\s:]+:(?P<secret>(?:[^\s'\"`\\]|\\.)+)",
        ),
        (("userid",), r"\buserid\s*=\s*[\"']?[\w$#]+/(?P<secret>[^\s@'\"/]+)"),
        (
            ("@//", ":1521"),
            r"(?<![\w/.:\-@])[\w$#]+/(?P<secret>[^\s@'\"/]+)@(?://[\w.\-]|[\w.\-]+:1521\b)",
        ),
        # the line below `password: |` in YAML
        (_NAMED, rf"(?:{_NAMES})[\w\-]*[\"']?:[ \t]*[|>][+\-\d]*[ \t]*\n[ \t]+(?P<secret>[^\s]+)"),
        # password='…', "password": "…", secret => '…', in SQL, JSON, Python and connection strings
        (
            _NAMED,
            rf"(?<![\w.\-])[\w.\-]*?(?:{_NAMES})[\w\-]*\\*[\"']?\s*(?:=>|:=|=|:)\s*b?(?P<secret>{_QUOTED})",
        ),
        # password=… without quotes, where nothing is around the sign: `a.token = b.token` stays
        (_NAMED, rf"(?<![\w.\-])[\w.\-]*?(?:{_NAMES})[\w\-]*=(?P<secret>[^\s'\"`=;,&<>(){{}}]+)"),
        (
            ("authorization",),
            r"\bauthorization[\"']?\s*[:=]\s*[\"']?(?:\w+\s+)?(?P<secret>[^\s'\",;]{6,})",
        ),
        (("cookie",), r"\bcookie:\s*(?P<secret>[^\s'\"][^\n'\"]*)"),
        (_NAMED, rf"<[\w:.\-]*(?:{_NAMES})>(?P<secret>[^<>]+)</"),
        # curl -u me:…, auth=('me', '…')
        (
            ("curl", "wget", "http"),
            r"\b(?:curl|wget|http)\b[^\n]{0,300}?\s(?:-[a-z]*u|--(?:proxy-)?user)[\s=]*[\"']?[^\s:'\"\-][^\s:'\"]*:(?P<secret>[^\s'\"]+)",
        ),
        (
            ("auth",),
            rf"\b\w*auth[\"']?\s*(?:[=:]\s*\w*)?\(\s*(?:{_QUOTED})\s*,\s*(?P<secret>{_QUOTED})",
        ),
        (("digest",), r"\bauthorization:\s*digest\s(?P<secret>[^\n]+)"),
        # Pwd=two words;  Password={a;b}: in a connection string of ODBC
        (_NAMED, rf"(?:;\s*|\b)(?:{_PASSWORD}|pwd)\s*=\s*(?P<secret>\{{[^{{}}\n]+\}})"),
        (_NAMED, rf";\s*(?:{_PASSWORD}|pwd)\s*=\s*(?P<secret>[^;'\"\n{{}}]+)(?=;)"),
        # {"name": "DB_PASSWORD", "value": "…"}, <add key="password" value="…"/>, and the same in YAML
        (
            _NAMED,
            rf"\b(?:name|key)[\"']?\s*[=:]\s*[\"']?[\w.\-]*(?:{_NAMES})[\w\-]*[\"']?[\s,]+[\"']?value[\"']?\s*[=:]\s*"
            rf"(?P<secret>{_QUOTED}|[^\s'\",{{}}]+)",
        ),
        # functions and options of engines that take a key
        (("add_parquet_key",), rf"\badd_parquet_key\(\s*(?:{_QUOTED})\s*,\s*(?P<secret>{_QUOTED})"),
        (
            ("crypt", "hmac"),
            rf"\b(?:pgp_sym_(?:en|de)crypt\w*|(?:try_)?aes_(?:en|de)crypt\w*|hmac)\s*\([^()'\"]*,\s*(?P<secret>{_QUOTED})",
        ),
        (("encryption_key",), rf"\bencryption_key\s+(?P<secret>{_QUOTED})"),
        (("hooks.slack",), r"\bhooks\.slack\.com/\w+/(?P<secret>[\w/\-]+)"),
        (
            ("discord", "webhook"),
            r"\b(?:discord(?:app)?\.com/api/webhooks|webhook\.office\.com)/(?P<secret>[\w/@\-]+)",
        ),
        (("sig",), r"[?&](?:sig|signature|x-amz-signature)=(?P<secret>[^\s&'\"]+)"),
        (("bearer", "basic"), r"\b(?:bearer|basic)\s+(?P<secret>[\w.~+/\-]{8,}=*)"),
        # what pydantic shows of an input: a password under a key that it does not know
        (("input_value",), r"\binput_value=(?P<secret>.*?), input_type="),
        (
            ("-----begin",),
            r"-----BEGIN [A-Z ]*PRIVATE KEY[A-Z ]*-----(?P<secret>.+?)(?:-----END|\Z)",
        ),
    )
)
"""Each with what a text has, in lower case, in which it finds something: most texts have none, and are not searched."""
_SENTENCES = tuple(
    (hints, re.compile(pattern, re.IGNORECASE | re.MULTILINE))
    for hints, pattern in (
        # X-Api-Key: …, `password: …` as in YAML, `the password is …`, --password …
        (
            _NAMED,
            rf"(?:{_NAMES})[_\-]?\d*\\*[\"']?(?::[ \t]*|[ \t]+(?:is|was)[ \t]+:?|[ \t]+of[ \t]+)[\"'`]?(?P<secret>{_OPEN})",
        ),
        (_NAMED, rf"{_PASSWORD}[ \t]+[\"'`]?(?P<secret>{_OPEN})"),
        (_NAMED, rf"{_PASSWORD}[^\n.;:'\"]{{0,40}}?[ \t](?:is|was)[ \t]+(?P<secret>{_OPEN})"),
        # a row of a table, as rich and psql print it
        (_NAMED, rf"(?:{_NAMES})\w*[ \t]*[|│┃][ \t]*(?P<secret>{_OPEN})"),
        (
            ("?", "&"),
            r"[?&](?:key|code|auth|app_?id|app_?key|sid|session)=(?P<secret>[^\s&'\"#]{6,})",
        ),
        (("mysql",), r"\bmysql\w*\b[^\n]{0,300}?\s-p(?P<secret>[^\s'\"\-][^\s'\"]{3,})"),
        (_NAMED, rf"(?:^|\s)--?[\w\-]*(?:{_NAMES})[ \t]+[\"']?(?P<secret>{_OPEN})"),
        # aws_secret_access_key = … on a line of its own, as in an ini file
        (_NAMED, rf"^[ \t]*[\w.\-]*(?:{_NAMES})[\w\-]*[ \t]*=[ \t]*(?P<secret>{_OPEN})[ \t\r]*$"),
        # ('password', '…'), as headers and items are printed
        (
            _NAMED,
            rf"\(b?[\"'][\w.\-]*(?:{_NAMES})[\"'],\s*b?[\"'](?P<secret>[^\"'\n]{{4,}})[\"']\)",
        ),
        # `password is '…'`: a quoted value is one whatever it is made of
        (_NAMED, rf"(?:{_NAMES})[ \t]+(?:is|was)[ \t]+:?(?P<quoted>{_QUOTED}|`[^`\n]+`)"),
        (_NAMED, rf"{_PASSWORD}[ \t]+(?P<quoted>{_QUOTED})"),
        # `password: …` and `with password …` at the end of a line: one word, which no message ends with
        (
            _NAMED,
            rf"(?:{_PASSWORD}|pwd)[\"']?:[ \t]+(?P<quoted>(?!{_SAID})[A-Za-z]{{6,}})[ \t\r]*$",
        ),
        (
            _NAMED,
            rf"\b(?:with|using|and)[ \t]+(?:the[ \t]+)?{_PASSWORD}[ \t]+(?P<quoted>(?!{_SAID})[A-Za-z]{{6,}})[ \t\r.]*$",
        ),
    )
)
"""Where only the value can tell whether it is one: `the token is invalid`, `token: VARCHAR`."""
_HINTS = {hint for hints, _ in (*_PATTERNS, *_SENTENCES) for hint in hints}
_STATEMENTS = re.compile(
    r"\b(?:create|alter)\b[\w\s]*?\b(?:secret|user|role|login)\b|\bidentified\s+by\b|\bcredentials\b|\battach\b"
    rf"|\bset\s+(?:global\s+|session\s+|local\s+|persist\s+)?\w*(?:{_NAMES})",
    re.IGNORECASE,
)
"""Statements in which a secret follows its name after a space."""
_SPACED = re.compile(
    rf"\b\w*(?:{_NAMES}|identified\s+by)\w*\s+(?:to\s+)?(?P<secret>{_QUOTED})",
    re.IGNORECASE | re.DOTALL,
)
_SECRET_MADE = re.compile(r"\bcreate\b[\w\s]*?\bsecret\b|\bidentified\s+by\b", re.IGNORECASE)
_UNQUOTED = re.compile(
    rf"(?:[,(]\s*\w*(?:{_NAMES})\w*|\bidentified\s+by)\s+(?!by\b)(?P<secret>[^\s,()'\"]{{4,}})",
    re.IGNORECASE,
)
"""The same without quotes, in a statement that makes one: `CREATE SECRET s (TYPE s3, SECRET abc)`."""
_ISSUED = re.compile(
    r"\b(?P<secret>A[KS]IA[0-9A-Z]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}"
    r"|xox[abeprs]-[\w\-]{10,}|xapp-[\w\-]{10,}|sk-[\w\-]{20,}|[sr]k_(?:live|test)_\w{16,}|dapi[0-9a-f]{32}"
    r"|dbt[cu]_[\w\-]{20,}|AIza[\w\-]{35}|ya29\.[\w\-]{20,}|hf_[A-Za-z]{30,}|npm_\w{30,}|pypi-[\w\-]{40,}"
    r"|hvs\.[\w\-]{20,}|whsec_\w{20,}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{20,}|do[opr]_v1_[0-9a-f]{20,}|dckr_pat_[\w\-]{20,}"
    r"|lin_api_\w{20,}|gl(?:rt|ptt|dt|ft|imt|soat|cbt)-[\w\-]{16,}|ATATT3[\w\-=]{20,}|gsk_\w{20,}|xkeysib-[\w\-]{20,}"
    r"|NRAK-[A-Z0-9]{20,}|sntrys_[\w\-=+/]{20,}|pul-[0-9a-f]{20,}|figd_[\w\-]{20,}|PMAK-[\w\-]{20,}"
    r"|AGE-SECRET-KEY-1[A-Z0-9]{20,}"
    r"|SG\.[\w\-]{16,}\.[\w\-]{16,}|eyJ[\w\-]{8,}\.[\w\-]+\.[\w\-]*)"
)
"""What issuers mark as theirs."""
_ISSUED_HINTS = (
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "xapp-",
    "sk-",
    "k_live_",
    "k_test_",
    "dapi",
    "dbtc_",
    "dbtu_",
    "AIza",
    "ya29.",
    "hf_",
    "npm_",
    "pypi-",
    "SG.",
    "eyJ",
    "hvs.",
    "whsec_",
    "shp",
    "_v1_",
    "dckr_pat_",
    "lin_api_",
    "gl",
    "ATATT3",
    "gsk_",
    "sntrys_",
    "NRAK-",
    "PMAK-",
    "pul-",
    "figd_",
    "AGE-",
)
_PLACEHOLDER = re.compile(
    r"\W*|[@$]\{?\w+\}?|\{\{.*\}\}|%\(\w+\)s|none|null|true|false", re.IGNORECASE
)
_TAIL = ".,;:!?"
"""What ends a sentence, and no secret."""
_NO_VALUE = re.compile(
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z]?[a-z]*|[A-Za-z]?[a-z_.\-/]+|[A-Z_]+"
    r"|(?i:(?:u?int|float|decimal|varchar|char|bit|utf|sha|md|string|datetime|date|timestamp)\d+)"
)
"""A word, a column with its table, an identifier without digits, a type."""


def is_placeholder(text: str) -> bool:
    """Whether it stands for a value: `@password`, `{{ env_var('X') }}`, `***`, `null`."""
    return bool(_PLACEHOLDER.fullmatch(text))


def written_spans(text: str) -> Iterator[Span]:
    """Where it is."""
    folded = _folded(text)
    found = {hint for hint in _HINTS if hint in folded}
    is_named = _may_name(folded) and _NAME.search(text) is not None

    def searched(rules: Iterable[_Rule]) -> Iterator[re.Pattern[str]]:
        for hints, pattern in rules:
            if is_named if hints is _NAMED else not found.isdisjoint(hints):
                yield pattern

    patterns = [*searched(_PATTERNS), *_of_statements(text, is_named=is_named)]
    if any(hint in text for hint in _ISSUED_HINTS):
        patterns.append(_ISSUED)
    for pattern in patterns:
        for match in pattern.finditer(text):
            yield from _value(text, *match.span("secret"))
    for pattern in searched(_SENTENCES):
        for match in pattern.finditer(text):
            yield from _told_value(text, match)


def _folded(text: str) -> str:
    """In lower case; an `i` is what a pattern that ignores case takes for one, with and without its dot."""
    return text.casefold().replace("\u0131", "i").replace("\u0307", "")


def _may_name(folded: str) -> bool:
    """Whether to look for a name: most lines of a run say that a check has passed, and have none."""
    rest = folded.replace("passed", "")
    return any(hint in rest for hint in _NAME_HINTS)


def _of_statements(text: str, *, is_named: bool) -> Iterator[re.Pattern[str]]:
    if is_named and _STATEMENTS.search(text):
        yield _SPACED
    if is_named and _SECRET_MADE.search(text):
        yield _UNQUOTED


def _told_value(text: str, match: re.Match[str]) -> Iterator[Span]:
    """What a sentence says is a secret, if the value may be one."""
    if match.groupdict().get("quoted"):
        yield from _value(text, *match.span("quoted"))
        return
    start, stop = match.span("secret")
    stop = start + len(text[start:stop].rstrip(_TAIL))
    if _is_no_word(text[start:stop]):
        yield from _value(text, start, stop)


def written_secrets(text: str) -> list[str]:
    """What a text says is a secret, such as the password of a URL; also as it is before it is quoted for a URL."""
    found = [text[start:stop].strip("'\"") for start, stop in written_spans(text)]
    return [*found, *(plain for value in found if (plain := unquote(value)) != value)]


def _value(text: str, start: int, stop: int) -> Iterator[Span]:
    while start < stop and text[start] == "\\" and text[stop - 1] in "'\"":
        start += 1
    if text[start : start + 1] in ("'", '"', "`") and stop - start > 1:
        start, stop = start + 1, stop - 1
        stop = (
            start + len(text[start:stop].rstrip("\\"))
            if text[start - 2 : start - 1] == "\\"
            else stop
        )
    if not is_placeholder(text[start:stop]):
        yield start, stop


def _is_no_word(value: str) -> bool:
    """Whether it has what no word of a message has: digits, signs, capitals in the middle."""
    if value.isdigit():
        return len(value) >= 6
    has_letter = any(letter.isalpha() for letter in value)
    return len(value) >= 4 and has_letter and not _NO_VALUE.fullmatch(value)
