"""Bad input at each door, from a seed: `python -m tests.robustness.doors --seed 1 --count 1000`.

What a door refuses it must refuse with one message of ours that names what is wrong and what to do. Whatever
else it raises is a finding. What it takes is no finding: most random text is a valid description.
"""

# ruff: noqa: E402 # the path of its imports comes first
from __future__ import annotations

import argparse
import codecs
import contextlib
import json
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "template/src"), str(ROOT / "template")]  # as pytest does

import dagster as dg
from tests.sqlmesh_dagster.projects import Project
from tests.sqlmesh_dagster.pure.records import external, fqn, model

from sqlmesh_dagster import (
    InvalidSettingError,
    ModelRecord,
    SQLMeshDagsterError,
    SQLMeshPlanOptions,
    SQLMeshRunOptions,
    SQLMeshTranslator,
)
from sqlmesh_dagster.component import SQLMeshProjectComponent, translated
from sqlmesh_dagster.definition.partitions import existing_window
from sqlmesh_dagster.definition.project import translate
from sqlmesh_dagster.definition.records import Manifest
from sqlmesh_dagster.factories import FactoryOptions, check_name, check_project_name
from sqlmesh_dagster.options import CheckedRunOptions
from sqlmesh_dagster.run.plans import _settings_of
from sqlmesh_dagster.settings import ProjectSettings, checked_environment

NASTY = (
    *(
        "",
        " ",
        "garbage",
        "prod ",
        " prod",
        "prod!",
        "prod\n",
        "PR 12",
        "___",
        "\0",
        "a\0b",
        "../..",
        "~nobody/x",
    ),
    *(
        "ü",
        "e\u0301",
        "\ud800",
        "🦆",
        "'; DROP TABLE x; --",
        "{",
        "}",
        "{{",
        "{node.name}",
        "{node.nme}",
        "%s",
    ),
    *(
        "None",
        "null",
        "nan",
        "inf",
        "-1",
        "0",
        "1",
        "1e400",
        "9" * 400,
        "true",
        "[]",
        "{}",
        "-",
        "/",
        "//",
        "\\",
    ),
    *(
        "9999-12-31",
        "9999-12-31T23:59:59-14:00",
        "0001-01-01",
        "0001-01-01T00:00:00+14:00",
        "2025-02-30",
    ),
    *(
        "2025-13-01",
        "2025-01-01T25:00",
        "10000-01-01",
        "2025-01-10",
        "2025-01-10T00:00:00Z",
        "2030-01-01",
    ),
    *(
        "3 days ago",
        "in 3 days",
        "99999999999 years ago",
        "yesterday",
        "now",
        "1736467200000",
        "-62135596800001",
    ),
    *(
        "x" * 5000,
        "0000",
        "0000-00-00",
        "2025-01-31T06:00:00+25:00",
        "2025-01-31 06:00:00 Europe/Berlin",
        "2025-W05",
        "-3 days ago",
        "3 days from now",
        "tomorrow",
        "dev.eu",
        "dev/eu",
        "DEV",
        "t\u00e4st",
        "e" * 200,
        "drop",
        "\ufeffdev",
        "dev\u200b",
        "\u0661\u0662",
        "a/b",
        "a:b",
        "a b",
        "select",
        "*",
        "?",
        "$HOME",
        "`x`",
        "<b>",
        "nonsense",
        "2025-01-01-00:00",
        "ｄｅｖ",  # noqa: RUF001 # it only looks like `dev`
        "d\u0435v",
        "pr\u03bfd",
        "２０２５-01-03",  # noqa: RUF001
        "2025\u201001\u201003",
        "x y " * 20_000,
    ),
)
ODD: tuple[Any, ...] = (
    *(None, 0, -1, 1, 1.5, float("nan"), float("inf"), True, False, "", "x", "prod ", "1"),
    *(
        b"x",
        [],
        ["x"],
        {},
        {"a": 1},
        {1: "a"},
        {"a"},
        (),
        object,
        ValueError("x"),
        dg.AssetKey("x"),
        Path("x"),
    ),
)
NEXT_STEP = re.compile(
    r"(?:^|[.:;,] |\b(?:must|or|and|to) )(use|set|correct|fix|write|let|add|remove|rename|return|choose|reload|raise"
    r"|install|create|leave|give|be|put|close|give|save|make)\b",
    re.IGNORECASE,
)
"""What to do, as an order; that something is wrong is none."""
_CONFIG_WORDS = (
    "gateways",
    "local",
    "connection",
    "type",
    "duckdb",
    "database",
    "model_defaults",
    "dialect",
    "start",
)
_MODELS = (
    "MODEL (name demo.{n}, kind FULL);\nSELECT 1 AS id\n",
    "MODEL (name demo.{n}, kind INCREMENTAL_BY_TIME_RANGE (time_column d), cron '@daily', start '2025-01-01',"
    " audits (not_null(columns := (d))));\nSELECT @start_ds::DATE AS d FROM demo.good\n",
)
_PYTHON_MODELS = (
    "{x}\n",
    "from sqlmesh import model\n@model('demo.{n}', kind='FULL', columns={{'id': 'int'}})\n"
    "def entry(context, **kwargs):\n    return None\n{x}\n",
)
_STATEMENTS = (
    *(
        "raise SystemExit(3)",
        "raise KeyboardInterrupt",
        "import sys; sys.exit('bye')",
        "raise RecursionError('deep')",
        "import nowhere",
    ),
    *(
        "def f(): return f()\nf()",
        "class E(BaseException): pass\nraise E('odd')",
        "1/0",
        "raise Exception",
        "(",
    ),
    *(
        "raise MemoryError",
        "assert False",
        "raise KeyError('x')",
        "import os; os.environ['NOT_THERE']",
        "\0",
    ),
)


_SEED = "MODEL (name demo.s, kind SEED (path '../seeds/s.csv'), columns (id INT, name TEXT));\n"
_SAVED = {
    "config.yaml": "",
    "models/e.sql": "MODEL (name demo.e, kind FULL);\n-- of e\nSELECT 'e' AS e\n",
    "models/e.py": "# of e\nE = 'e'\n",
    "audits/e.sql": "AUDIT (name e);\n-- of e\nSELECT * FROM @this_model WHERE 'e' = 'x'\n",
    "macros/e.py": "# of e\nE = 'e'\n",
    "tests/test_e.yaml": "# of e\ntest_e:\n  model: demo.good\n  outputs:\n    query: [{id: 1}]\n",
    "external_models.yaml": "# of e\n- name: raw.e\n  columns:\n    e: int\n",
    "seeds/s.csv": "id,name\n1,e\n2,ee\n",
    ".env": "# of e\nE=e\n",
}


@dataclass
class Report:
    """What came of it: how many inputs each door was given, and refused, and what it got wrong."""

    given: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def judge(
        self, door: str, value: object, names: Sequence[str], call: Callable[[], object]
    ) -> None:
        """Gives a door one input.

        Args:
            names: One of these is in the message.
        """
        self.given[door] += 1
        shown = f"{door} {str(value)[:300]!r}"
        try:
            call()
        except SQLMeshDagsterError as error:
            self.refused[door] += 1
            text = str(error.description)
            if not any(name in text for name in names):
                self.findings.append(f"{shown}: none of {list(names)} in: {text}")
            if not NEXT_STEP.search(text):
                self.findings.append(f"{shown}: no next step in: {text}")
        except BaseException as error:  # what is not ours is what is looked for
            self.findings.append(f"{shown}: {type(error).__name__}: {str(error)[:500]}")


def text_of(chance: random.Random) -> str:
    """A nasty text, or a valid one with something put in, left out or doubled."""
    text = chance.choice(NASTY)
    for _ in range(chance.choice((0, 0, 1, 2))):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(NASTY)[:9] + text[at + chance.randrange(3) :]
    return text


def run_options(chance: random.Random, report: Report) -> None:
    """The launchpad's options of a run."""
    name = chance.choice(("build", "start", "end", "execution_time"))
    text = text_of(chance)
    options = SQLMeshRunOptions.model_validate({name: text})
    report.judge(
        "run options", f"{name}={text}", [f"`{name}`"], lambda: CheckedRunOptions.of(options)
    )


def plan_options(chance: random.Random, report: Report) -> None:
    """The launchpad's options of a plan."""
    name = chance.choice(
        ("start", "end", "execution_time", "effective_from", "create_from", "environment")
    )
    text = text_of(chance)
    config = SQLMeshPlanOptions.model_validate({name: text})

    def plan() -> None:
        config.check()
        _settings_of(ProjectSettings(), config.environment)

    report.judge("plan options", f"{name}={text}", [f"`{name}`"], plan)


def partition_keys(chance: random.Random, report: Report) -> None:
    """The partitions of a run or a backfill."""
    partitions = dg.TimeWindowPartitionsDefinition(
        start="2025-01-01", cron_schedule="0 0 * * *", fmt="%Y-%m-%d"
    )
    keys = [chance.choice((text_of(chance), "2025-01-02", "2025-01-05")) for _ in range(2)]
    now = datetime(2025, 1, 10, tzinfo=timezone.utc)
    report.judge(
        "partition keys",
        keys,
        [f"`{key[:60]}" for key in keys],
        lambda: existing_window(partitions, keys[0], keys[1], now),
    )


def environment(chance: random.Random, report: Report) -> None:
    """Names of environments; one that is taken is a word for SQLMesh, too."""
    text = text_of(chance)

    def name() -> None:
        assert (
            checked_environment("environment", text).strip("_") != "prod" or text.lower() == "prod"
        )

    names = [
        f"`environment` is `{text}`",
        f"`environment` is `{text!r}`",
        f"of {len(text)} characters",
        *([] if text else ["`environment` is empty"]),
    ]
    report.judge("environment", text, names, name)


def settings(chance: random.Random, report: Report) -> None:
    """What the factory is given; by mistake anything."""
    name = chance.choice([*FactoryOptions.model_fields])
    value = chance.choice((*ODD, text_of(chance)))
    options = FactoryOptions.model_construct(**{name: value})
    report.judge(
        "settings", f"{name}={value!r}", [f"`{name}`"], lambda: ProjectSettings.checked(options)
    )


def mapping(chance: random.Random, report: Report) -> None:
    """`external_asset_mapping`, and the tables that it is for."""
    text = chance.choice(("", "raw/", "{node.name}")) + text_of(chance)
    table = fqn(text_of(chance).replace('"', '""'), "raw")
    report.judge(
        "mapping",
        text,
        ["`external_asset_mapping`"],
        lambda: SQLMeshTranslator(text).get_external_asset_key(table),
    )


_RECORDS = Manifest(
    "/project",
    "local",
    "duckdb",
    "db",
    "0",
    (model("a", fqn("x", "raw")), model("b", fqn("a"))),
    (external("x"),),
    (),
    (),
)
_METHODS = tuple(n for n in vars(SQLMeshTranslator) if n.startswith("get_"))


_OF_THEIR_TYPE: dict[str, tuple[Any, ...]] = {
    "get_asset_key": (
        *(dg.AssetKey([]), dg.AssetKey([""]), dg.AssetKey(["a", ""])),
        *(dg.AssetKey(["\0"]), dg.AssetKey(["x" * 4000])),
    ),
    "get_external_asset_key": (
        *(dg.AssetKey([]), dg.AssetKey([""]), dg.AssetKey(["db", "demo", "a"])),
        dg.AssetKey(["db", "demo", "b"]),
    ),
    "get_group_name": ("a b", "", "x" * 300, "ü", "a.b", "a/", "\0", " x"),
    "get_owners": (["not an e-mail"], [""], ["team:"], ["a@b"], [" me@example.com"]),
    "get_tags": (
        {"a b": "c"},
        {"a": "y" * 256},
        {"": ""},
        {"a": "b c"},
        {"ü": "ü"},
        {"a" * 70: "b"},
    ),
    "get_metadata": (
        *({"": 1}, {"x": object()}, {"x": float("nan")}, {"dagster/column_schema": 1}),
        *({"dagster/table_name": 5}, {"dagster/column_lineage": "x"}),
    ),
}
"""What the types of the translator's methods allow, and Dagster does not."""


def translator_results(chance: random.Random, report: Report) -> None:
    """A translator of the owner's, one of whose methods gives something odd, or fails."""
    name = chance.choice(_METHODS)
    value = chance.choice((*ODD, *(_OF_THEIR_TYPE.get(name, ()) * 3)))

    def answer(self: SQLMeshTranslator, record: ModelRecord, *more: object) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    kind = type("Own", (SQLMeshTranslator,), {name: answer})
    report.judge(
        "translator results",
        f"{name} → {value!r}",
        ["answer` gave", "answer` failed", f"Own.{name}`", "asset key", "made of each other"],
        lambda: _translate(kind()),
    )


def _translate(translator: SQLMeshTranslator) -> None:
    """What goes wrong with one model is shown as its asset's problem, and takes nothing else along."""
    project = translate(_RECORDS, translator, name="sqlmesh", group_name="g", owners=[])
    assert len(project.assets) == len(_RECORDS.models)
    for problem in project.problems.values():
        raise InvalidSettingError(problem)
    dg.Definitions(assets=[asset.spec for asset in project.assets]).get_repository_def()


_TEMPLATES = (
    "{{ model.nme }}",
    "{{ nome }}",
    "{{ model.view_name",
    "{{ model.view_name.x.y }}",
    "{% if %}",
    "{{ 1/0 }}",
)


def translation(chance: random.Random, report: Report) -> None:
    """What a component's `defs.yaml` makes of each asset: what its schema takes, and Dagster may not."""
    name = chance.choice(
        ("group_name", "key", "description", "tags", "owners", "metadata", "kinds")
    )
    text = chance.choice((*(text_of(chance)[:99] for _ in _TEMPLATES), *_TEMPLATES))
    value: Any = {
        "tags": {text: text},
        "owners": [text],
        "metadata": chance.choice((text, {text: text}, {"dagster/column_schema": text})),
        "kinds": [text],
    }.get(name, text)
    attributes = json.dumps({"project_dir": "x", "translation": {name: value}})

    def translate_with() -> None:
        component = SQLMeshProjectComponent.resolve_from_yaml(attributes)
        _translate(translated(component.get_translator(), component.translation))

    names = ["`translation`", "asset key", "made of each other", "demo.a"]
    report.judge("translation", f"{name}: {value}", names, translate_with)


def names(chance: random.Random, report: Report) -> None:
    """Of a project and of its schedule, which become names of Dagster's jobs, resources and ops."""
    option = chance.choice(("name", "schedule_name"))
    text = chance.choice((text_of(chance), "1x", "class", "None", "sqlmesh_1", "a__b"))
    check = check_project_name if option == "name" else check_name

    def define() -> None:
        check(option, text)

        @dg.job(name=text if option == "name" else "any_job")
        def anything() -> None:
            """Only its name matters."""

        if option == "name":
            dg.Definitions(resources={text: 1})
        else:
            dg.ScheduleDefinition(name=text or None, job=anything, cron_schedule="@daily")

    report.judge("names", f"{option}={text}", [f"`{option}`"], define)


PURE = (
    run_options,
    plan_options,
    partition_keys,
    environment,
    settings,
    mapping,
    translator_results,
    translation,
    names,
)


@dataclass
class Doors:
    """The doors that need a project: each load of one takes 0.1 s and more."""

    project: Project
    report: Report

    def config_file(self, chance: random.Random) -> None:
        """SQLMesh's config: cut, doubled, of other bytes, or something else in place of the file."""
        file = self.project.root / "config.yaml"
        good = file.read_bytes()
        word = chance.choice(_CONFIG_WORDS).encode()
        at = chance.randrange(len(good))
        bad = chance.choice(
            (
                good[:at],
                good[:at] + text_of(chance)[:40].encode(errors="surrogatepass") + good[at:],
                good.replace(word, text_of(chance)[:40].encode(errors="surrogatepass"), 1),
                good.replace(b": ", b":", 1 + at % 5),
                b"\xff\xfe" + good,
                good + b"\n- x",
            )
        )
        with self._instead(file, bad):
            self._load("config files", bad)

    def model_file(self, chance: random.Random) -> None:
        """A file in `models`: broken SQL, Python that ends or fails, other bytes, links, folders, pipes."""
        name = chance.choice(("bad", "b d", "bäd", ".bad", "bad.x", "BAD"))
        kind = chance.randrange(7)
        path = self.project.root / "models" / f"{name}.{'py' if kind in (0, 1) else 'sql'}"
        if kind in (0, 1):
            text = chance.choice(_PYTHON_MODELS).format(n="p", x=chance.choice(_STATEMENTS))
            with self._instead(path, text.encode()):
                self._load("model files", text)
        elif kind in (2, 3, 4):
            sql = chance.choice(_MODELS).format(n="q").encode()
            at = chance.randrange(len(sql))
            data = chance.choice(
                (sql[:at], sql[:at] + b"\xff" + sql[at:], sql[:at] + b"(" + sql[at:], sql * 2)
            )
            with self._instead(path, data):
                self._load("model files", data)
        else:
            what = chance.choice((".", "nowhere", path.name, "pipe", "folder"))
            with self._odd_file(path, what):
                self._load("model files", f"{path.name} → {what}")

    def encoding(self, chance: random.Random) -> None:
        """A good file of any kind, as another program may have saved it: the file is named, or it is read."""
        path = self.project.root / chance.choice([*_SAVED])
        text = _SAVED[path.relative_to(self.project.root).as_posix()]
        if path.name == "config.yaml":
            text = path.read_text()
        data = text.encode()
        at = chance.randrange(len(data))
        data = chance.choice(
            (
                *(codecs.BOM_UTF8 + data, text.encode("utf-16"), text.encode("utf-16-be")),
                *(codecs.BOM_UTF16_BE + text.encode("utf-16-be"), text.encode("utf-32")),
                *(text.replace("e", "\u00e9").encode("latin-1"), data[:at] + b"\xe9" + data[at:]),
                *(data[:at] + b"\0" + data[at:], data.replace(b"\n", b"\r\n"), b""),
            )
        )
        model = self.project.root / "models/s.sql"  # of the seed
        seed = _SEED if path.suffix == ".csv" else "MODEL (name demo.s, kind FULL); SELECT 1 AS id"
        path.parent.mkdir(exist_ok=True)
        with self._instead(model, seed.encode()), self._instead(path, data):
            self._load("encodings", (path.name, data), path.name)

    def _load(self, door: str, value: object, name: str | None = None) -> None:
        before = self._files()
        names = [name or str(self.project.root)]
        self.report.judge(door, value, names, self.project.definitions)
        if self._files() != before:
            self.report.findings.append(f"{door} {value!r}: files changed")
        self.report.judge(  # the last good definitions are there all the same
            f"{door}, keep_last_good",
            value,
            ["never"],
            lambda: self.project.definitions(keep_last_good=True),
        )

    def _files(self) -> dict[str, int]:
        found = (
            p for p in self.project.root.rglob("*") if not {".cache", "__pycache__"} & {*p.parts}
        )
        return {str(p): p.lstat().st_mtime_ns for p in found if not p.is_dir()}

    @contextlib.contextmanager
    def _instead(self, file: Path, data: bytes) -> Iterator[None]:
        good = file.read_bytes() if file.exists() else None
        file.write_bytes(data)
        try:
            yield
        finally:
            file.unlink() if good is None else file.write_bytes(good)

    @contextlib.contextmanager
    def _odd_file(self, path: Path, what: str) -> Iterator[None]:
        if what == "pipe":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        else:
            path.symlink_to(what)
        try:
            yield
        finally:
            path.rmdir() if what == "folder" else path.unlink()


def fuzz(folder: Path, *, seed: int, pure: int, loads: int) -> Report:
    """Gives `pure` inputs to each door that needs no project, and `loads` to each that does."""
    chance, report = random.Random(seed), Report()
    for door in PURE:
        for _ in range(pure):
            door(chance, report)
    project = Project(folder / "project")
    project.model("good", "SELECT 1 AS id")
    project.definitions()
    doors = Doors(project, report)
    for _ in range(loads):
        doors.config_file(chance)
        doors.model_file(chance)
        doors.encoding(chance)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Says how many inputs there were, and each finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--count", type=int, default=1000, help="for each door; a tenth where a project is loaded"
    )
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(Path(folder), seed=given.seed, pure=given.count, loads=given.count // 10)
    for door, count in report.given.items():
        print(f"{door}: {count} inputs, {report.refused[door]} refused")
    print("\n".join(report.findings) or "No findings.")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
