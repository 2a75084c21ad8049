"""What an update makes of one file, by the template's two versions and the owner's; no project needed."""

import pytest

from template_update import moves
from template_update.git import merge
from template_update.merge import Finding, Kind, Result, Trees, merge_trees
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


UPPER, LOWER = (b"".join(TEXT.splitlines(True)[part]) for part in (slice(10), slice(10, 20)))
LINK = File(b"elsewhere", is_link=True)


def run(content: bytes) -> File:
    """A file that can be executed."""
    return File(content, is_executable=True)


def one(base: File | None, theirs: File | None, mine: File | None) -> Result:
    """What becomes of one file."""
    trees = [{"a.py": file} if file else {} for file in (base, theirs, mine)]
    return merge_trees(Trees(trees[0], trees[1], trees[2]), merge)["a.py"]


@pytest.mark.parametrize(
    ("base", "theirs", "mine", "becomes"),
    [
        (File(TEXT), File(FIXED), run(TEXT), run(FIXED)),
        (File(TEXT), run(TEXT), File(MINE), run(MINE)),
        (run(TEXT), run(FIXED), File(MINE), File(BOTH)),
        (File(TEXT), run(FIXED), File(MINE), run(BOTH)),
        (File(TEXT), File(FIXED), run(MINE), run(BOTH)),
        (File(TEXT), run(FIXED), File(FIXED), run(FIXED)),
        (run(TEXT), File(TEXT), run(MINE), File(MINE)),
        (None, File(TEXT), File(b""), File(TEXT)),
    ],
)
def test_content_and_mode_are_merged_apart(
    base: File | None, theirs: File, mine: File, becomes: File
) -> None:
    """Whoever changed one of them has it; nothing is left to do."""
    assert one(base, theirs, mine) == Result(becomes)


@pytest.mark.parametrize(
    ("base", "theirs", "mine"),
    [
        (LINK, File(FIXED), File(MINE)),
        (File(TEXT), LINK, File(MINE)),
        (File(TEXT), File(FIXED), File(b"\0c")),
        (File(b"\0a"), File(FIXED), File(MINE)),
        (File(TEXT), File(b"\0b"), File(MINE)),
    ],
)
def test_what_git_cannot_merge_is_the_templates_and_the_owners_is_saved(
    base: File, theirs: File, mine: File
) -> None:
    """A link or a binary, on any of the three sides; the report says why."""
    reason = "git cannot merge it, and the template changed it"
    assert one(base, theirs, mine) == Result(theirs, (Finding(Kind.SAVED, "a.py", reason, mine),))


def test_a_link_of_the_owners_stays_and_the_change_is_missed() -> None:
    """An update does not write through it."""
    found = Finding(Kind.MISSED, "a.py", "it is a link here")
    assert one(File(TEXT), File(FIXED), LINK) == Result(LINK, (found,))


def test_a_conflict_is_reported_at_its_file() -> None:
    """With the words that every conflict has."""
    (found,) = one(File(TEXT), File(FIXED), File(CLASH)).findings
    assert found == Finding(Kind.CONFLICT, "a.py", "both changed the same lines")


def test_a_file_that_both_have_dropped_is_nothing_to_report() -> None:
    """Nor is there anything to write."""
    assert one(File(TEXT), None, None) == Result(None)


ALIKE = b"".join(TEXT.splitlines(True)[:12])
"""Six tenths of the lines."""
UNLIKE = b"".join(TEXT.splitlines(True)[:11])


@pytest.mark.parametrize(
    ("mine", "why"),
    [
        ({}, "you deleted the file"),
        ({"b.py": ALIKE}, "you seem to have renamed the file to `b.py`"),
        ({"b.py": UNLIKE}, "you deleted the file"),
        ({"b.txt": TEXT}, "you deleted the file"),
        ({"b.py": ALIKE, "c.py": TEXT}, "you seem to have renamed the file to `c.py`"),
        ({"b.py": TEXT, "c.py": ALIKE}, "you seem to have renamed the file to `b.py`"),
        ({"twin.py": TEXT}, "you deleted the file"),
        ({"gone.py": TEXT}, "you deleted the file"),
        ({"new.py": TEXT}, "you deleted the file"),
    ],
)
def test_a_fix_without_its_file_says_where_the_file_seems_to_be(
    mine: dict[str, bytes], why: str
) -> None:
    """The most alike of the owner's own files with the same ending, if it is alike enough."""
    files = {name: File(content) for name, content in mine.items()}
    base = {name: File(TEXT) for name in ("a.test.py", "twin.py", "gone.py")}
    theirs = {"a.test.py": File(FIXED), "twin.py": File(TEXT), "new.py": File(TEXT)}
    result = merge_trees(Trees(base, theirs, files), merge)["a.test.py"]
    assert result == Result(None, (Finding(Kind.MISSED, "a.test.py", why),))


@pytest.mark.parametrize(
    ("places", "names"), [(("new",), "`new`"), (("one", "two"), "`one`, `two`")]
)
def test_a_deleted_file_that_has_moved_is_reported_with_its_new_paths(
    places: tuple[str, ...], names: str
) -> None:
    """The owner may not want those either."""
    theirs = {name: File(FIXED) for name in places}
    result = merge_trees(Trees({"old": File(TEXT)}, theirs, {}, {"old": places}), merge)["old"]
    reason = f"you deleted the file; the template's is in {names}"
    assert result == Result(None, (Finding(Kind.RETURNED, "old", reason),))


def moved(mine: File, **theirs: File) -> dict[str, Result]:
    """What becomes of a file that the template moved."""
    trees = Trees({"old": File(TEXT)}, theirs, {"old": mine}, {"old": tuple(theirs)})
    return merge_trees(trees, merge)


def test_an_edit_that_moved_is_reported_with_the_paths_that_have_it() -> None:
    """Of a file that was split, only these."""
    edited = LOWER.replace(b"line_15\n", b"line_15 mine\n")
    both = MINE.replace(b"line_3\n", b"line_3 mine\n")
    for mine, names in ((MINE, "`lower`"), (both, "`upper`, `lower`")):
        results = moved(File(mine), upper=File(UPPER), lower=File(LOWER))
        reason = f"the template moved the file to {names}"
        assert results["old"] == Result(None, (Finding(Kind.CARRIED, "old", reason),))
        assert results["lower"] == Result(File(edited))


def test_a_conflict_at_a_new_path_names_the_old_one() -> None:
    """The file has both, and git's index all three."""
    results = moved(File(CLASH), new=File(FIXED))
    found = Finding(Kind.CONFLICT, "new", "both changed the same lines; it was `old`")
    assert results["new"].findings == (found,)
    assert results["new"].stages == (File(TEXT), File(CLASH), File(FIXED))
    assert results["old"] == Result(None)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(LINK, File(FIXED)), (File(MINE), LINK), (File(b"\0c"), File(FIXED))],
)
def test_an_edit_that_cannot_move_is_saved(mine: File, theirs: File) -> None:
    """The new path has the template's; so with an edit of a file that was dropped."""
    reason = "the template dropped or renamed the file"
    saved = Result(None, (Finding(Kind.SAVED, "old", reason, mine),))
    assert moved(mine, new=theirs) == {"new": Result(theirs), "old": saved}
    assert moved(mine) == {"old": saved}


def test_a_mode_moves_to_each_part_of_a_file() -> None:
    """With the edits where they belong."""
    results = moved(run(MINE), upper=File(UPPER), lower=File(LOWER))
    assert results["upper"] == Result(run(UPPER))
    assert results["lower"] == Result(run(LOWER.replace(b"line_15\n", b"line_15 mine\n")))
    assert moved(run(TEXT), new=File(FIXED))["new"] == Result(run(FIXED))
