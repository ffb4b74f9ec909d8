"""How sentences are made of facts that may be missing, or not be what they were."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

Facts: TypeAlias = Mapping[str, Any]
#: The full form of a sentence, and the plain one that needs no facts.
Forms: TypeAlias = tuple[Callable[[Facts], str], str]


def said(forms: Forms, facts: Facts) -> str:
    """The full form, or the plain one when a fact is missing or is not what it was."""
    full, plain = forms
    try:
        return full(facts)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return plain


def always(plain: str) -> Forms:
    """A sentence that needs no facts."""
    return lambda _: plain, plain


def listed(words: Iterable[str]) -> str:
    """Words with commas."""
    return ", ".join(words)


def base_name(path: str) -> str:
    """A path without its folders."""
    return os.path.basename(path) or path


def names(paths: Iterable[str]) -> str:
    """Paths without their folders, with commas."""
    return listed(base_name(path) for path in paths)
