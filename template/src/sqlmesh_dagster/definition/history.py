"""What a manifest keeps of the one before it: what was in the files, and what others had deployed."""

from __future__ import annotations

from dataclasses import replace

from sqlmesh_dagster.definition.records import Manifest


def with_former(manifest: Manifest, last: Manifest | None) -> Manifest:
    """With the names that the last one had, or knew of, and that are in no file any more."""
    if last is None:
        return manifest
    names = {name for name, _ in last.fingerprints}.union(last.former)
    return replace(manifest, former=tuple(sorted(names - dict(manifest.fingerprints).keys())))


def with_others_of(manifest: Manifest, last: Manifest | None) -> Manifest:
    """With other projects' models as the last one had them, where the state could not be asked."""
    if last is None:
        return manifest
    own = dict(manifest.fingerprints).keys()
    read = {fqn for model in manifest.models for fqn in model.depends_on}
    others = tuple(m for m in last.others if m.fqn in read and m.fqn not in own)
    known = {model.fqn for model in others}
    return replace(
        manifest,
        others=others,
        elsewhere=tuple(pair for pair in last.elsewhere if pair[0] not in own),
        externals=tuple(e for e in manifest.externals if e.fqn not in known),
    )
