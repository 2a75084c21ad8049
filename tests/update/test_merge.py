"""What an update makes of one file, by the template's two versions and the owner's; no project needed."""

import pytest

from template_update import moves
from template_update.git import merge
from template_update.merge import Kind, Trees, merge_trees
from template_update.trees import File

TEXT = b"".join(b"line_%d\n" % number for number in range(20))
FIXED = TEXT.replace(b"line_4\n", b"line_4 fixed\n")
MINE = TEXT.replace(b"line_15\n", b"line_15 mine\n")
BOTH = MINE.replace(b"line_4\n", b"line_4 fixed\n")
CLASH = TEXT.replace(b"line_4\n", b"line_4 mine\n")


@pytest.mark.parametrize(
    ("base", "theirs", "mine", "becomes", "told"),
    [
        (TEXT, FIXED, TEXT, FIXED, None),
        (TEXT, FIXED, MINE, BOTH, None),
        (TEXT, TEXT, MINE, MINE, None),
        (TEXT, FIXED, FIXED, FIXED, None),
        (TEXT, None, TEXT, None, None),
        (None, TEXT, None, TEXT, None),
        (None, TEXT, TEXT, TEXT, None),
        (TEXT, FIXED, None, None, Kind.MISSED),
        (TEXT, TEXT, None, None, None),
        (TEXT, None, MINE, None, Kind.SAVED),
        (b"\0a", b"\0b", b"\0c", b"\0b", Kind.SAVED),
        (b"\0a", b"\0a", b"\0c", b"\0c", None),
    ],
)
def test_each_combination_of_changes_ends_as_git_would_end_it(
    base: bytes | None,
    theirs: bytes | None,
    mine: bytes | None,
    becomes: bytes | None,
    told: Kind | None,
) -> None:
    """The file, and what is reported; what is not in the tree any more is kept."""
    trees = [{"a.py": File(content)} if content else {} for content in (base, theirs, mine)]
    result = merge_trees(Trees(trees[0], trees[1], trees[2]), merge)["a.py"]
    assert (result.file and result.file.content) == becomes
    assert [finding.kind for finding in result.findings] == ([told] if told else [])
    kept = [finding.keep for finding in result.findings if finding.keep]
    assert kept == ([File(mine)] if told is Kind.SAVED and mine else [])


@pytest.mark.parametrize("base", [TEXT, None])
def test_both_versions_of_a_conflict_are_in_the_file_and_in_the_index(base: bytes | None) -> None:
    """Also where owner and template have added a file of one name."""
    trees = [{"a.py": File(content)} if content else {} for content in (base, FIXED, CLASH)]
    result = merge_trees(Trees(trees[0], trees[1], trees[2]), merge)["a.py"]
    assert result.file and b"line_4 mine\n" in result.file.content
    assert b"line_4 fixed\n" in result.file.content
    assert b"<<<<<<< before updating\n" in result.file.content
    assert result.stages == (File(base) if base else None, File(CLASH), File(FIXED))
    assert [finding.kind for finding in result.findings] == [Kind.CONFLICT]


def carried(mine: bytes, **theirs: bytes) -> dict[str, bytes]:
    """What the new places hold, of a file that the template split."""
    files = {name: File(content) for name, content in theirs.items()}
    trees = Trees({"old": File(TEXT)}, files, {"old": File(mine)}, {"old": tuple(theirs)})
    results = merge_trees(trees, merge)
    assert results["old"].file is None
    return {name: results[name].file.content for name in theirs if results[name].file}  # type: ignore[union-attr]


def test_an_edit_goes_along_with_the_file() -> None:
    """And what the template changed meanwhile is there, too."""
    assert carried(MINE, new=FIXED) == {"new": BOTH}


def test_each_edit_of_a_split_file_goes_to_the_part_that_it_fits() -> None:
    """Two edits, two parts; what fits nowhere is in conflict in the first."""
    upper, lower = (b"".join(TEXT.splitlines(True)[part]) for part in (slice(10), slice(10, 20)))
    mine = MINE.replace(b"line_3\n", b"line_3 mine\n")
    assert carried(mine, upper=upper, lower=lower) == {
        "upper": upper.replace(b"line_3\n", b"line_3 mine\n"),
        "lower": lower.replace(b"line_15\n", b"line_15 mine\n"),
    }
    clash = carried(CLASH, upper=upper.replace(b"line_4\n", b"line_4 fixed\n"), lower=lower)
    assert b"<<<<<<< before updating\n" in clash["upper"] and clash["lower"] == lower


def test_edits_of_two_files_that_became_one_are_both_in_it() -> None:
    """One after the other is merged in."""
    one, two = TEXT, TEXT.replace(b"line", b"other")
    trees = Trees(
        {"one": File(one), "two": File(two)},
        {"new": File(one + two)},
        {
            "one": File(MINE),
            "two": File(two.replace(b"other_15\n", b"other_15 mine\n")),
        },
        {"one": ("new",), "two": ("new",)},
    )
    results = merge_trees(trees, merge)
    file = results["new"].file
    assert file and file.content.count(b" mine\n") == 2 and not results["new"].stages
    assert {results[name].findings[0].kind for name in ("one", "two")} == {Kind.CARRIED}


def test_a_file_that_was_deleted_and_then_moved_is_told() -> None:
    """What imports the new one must find it; the owner may delete it once more."""
    trees = Trees({"old": File(TEXT)}, {"new": File(FIXED)}, {}, {"old": ("new",)})
    results = merge_trees(trees, merge)
    assert results["new"].file == File(FIXED)
    (finding,) = results["old"].findings
    assert finding.kind is Kind.RETURNED and "`new`" in finding.reason


def test_an_owner_who_has_another_file_at_the_new_path_loses_neither() -> None:
    """That file is in conflict with the template's, and the edit is saved."""
    mine = {"old": File(MINE), "new": File(b"something else\n")}
    trees = Trees({"old": File(TEXT)}, {"new": File(FIXED)}, mine, {"old": ("new",)})
    results = merge_trees(trees, merge)
    assert results["new"].stages == (None, File(b"something else\n"), File(FIXED))
    (finding,) = results["old"].findings
    assert (finding.kind, finding.keep) == (Kind.SAVED, File(MINE))


def test_the_list_of_moves_names_one_path_several_or_none() -> None:
    """Spaces between, as older commands can read."""
    text = '{"a": "b", "c": "d e", "f": ""}'
    assert moves.parse(text) == {"a": ("b",), "c": ("d", "e"), "f": ()}
