"""Which values of an environment or of a SQLMesh config are secrets: by their names, and by where they are. Pure."""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from sqlmesh_dagster.guard.written_secrets import written_secrets

_SECRET_NAME = re.compile(
    r"pass(?!port|ed|ing|ive|enger)|pwd|passwd|secret|token|credential|(?:^|_)creds?(?:$|_)|(?:^|_)auth(?:$|_(?!type|enticator|method|url))"
    r"|authorization|api_?key|_key(?:$|_)|^key$|(?<!mon)(?<!tur)key$|key_?id|(?:^|_)(?:pat|sas|pem|jwt|pin|otp|pw|dsn|salt|cert|cookie)(?:$|_)"
    r"|bearer|webhook|signature|private|connection_?str|conn_?str|license",
    re.IGNORECASE,
)
_OPEN_NAME = re.compile(
    r"(?:_path|_file|_dir|_url|_uri|_type|_name|_count|_limit|_timeout|_seconds|_enabled|_method|_provider|_column)s?$"
    r"|^(?:primary|foreign|sort|partition|unique|surrogate|natural|asset|group|cache|hot|monkey|dist)_?key",
    re.IGNORECASE,
)
"""Names that only speak of a secret, or of another kind of key."""
_OF_SHELL = frozenset(
    {"PWD", "OLDPWD", "SSH_ASKPASS", "SUDO_ASKPASS", "GIT_ASKPASS", "SSH_AUTH_SOCK"}
)
"""Variables of a shell: folders and programs, though `PWD` names a password elsewhere."""
_CONNECTION = re.compile(r"(?:^|_)connection$|^secrets$|^connector_config$", re.IGNORECASE)
OPEN_KEYS = frozenset(
    re.findall(
        r"\w+",
        "account application application_name appname auth_type authenticator autocommit catalog catalog_name"
        " catalog_type_overrides catalogs charset check_import client_id cluster cluster_identifier collation"
        " comments compression_method concurrent_tasks config config_dir conn_properties connect_timeout"
        " connection_pool_options connection_settings connector_config data_path database"
        " databricks_connect_cluster_id databricks_connect_server_hostname databricks_connect_use_serverless db"
        " db2_schema db_user delegate dialect disable_databricks_connect disable_spark_session display_name driver"
        " driver_name enable_iam_auth enable_merge encrypt encrypted endpoint execution_project extensions"
        " filesystems force_databricks_connect force_preemptive gateway gateways host hostname_override http_path"
        " http_scheme iam impersonated_service_account impersonation_user ip_type is_serverless"
        " job_creation_timeout_seconds job_execution_timeout_seconds job_retries job_retry_deadline_seconds"
        " keepalives_idle keyfile keytab krb5_config local_infile location login_attempts login_timeout"
        " maximum_bytes_billed method mutual_authentication name oauth_client_id odbc_properties options path port"
        " pre_ping preferred_role pretty_sql principal principal_arn priority private_key_path project provider"
        " query_limit quota_project read_only region region_name register_comments repository reservation retries role"
        " role_arn role_session_name roles s3_staging_dir s3_warehouse_location sanitize_mutual_error_response"
        " schema_differ_overrides schema_location_mapping schema_name scope scopes secure send_receive_timeout"
        " server_host_name server_hostname serverless_acct_id serverless_work_group service_name"
        " session_configuration session_parameters session_properties source source_address ssl ssl_ca"
        " ssl_disabled sslmode tcp_keepalive tds_version tenant_id timeout timestamp_mapping timezone tls_mode"
        " token_uri trust_server_certificate type type_ unix_sock url_style use_compression use_ssl user username"
        " verify virtual_catalog wap_enabled warehouse work_group workspace_id",
    )
)
"""Keys of a connection whose values may be shown; one that is not here may be a mistyped `password`."""
_NAMES = "catalogs"
"""The key below which keys are names of the owner's, and values are paths."""
_PAIR = re.compile(
    r"[\"']?(?P<key>[A-Za-z_][\w.\-]*)[\"']?\s*:(?:\s+|(?=[\"'\[{]))"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'|\{\{.*?\}\}|[^,{}\[\]]*)"
)
_LINE = re.compile(
    r"(?P<indent>[\s#]*(?:- +)?)[\"']?(?P<key>[A-Za-z_][\w.\-]*)[\"']?\s*:(?:\s+(?P<value>.*))?$"
)
_ASSIGNED = re.compile(r"[\"']?(\w+)[\"']?\s*[=:]\s*[\"']([^\"'\n]+)")
_ENV_VAR = re.compile(r"([\"'])(\w+)\1(?:\s*,\s*([\"'])(.*?)\3)?")
_SHORTEST_BASE64 = 16
_OF_PGPASS = 5
"""Fields of a line."""


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable, an argument or a key says that its value is a secret."""
    is_webhook = "webhook" in name.lower()  # whoever knows its URL may use it
    return is_webhook or (bool(_SECRET_NAME.search(name)) and not _OPEN_NAME.search(name))


def secrets_of_variables(variables: Mapping[str, str | None]) -> Iterator[str]:
    """The secrets among environment variables; and the password in each URL among them."""
    for name, value in variables.items():
        if name in _OF_SHELL:
            continue
        is_of_connection = "__CONNECTION__" in name.upper()
        key = name.lower().rpartition("__")[2]
        if not value:
            continue
        is_secret = is_secret_name(key) or (is_of_connection and key not in OPEN_KEYS)
        if is_secret:
            yield value
        if is_secret or value.lstrip().startswith("{"):  # such as a service account's JSON
            yield from _within(name, value)
        yield from written_secrets(value)


def _within(name: str, value: str) -> Iterator[str]:
    """What a secret is made of: the key in a service account's JSON, the text in base64."""
    with suppress(ValueError):
        if value.lstrip().startswith("{"):
            yield from secrets_of_config(name, json.loads(value))
        elif len(value) >= _SHORTEST_BASE64:
            decoded = base64.b64decode(value, validate=True).decode()
            if decoded.replace("\n", "").isprintable():
                yield decoded
                yield from _within(name, decoded)


def secrets_of_config(key: str, value: object, *, is_connection: bool = False) -> Iterator[str]:
    """The secrets in a value of a config, whatever is nested in it.

    Args:
        is_connection: Whether it is in a connection, where each key that is not known may be a secret.
    """
    is_connection = is_connection or bool(_CONNECTION.search(key))
    if isinstance(value, Mapping):
        for name, nested in value.items():
            of = "catalog" if key.lower() == _NAMES else str(name)
            yield from secrets_of_config(of, nested, is_connection=is_connection)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for nested in value:
            yield from secrets_of_config(key, nested, is_connection=is_connection)
    elif isinstance(value, (str, bytes)):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if is_secret_name(key) or (
            is_connection and key.lower() not in OPEN_KEYS and not _CONNECTION.search(key)
        ):
            yield text
        yield from written_secrets(text)


def secrets_of_yaml(text: str, variables: Mapping[str, str | None]) -> Iterator[str]:
    """The secrets in a YAML config, which may be one that cannot be parsed.

    Args:
        variables: What `{{ env_var('…') }}` finds.
    """
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:  # a further line of a value
            if (
                above
                and line.strip()
                and _is_secret_key(above[-1][1], [key for _, key in above[:-1]])
            ):
                yield line.strip().lstrip("- ")
            yield from written_secrets(line)
            continue
        indent = len(match["indent"])
        above = [(i, key) for i, key in above if i < indent]
        keys = [key for _, key in above]
        above.append((indent, match["key"]))
        value = match["value"] or ""
        if value.startswith("{") and not value.startswith("{{"):
            for pair in _PAIR.finditer(value[1:]):
                yield from _yaml_value(pair["key"], pair["value"], [*keys, match["key"]], variables)
        else:
            yield from _yaml_value(match["key"], value, keys, variables)
        yield from written_secrets(line)


def secrets_of_pgpass(text: str, variables: Mapping[str, str | None]) -> Iterator[str]:
    """The passwords in a file of `host:port:database:user:password` lines, where `\\` is before `:` and itself."""
    for line in text.splitlines():
        parts = re.split(r"(?<!\\):", line.strip(), maxsplit=4)
        if len(parts) == _OF_PGPASS and not line.startswith("#"):
            yield re.sub(r"\\(.)", r"\1", parts[-1])


def secrets_of_python(text: str, variables: Mapping[str, str | None]) -> Iterator[str]:
    """The secrets in a Python config, which may be one that cannot be parsed; arguments as above."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        for key, value in _ASSIGNED.findall(text):
            if is_secret_name(key):
                yield value
        return
    for node in ast.walk(tree):
        for key, value in _named_values(node):
            if key is not None and value is not None:
                yield from _strings(value, variables)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from written_secrets(node.value)


def _named_values(node: ast.AST) -> Iterator[tuple[str | None, ast.expr | None]]:
    """What has the name of a secret, or is an unknown argument of a connection."""
    if isinstance(node, ast.Call):
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        is_connection = str(name).endswith("ConnectionConfig")
        for argument in node.keywords:
            if argument.arg and _is_secret_key(
                argument.arg, ["connection"] if is_connection else []
            ):
                yield argument.arg, argument.value
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and is_secret_name(str(key.value)):
                yield str(key.value), value
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and is_secret_name(target.id):
                yield target.id, node.value


def _strings(node: ast.AST, variables: Mapping[str, str | None]) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield variables.get(part.value) or part.value


def _is_secret_key(key: str, above: Sequence[str]) -> bool:
    if above and above[-1].lower() == _NAMES:
        return False
    in_connection = any(_CONNECTION.search(name) for name in above)
    is_unknown = key.lower() not in OPEN_KEYS and not _CONNECTION.search(key)
    return is_secret_name(key) or (in_connection and is_unknown)


def _yaml_value(
    key: str, value: str, above: list[str], variables: Mapping[str, str | None]
) -> Iterator[str]:
    value = value.strip()
    if not value or value in {"|", ">", "|-", ">-"} or not _is_secret_key(key, above):
        return
    if "{{" in value:
        for match in _ENV_VAR.finditer(value):  # a variable, or its default
            yield from (found for found in (variables.get(match[2]), match[4]) if found)
        return
    if value[0] in "\"'":
        yield value.rstrip().strip(value[0])
        return
    yield value
    yield value.partition(" #")[0].strip()
