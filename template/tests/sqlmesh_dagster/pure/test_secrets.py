"""Secrets: which values are, and in which forms they are masked."""

from __future__ import annotations

import base64
import builtins
import html
import json
import logging
import os
import pprint
import shlex
import sys
import textwrap
import time
import traceback
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

import pydantic
import pytest
from rich.console import Console

from sqlmesh_dagster.definition.records import AuditRecord
from sqlmesh_dagster.facts.gates import Stop
from sqlmesh_dagster.facts.plan_summary import PlanSummary
from sqlmesh_dagster.facts.review import (
    Basis,
    ColumnEquality,
    ModelReview,
    Review,
    RowComparison,
)
from sqlmesh_dagster.guard import secrets
from sqlmesh_dagster.guard.masking import MASK, Masks, is_maskable
from sqlmesh_dagster.guard.secret_values import (
    is_secret_name,
    secrets_of_config,
    secrets_of_python,
    secrets_of_variables,
    secrets_of_yaml,
)
from sqlmesh_dagster.run.review import review_metadata

HARD = "pa'ss \"wörd\\/&+%=9"
"""A password in which each kind of quoting changes something."""
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def own_secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test teaches the process ends with it."""
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)
    monkeypatch.setattr(secrets._Known, "masks", Masks())
    monkeypatch.setattr(secrets._Known, "records", None)
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize(
    "written",
    [
        HARD,
        repr(HARD),
        json.dumps(HARD),
        json.dumps(HARD, ensure_ascii=False),
        json.dumps(json.dumps(HARD)),
        json.dumps(repr(HARD)),
        urllib.parse.quote(HARD),
        urllib.parse.quote(HARD, safe=""),
        urllib.parse.quote_plus(HARD),
        urllib.parse.quote_plus(HARD).lower(),
        HARD.replace("'", "''"),
        HARD.replace('"', '""'),
        HARD.replace("%", "%%"),
        HARD.replace("\\", "\\\\").replace("'", "\\'"),  # BigQuery, MySQL, Databricks
        HARD.replace("'", "\\'"),
        shlex.quote(HARD),
        ascii(HARD),
        repr(HARD.encode()),
        repr(repr(HARD)),
        repr(json.dumps(HARD)),
        urllib.parse.quote(HARD, safe=" +"),
        urllib.parse.quote(urllib.parse.quote(HARD, safe=""), safe=""),
        html.escape(HARD),
        html.escape(HARD, quote=False),
        base64.b64encode(HARD.encode()).decode(),
        base64.b64encode(f"user:{HARD}".encode()).decode(),
        base64.urlsafe_b64encode(f"me:{HARD}!".encode()).decode(),
        html.escape(HARD).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),  # Jinja
        HARD.upper(),
        HARD.lower(),
        urllib.parse.quote(HARD, safe="").upper(),
        HARD.encode().hex(),
        base64.b64encode(
            base64.b64encode(HARD.encode())
        ).decode(),  # a secret of Kubernetes, read twice
        urllib.parse.quote(base64.b64encode(f"{HARD}?~".encode()).decode(), safe=""),
    ],
)
def test_a_value_is_masked_in_each_form(written: str) -> None:
    """Promise: no piece of eight characters of the written form is left."""
    masked = Masks().including([HARD]).mask(f"before {written} after")
    assert masked.startswith("before ") and masked.endswith(" after") and MASK in masked
    pieces = {written[i : i + 8] for i in range(1, len(written) - 9)}
    if not written.startswith(("dXNlc", "bWU6")):  # the base64 of the user is none
        assert not [piece for piece in pieces if piece in masked]
    assert len(masked) < len(f"before  after{MASK}") + 12


def test_a_value_within_another_and_one_that_overlaps_leave_nothing() -> None:
    """Promise: the longer one is masked whole, and of two that overlap both."""
    masks = Masks().including(["abc123", "xxabc123yy", "yy-zz-77"])
    assert masks.mask("'xxabc123yy-zz-77' 'abc123'") == "'***' '***'"


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "1",
        "12345",
        "true",
        "None",
        "prod",
        "dev",
        "duckdb",
        "postgres",
        "local",
        "***",
        "@TOKEN",
    ],
)
def test_what_every_message_is_made_of_is_not_masked(value: str) -> None:
    """Promise: `1` and `prod` stay, whoever chose them for a password."""
    assert not is_maskable(value)
    assert Masks().including([value]).mask(f"a {value} b") == f"a {value} b"


def test_a_word_is_masked_as_a_word() -> None:
    """Promise: a password that is a word does not tear other words."""
    masks = Masks().including(["customer"])
    assert masks.mask("'customer' in customers") == "'***' in customers"
    assert masks.mask("USER CUSTOMER, CUSTOMERS") == "USER ***, CUSTOMERS"


@pytest.mark.parametrize(
    ("value", "text", "shown"),
    [
        ("s3cr", "login s3cr failed: S3CR", "login *** failed: ***"),
        ("s3cr", "s3crets, xs3cr", "s3crets, xs3cr"),  # too short to be torn out of a word
        ("a-b9x", "'a-b9x'", "'***'"),
        ("hunter2", "xhunter2y", "x***y"),
        ("qwerty", "for qwerty, querty", "for ***, querty"),
        ("123456", "no 123456", "no ***"),
        ("1234", "1234 rows", "1234 rows"),
        ("abcd", "abcd", "abcd"),
        ("a1b", "a1b", "a1b"),
    ],
)
def test_the_floor_of_short_values(value: str, text: str, shown: str) -> None:
    """Promise: from four characters, as a whole word; from six also within one. Words and numbers from six."""
    assert Masks().including([value]).mask(text) == shown


LONG = "cnry-0123 456789abcdef-ghijklmnopqrstuv-wxyz"


@pytest.mark.parametrize(
    "text",
    [
        *(f"the error: \n{textwrap.fill(LONG, width)}\n" for width in (8, 11, 20, 40)),
        "\n".join(f"│ {LONG[i : i + 12]:<12} │" for i in range(0, len(LONG), 12)),
        "\n".join(f"  | {LONG[i : i + 12]}" for i in range(0, len(LONG), 12)),
        pprint.pformat({"x": LONG}, width=20),
        json.dumps(textwrap.fill(LONG, 20)),
        textwrap.fill(LONG, 20).replace("\n", "\r\n"),
        textwrap.fill(base64.b64encode(LONG.encode()).decode(), 30),
        textwrap.fill(urllib.parse.quote(LONG), 30),
        base64.encodebytes((LONG * 3).encode()).decode(),
    ],
)
def test_a_value_that_goes_on_in_the_next_line_is_masked(text: str) -> None:
    """Promise: however a console, a printer of data or base64 breaks its lines; what is around it stays."""
    masked = Masks().including([LONG]).mask(f"before it\n{text}\nafter it")
    assert masked.startswith("before it\n") and masked.endswith("\nafter it") and MASK in masked
    pieces = [part.strip("'") for part in text.split() if len(part) > 4 and ":" not in part]
    assert pieces and not [part for part in pieces if part in masked], masked


def test_lines_that_only_begin_alike_stay() -> None:
    """Promise: what is in one line is found as it is; nothing else is put together."""
    text = "cnry-0123\nother\n456789abcdef"
    assert Masks().including([LONG]).mask(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "ATTACH 'host=h user=me password=''ca nary''' AS x (TYPE postgres)",
        "CREATE SECRET h (TYPE http, EXTRA_HTTP_HEADERS MAP {'X-Api-Key': 'canary-1'})",
        "https://hooks.slack.com/services/T000/B000/canary",
        "https://x.blob.core.windows.net/c?sv=1&sig=canary%3D&se=2",
        "GET /c?sig=canary",
        "Set-Cook\u0131e: id=canary",  # a letter that is an i to whoever ignores case
        "All checks passed. PASSWORD='canary'",
        "-H 'Authorization: token canary-2'",
        "COPY INTO t CREDENTIALS=(AWS_KEY_ID='canary3' AWS_SECRET_KEY='canary4')",
        "redis://:canary@h:6379/0",
        "https://canary0123456789abcdef@sentry.example/1",
        "curl -u me:canary https://x",
        "curl -sSu 'me:canary' https://x",
        "the password is canary1, they say",
        "its password was 'canary'",
        "a password `canary1` is no good",
        "no login: Password for user me is canary1.",
        "header Authorization: Basic Y2FuYXJ5OmNhbmFyeQ==",
        "[default]\naws_secret_access_key = caNary1/x+y\nregion = x",
        "aws_secret_access_key=canary",
        "headers X-Api-Key: canary1",
        "user: ada\npassword: canary-1\n",
        "Set-Cookie: sid=canary; a=b",
        "requests.get(x, auth=('me', 'canary'))",
        "requests.get(x, auth=HTTPBasicAuth('me', 'canary'))",
        'answer {\\"password\\": \\"canary\\", \\"a\\": 1}',
        "<config><password>canary</password></config>",
        "headers [('X-Api-Key', 'canary1')]",
        "mysqldump --password canary1 x",
        "settings 'password': b'canary'",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\ncanary\ncanary\n-----END PGP",
        "https://discord.com/api/webhooks/1/canary",
        "mysqldump -u root -pcanary-1 x",
        "connection:\n  password: canary\n  port: 1",
        "it is a wrong password 'canary' for me",
        "login failed with password canary",
        "https://api.example.com/v1?key=canary1234",
        "Ocp-Apim-Subscription-Key: canary0123",
        "request hvs.canary01234567890123456",
        "Server=x;Uid=me;Pwd=ca nary 2;Encrypt=no",
        "Driver=x;Password={ca;canary};",
        "CREATE SECRET s (TYPE s3, SECRET canary)",
        "ALTER USER x IDENTIFIED BY canary",
        "SET s3_secret_access_key TO 'canary'",
        "ATTACH 'x.db' AS x (ENCRYPTION_KEY 'canary')",
        "PRAGMA add_parquet_key('k', 'canary0123456789')",
        "SELECT pgp_sym_decrypt(x, 'canary')",
        "HTTPBasicAuth('me', 'canary')",
        "{'auth': ('me', 'canary')}",
        "Authorization: Digest username='me', response='canary'",
        "| user     | me |\n| password | canary1 |",
        '<add key="password" value="canary"/>',
        '{"name": "DB_PASSWORD", "value": "canary"}',
        "- name: DB_PASSWORD\n  value: canary",
        "sqlplus scott/canary@//db.example.com:1521/svc",
        "sqlldr control=x userid=scott/canary",
        "cannot log in as scott/canary@db:1521/svc",
        "jdbc:oracle:thin:scott/canary@db:1521:svc",
        "connection:\n  password: |-\n    canary\n  port: 1",
        "db.example.com:5432:wh:ada:canary",
        "no match for 'localhost:*:*:ada:canary\\:x' in ~/.pgpass",
    ],
)
def test_what_a_text_says_is_a_secret_is_masked_though_nobody_knows_it(text: str) -> None:
    """Promise: in statements, headers and URLs, as programs write them; how it begins stays."""
    masked = Masks().mask(text)
    assert "canary" not in masked and "ca nary" not in masked and MASK in masked
    assert masked[:8] == text[:8]


@pytest.mark.parametrize("word", ["a", "a_", "a.b-", "http"])
def test_a_long_text_without_a_blank_is_read_once(word: str) -> None:
    """Promise: a message with a file in it, as base64 or as one long name, costs no minutes. It did."""
    text = f"the key of https://x is {word * 20_000}"
    began = time.process_time()
    assert Masks().mask(text) == text
    assert time.process_time() - began < 5


def test_letters_of_base64_are_no_word() -> None:
    """Promise: where all of a value's base64 but its end are letters, nothing of it is left."""
    value = "a'b\"c\\d&e<f"
    encoded = base64.b64encode(value.encode()).decode()
    assert encoded[:14].isalpha()
    assert encoded[:8] not in Masks().including([value]).mask(f"Basic: {encoded}")


def test_a_key_of_several_lines_is_masked_whole_and_line_by_line() -> None:
    """Promise: a message that shows one line of a key shows no secret."""
    masks = Masks().including([KEY])
    of_one_line = Masks().including([KEY.replace("\n", "\\n")])  # as a variable often has it
    for text in (KEY, repr(KEY), "LINE 3: hkiG9w0BAQEFAASC ^", KEY.replace("\n", " ")):
        assert "hkiG9w0BAQEFAASC" not in masks.mask(text)
        assert "hkiG9w0BAQEFAASC" not in of_one_line.mask(text)
    assert "MIIEabc" not in Masks().mask("-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END")


@pytest.mark.parametrize(
    ("text", "shown"), [("SECRET 'abcdefghi...", "SECRET '***..."), ("...mnopqrst'", "...***'")]
)
def test_what_a_message_cuts_is_masked(text: str, shown: str) -> None:
    """Promise: the beginning and the end of a value beside `...` are masked."""
    assert Masks().including(["abcdefghijklmnopqrst"]).mask(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me:p@ss/w@db/x", "postgresql://me:***@db/x"),
        (
            'open file "/srv/x/postgresql:/me:abc@db:1/x"',
            'open file "/srv/x/postgresql:/me:***@db:1/x"',
        ),
        ("dbname=x password=abc host=y", "dbname=x password=*** host=y"),
        ("md:x?motherduck_token=abc&a=1", "md:x?motherduck_token=***&a=1"),
        ("{'pasword': 'x', 'password': 'abc'}", "{'pasword': 'x', 'password': '***'}"),
        ('{"api_key": "abc"}', '{"api_key": "***"}'),
        (
            "CREATE SECRET s (TYPE s3, KEY_ID 'id', SECRET 'it''s')",
            "CREATE SECRET s (TYPE s3, KEY_ID '***', SECRET '***')",
        ),
        ("CREATE USER a IDENTIFIED BY 'abc'", "CREATE USER a IDENTIFIED BY '***'"),
        ("Authorization: Bearer abcdefgh12", "Authorization: Bearer ***"),
        (
            "[type=extra, input_value={'pasword': 'x'}, input_type=dict]",
            "[type=extra, input_value=***, input_type=dict]",
        ),
        ("a ghp_abcdefghijklmnopqrstuvwx b", "a *** b"),
    ],
)
def test_what_is_written_as_a_secret_is_masked_though_nobody_knows_it(
    text: str, shown: str
) -> None:
    """Promise: URLs, connection strings, statements and headers show no secret."""
    assert Masks().mask(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a.token = b.token, primary_key, x::INT FROM t WHERE id = 'abc'",
        "Invalid expression / Unexpected token. Line 1, Col: 10. 'FROM'",
        "Unexpected token 'foo'",
        "https://github.com/acme/x?a=1 and me@example.org",
        "password = @pw, token=$TOKEN",
        "Model `demo.basic_orders` failed with ValueError: basic facts",
        "The password is wrong, the token is invalid, the secret was expired",
        "token: VARCHAR, secret: DECIMAL(18,2), api_key: INT64, password: user_password",
        "Expected table name but got <Token token_type: TokenType.COMMA, text: ,>",
        "password of the user, token of session_id, secret: see docs/production.md",
        "AssetCheckResult(passed=result.passed, metadata=bypassed)",
        "WHERE token = src1.token\n  token = b.token\n",
        "http -> https, curl is not there: install it",
        'FATAL: password authentication failed for user "me"',
        "no password supplied, password: required",
        'column "password" of relation "users" does not exist',
        "CREATE TABLE user (id INT, password VARCHAR, token VARCHAR)",
        "https://example.org/docs?key=order_id&code=order",
        "| token | VARCHAR |",
        "uses: actions/checkout@v4 and a/b@main",
        "models/a/b.sql@12:30, read by ada@db:5432/x",
        "passwords: |\n",
        "models/a.sql:5432:12: error: no such column, db:5432:wh:ada",
        "connecting to db:5432: refused: is it there: yes",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    """Promise: SQL and messages are read as they are."""
    assert Masks().mask(text) == text


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        *((name, True) for name in (
            "PASSWORD", "PGPASSWORD", "db_pwd", "API_KEY", "apikey", "AWS_SECRET_ACCESS_KEY", "GH_TOKEN",
            "SNOWFLAKE_PAT", "PRIVATE_KEY", "MOTHERDUCK_TOKEN", "SENTRY_DSN", "key", "STORAGE_KEY", "x_auth",
        )),
        *((name, False) for name in (
            "PATH", "HOME", "primary_key", "TOKEN_URL", "PASSENGERS", "KEYBOARD", "AUTHOR", "PASSPORTS",
            "private_key_path", "COMPATIBILITY", "SQLMESH_ENVIRONMENT", "partition_key", "monkey",
        )),
    ],
)  # fmt: skip
def test_names_say_what_is_a_secret(name: str, is_secret: bool) -> None:
    """Promise: what is named like a secret is one."""
    assert is_secret_name(name) is is_secret


def test_variables_give_what_is_named_as_a_secret_and_passwords_of_urls() -> None:
    """Promise: also SQLMesh's own variables of a connection, mistyped ones too."""
    variables = {
        "APP_TOKEN": "canary1",
        "DATABASE_URL": "postgres://me:canary2@h/db",
        "SQLMESH__GATEWAYS__A__CONNECTION__PASWORD": "canary3",
        "SQLMESH__GATEWAYS__A__CONNECTION__HOST": "shown1",
        "REGION": "shown2",
        "EMPTY_TOKEN": "",
        "PWD": "/home/ada",
        "SSH_AUTH_SOCK": "/tmp/ssh/agent",
    }
    assert set(secrets_of_variables(variables)) == {"canary1", "canary2", "canary3"}


def test_what_a_variables_secret_is_made_of_is_one_too() -> None:
    """Promise: a key in a service account's JSON, also in base64; a password before it was quoted for its URL."""
    account = json.dumps({"client_email": "shown", "private_key": KEY, "x": {"token": "canary1"}})
    coded = base64.b64encode(account.encode()).decode()
    for value in (account, coded):
        found = set(secrets_of_variables({"GOOGLE_CREDENTIALS": value}))
        assert {value, KEY, "canary1"} <= found and "shown" not in found
    found = set(secrets_of_variables({"GCP_SERVICE_ACCOUNT": account}))  # says nothing of a secret
    assert {KEY, "canary1"} <= found and not {account, "shown"} & found
    url = "postgres://me:p%40ss%2Fw@h/x"
    assert set(secrets_of_variables({"DATABASE_URL": url})) == {"p%40ss%2Fw", "p@ss/w"}


CONFIG = """
gateways:
  a:
    connection: # comment
      type: postgres
      host: shown-host
      pasword: canary1 # comment
      # password: canary2
    state_connection: {type: postgres, user: shown-user, pass: 'canary3', pw: "canary4"}
  b:
    connection:
      type: duckdb
      secrets:
        - type: s3
          region: shown-region
          key_id: canary5
          secret: "{{ env_var('INNOCENT') }}"
      connector_config:
        s3_session_token: canary7
      private_key: |
        canary8-line1
        canary9-line2
variables:
  api_token: canary10
  other: shown-other
before_all:
  - CREATE SECRET (TYPE s3, KEY_ID 'canary11')
broken: [
"""


def test_a_folder_is_no_secret_whatever_its_variable_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tools keep the folder they were called in under such names; commands to paste show it."""
    project = tmp_path / "platform"
    project.mkdir()
    monkeypatch.setenv("POE_PWD", str(project))
    monkeypatch.setenv("OTHER_PWD", "/base64/of-a-password")
    secrets.learn_of_project(project)
    shown = secrets.mask(f"cd {project} && echo /base64/of-a-password")
    assert shown == f"cd {project} && echo ***"


def test_passwords_of_files_beside_the_project_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: of Postgres' clients and of Dagster's instance, as of SQLMesh's own; a pipe in such a place ends no load."""
    home, instance = tmp_path / "home", tmp_path / "instance"
    for folder in (home, instance, tmp_path / "project"):
        folder.mkdir()
    (home / ".pgpass").write_text("# a:1:b:c:remark-pw\nlocalhost:*:*:ada:canary\\:one-1\n")
    (instance / "dagster.yaml").write_text(
        "storage:\n  postgres:\n    postgres_db:\n      password: canary-two-2\n"
    )
    os.mkfifo(tmp_path / "project/config.yaml")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(instance))
    monkeypatch.delenv("PGPASSFILE", raising=False)
    secrets.learn_of_project(tmp_path / "project")
    assert secrets.mask("x canary:one-1 canary-two-2 remark-pw") == "x *** *** remark-pw"
    (tmp_path / "own").write_text("h:5432:d:u:canary-three-3\n")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "own"))
    secrets.learn_of_project(tmp_path / "project")
    assert secrets.mask("x canary-three-3") == "x ***"


def test_a_yaml_config_is_searched_though_it_is_broken() -> None:
    """Promise: a value under a mistyped key of a connection is a secret; known keys' values are none."""
    found = set(secrets_of_yaml(CONFIG, {"INNOCENT": "canary6"}))
    text = "\n".join(found)
    assert {f"canary{n}" for n in (1, 2, 3, 4, 5, 6, 7, 10, 11)} | {
        "canary8-line1",
        "canary9-line2",
    } <= found
    assert "shown" not in text


def test_a_python_config_is_searched_though_it_is_broken() -> None:
    """Promise: as above; a variable of the environment that an argument takes is looked up."""
    code = (
        "PASSWORD = 'canary1'\n"
        "c = PostgresConnectionConfig(host='shown', pasword='canary2', password=os.environ['INNOCENT'])\n"
        "d = {'token': 'canary4', 'region': 'shown'}\n"
        "u = 'postgres://me:canary5@shown/x'\n"
    )
    variables = {"INNOCENT": "canary3"}
    found = {v for v in secrets_of_python(code, variables) if v.startswith("canary")}
    assert found == {"canary1", "canary2", "canary3", "canary4", "canary5"}
    assert "canary1" in set(secrets_of_python(code + "def (", variables))


def test_a_config_that_was_read_gives_the_secrets_of_its_connections() -> None:
    """Promise: nested ones, and those in a database's URL, too."""
    config: Mapping[str, object] = {
        "connection": {
            "type": "duckdb",
            "catalogs": {"pg": {"path": "dbname=shown password=canary1"}},
            "secrets": [{"type": "s3", "key_id": "canary2", "region": "shown"}],
            "password": b"canary3",
            "port": 5432,
        },
        "variables": {"token": "canary4", "x": "shown"},
    }
    assert set(secrets_of_config("", config)) == {f"canary{n}" for n in range(1, 5)}


class _OwnText(Exception):
    def __str__(self) -> str:
        return "says canary-1 itself"


def test_an_error_its_causes_and_its_attributes_are_masked() -> None:
    """Promise: the kind of the error stays, and its chain can be told; pydantic shows no input."""
    secrets.learn(["canary-1"])

    class Strict(pydantic.BaseModel, extra="forbid"):
        host: str = ""

    try:
        try:
            try:
                Strict(pasword="canary-1")  # type: ignore[call-arg]
            except ValueError as error:
                raise _OwnText from error
        except _OwnText as error:
            raise KeyError("no canary-1", ["canary-1"]) from error
    except KeyError as error:
        clean = secrets.masked_error(error)
    assert isinstance(clean, KeyError) and clean.args == ("no ***", ["***"])
    assert (
        str(clean.__cause__) == "says *** itself" and type(clean.__cause__).__name__ == "_OwnText"
    )
    assert clean.__cause__ is not None
    texts = [str(link) for link in (clean, clean.__cause__, clean.__cause__.__cause__)]
    assert len(texts) == 3 and "canary" not in "".join(texts) and "extra_forbidden" in texts[2]


if sys.version_info >= (3, 11):

    def test_groups_of_errors_and_notes_are_masked() -> None:
        """Promise: each error of a group, its title, and what was added to it."""
        secrets.learn(["canary-5"])
        inner = ValueError("a canary-5")
        inner.add_note("note canary-5")
        group = builtins.ExceptionGroup("of canary-5", [_OwnText("x"), inner])
        clean = secrets.masked_error(builtins.ExceptionGroup("outer", [group]))
        shown = "".join(traceback.format_exception(clean))
        assert "canary-5" not in shown and "note ***" in shown and "of ***" in shown
        plain = builtins.ExceptionGroup("fine", [ValueError("shown")])
        assert secrets.masked_error(plain) is plain


def test_a_traceback_that_shows_a_secret_is_left_out() -> None:
    """Promise: a line of a Python config with a literal password is not shown."""
    secrets.learn(["canary-2"])
    try:
        raise ValueError("canary-2")
    except ValueError as error:
        assert secrets.masked_error(error).__traceback__ is None
    try:
        raise ValueError("shown")
    except ValueError as error:
        assert secrets.masked_error(error).__traceback__ is not None


def test_logs_show_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Promise: whoever logs it, in arguments and in tracebacks."""
    secrets.learn(["canary-3"])
    value = "canary" + "-3"
    logging.getLogger("sqlmesh.x").warning("SQL: %s", {"a": value})
    try:
        raise ValueError(value)
    except ValueError:
        logging.getLogger("other").exception("failed")
    assert "canary" not in caplog.text
    assert caplog.text.count(MASK) == 2 and "ValueError: ***" in caplog.text


def test_what_is_printed_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """Promise: by `print`, by a console, and by Python for an error that nobody takes; then it is as before."""
    secrets.learn(["canary-6"])
    before = sys.stdout, sys.stderr
    with secrets.masked_output():
        print("a", "canary-6", {"x": "canary-6"})
        Console(width=40).print("of canary-6", style="red")
        print("to canary-6", file=sys.stderr)
        sys.stderr.writelines(["canary-6"])
        sys.stderr.buffer.write(b"bytes of canary-6")
        sys.excepthook(ValueError, ValueError("no canary-6"), None)
        assert sys.stdout.isatty() is before[0].isatty()
    assert (sys.stdout, sys.stderr) == before
    out, err = capsys.readouterr()
    assert "canary" not in out + err
    assert (
        out == "a *** {'x': '***'}\nof ***\n" and err.startswith("to ***\n***") and "no ***" in err
    )
    assert "bytes of ***" in err


def test_records_are_masked_in_their_texts_alone() -> None:
    """Promise: a name by which Dagster knows something is never changed."""
    secrets.learn(["canary-4"])
    record = AuditRecord(name="canary-4", check_name="canary-4", query="SELECT 'canary-4'")
    (masked,) = secrets.masked_texts((record,), ("query",))
    assert masked == AuditRecord("canary-4", "canary-4", query="SELECT '***'")


def test_the_page_of_a_review_shows_no_secret_that_a_model_selects() -> None:
    """Promise: neither in rows that differ nor in what a rule that stops it says."""
    secrets.learn(["canary-7"])
    plan = PlanSummary("dev", "p", is_new=False, is_empty=False, create_from=None)
    rows = RowComparison(("id",), 1, 1, 0, 0, 0, (ColumnEquality("note", 1, 0),))
    samples = ({"id": "7", "note": "canary-7 → canary-7b"},)
    model = ModelReview("s.orders", "modified", comparison=rows, samples=samples)
    found = Review("dev", "prod", plan, Basis((), "p", None, ()), (model,))
    metadata = review_metadata(found, [Stop("failing_checks", "no canary-7")], None)
    shown = metadata["sqlmesh/review"].value
    assert "canary" not in f"{shown} {metadata['sqlmesh/stopped_by'].value}"
    assert "| 7 | *** → ***b |" in shown
