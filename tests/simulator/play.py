"""One engine after the other on one world: orders, recovery, and how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from backfold.engine.results import DomainDisk
from backfold.journal import runs
from backfold.journal.errors import BackfoldError, Interrupted

from .engine import Journal, SimEngine
from .life import Director, Killed, Life, Quiet
from .scenes import DOMAIN, Scene
from .world import World

T = TypeVar("T")
Order = Callable[[SimEngine], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an order ended: ``done``, ``killed``, ``open``, or an error's code."""

    how: str
    what: str = ""


@dataclass
class Play:
    """A world and its journal, with nobody at work until `order` is called."""

    scene: Scene
    world: World
    journal: Journal
    loop: asyncio.AbstractEventLoop
    locks: Path

    def glance(self) -> Play:
        """The same instant once more, for whoever only reads the journal."""
        return replace(self, world=self.world.copy())

    def first(self, director: Director) -> Ending:
        """The scene's own order."""
        return self.order(director, self._first)

    def recover(self, director: Director) -> Ending:
        """`backfold recover`, of everything."""
        return self.order(director, _recover)

    def roll_back(self, director: Director) -> Ending:
        """`backfold recover --roll-back`, of everything."""
        self.world.wants_back = False
        return self.order(director, _roll_back)

    def release(self, director: Director) -> Ending:
        """What the guard does when its engine has died."""
        watch, self.world.guarded = self.world.guarded, None
        assert watch is not None
        return self.order(director, lambda engine: engine.release(watch).end())

    def order(self, director: Director, order: Order) -> Ending:
        """Run one engine with one order, to its end or its death."""
        life = Life(director)

        async def work() -> Ending:
            try:
                async with SimEngine(
                    self.world, self.journal, life, self.locks
                ) as engine:
                    await order(engine)
            except Interrupted as error:
                return Ending("open", error.what)
            except BackfoldError as error:
                return Ending(error.code, error.what)
            return Ending("done")

        try:
            ending: Ending = self.loop.run_until_complete(work())
        except Killed:
            ending = Ending("killed")
        finally:
            life.end()
            for qemu in self.world.qemus.values():
                qemu.client = None
        return ending

    # What the journal says

    def open_runs(self) -> list[str]:
        """Runs that somebody has to finish."""
        db = self.journal.db
        opened = [row.id for row in runs.list_deletions(db, only_open=True)]
        opened += [row.id for row in runs.open_creations(db)]
        return opened + [row.id for row in runs.open_reversions(db)]

    def settle_reversion(self, booting: bool = False) -> None:
        """From its record on the disks show the snapshot, and no former write.

        Whoever boots before keeps what he booted, and what is written since; but not
        before it is planned: that is discarded as it was asked for.
        """
        world = self.world
        if world.back_to is None or world.domain is not None:
            return
        booting = booting and bool(runs.open_reversions(self.journal.db))
        found = self.journal.db.execute(
            "select 1 from reversions where snapshot = ?"
            " and state in ('recorded', 'reverted')",
            (world.back_to,),
        ).fetchone()
        if found:
            frozen = world.frozen[world.back_to]
            world.acknowledged = {t: c.copy() for t, c in frozen.items()}
        elif booting:
            world.on_former = True
        if found or booting:
            world.back_to = None

    def sources(self) -> tuple[DomainDisk, ...]:
        """What `backfold domain show` tells to boot from, by the real code."""
        engine = SimEngine(self.world, self.journal, Life(Quiet()), self.locks)
        engine.open()
        return _at_once(engine.disks(DOMAIN))

    @property
    def definition(self) -> dict[str, tuple[str, str]] | None:
        """What the owner of the definition boots from, whoever is at work.

        None when nobody owns it, and where it proves nothing: after names of files
        were changed by hand, and in a revert's short time between its record and the
        moment that the owner was told (see docs/hooks.md).
        """
        found = self.world.definition
        if found is None or self.world.meddled:
            return None
        named = {path for path, _ in found.values()}
        for row in runs.open_reversions(self.journal.db):
            former = {disk.former.path for disk in row.plan.disks}
            if row.state == "recorded" and former & named:
                return None
        return found

    def boot(self) -> str | None:
        """The domain is started: by its owner, or from what `domain show` names."""
        if self.definition is not None:
            self.settle_reversion(booting=True)
            why = self.world.boot_domain(self.definition)
            self._settle_creation()
            return why
        sources = self.sources()
        if broken := [disk.broken for disk in sources if disk.broken is not None]:
            return str(broken)
        self.settle_reversion(booting=True)
        why = self.world.boot_domain(
            {disk.target: (disk.source, disk.format) for disk in sources}
        )
        if why is None and any(".backfold-" in disk.source for disk in sources):
            self.world.fence_is_void = True
        return why

    def _settle_creation(self) -> None:
        """Booted from the overlays of a snapshot that is being taken: it is taken."""
        world = self.world
        names = {path for path, _ in (world.definition or {}).values()}
        for row in runs.open_creations(self.journal.db):
            overlays = {plan.overlay for plan in row.plan.overlays}
            if world.domain is not None and overlays <= names:
                if all(
                    not (f := world.files.file(o)) or not f.clusters for o in overlays
                ):
                    world.switched = {
                        t: c.copy() for t, c in world.acknowledged.items()
                    }

    async def _first(self, engine: SimEngine) -> None:
        if self.scene.order == "create":
            await engine.create_snapshot(DOMAIN, "new")
        elif self.scene.order == "revert":
            self.world.back_to = self.scene.delete
            await engine.revert(DOMAIN, self.scene.delete, discard=True)
        else:
            await engine.delete(DOMAIN, self.scene.delete, **self.scene.more)


async def _recover(engine: SimEngine) -> None:
    """As the command does: the worst outcome is the verdict."""
    for outcome in await engine.recover():
        if isinstance(outcome, BackfoldError):
            raise outcome


async def _roll_back(engine: SimEngine) -> None:
    for outcome in await engine.recover(roll_back=True):
        if isinstance(outcome, BackfoldError):
            raise outcome


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits for something")
