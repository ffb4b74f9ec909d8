"""Files that hold the key of an encrypted image: only ever named, never read here.

QEMU and qemu-img read them. What is kept in the journal, told on command lines and
written into logs is the path.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Final

from ..journal.errors import CommandFailed

#: The largest file that QEMU takes as a secret would be absurd; a key is short.
LONGEST_KEY: Final = 1 << 20


class SecretRefused(CommandFailed):
    """The file cannot be the key, or does not open the image."""

    def __init__(self, what: str) -> None:
        """``what`` is wrong with it."""
        super().__init__(
            what,
            remedy="Give the right key, in a file of mode 0600 that holds nothing else,"
            " not even a line's end.",
        )


def check_private(path: str) -> None:
    """Make sure that a secret is a file that only its owner can read.

    Raises:
        SecretRefused: when it is anything else.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise SecretRefused(f"the secret {path!r} cannot be read: {error}") from error
    if not os.path.isabs(path) or not stat.S_ISREG(found.st_mode):
        why = "is no regular file with an absolute path"
    elif stat.S_IMODE(found.st_mode) & 0o077:
        why = "can be read by others than its owner"
    elif found.st_uid not in (0, os.geteuid()):
        why = "belongs to somebody else"
    elif not 0 < found.st_size <= LONGEST_KEY:
        why = "is empty, or too long for a key"
    else:
        return
    raise SecretRefused(f"the secret {path!r} {why}")


def object_id(path: str) -> str:
    """What QEMU is told to call this secret: the same for the same path."""
    digest = hashlib.blake2s(os.fsencode(path), digest_size=8).hexdigest()
    return f"backfold-key-{digest}"
