"""The acts of the demo's story, one method each."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from ...journal.errors import BackfoldError
from ...journal.model import Disk
from ..api import Engine
from ..events import Event, ProgressEvent
from ..images import in_thread
from ..results import Deletion, Run
from . import proof, stage
from .guest import qemu_img
from .killing import Failed, Victim
from .machine import Machine
from .points import KillPoint
from .proof import Bracket, Finding, ImageFile
from .telling import Teller

DOMAIN = "web"
TARGETS = ("vda", "vdb")
SIZE = "64M"
#: Writes of the guest between two acts: some megabytes of clusters on each disk.
WRITES = 150
#: How fast the intermediate fold copies, in bytes per second: slow enough to watch.
BANDWIDTH = 8 << 20
#: How long the deletion that is killed, and the guard after it, may take, seconds.
PATIENCE = 60.0


class Acts:
    """The domain of the story, and what happens to it."""

    def __init__(
        self, teller: Teller, folder: Path, engine: Engine, point: KillPoint
    ) -> None:
        """Nothing happens yet."""
        self._teller = teller
        self._folder = folder
        self._engine = engine
        self._point = point
        self._brackets: dict[str, Bracket] = {}
        self._victim: Victim | None = None
        self._names = {str(os.getpid()): "recover"}
        self._findings: list[Finding] = []
        self._machine = Machine(
            folder,
            [(target, folder / f"{target}.qcow2", "qcow2") for target in TARGETS],
            style="blockdev",
        )

    async def snapshots(self) -> None:
        """Start the guest and take three snapshots while it writes."""
        self._teller.act(
            "Three snapshots",
            f"A guest with {len(TARGETS)} disks of {SIZE} writes without pause;"
            " snapshots are taken meanwhile.",
        )
        for _, path, fmt in self._machine.disks:
            qemu_img("create", "-q", "-f", fmt, path, SIZE)
        await in_thread(self._machine.start)
        disks = [Disk(target, str(p), fmt) for target, p, fmt in self._machine.disks]
        await self._engine.add_domain(DOMAIN, disks, str(self._machine.monitor))
        for name in ("s1", "s2", "s3"):
            await self._write()
            low = self._machine.acknowledged()
            await self._engine.create_snapshot(DOMAIN, name)
            self._brackets[name] = Bracket(low, self._machine.acknowledged())
        await self._write()
        await self._show_domain()
        count = proof.count_writes(self._folder)
        self._teller.say(f"The guest has acknowledged {count} writes.")

    async def delete_middle(self) -> None:
        """Delete s2: an intermediate fold, which the guest does not notice."""
        self._teller.act(
            "Delete the middle one",
            "The overlay above s2 is folded into the image below it; the guest goes on"
            " writing on top.",
        )
        before = self._machine.acknowledged()
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
        with Progress(*columns, console=self._teller.console) as progress:
            bars: dict[str, TaskID] = {}

            def show(event: Event) -> None:
                if isinstance(event, ProgressEvent):
                    if event.disk not in bars:
                        bars[event.disk] = progress.add_task(event.disk, total=None)
                    progress.update(
                        bars[event.disk], completed=event.done, total=event.total
                    )

            deletion = await self._engine.delete(
                DOMAIN,
                "s2",
                strategy="commit",
                bandwidth=BANDWIDTH,
                on_event=show,
            )
        written = self._machine.acknowledged() - before
        stood = deletion.downtime_ms
        self._teller.say(
            f"Deleted in {deletion.seconds or 0:.1f} s; downtime:"
            f" {'none' if stood is None else f'{stood:.0f} ms'}; meanwhile the guest"
            f" acknowledged {written} writes."
        )
        await self._show_domain()
        await self._prove(await self._frozen())

    async def delete_newest_and_kill(self) -> None:
        """Delete s3 in another process; QEMU and that process are killed."""
        point = self._point
        self._teller.act(
            "Delete the newest one, and kill everything",
            "Now the active images are folded, and QEMU has to pivot. Another process"
            f" deletes s3; at {point} QEMU is killed, and then that process.",
        )
        await self._write()
        self._victim = await Victim.start(
            self._engine.journal, DOMAIN, "s3", self._machine.pid, point
        )
        self._names[str(self._victim.pid)] = "delete"
        await self._victim.died(PATIENCE)
        self._machine.kill()  # It is dead already: this reaps it.
        guarded = await asyncio.to_thread(
            stage.wait_for_guards, self._engine.journal, PATIENCE
        )
        if guarded:
            self._teller.say("The guard had seen it and ended the hold.")
        await self._show_deletion(await self._newest())

    async def recover(self) -> None:
        """What `backfold recover` does, with the domain off."""
        self._teller.act(
            "Recover",
            "The domain is off. `recover` reads the journal, looks at the images, and"
            " finishes what was begun.",
        )
        outcomes = await self._engine.recover()
        deletion = await self._newest()
        if not outcomes:
            self._teller.say("Nothing was open: the kill came after the last row.")
        rows = await self._engine.log(deletion.id)
        killed = f"QEMU and this process are killed at {self._point}"
        self._teller.time_line(rows, self._names, killed)
        for outcome in outcomes:
            self._teller.say(_verdict_of(outcome))
        await self._show_domain()
        if deletion.state != "completed":
            self._findings.append(
                Finding("recover", False, f"the deletion of s3 is {deletion.state}")
            )

    async def boot_again(self) -> None:
        """Boot the guest from what the engine names, and let it write."""
        disks = await self._engine.disks(DOMAIN)
        self._teller.act(
            "Boot the guest again",
            f"From {', '.join(Path(disk.source).name for disk in disks)}; it writes"
            " some more and is ended.",
        )
        self._machine.disks = [(d.target, Path(d.source), d.format) for d in disks]
        await in_thread(self._machine.start)
        await self._write()
        await in_thread(self._machine.quit)

    async def proof(self) -> tuple[int, int]:
        """Read everything with QEMU's tools; how many writes, and how many are lost.

        Raises `Failed` when something else than a write is wrong.
        """
        count = proof.count_writes(self._folder)
        self._teller.act(
            "The proof",
            f"Nothing of Backfold: qemu-img reads the images, and the {count} writes"
            " that the guest has acknowledged are looked for.",
        )
        disks = await self._engine.disks(DOMAIN)
        images = [ImageFile(Path(disk.source), disk.format) for disk in disks]
        findings = await asyncio.to_thread(proof.check_chains, disks)
        findings += await asyncio.to_thread(
            proof.verify_present, self._machine.ledger, images, self._folder
        )
        await self._prove([*findings, *await self._frozen()])
        wrong = [finding for finding in self._findings if not finding.ok]
        if lost := sum(finding.lost for finding in wrong):
            return count, lost
        if wrong:
            raise Failed("; ".join(f"{found.what}: {found.detail}" for found in wrong))
        return count, 0

    async def end(self) -> None:
        """End the processes that the acts have started."""
        if self._victim is not None:
            await self._victim.end()
        self._machine.__exit__(None, None, None)

    # Parts of acts

    async def _write(self) -> None:
        await asyncio.to_thread(self._machine.wait_for_writes, WRITES)

    async def _show_domain(self) -> None:
        snapshots = await self._engine.catalog.snapshots(DOMAIN)
        self._teller.domain(DOMAIN, snapshots, await self._engine.disks(DOMAIN))

    async def _prove(self, findings: list[Finding]) -> None:
        self._teller.findings(findings)
        self._findings += findings

    async def _frozen(self) -> list[Finding]:
        """Whether each snapshot that is left, and valid, holds its instant."""
        findings = []
        snapshots = await self._engine.catalog.snapshots(DOMAIN)
        for snapshot in (s for s in snapshots if s.status == "valid"):
            disks = [disk for t in TARGETS if (disk := snapshot.disk(t)) is not None]
            images = [ImageFile(Path(disk.frozen), disk.format) for disk in disks]
            findings.append(
                await asyncio.to_thread(
                    proof.verify_frozen,
                    self._machine.ledger,
                    snapshot.name,
                    images,
                    self._brackets[snapshot.name],
                    self._folder,
                )
            )
        return findings

    async def _newest(self) -> Deletion:
        return (await self._engine.deletions())[0]

    async def _show_deletion(self, deletion: Deletion) -> None:
        folds = ", ".join(f"{disk.target} {disk.state}" for disk in deletion.disks)
        decided = "decided" if deletion.is_decided else "not decided"
        open_ = "open" if deletion.is_open else "finished"
        self._teller.say(
            f"Journal: {deletion.state} ({open_}, {decided}); folds: {folds or 'none'}."
        )
        fenced = sorted(path.name for path in self._folder.glob(f"*{deletion.id}*"))
        self._teller.say(f"Fenced images: {', '.join(fenced) or 'none'}.")
        for disk in await self._engine.disks(DOMAIN):
            self._teller.line(f"The truth of {disk.target}: {Path(disk.source).name}")


def _verdict_of(outcome: Run | BackfoldError) -> str:
    if isinstance(outcome, BackfoldError):
        return f"Left open ({outcome.code}): {outcome}"
    because = f": {outcome.reason}" if outcome.reason else ""
    return (
        f"The deletion {outcome.id} of {outcome.snapshot} is {outcome.state}{because}."
    )
