"""What the factories and the resource are given by mistake: each names the option, its value, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

import sqlmesh_dagster
from sqlmesh_dagster import InvalidSettingError, SQLMeshResource, SQLMeshTranslator
from sqlmesh_dagster.argument_types import refuse_another_type
from sqlmesh_dagster.factories import FactoryOptions
from sqlmesh_dagster.settings import check_types

_FACTORIES = [
    (name, getattr(sqlmesh_dagster, name))
    for name in sqlmesh_dagster.__all__
    if name.endswith("_factory") and name != "sqlmesh_definitions_factory"
]
_RESOURCE = SQLMeshResource(project_dir="nowhere")


@pytest.mark.parametrize(
    ("annotation", "taken", "refused", "words"),
    [
        (str, ["", "x", dg.EnvVar("X")], [None, 5, b"x", ["x"]], "a text"),
        (str | None, [None, "x"], [5, True], "a text"),
        (bool, [True, False], [None, 0, 1, "yes"], "`True` or `False`"),
        (int, [0, -1, dg.EnvVar.int("X")], [True, 1.5, "1", None], "a whole number"),
        (float | None, [1, 1.5, None], [float("nan"), True, "1"], "a number"),
        (Sequence[str] | None, [[], ["a"], ("a",), {"a"}, None], ["a", [5], {"a": 1}, 5], "a list of texts"),
        (Mapping[str, str], [{}, {"a": "b"}, {"a": 5}], [5, "a", [1], {1: "a"}, None], "a mapping of texts"),
        (SQLMeshTranslator | None, [SQLMeshTranslator(), None], [SQLMeshTranslator, "x"], "a `SQLMeshTranslator`"),
        (str | Path, ["x", Path("x")], [5], "a text or a path"),
        (Any, [None, 5, object()], [], ""),
    ],
)  # fmt: skip
def test_a_value_is_of_the_kind_that_its_option_takes(
    annotation: Any, taken: list[Any], refused: list[Any], words: str
) -> None:
    """Promise: `True` is no number, a text no list of texts, a class no instance; a variable is read later."""
    for value in taken:
        refuse_another_type("x", value, annotation)
    for value in refused:
        with pytest.raises(InvalidSettingError) as caught:
            refuse_another_type("x", value, annotation)
        assert f"`x` is `{value!r:.200}`. It must be {words}." == caught.value.description


@pytest.mark.parametrize(("name", "factory"), _FACTORIES, ids=[name for name, _ in _FACTORIES])
def test_each_factory_names_an_argument_that_makes_no_sense(
    name: str, factory: Callable[..., object]
) -> None:
    """Promise: before the project is loaded, and none fails in another's words."""
    odd: object
    for odd in (None, "x", SQLMeshResource):
        with pytest.raises(InvalidSettingError, match=r"`sqlmesh_resource` is .*`SQLMeshResource`"):
            factory(sqlmesh_resource=odd)
    own_name = "name" if name == "sqlmesh_assets_factory" else "project_name"
    for odd in (None, 5, ["x"], "", "x y", "ü", "_a", "1x", "class"):
        with pytest.raises(InvalidSettingError, match=f"`{own_name}` is "):
            factory(sqlmesh_resource=_RESOURCE, **{own_name: odd})


def test_an_argument_that_no_factory_has_is_named_with_one_that_is_near() -> None:
    """Promise: with the factory's name, as Python says of a function."""
    for name in ("sqlmesh_assets_factory", "sqlmesh_definitions_factory"):
        make = getattr(sqlmesh_dagster, name)
        with pytest.raises(TypeError, match=f"`{name}`: .*'ownerz'. Did you mean `owners`?"):
            make(sqlmesh_resource=_RESOURCE, ownerz=["a"]) if "assets" in name else make(ownerz=[])
        with pytest.raises(TypeError, match=f"`{name}`: "):
            make(1, 2, 3, 4)


@pytest.mark.parametrize("factory", ["adaptive_schedule", "sync_sensor"])
def test_a_name_that_dagster_takes_for_none_names_its_option(factory: str) -> None:
    """Promise: of a schedule, and of a sensor."""
    make = getattr(sqlmesh_dagster, f"sqlmesh_{factory}_factory")
    for odd in ("x y", "class", "None"):
        with pytest.raises(InvalidSettingError, match=rf"`name` is `{odd}`\. Use letters"):
            make(sqlmesh_resource=_RESOURCE, name=odd)


def test_the_definitions_factory_refuses_what_would_fail_later() -> None:
    """Promise: each of its parameters, with the value."""
    for name in FactoryOptions.model_fields:
        if name == "project_dir":
            continue
        with pytest.raises(InvalidSettingError, match=f"`{name}` is "):
            check_types(FactoryOptions.model_construct(None, **{name: object()}))


def test_a_setting_that_is_mistyped_is_no_setting() -> None:
    """Promise: `enviroment="dev"` does not build `prod`; a folder that is no text is told with its name."""
    with pytest.raises(ValidationError, match=r"enviroment\n.*not permitted"):
        SQLMeshResource(enviroment="dev")  # type: ignore[call-arg]
    for odd in (None, 5):
        with pytest.raises(ValidationError, match=r"project_dir\n.*valid string"):
            SQLMeshResource(project_dir=odd)  # type: ignore[arg-type]
