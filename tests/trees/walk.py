"""A walk through a tree of snapshots: an engine does what a model does.

After every step each snapshot and each disk is read back, and the images that are
left are counted. What the engine works on comes through `Machine`, so that the same
walks go over real images and over simulated ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from hypothesis import strategies as st

from backfold.engine.api import Engine
from backfold.journal import catalog
from backfold.journal.errors import BackfoldError, Refused, RolledBack
from backfold.journal.model import Disk
from backfold.states.ports import Probe

from .model import Content, DiskModel, Model

DOMAIN: Final = "web"
#: Blocks of a disk, and how many steps a walk may have snapshots for.
BLOCKS: Final = 16
MOST_SNAPSHOTS: Final = 8

#: What to do, and three numbers that say what with.
Step = tuple[str, int, int, int]
KINDS: Final = (
    "write",
    "take",
    "revert",
    "delete",
    "range",
    "scope",
    "abort",
    "die",
    "power",
)
NUMBERS: Final = st.integers(0, 60)
STEPS: Final = st.lists(
    st.tuples(st.sampled_from(KINDS), NUMBERS, NUMBERS, NUMBERS),
    min_size=8,
    max_size=20,
)
#: What a disk begins as: an image of its own, or one over a template.
ORIGINS: Final = ("qcow2", "raw", "template")
#: How a deletion is given up before its decision: a byte each second, and no time.
SLOWLY: Final[Mapping[str, Any]] = {"bandwidth": 1, "timeout": 0.0}
#: A guest may stand still for long where many tests share the processors.
DOWNTIME_MS: Final = 30_000
STRATEGIES: Final = ("auto", "auto", "commit", "stream")


class Dead(BaseException):
    """Raised in a probe: the engine does nothing more, as if it were dead."""


class DiesAt:
    """A probe that ends the engine at the Nth moment of a deletion."""

    def __init__(self, moment: int) -> None:
        """``moment`` counts from 0."""
        self.left = moment
        self.place = "nowhere"

    def spare(self) -> None:
        """Let it live from now on."""
        self.left = -2

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Count, and die."""
        if machine != "deletion":
            return
        self.left -= 1
        if self.left == -1:  # Negative numbers only get smaller.
            self.place = f"{state}.{step}.{moment}"
            raise Dead


class Machine(Protocol):
    """Where the images are."""

    #: The disks that the domain begins with, and what is below these.
    disks: Sequence[Disk]
    templates: frozenset[str]
    monitor: str

    @property
    def is_on(self) -> bool:
        """Whether the domain runs."""

    def new_engine(self, probe: Probe | None = None) -> Engine:
        """An engine on the one journal, not open yet."""

    def power_on(self, disks: Sequence[Disk]) -> None:
        """Start the domain on these images."""

    def power_off(self) -> None:
        """End it, if it is on."""

    def write(self, disk: Disk, changes: Mapping[int, int]) -> None:
        """Write these values into these blocks of a disk, as a guest would."""

    def wrong(self, expected: Sequence[tuple[str, str, Content]]) -> list[str]:
        """What is wrong with the contents of these images (path, format)."""

    def below(self, path: str, format: str) -> str | None:
        """The path of the backing image that the header names."""

    def files(self) -> set[str]:
        """The paths of all images."""


@dataclass
class Walk:
    """One walk; ``told`` is what was done, in words."""

    machine: Machine
    engine: Engine
    model: Model
    told: list[str]
    #: Images that are left although nothing leads to them, by their paths.
    strays: set[str]
    written: int = 0

    @classmethod
    async def begin(cls, machine: Machine) -> Walk:
        """Record the domain."""
        engine = await machine.new_engine().__aenter__()
        await engine.add_domain(DOMAIN, machine.disks, machine.monitor)
        disks = {disk.target: DiskModel((0,) * BLOCKS) for disk in machine.disks}
        return cls(machine, engine, Model(disks), [], set())

    async def end(self) -> None:
        """Close the engine, and end what runs."""
        self.machine.power_off()
        await self.engine.__aexit__(None, None, None)

    async def go(self, step: Step) -> None:
        """Do one step, and look at everything."""
        kind, *numbers = step
        await getattr(self, f"_{kind}")(*numbers)
        await self.look()

    # Named steps, for stories

    async def write(self, blocks: int = 3, *, look: bool = True) -> None:
        """Write some blocks of every disk."""
        for number in range(len(self.model.disks)):
            await self._write_blocks(number, self.written, blocks)
        if look:
            await self.look()

    async def take(self, name: str) -> None:
        """Take a snapshot of all disks; they are called s1, s2, ..."""
        await self._take(1, 0, 0)
        assert self.model.current == name
        await self.look()

    async def revert(self, name: str) -> None:
        """Go back."""
        await self._revert_to(name)
        await self.look()

    async def power(self) -> None:
        """Start the domain, or end it."""
        await self._power(0, 0, 0)

    async def delete(
        self, names: list[str], *, way: str = "auto", **options: object
    ) -> None:
        """Delete snapshots; the first of ``names`` is the one that is asked for.

        With the scope children-only, it is the parent of the first.
        """
        first: str | None = names[0]
        if options.get("scope") == "children-only":
            first = self.model.parents[names[0]]
        assert first is not None
        deletions = len(await self.engine.deletions())
        await self._deletion(names, first, way, None, **options)
        assert len(await self.engine.deletions()) == deletions + 1
        assert not self.told[-1].startswith("refused"), self.told[-1]
        await self.look()

    # Steps

    async def _write(self, which: int, where: int, how_many: int) -> None:
        await self._write_blocks(which, where, 1 + how_many % 4)

    async def _write_blocks(self, which: int, where: int, how_many: int) -> None:
        domain = await self.engine.catalog.domain(DOMAIN)
        disk = domain.disks[which % len(domain.disks)]
        model = self.model.disks[disk.target]
        content = list(model.content)
        changes = {}
        for number in range(how_many):
            self.written = self.written % 250 + 1
            block = (where + number * 5) % BLOCKS
            changes[block] = 0 if self.written % 7 == 0 else self.written
        for block, value in changes.items():
            content[block] = value
        self.told.append(f"write {disk.target} {changes}")
        self.machine.write(disk, changes)
        model.content = tuple(content)

    async def _take(self, left_out: int, _: int, __: int) -> None:
        if len(self.model.parents) == MOST_SNAPSHOTS:
            return
        targets = list(self.model.disks)
        if left_out % 4 == 0 and len(targets) > 1:
            targets.pop(left_out // 4 % len(targets))
        name = self.model.take(targets)
        self.told.append(f"take {name} of {targets}")
        await self.engine.create_snapshot(
            DOMAIN, name, exclude=[t for t in self.model.disks if t not in targets]
        )

    async def _revert(self, which: int, _: int, __: int) -> None:
        name = self._pick(which)
        if name is not None and name not in self.model.invalid:
            await self._revert_to(name)

    async def _revert_to(self, name: str) -> None:
        self.machine.power_off()
        self.told.append(f"revert {name}")
        before = await self._paths()
        await self.engine.revert(DOMAIN, name, discard=True)
        self.model.revert(name)
        self.strays |= before & self.machine.files() - await self._paths()

    async def _power(self, _: int, __: int, ___: int) -> None:
        self.told.append("power off" if self.machine.is_on else "power on")
        if self.machine.is_on:
            self.machine.power_off()
        else:
            domain = await self.engine.catalog.domain(DOMAIN)
            self.machine.power_on(domain.disks)

    async def _delete(self, which: int, strategy: int, _: int) -> None:
        if (name := self._pick(which)) is not None:
            await self._deletion([name], name, _way(strategy))

    async def _range(self, which: int, length: int, strategy: int) -> None:
        if (last := self._pick(which)) is None:
            return
        line = self.model.line(last)
        names = line[: 1 + length % len(line)][::-1]
        await self._deletion(names, names[0], _way(strategy), through=last)

    async def _scope(self, which: int, scope: int, strategy: int) -> None:
        if (name := self._pick(which)) is None:
            return
        below = self.model.subtree(name)
        scopes = (
            ("children", [name, *below]),
            ("children-only", below),
            ("snapshot", [name]),
        )
        chosen, names = scopes[scope % 3]
        only = scope % 3 == 2 or scope % 5 == 0
        await self._deletion(
            names, name, _way(strategy), scope=chosen, metadata_only=only
        )

    async def _abort(self, which: int, strategy: int, _: int) -> None:
        if (name := self._pick(which)) is not None:
            await self._deletion([name], name, _way(strategy), **SLOWLY)

    async def _die(self, which: int, strategy: int, moment: int) -> None:
        if (name := self._pick(which)) is not None:
            await self._deletion([name], name, _way(strategy), moment=moment)

    def _pick(self, which: int) -> str | None:
        names = sorted(self.model.parents, key=lambda name: int(name[1:]))
        return names[which % len(names)] if names else None

    async def _deletion(
        self,
        names: list[str],
        name: str,
        way: str,
        moment: int | None = None,
        **options: object,
    ) -> None:
        is_pin = bool(options.get("metadata_only"))
        told = f"delete {name} ({way} {options}), so {names}"
        if moment is not None:
            told += f", dying at moment {moment}"
        self.told.append(told)
        before = await self._paths()
        probe = None if moment is None else DiesAt(moment)
        if probe is not None:
            await self._restart(probe)
        known = len(await self.engine.deletions())
        try:
            await self.engine.delete(
                DOMAIN,
                name,
                strategy=way,
                max_downtime_ms=DOWNTIME_MS,
                **options,  # type: ignore[arg-type]
            )
        except Refused as error:
            self.told.append(f"refused: {error}")
            await self._may_refuse(error, way, bool(names))
            return
        except RolledBack as error:
            self.told.append(f"rolled back: {error}")
            await self._rolled_back(names, way)
            return
        except Dead:
            assert probe is not None
            self.told.append(f"died at {probe.place}")
            await self._restart(None)
            if await self._recover(known) != "completed":
                await self._rolled_back(names, way)
                return
        finally:
            if probe is not None:
                probe.spare()
        self.model.delete(names, pin=is_pin, contracts=way == "auto")
        left = await self._paths()
        originals = {disk.source for disk in self.machine.disks}
        if is_pin:
            self.strays |= before & self.machine.files() - left
        else:
            self.strays |= before & originals - left

    async def _recover(self, known: int) -> str:
        """Recover what is open; how the deletion has ended, if it has begun at all."""
        outcomes = await self.engine.recover()
        if not outcomes:
            new = (await self.engine.deletions())[: -known or None]
            return new[0].state if new else "nothing"
        (outcome,) = outcomes
        assert not isinstance(outcome, BackfoldError), outcome
        self.told.append(f"recovered: {outcome.state}")
        return str(outcome.state)

    async def _restart(self, probe: Probe | None) -> None:
        await self.engine.__aexit__(None, None, None)
        self.engine = await self.machine.new_engine(probe).__aenter__()

    async def _may_refuse(self, error: Refused, way: str, is_some: bool) -> None:
        codes = {reason.code for reason in error.reasons}
        allowed = set()
        if way == "commit" or any(d.has_stranger() for d in self.model.disks.values()):
            allowed.add("foreign_user_of_base")
        if way == "stream":
            allowed.add("strategy_impossible")
        if not is_some:
            allowed.add("no_children")
        assert codes <= allowed, error

    async def _rolled_back(self, names: list[str], way: str) -> None:
        """Snapshots may be invalid now, but never by a stream."""
        for name in names:
            found = await self.engine.catalog.snapshot(DOMAIN, name)
            if found.status == "invalid":
                assert way != "stream" or name in self.model.invalid
                self.model.invalid.add(name)

    # What must hold

    async def look(self) -> None:
        """Everything is as the model says."""
        story = "\n".join(self.told)
        model = self.model
        assert await self.engine.deletions(only_open=True) == [], story
        snapshots = await self.engine.catalog.snapshots(DOMAIN)
        assert {s.name: s.parent for s in snapshots} == model.parents, story
        current = [s.name for s in snapshots if s.current]
        assert current == [n for n in [model.current] if n is not None], story
        assert {s.name for s in snapshots if s.status != "valid"} == model.invalid, (
            story
        )
        expected = []
        domain = await self.engine.catalog.domain(DOMAIN)
        for disk in domain.disks:
            content = model.disks[disk.target].content
            expected.append((disk.source, disk.format, content))
        for snapshot in snapshots:
            labels = [t for t, d in model.disks.items() if snapshot.name in d.labels]
            assert sorted(d.target for d in snapshot.disks) == sorted(labels), story
            if snapshot.status == "valid":
                for entry in snapshot.disks:
                    content = model.disks[entry.target].frozen[snapshot.name]
                    expected.append((entry.frozen, entry.format, content))
        assert self.machine.wrong(expected) == [], story
        await self._look_at_images(story)

    async def _look_at_images(self, story: str) -> None:
        reached = set()
        for target, disk in self.model.disks.items():
            mine = await self._reached(target) - self.machine.templates
            reached |= mine
            count = len(disk.reached())
            if not self.model.is_loose:
                assert len(mine) == count, (target, mine, disk, story)
                continue
            assert len(mine) <= count, (target, mine, disk, story)
        files = self.machine.files()
        self.strays &= files
        assert files == reached | self.strays | self.machine.templates, story
        originals = {disk.source for disk in self.machine.disks}
        assert originals <= files, story
        store = self.engine._driver.store
        known = set(await store.read(catalog.image_paths))
        assert known - originals <= files, story

    async def _paths(self) -> set[str]:
        """Every image that the catalog leads to."""
        return set().union(*[await self._reached(t) for t in self.model.disks])

    async def _reached(self, target: str) -> set[str]:
        """The images of one disk that its source, its snapshots, the kept lead to."""
        domain = await self.engine.catalog.domain(DOMAIN)
        heads = {(d.source, d.format) for d in domain.disks if d.target == target}
        for snapshot in await self.engine.catalog.snapshots(DOMAIN):
            heads |= {
                (e.frozen, e.format) for e in snapshot.disks if e.target == target
            }
        store = self.engine._driver.store
        kept = await store.read(lambda db: catalog.kept_images(db, DOMAIN))
        heads |= {(path, "qcow2") for each, path in kept if each == target}
        formats = {disk.source: disk.format for disk in self.machine.disks}
        found: set[str] = set()
        for path, format in heads:
            at: str | None = path
            while at is not None and at not in found:
                found.add(at)
                at = self.machine.below(at, formats.get(at, format))
        return found


async def walk(machine: Machine, steps: Sequence[Step]) -> None:
    """Do these steps; when one fails, say which ones there were."""
    went = await Walk.begin(machine)
    try:
        for step in steps:
            await went.go(step)
    except Exception as error:
        error.add_note("\n".join(went.told))
        raise
    finally:
        await went.end()


def _way(number: int) -> str:
    return STRATEGIES[number % len(STRATEGIES)]
