"""A journal that was just made survives a power cut, with its folders."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from power import strace
from power.cuts import DROPPED, KEPT, state
from power.disk import Disk
from power.replay import Replay

SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from backfold.engine.seeds import SEEDS
from backfold.journal.store import Store
async def main():
    mark = os.open(sys.argv[2], os.O_CREAT | os.O_WRONLY)
    os.write(mark, b"begin")
    store = await Store.open(Path(sys.argv[1]), SEEDS)
    await store.write(lambda db: db.execute("create table told (it)"))
    os.write(mark, b"end")
    await store.close()
asyncio.run(main())
"""


def test_what_the_first_write_of_a_new_journal_told_is_durable(tmp_path: Path) -> None:
    """Every folder that was made has its name in a folder that was synced."""
    script, marks = tmp_path / "script.py", tmp_path / "marks"
    script.write_text(SCRIPT)
    journal = tmp_path / "state" / "backfold" / "journal.db"
    command = [sys.executable, str(script), str(journal), str(marks)]
    strace.record(command, tmp_path / "trace", {}, 120)
    calls = strace.read(tmp_path / "trace")
    # Up to the end of the first write, which is when somebody was told of it.
    told = next(c for c in calls if c.name == "write" and b"end" in c.strings())
    disk = Disk([str(journal.parent)])
    before = [call for call in calls if call.entry < told.entry]
    for _ in Replay(disk, str(marks), "").run(before):
        pass

    for cut in (DROPPED, KEPT):
        left = state(disk, cut, Random(0))
        assert str(journal) in left.files
        log = left.files[f"{journal}-wal"].bytes()
        assert b"create table told" in log.lower()
    made = [c for c in calls if c.name.startswith("mkdir") and c.result == 0]
    folders = {path: call.entry for call in made for path in call.paths()}
    for folder in (journal.parent, journal.parent.parent):
        synced = [
            call.entry
            for call in calls
            if call.name == "fsync" and call.descriptors() == [str(folder.parent)]
        ]
        assert any(folders[str(folder)] < at < told.entry for at in synced), folder
