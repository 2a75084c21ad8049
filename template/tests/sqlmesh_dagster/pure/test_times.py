"""Times that a person gives: what is read, and what is refused, with option and value."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import dagster as dg
import pytest

from sqlmesh_dagster import InvalidSettingError, SQLMeshRunOptions
from sqlmesh_dagster.definition.partitions import existing_window
from sqlmesh_dagster.run.plans import SQLMeshPlanOptions
from sqlmesh_dagster.settings import checked_environment
from sqlmesh_dagster.times import check_times, is_guess, iso_moment, moment

UTC = timezone.utc
AHEAD = "2999-01-01T00:00:00+00:00"  # fixed: the names of tests hold it
DAYS = dg.TimeWindowPartitionsDefinition(
    start=datetime(2025, 1, 1), cron_schedule="0 0 * * *", fmt="%Y-%m-%d", timezone="UTC"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-01-31", datetime(2025, 1, 31, tzinfo=UTC)),
        ("2025-01-31 06:00:00", datetime(2025, 1, 31, 6, tzinfo=UTC)),
        ("2025-01-31T06:00:00Z", datetime(2025, 1, 31, 6, tzinfo=UTC)),
        ("2025-01-31T06:00:00+02:00", datetime(2025, 1, 31, 4, tzinfo=UTC)),
        ("1738303200000", datetime(2025, 1, 31, 6, tzinfo=UTC)),
    ],
)
def test_each_form_of_sqlmeshs_is_read(text: str, expected: datetime) -> None:
    """Promise: what `sqlmesh run --start` takes is taken, in UTC."""
    assert moment("start", text) == expected


def test_words_are_read_as_sqlmesh_reads_them() -> None:
    """Promise: a time may be relative."""
    assert datetime.now(UTC) - moment("start", "3 days ago") < timedelta(days=4)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "3 days ago",
            "yesterday",
            "in 3 days",
            "3d",
            "2 h ago",
            "an hour ago",
            "2 days and 3 hours ago",
        ),
        *(
            "20250131",
            "1736467200000",
            "2025/01/03",
            "2025-1-3",
            "2025.01.03",
            "Jan 3 2025",
            "1.5 hours ago",
        ),
        *(
            "last week",
            "monday",
            "yesterday at 9 am",
            "12:00 yesterday",
            "9:00",
            "2025-01-10 00:00:00 UTC",
        ),
        *("2025-01-10T24:00", "2025-01-01-00:00", "gestern", "1er janvier 2025"),
    ],
)
def test_what_says_which_time_is_meant_is_no_guess(text: str) -> None:
    """Promise: nothing that people write is refused for its form."""
    assert not is_guess(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2025",
            "0",
            "0000",
            "12",
            "-1",
            "1736467200",
            "\u0661\u0662",
            "2025-01",
            "2025/01",
            "2025-W05",
            "2025w05",
        ),
        *(
            "2025-13-01",
            "2025-00-10",
            "2025-02-30",
            "2025-1-32",
            "0000-00-00",
            "01/02/2025",
            "03.02.2025",
            "1.2.25",
        ),
        *("２０２５-01-03", "2025‐01‐03", "2025–01–03"),  # noqa: RUF001 # that is the point
        *("-3 days ago", "PR 12", "\u00fc", "%s", "`x`", "<b>", "", " ", "-"),
    ],
)
def test_what_sqlmesh_would_only_guess_is_refused(text: str) -> None:
    """Promise: `2025` builds nothing since 1970, and `2025-13-01` no January; the message says what to write."""
    with pytest.raises(
        InvalidSettingError, match=r"`start` is `.*`, which is no date or time. Use one such as"
    ):
        moment("start", text)


def test_an_environments_name_can_be_a_schemas() -> None:
    """Promise: one that is too long, or holds what nobody sees, is refused with the option."""
    assert checked_environment("environment", "PR 12") == "pr_12"
    for text in ("e" * 101, "a\0b", "dev\u200b", "\ufeffdev", "prod\n"):
        with pytest.raises(InvalidSettingError, match=r"`environment` is .* use up to 100 letters"):
            checked_environment("environment", text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ｄｅｖ", "only look like `dev`. Use `dev`"),  # noqa: RUF001 # that is the point
        ("ｐｒｏｄ", "only look like `prod`"),  # noqa: RUF001
        ("d\u0435v", "CYRILLIC SMALL LETTER IE"),
        ("pr\u03bfd", "GREEK SMALL LETTER OMICRON"),
    ],
)
def test_a_name_that_only_looks_like_another_is_no_environment(text: str, said: str) -> None:
    """Promise: nobody makes a second `dev` beside the first, and wonders where the tables are."""
    with pytest.raises(InvalidSettingError, match="`environment` is ") as refusal:
        checked_environment("environment", text)
    assert said in str(refusal.value)
    for fine in ("t\u00e4st", "\u0442\u0435\u0441\u0442", "dev_1"):
        assert checked_environment("environment", fine) == fine


def test_a_value_that_is_a_whole_file_is_shortened() -> None:
    """Promise: a megabyte in the launchpad is no megabyte in the event log; the next step stays."""
    for value in ("x" * 1_000_000, "x y " * 250_000):
        with pytest.raises(InvalidSettingError, match="`start` is `x") as refusal:
            moment("start", value)
        text = str(refusal.value)
        assert len(text) < 7000 and "Use one such as `2025-01-31`" in text


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"execution_time": AHEAD}, "execution_time", AHEAD[:16]),
        ({"execution_time": "yesterdayish"}, "execution_time", "yesterdayish"),
        ({"start": "soonish"}, "start", "soonish"),
        ({"end": "2025-02-30"}, "end", "2025-02-30"),
        ({"start": "2025-01-05", "end": "2025-01-04"}, "start", "2025-01-05"),
        ({"start": AHEAD}, "start", AHEAD),
        ({"start": "2025-01-05", "execution_time": "2025-01-04"}, "start", "2025-01-05"),
    ],
)
@pytest.mark.parametrize("kind", [SQLMeshRunOptions, SQLMeshPlanOptions])
def test_a_time_that_makes_no_sense_is_refused(
    kind: type[SQLMeshRunOptions | SQLMeshPlanOptions],
    options: dict[str, str],
    option: str,
    value: str,
) -> None:
    """Promise: runs and plans name the option and its value."""
    given = kind.model_validate(options)
    with pytest.raises(dg.Failure) as refusal:
        given.resolve() if isinstance(given, SQLMeshRunOptions) else given.check()
    assert f"`{option}`" in str(refusal.value.description)
    assert value in str(refusal.value.description)


def test_a_plan_is_not_effective_from_what_has_not_come() -> None:
    """Promise: each time of a plan is looked at."""
    with pytest.raises(dg.Failure, match="`effective_from`"):
        SQLMeshPlanOptions.model_validate({"effective_from": AHEAD}).check()


def test_a_plan_begins_as_an_environment_that_can_be() -> None:
    """Promise: a name that SQLMesh would read as another one is refused, with the option."""
    with pytest.raises(dg.Failure, match="`create_from` is `prod `"):
        SQLMeshPlanOptions.model_validate({"create_from": "prod "}).check()
    SQLMeshPlanOptions.model_validate({"create_from": "prod"}).check()


def test_times_that_make_sense_are_taken() -> None:
    """Promise: one day is from it to itself, and an end may lie ahead."""
    SQLMeshRunOptions(start="2025-01-05", end="2025-01-05").resolve()
    SQLMeshRunOptions(end=AHEAD).resolve()
    SQLMeshRunOptions(execution_time=datetime.now(UTC).isoformat()).resolve()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("2024-12-31", "2024-12-31"), "`2024-12-31` does not exist"),
        (("2025-01-04T00", "2025-01-04T00"), "`2025-01-04T00` does not exist"),
        (("2025-01-04", AHEAD[:10]), f"`{AHEAD[:10]}` lies in the future"),
        (("2025-01-04", "2025-01-02"), "`2025-01-04` to `2025-01-02` ends before it begins"),
    ],
)
def test_partitions_that_there_are_not_are_refused(keys: tuple[str, str], message: str) -> None:
    """Promise: a key is named, with what is wrong with it."""
    with pytest.raises(dg.Failure, match=message):
        existing_window(DAYS, *keys, datetime.now(UTC))


def test_a_partition_after_the_runs_own_now_is_refused() -> None:
    """Promise: a run that plays the past builds nothing that was to come."""
    at = datetime(2025, 1, 5, 12, tzinfo=UTC)
    existing_window(DAYS, "2025-01-03", "2025-01-04", at)
    with pytest.raises(dg.Failure, match="`2025-01-05` lies in the future"):
        existing_window(DAYS, "2025-01-03", "2025-01-05", at)


def _refused(**times: object) -> str:
    """The whole message of times that make no sense."""
    given = {"start": None, "end": None, "execution_time": None, **times}
    with pytest.raises(InvalidSettingError) as raised:
        check_times(**given)  # type: ignore[arg-type]
    return str(raised.value)


def test_each_message_is_a_whole_one() -> None:
    """Promise: the option, its value, and what to do."""
    assert _refused(start="9001-01-01") == (
        "`start` is `9001-01-01`. Use a time between the years 1000 and 9000."
    )
    assert _refused(effective_from="0999-12-31") == (
        "`effective_from` is `0999-12-31`. Use a time between the years 1000 and 9000."
    )
    assert _refused(effective_from="soon or so").startswith("`effective_from` is `soon or so`")
    at = datetime(2025, 1, 31, tzinfo=timezone.utc)
    assert _refused(start="2025-02-01", execution_time=at) == (
        '`start` is `2025-02-01`, which is after the "now" of the run, 2025-01-31T00:00:00+00:00.'
        " Use an earlier one, or leave it out."
    )
    late = _refused(execution_time=datetime.now(timezone.utc) + timedelta(days=1))
    assert late.endswith(
        " in UTC. What would be recorded as built up to then, no later run would build."
        " Use a time that has passed, or leave it out."
    )
    for text in ("9001-01-01", "0999-12-31"):
        with pytest.raises(InvalidSettingError) as raised:
            iso_moment("now", text)
        assert str(raised.value) == (
            f"`now` is `{text}`. Use a time between the years 1000 and 9000."
        )
    with pytest.raises(InvalidSettingError) as raised:
        iso_moment("now", "yesterday")
    assert str(raised.value) == (
        "`now` is `yesterday`, which is no ISO 8601 time. Use one such as `2025-01-31T06:00:00`."
    )


def test_a_time_may_be_as_far_as_the_limits() -> None:
    """Promise: the first and the last year count; a clock that is a minute ahead is forgiven."""
    assert moment("start", "1000-01-01").year == 1000
    assert moment("start", "9000-12-31").year == 9000
    assert moment("start", "2025-01-31T06:00:00+02:00").isoformat() == "2025-01-31T04:00:00+00:00"
    at = datetime(2025, 1, 31, tzinfo=timezone.utc)
    for start in ("2025-01-31T00:00:30", "2025-01-31T00:01:00"):
        check_times(start=start, end=None, execution_time=at)


@pytest.mark.parametrize("kind", [SQLMeshRunOptions, SQLMeshPlanOptions])
def test_an_option_without_a_value_is_left_out(
    kind: type[SQLMeshRunOptions | SQLMeshPlanOptions],
) -> None:
    """Promise: `build:` in the launchpad is YAML's null, and no error of pydantic's before the first step."""
    empty = kind.model_validate(dict.fromkeys(kind.model_fields))
    assert empty == kind()
