"""A state written back to real files, recovered by the engine, and read back."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backfold.engine.demo.guest import Ledger, export_raw

from .cuts import State
from .recording import TESTS, Recording

#: How long one recovery may take on a busy machine, in seconds.
TIMEOUT = 240
#: Greater than any inode's number: a file that the power cut has left no name.
_GONE = 1 << 60


def recover(recording: Recording, state: State, last: int) -> str:
    """Recover from a state with the guest's writes up to ``last`` acknowledged.

    Returns what is wrong afterwards, or an empty string. The files of the recorded
    run are replaced: journal and headers hold absolute paths.
    """
    lay_out(recording, state)
    arguments = [
        recording.journal,
        str(recording.folder / "locks"),
        recording.domain,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "power.recovering", *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        return f"recover failed: {done.stderr.strip()[-2000:]}"
    # Log lines come before it.
    told = json.loads(done.stdout.splitlines()[-1])
    return "; ".join(_read_back(recording, told, last))


def lay_out(recording: Recording, state: State) -> None:
    """Write the files of a state, as the next boot of the host would find them."""
    numbers: dict[int, int] = {}
    for name in ("images", "journal"):
        folder = recording.folder / name
        mode = folder.stat().st_mode & 0o777
        shutil.rmtree(folder)
        folder.mkdir(mode=mode)
    for path, content in state.files.items():
        if path.endswith("-shm"):
            continue
        with open(path, "wb") as file:
            file.write(content.bytes())
        os.chmod(path, 0o600)
        os.utime(path, ns=(content.mtime, content.mtime))
        numbers[content.inode.number] = os.stat(path).st_ino
    _renumber(Path(recording.journal), numbers)


def _renumber(journal: Path, numbers: Mapping[int, int]) -> None:
    """Put the new files' inode numbers into the plans of the journal.

    A power cut does not change them; files that are written anew have others. The
    log stays a log: the database is copied before its connection is closed.
    """

    def renumbered(value: Any) -> Any:
        if isinstance(value, dict):
            new = {key: renumbered(item) for key, item in value.items()}
            if "inode" in new:
                old = new["inode"]
                new["inode"] = numbers.get(old, _GONE + old)
            return new
        if isinstance(value, list):
            return [renumbered(item) for item in value]
        return value

    files = [journal, journal.with_name(journal.name + "-wal")]
    db = sqlite3.connect(journal, isolation_level=None)
    for table in ("deletions", "creations"):
        rows = db.execute(f"select id, plan from {table} where plan is not null")
        for run, plan in rows.fetchall():
            text = json.dumps(renumbered(json.loads(plan)))
            db.execute(f"update {table} set plan = ? where id = ?", (text, run))
    kept = [(file, file.read_bytes()) for file in files if file.exists()]
    db.close()
    for file, content in kept:
        file.write_bytes(content)


def _read_back(
    recording: Recording, told: Mapping[str, Any], last: int
) -> Iterator[str]:
    """Every way in which the recovered domain is not what it must be."""
    yield from told["errors"]
    if told["open"]:
        yield f"{told['open']} runs are still open"
    yield from _left_over(recording, told)
    if any(broken for *_, broken in told["disks"]):
        yield f"a chain is broken: {told['disks']}"
        return
    ledger = _ledger(recording, last)
    raw = recording.folder / "verified.raw"
    for target, source, format, _, _ in told["disks"]:
        export_raw(Path(source), format, raw)
        verdict = ledger.verify(raw, recording.targets.index(target))
        if not verdict.ok:
            yield f"{len(verdict.lost)} writes lost in {source}: {verdict.lost[:3]}"
    for name, status, disks in told["snapshots"]:
        if status != "valid":
            yield f"snapshot {name} is {status}"
            continue
        low, high = recording.brackets[name]
        for target, frozen, format in disks:
            export_raw(Path(frozen), format, raw)
            number = recording.targets.index(target)
            low, high = min(low, last), min(high, last)
            verdict = ledger.verify(raw, number, low=low, high=high)
            if not verdict.ok:
                yield f"snapshot {name} is wrong in {frozen}: {verdict.lost[:3]}"
    raw.unlink(missing_ok=True)


def _left_over(recording: Recording, told: Mapping[str, Any]) -> Iterator[str]:
    """Files that nothing needs, images that are damaged, processes that go on."""
    images = recording.folder / "images"
    chains = {path for _, _, _, chain, _ in told["disks"] for path in chain}
    there = {str(path) for path in images.iterdir()}
    for path in sorted(there - chains):
        yield f"{path} is left over"
    for path in sorted(chains & there):
        if Path(path).read_bytes()[:4] != b"QFI\xfb":
            continue
        checked = subprocess.run(
            ["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True
        )
        # 3: leaked clusters, room that nobody had time to give back.
        if checked.returncode not in (0, 3):
            yield f"qemu-img check {path}: {checked.stdout} {checked.stderr}"
    for entry in Path("/proc").iterdir():
        try:
            opened = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(name.startswith(str(images)) for name in opened):
            yield f"process {entry.name} still has images open"


def _ledger(recording: Recording, last: int) -> Ledger:
    """The books as they were at the cut."""
    books = recording.folder / "books"
    sent = (recording.folder / "acknowledged-1.bin").read_bytes()
    books.write_bytes(sent[: 4 * last])
    ledger = Ledger()
    ledger.begin(books, len(recording.targets))
    return ledger
