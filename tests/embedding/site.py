"""What an embedder has: a journal, and domains that are off, with real images."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from backfold import Disk, Engine, HookCall
from backfold.engine.demo.guest import qemu_img
from backfold.engine.images import QemuImages
from backfold.states.ports import Clock, Images
from real.scene import nobody_manages

SIZE = "16M"


class Site:
    """A folder with a journal, its locks, and the images of any number of domains."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made yet."""
        self.folder = folder
        self.journal = folder / "journal" / "journal.db"
        self.locks = folder / "locks"

    def engine(
        self,
        *,
        images: Images | None = None,
        clock: Clock | None = None,
        hook: Callable[[HookCall], Awaitable[None]] | None = None,
    ) -> Engine:
        """One more engine on the journal; not open yet."""
        return Engine(
            self.journal,
            images=images or QemuImages(),
            clock=clock,
            managed=nobody_manages,
            locks=self.locks,
            hook=hook,
        )

    def image(self, domain: str) -> Path:
        """The image that a domain began with."""
        return self.folder / f"{domain}.qcow2"

    async def add(self, engine: Engine, domain: str, *snapshots: str) -> None:
        """Make a domain with one disk, and take snapshots of it."""
        image = self.image(domain)
        qemu_img("create", "-q", "-f", "qcow2", image, SIZE)
        await engine.add_domain(domain, [Disk("vda", str(image), "qcow2")])
        for name in snapshots:
            await engine.create_snapshot(domain, name)
