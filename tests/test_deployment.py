"""The files of `deployment`: image, Compose and Helm agree with each other, with Dagster and with the code."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sqlmesh_dagster.alerts import EMAIL, SENDER, SMTP, UI, WEBHOOK
from sqlmesh_dagster.engine.diagnosis import diagnose
from sqlmesh_dagster.facts.diagnosis import Finding
from sqlmesh_dagster.settings import ProjectSettings
from sqlmesh_dagster.warehouses import GATEWAY, STATE, WAREHOUSES, connecting_variables
from tests.answers import CHOICES
from tests.conftest import ROOT, Render
from tests.test_recommended import parse_command
from tests.tree import files, parse_toml, run_tool

DEPLOYED = [choice for choice in CHOICES["deployment"] if choice != "none"]
_TEMPLATE = ROOT / "template"
_IN_NAMES = {f"WAREHOUSE_{w.catalog.name}" for w in WAREHOUSES.values() if w.catalog}
_IN_NAMES |= {GATEWAY, "SQLMESH_ENVIRONMENT"}
"""What is part of the names of models, or decides what an asset shows."""
_INSTRUCTION = re.compile(r"^([A-Z]+) ((?:.*\\\n)*.*)$", re.MULTILINE)


def compose() -> dict[str, Any]:
    """The Compose file, with its anchors resolved."""
    found: dict[str, Any] = yaml.safe_load((_TEMPLATE / "compose.yaml").read_text())
    return found


def values() -> dict[str, Any]:
    """The values for Dagster's chart."""
    found: dict[str, Any] = yaml.safe_load(
        (_TEMPLATE / "deploy/kubernetes/values.yaml").read_text()
    )
    return found


def instructions(stage: int) -> list[tuple[str, str]]:
    """Of the Dockerfile: its stages are parted by `FROM`."""
    text = re.sub(r"^ *#.*\n", "", (_TEMPLATE / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: list[list[tuple[str, str]]] = [[]]
    for name, arguments in _INSTRUCTION.findall(text):
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments))
    return found[stage]


def variables(stage: int, instruction: str) -> dict[str, str]:
    """Of all `ENV` or `ARG` of a stage."""
    text = " ".join(
        arguments.replace("\\\n", " ")
        for name, arguments in instructions(stage)
        if name == instruction
    )
    return dict(word.partition("=")[::2] for word in shlex.split(text))


def without_variables(command: list[str]) -> list[str]:
    """A command of a service, and not what `env` sets before it."""
    return [word for word in command if word != "env" and not re.match("[A-Z_]+=", word)]


def readers(node: Any) -> Iterator[str]:
    """Names of the variables that a file of Dagster's settings reads: `env: NAME`."""
    if isinstance(node, dict):
        if set(node) == {"env"}:
            yield node["env"]
        for child in node.values():
            yield from readers(child)
    elif isinstance(node, list):
        for child in node:
            yield from readers(child)


def test_each_answer_brings_its_own_files(render: Render) -> None:
    """Promise: without an answer there is not one file more; with one, exactly what the page lists."""

    def names(**answers: str) -> set[str]:
        project = render(**answers, ci="none", sample="minimal")
        return {path.relative_to(project).as_posix() for path in files(project)}

    none = names()
    shared = {"Dockerfile", "deploy/dagster.yaml", "deploy/workspace.yaml"}
    shared |= {"deploy/health.py", "deploy/definitions.py"}
    assert names(deployment="docker-compose") - none == {
        *shared,
        "compose.yaml",
        "compose.override.yaml",
    }
    assert names(deployment="kubernetes") - none == {
        *shared,
        "deploy/kubernetes/values.yaml",
        "deploy/kubernetes/own.yaml",
    }
    assert none <= names(deployment="kubernetes") & names(deployment="docker-compose")


def test_the_packages_of_the_image_are_those_of_dagster(render: Render) -> None:
    """Dagster's libraries of one release belong together: `dagster` 1.N.M is `dagster-…` 0.N+16.M."""
    for deployment in DEPLOYED:
        pyproject = parse_toml(render(deployment=deployment) / "pyproject.toml")
        pins = dict(p.split("==") for p in pyproject["project"]["dependencies"] if "==" in p)
        _, minor, patch = pins["dagster"].split(".")
        group = pyproject["dependency-groups"]["deployment"]
        libraries = {p.partition("==")[0]: p.partition("==")[2] for p in group if "dagster-" in p}
        assert set(libraries.values()) == {f"0.{int(minor) + 16}.{patch}"}
        assert ("dagster-k8s" in libraries) == (deployment == "kubernetes")
        assert "dagster-postgres" in libraries
        assert any(p.startswith("poethepoet") for p in group)


def test_compose_files_satisfy_the_specification() -> None:
    """The schema of Compose's own specification; the owner's file is one, too."""
    names = ("compose.yaml", "compose.override.yaml")
    run_tool(
        *("check_jsonschema", "--builtin-schema", "vendor.compose-spec", *names), cwd=_TEMPLATE
    )


@pytest.mark.parametrize("service", ["code", "webserver", "daemon"])
def test_each_command_is_one_of_dagsters(service: str) -> None:
    """Promise: what a service starts, and what looks after it, exists with its options and files."""
    found = compose()["services"][service]
    looked = found["healthcheck"]["test"]
    for words in (without_variables(found["command"]), looked[1:]):
        if words[0] == "python":
            assert (_TEMPLATE / words[1]).is_file() and hasattr(_health(), words[2])
        else:
            parse_command(words[0], *words[1:])
            assert all((_TEMPLATE / word).is_file() for word in words if word.startswith("deploy/"))


def test_the_images_own_command_is_that_of_the_code_server() -> None:
    """In exec form, so that a signal reaches Dagster and no shell; the port is the one that is asked."""
    (command,) = (arguments for name, arguments in instructions(2) if name == "CMD")
    code = compose()["services"]["code"]
    assert json.loads(command) == without_variables(code["command"])
    (chart,) = values()["dagster-user-deployments"]["deployments"]
    assert chart["dagsterApiGrpcArgs"] == code["command"][-2:]
    port = code["command"][code["command"].index("--port") + 1]
    assert _health().code.__defaults__ == (int(port),) == (chart["port"],)
    assert all(
        chart[probe]["exec"]["command"] == code["healthcheck"]["test"][1:]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    )


def test_every_variable_that_the_code_reads_arrives() -> None:
    """Promise: a variable set in the shell or in `.env` is not lost on its way, which would be silent."""
    environment = compose()["services"]["code"]["environment"]
    known = connecting_variables() | _IN_NAMES | {"WAREHOUSE_PATH"}
    assert known | {WEBHOOK, EMAIL, SMTP, SENDER, UI} <= set(environment)
    fixed = {"WAREHOUSE_PATH", "CODE_HOST", "CODE_LOCATION"}
    for name, value in environment.items():
        # no value: Compose passes on what is set, and sets nothing where nothing is
        assert value is None or name in fixed or f"${{{name}" in value, name
    assert compose()["services"]["code"]["env_file"] == [{"path": ".env", "required": False}]


def test_the_image_is_built_for_what_it_will_be_run_with() -> None:
    """Else each process would load the project again: the definitions are made of these variables."""
    arguments = compose()["services"]["code"]["build"]["args"]
    environment = compose()["services"]["code"]["environment"]
    assert set(arguments) == set(variables(1, "ARG")) == _IN_NAMES
    assert {name: environment[name] for name in arguments} == arguments
    # SQLMesh's own overrides are part of the definitions, too
    settings = {name: value for name, value in variables(1, "ENV").items() if "SQLMESH" in name}
    ours = {name: value for name, value in variables(2, "ENV").items() if "SQLMESH__" in name}
    assert settings == ours and settings


def test_no_secret_is_in_a_file_or_an_image() -> None:
    """They come from the environment alone; the database's has no default."""
    services = compose()["services"]
    secrets = [
        str(value)
        for service in services.values()
        for name, value in service["environment"].items()
        if "PASSWORD" in name or "TOKEN" in name or "SECRET" in name
        if value is not None
    ]
    assert secrets and all(
        value.startswith("${") and ":-platform" not in value for value in secrets
    )
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith(
        "${POSTGRES_PASSWORD:?"
    )
    baked = {*variables(1, "ARG"), *variables(1, "ENV"), *variables(2, "ARG"), *variables(2, "ENV")}
    assert not [name for name in baked if re.search("PASSWORD|TOKEN|SECRET|KEY", name)]
    assert not re.search(
        "(?i)password: *[^{ ]", (_TEMPLATE / "deploy/kubernetes/values.yaml").read_text()
    )


def test_dagsters_settings_are_valid_and_find_their_variables() -> None:
    """Each service has what `dagster.yaml` and `workspace.yaml` read, and the volume that they name."""
    folder = _TEMPLATE / "deploy"
    instance, overrides = dagster_instance_config(str(folder))
    assert instance and not overrides
    needed = set(readers(yaml.safe_load((folder / "dagster.yaml").read_text())))
    needed |= set(readers(yaml.safe_load((folder / "workspace.yaml").read_text())))
    place = instance["local_artifact_storage"]["config"]["base_dir"]
    for name in ("code", "webserver", "daemon"):
        service = compose()["services"][name]
        assert needed <= set(service["environment"])
        assert any(volume.endswith(f":{place}") for volume in service["volumes"])
        assert service["read_only"] and "/tmp" in service["tmpfs"]
    assert instance["compute_logs"]["config"]["base_dir"].startswith(place)
    data = Path(compose()["services"]["code"]["environment"]["WAREHOUSE_PATH"])
    made = next(arguments for name, arguments in instructions(2) if "mkdir" in arguments)
    assert str(data.parent) in made and place in made
    assert f"data:{data.parent}" in compose()["services"]["code"]["volumes"]


def test_a_run_in_a_pod_and_one_in_the_container_are_looked_after_alike() -> None:
    """One policy, in Dagster's words and in the chart's."""
    ours = yaml.safe_load((_TEMPLATE / "deploy/dagster.yaml").read_text())
    daemon = values()["dagsterDaemon"]
    retries, monitoring = daemon["runRetries"], daemon["runMonitoring"]
    assert ours["run_retries"] == {
        "enabled": retries["enabled"],
        "max_retries": retries["maxRetries"],
        "retry_on_asset_or_op_failure": retries["retryOnAssetOrOpFailure"],
    }
    assert ours["run_monitoring"]["enabled"] and monitoring["enabled"]
    assert ours["run_monitoring"]["cancel_timeout_seconds"] == monitoring["cancelTimeoutSeconds"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert ours["concurrency"]["runs"]["max_concurrent_runs"] == queue["maxConcurrentRuns"]
    assert values()["global"]["dagsterHome"] == variables(2, "ENV")["DAGSTER_HOME"]


def test_a_run_in_a_pod_has_the_user_and_the_rights_of_the_code_server() -> None:
    """The chart hands on variables and volumes of a deployment, and neither of its security contexts."""
    (code,) = values()["dagster-user-deployments"]["deployments"]
    runs = values()["runLauncher"]["config"]["k8sRunLauncher"]
    assert code["includeConfigInLaunchedRuns"]["enabled"]
    assert runs["securityContext"] == code["securityContext"]
    assert runs["runK8sConfig"]["podSpecConfig"]["securityContext"] == code["podSecurityContext"]


def test_the_doctor_in_a_pod_does_not_take_the_settings_of_compose_for_those_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code server of the chart has the image's `dagster.yaml`, and none of its variables."""
    settings = _TEMPLATE / "deploy/dagster.yaml"
    shutil.copy(settings, tmp_path)
    for name in readers(yaml.safe_load(settings.read_text())):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "No run can start" in diagnosed(tmp_path).remedy
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    seen = diagnosed(tmp_path)
    assert not seen.remedy and "not looked at" in seen.said and "`POSTGRES_HOST`" in seen.said


def diagnosed(folder: Path) -> Finding:
    """What `poe doctor` says of Dagster's records."""
    findings = diagnose(ProjectSettings(project_dir=str(folder)))
    return next(finding for finding in findings if finding.subject == "records")


def set_by(command: str) -> list[tuple[str, str, str]]:
    """Of each option of Helm that sets a value: its name, the value's path, and the value."""
    found = re.findall(r"--(set|set-string) +'?([\w.\[\]-]+)=([^\s'`]+)", command)
    assert found
    return found


@pytest.mark.parametrize("page", ["docs/deploy.md", "template/deploy/kubernetes/values.yaml"])
def test_what_helms_options_set_has_the_type_that_is_there(page: str) -> None:
    """A number that comes by `--set-string` is text, which Kubernetes and the chart's schema refuse."""
    known = {**values(), "migrate": {"enabled": False}}  # the chart's own
    for option, path, text in set_by((ROOT / page).read_text()):
        place: Any = known
        for key in re.findall(r"[^.\[\]]+", path):
            place = place[int(key) if isinstance(place, list) else key]
        if option == "set-string":
            assert isinstance(place, str), path
        else:
            assert type(yaml.safe_load(text)) is type(place) is not str, path


def test_the_examples_of_the_owners_values_fit_into_the_templates() -> None:
    """Without `# ` they are YAML, and take no list of the template's away: Helm replaces lists."""
    text = (_TEMPLATE / "deploy/kubernetes/own.yaml").read_text()
    title, _, rest = text.partition("\n")
    assert title.startswith("# Yours")
    own = yaml.safe_load(re.sub("^# ", "", rest, flags=re.MULTILINE))
    assert not set(lists(own)) & set(lists(values()))
    web = own["dagsterWebserver"]
    # only root may listen on the chart's port 80; its probe has a port of its own
    assert web["service"]["port"] == web["readinessProbe"]["httpGet"]["port"] > 1023
    for name in ("dagsterWebserver", "dagsterDaemon"):
        assert own[name]["podSecurityContext"]["runAsNonRoot"]
        assert own[name]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def lists(of: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the lists in a tree of maps."""
    for key, value in of.items():
        if isinstance(value, dict):
            yield from lists(value, (*above, key))
        elif isinstance(value, list):
            yield (*above, key)


def test_what_the_image_leaves_out_is_not_what_it_is_built_of() -> None:
    """Each file that the Dockerfile and the services name is sent to the build."""
    ignored = (_TEMPLATE / ".dockerignore").read_text().splitlines()
    assert "**/.env*" in ignored and ".git" in ignored and "tests" in ignored
    named = ["deploy/dagster.yaml", "deploy/workspace.yaml", "deploy/health.py", "dagster_home"]
    assert not [line for line in ignored if line in named or line == "deploy"]


def _health() -> ModuleType:
    place = spec_from_file_location("health", _TEMPLATE / "deploy/health.py")
    assert place and place.loader
    module = module_from_spec(place)
    place.loader.exec_module(module)
    return module


@contextmanager
def _grpc_server(*statuses: tuple[str, int]) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    servicer = health.HealthServicer()
    for name, status in statuses:
        servicer.set(name, status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


def test_the_code_server_is_healthy_only_while_it_serves() -> None:
    """The answer to the standard question, for the service that Dagster registers."""
    serving = health_pb2.HealthCheckResponse.SERVING
    with _grpc_server(("DagsterApi", serving)) as port:
        assert _health().main("code", str(port)) == 0
    with _grpc_server(("DagsterApi", health_pb2.HealthCheckResponse.NOT_SERVING)) as port:
        assert _health().main("code", str(port)) == 1
    with _grpc_server(("other", serving)) as port, pytest.raises(grpc.RpcError):
        _health().main("code", str(port))
    with pytest.raises(grpc.RpcError):
        _health().main("code", str(port))


def test_the_webserver_is_healthy_only_while_it_answers() -> None:
    """With the page that has no content of the platform."""
    asked: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == "/server_info" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert _health().main("webserver", str(server.server_port)) == 0
        server.shutdown()
    assert asked == ["/server_info"]
    with pytest.raises(OSError):
        _health().main("webserver", str(server.server_port))


def test_what_is_served_is_what_the_project_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file in every project leads to the module in `pyproject.toml`."""
    name = "a_platform_of_its_own"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "entry.py").write_text("defs = 'theirs'\n_private = 1\n")
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.dg.project]\nroot_module = "{name}"\ncode_location_target_module = "{name}.entry"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    place = spec_from_file_location("served", _TEMPLATE / "deploy/definitions.py")
    assert place and place.loader
    module = module_from_spec(place)
    place.loader.exec_module(module)
    assert module.defs == "theirs"
    sys.modules.pop(f"{name}.entry"), sys.modules.pop(name)


def test_the_page_names_the_variables_of_the_state() -> None:
    """`docs/deploy.md` says how to have the state elsewhere."""
    page = (ROOT / "docs/deploy.md").read_text()
    assert "STATE_HOST" in page and f"STATE_{STATE.variables[0].name}" == "STATE_HOST"
