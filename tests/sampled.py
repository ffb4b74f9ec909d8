"""Some cases of many in `make test`, and all of them in `make every-case`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

#: Whether nobody is in a hurry.
EVERY: Final = "BACKFOLD_EVERY_CASE" in os.environ


def sampled(count: int, values: Sequence[T]) -> list[T]:
    """The first of these, which should be the most telling; or every one."""
    return list(values if EVERY else values[:count])
