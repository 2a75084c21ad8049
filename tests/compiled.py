"""Copier's templates, compiled once in a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType

import pytest
from jinja2.sandbox import SandboxedEnvironment


@contextmanager
def compiled_once() -> Iterator[None]:
    """Copier compiles each path and question once more for each file, which is half of what it does."""
    code: dict[object, CodeType] = {}
    compile_anew = SandboxedEnvironment.compile

    def compile_once(
        self: SandboxedEnvironment,
        source: str,
        name: str | None = None,
        filename: str | None = None,
    ) -> CodeType:
        settings = (self.lexer, *sorted(self.extensions))  # a lexer is its settings
        key = (*settings, source, name, filename)
        if key not in code:
            code[key] = compile_anew(self, source, name, filename)
        return code[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SandboxedEnvironment, "compile", compile_once)
        yield


@contextmanager
def no_git_to_ask() -> Iterator[None]:
    """Copier asks git once for each file whether it keeps modes, which it does on Linux."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("copier._main.is_git_available", lambda: False, raising=False)
        yield
