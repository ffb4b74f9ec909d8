"""What the reference and the man pages say beside the help texts."""

from __future__ import annotations

from typing import Final

#: Variables of the environment that are read.
ENVIRONMENT: Final = {
    "BACKFOLD_JOURNAL": "The journal, unless `--journal` names another one.",
    "XDG_STATE_HOME": "Where the journals of others than root are, as in"
    " $XDG_STATE_HOME/backfold/journal.db; ~/.local/state if it is not set.",
    "NO_COLOR": "When it is set and not empty, nothing is coloured.",
    "FORCE_COLOR": "When it is set and not empty, what a terminal would show in colour"
    " is coloured elsewhere, too, unless NO_COLOR is set.",
    "TERM": "With `dumb`, nothing is coloured or redrawn.",
    "COLUMNS": "The width of the terminal.",
    "TMPDIR": "Where private copies of a journal are made.",
}
#: Files that are read, written or left behind.
FILES: Final = {
    "/var/lib/backfold/journal.db": "The journal of root, a database of SQLite. Its log"
    " journal.db-wal belongs to it.",
    "~/.local/state/backfold/journal.db": "The journal of everybody else.",
    "/run/lock/backfold": "Locks, one for each image that somebody works on.",
    "IMAGE.backfold-ID": "A superseded image until it is removed: nothing boots from"
    " it. ID is the run that did it; `recover` knows what to do about it.",
}
#: Examples by command: a line to type, and what it is for.
EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "backfold": (
        ("backfold domain add web --disk vda=/srv/web.qcow2", "Record a machine."),
        ("backfold snapshot create web before-upgrade", "Take a snapshot."),
        ("backfold delete web before-upgrade", "Fold it back, after a question."),
        ("backfold recover", "After a crash: finish whatever was interrupted."),
    ),
    "backfold domain add": (
        (
            "backfold domain add web --disk vda=/srv/web.qcow2"
            " --disk vdb=/srv/data.img,format=raw --monitor /run/web.qmp",
            "Two disks, and a socket to talk to the running machine.",
        ),
    ),
    "backfold domain args": (
        (
            'eval "qemu-system-x86_64 $(backfold domain args web)'
            ' -device virtio-blk-pci,drive=vda"',
            "Boot from the images that are the right ones now.",
        ),
    ),
    "backfold snapshot create": (
        ("backfold snapshot create web s1", "All disks."),
        ("backfold snapshot create web s2 --exclude vdb", "All disks but one."),
    ),
    "backfold plan": (
        ("backfold plan web s1 --through s3", "What it would take to delete a range."),
        ("backfold --json plan web s1 | jq .bytes", "How much would be copied."),
    ),
    "backfold delete": (
        ("backfold delete web s1", "Show the plan, and ask."),
        ("backfold delete web s1 --yes --timeout 600", "From a script."),
        ("backfold delete web s1 --bandwidth 50M", "Leave others some bandwidth."),
    ),
    "backfold recover": (
        ("backfold recover --dry-run", "What is interrupted, and what would be done."),
        ("backfold recover", "Do it."),
    ),
    "backfold status": (
        ("backfold status", "What is open, and what was done lately."),
        ("backfold --json status | jq '.deletions[] | select(.open)'", "In a script."),
    ),
    "backfold completion": (
        (
            "backfold completion bash > /etc/bash_completion.d/backfold",
            "For everybody on this host.",
        ),
    ),
}
