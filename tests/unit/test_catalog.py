"""The catalog: a snapshot that is recorded, and one that is folded away."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal import catalog, runs
from backfold.journal.catalog import Catalog
from backfold.journal.errors import Refused, UsageError
from backfold.journal.model import (
    CatalogChange,
    CreationPlan,
    Disk,
    DiskChange,
    Domain,
    FileId,
    FileStamp,
    Image,
    OverlayPlan,
    Snapshot,
    SnapshotDisk,
)
from backfold.journal.schema import migrate
from backfold.journal.store import Store

NOW = "2025-01-01T00:00:00.000000+00:00"
RUN = "0123456789ab"
WEB = Domain(
    "web",
    "/run/web.sock",
    (Disk("vdb", "/b/base", "raw"), Disk("vda", "/a/base", "qcow2")),
)


def empty() -> Database:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    db = Database(connection, strict=True, execute_plugins=False)
    db.execute("pragma foreign_keys = on")
    return db


@cache
def template() -> bytes:
    with closing(empty()) as db:
        migrate(db, SEEDS)
        return db.conn.serialize()


def journal() -> Database:
    """An empty journal in memory, with one domain of two disks."""
    db = empty()
    db.conn.deserialize(template())
    catalog.add_domain(db, WEB, [("/a/golden", "raw")], NOW)
    return db


@pytest.fixture
def db() -> Iterator[Database]:
    """An empty journal in memory, with one domain of two disks."""
    with closing(journal()) as db:
        yield db


def dump(db: Database) -> str:
    return "\n".join(db.conn.iterdump())


def creation(name: str, **overlays: tuple[str, str]) -> CreationPlan:
    """A plan that freezes an image and puts an overlay on it, for each target."""
    return CreationPlan(
        "web",
        name,
        "off",
        "boot",
        tuple(
            OverlayPlan(
                target,
                Image(frozen, "qcow2", FileId(1, 1), 512),
                overlay,
                frozen,
                FileStamp(0, 0),
            )
            for target, (frozen, overlay) in overlays.items()
        ),
    )


def three(db: Database) -> None:
    """Snapshots s1, s2 and s3 of vda in a row; vdb is in s2 alone."""
    first = creation("s1", vda=("/a/base", "/a/1"))
    second = creation("s2", vda=("/a/1", "/a/2"), vdb=("/b/base", "/b/2"))
    third = creation("s3", vda=("/a/2", "/a/3"))
    for number, plan in enumerate((first, second, third)):
        catalog.record_snapshot(db, plan, RUN, f"2025-01-0{number + 1}")


def fold(name: str, **disks: tuple[str, str, bool]) -> CatalogChange:
    """The change when a snapshot was folded: top, base and active of each disk."""
    return CatalogChange(
        "web",
        (name,),
        tuple(
            DiskChange(target, top, base, "qcow2", is_named=True)
            for target, (top, base, _) in disks.items()
        ),
    )


def sources(db: Database) -> dict[str, str]:
    return {disk.target: disk.source for disk in catalog.domain(db, "web").disks}


def frozen(db: Database) -> dict[str, dict[str, str]]:
    """The frozen images of each snapshot, in the order of the tree."""
    return {
        snapshot.name: {disk.target: disk.frozen for disk in snapshot.disks}
        for snapshot in catalog.snapshots(db, "web")
    }


def tree(db: Database) -> dict[str, str | None]:
    return {s.name: s.parent for s in catalog.snapshots(db, "web")}


def current(db: Database) -> list[str]:
    return [s.name for s in catalog.snapshots(db, "web") if s.current]


# Domains


def test_a_domain_is_read_back_as_it_was_added(db: Database) -> None:
    """Its disks keep the order in which they were given."""
    assert catalog.domain(db, "web") == WEB
    assert catalog.domains(db) == [WEB]
    assert catalog.image_format(db, "/a/golden") == "raw"
    assert catalog.image_format(db, "/nothing") is None


def test_a_name_or_an_image_that_is_taken_is_refused(db: Database) -> None:
    """Two domains on one image would be two writers."""
    catalog.record_snapshot(db, creation("s1", vda=("/a/base", "/a/1")), RUN, NOW)
    before = dump(db)

    for name, source in (("web", "/c"), ("db", "/b/base"), ("db", "/a/base")):
        with pytest.raises(UsageError):
            catalog.add_domain(
                db, Domain(name, None, (Disk("vda", source, "raw"),)), [], NOW
            )
    assert dump(db) == before


def test_unknown_names_are_refused_with_their_code(db: Database) -> None:
    """Stable codes, for every reader."""
    for code, read in (
        ("unknown_domain", lambda: catalog.domain(db, "x")),
        ("unknown_domain", lambda: catalog.snapshots(db, "x")),
        ("unknown_domain", lambda: catalog.remove_domain(db, "x")),
        ("unknown_snapshot", lambda: catalog.snapshot(db, "web", "x")),
    ):
        with pytest.raises(Refused) as caught:
            read()
        assert [reason.code for reason in caught.value.reasons] == [code]
        assert caught.value.exit_status == 3


def test_a_domain_can_be_forgotten(db: Database) -> None:
    """With all its snapshots, in whatever order they depend on each other.

    Images that are not ours stay known: they may lie below another domain.
    """
    three(db)

    catalog.remove_domain(db, "web")

    assert catalog.domains(db) == []
    for table in ("disks", "snapshots", "snapshot_disks"):
        assert db.execute(f"select count(*) from {table}").fetchone() == (0,)
    left = db.execute("select path, made_by from images").fetchall()
    assert {path for path, _ in left} == {"/a/base", "/a/golden", "/b/base"}
    assert {made_by for _, made_by in left} == {None}


def test_a_domain_with_an_open_run_cannot_be_forgotten(db: Database) -> None:
    """Recovery needs its disks."""
    author = runs.Author("me", NOW)
    runs.begin_deletion(db, RUN, "web", "s1", {}, "validate", author)
    before = dump(db)

    with pytest.raises(Refused) as caught:
        catalog.remove_domain(db, "web")

    assert [reason.code for reason in caught.value.reasons] == ["deletion_open"]
    assert dump(db) == before


def other_domain(db: Database) -> None:
    """A second domain, so that the catalog is never empty."""
    other = Domain("other", None, (Disk("vda", "/o/base", "raw"),))
    catalog.add_domain(db, other, [], NOW)


@pytest.mark.parametrize("alone", [True, False])
def test_a_domain_that_is_added_again_has_the_format_that_is_given_now(
    db: Database, alone: bool
) -> None:
    """The way to correct `format=raw`: formats are never probed, so it must count."""
    if not alone:
        other_domain(db)
    right = Domain("web", None, (Disk("vdb", "/b/base", "qcow2"),))
    catalog.remove_domain(db, "web")

    catalog.add_domain(db, right, [], NOW)

    assert catalog.domain(db, "web") == right


def test_an_image_of_a_forgotten_domain_is_not_ours_any_more(db: Database) -> None:
    """Another file may have that name by then, and would be unlinked one day."""
    other_domain(db)
    three(db)
    assert catalog.is_ours(db, "/a/3")
    catalog.remove_domain(db, "web")

    back = Domain("web", None, (Disk("vda", "/a/3", "qcow2"),))
    catalog.add_domain(db, back, [], NOW)

    assert not catalog.is_ours(db, "/a/3")


def test_images_of_other_domains_are_still_known(db: Database) -> None:
    """What lies below their active images is recorded with its format as well."""
    golden = [("/o/golden", "raw")]
    other = Domain("other", None, (Disk("vda", "/o/base", "qcow2"),))
    catalog.add_domain(db, other, golden, NOW)

    catalog.remove_domain(db, "web")

    assert catalog.image_format(db, "/o/base") == "qcow2"
    assert catalog.image_format(db, "/o/golden") == "raw"


def test_an_image_that_another_run_is_about_to_remove_stays_ours(db: Database) -> None:
    """Between `record` and `unlink` nothing in the catalog refers to it."""
    other_domain(db)
    catalog.record_snapshot(db, creation("s1", vda=("/a/base", "/a/1")), RUN, NOW)
    catalog.fold_snapshots(db, fold("s1", vda=("/a/1", "/a/base", True)))

    catalog.remove_domain(db, "other")

    assert catalog.is_ours(db, "/a/1")


# Snapshots


def test_a_snapshot_freezes_the_active_images_and_is_current(db: Database) -> None:
    """Disks that were left out keep their image; overlays are ours, others are not."""
    three(db)

    assert sources(db) == {"vdb": "/b/2", "vda": "/a/3"}
    assert frozen(db) == {
        "s1": {"vda": "/a/base"},
        "s2": {"vdb": "/b/base", "vda": "/a/1"},
        "s3": {"vda": "/a/2"},
    }
    assert tree(db) == {"s1": None, "s2": "s1", "s3": "s2"}
    assert current(db) == ["s3"]
    assert catalog.snapshot(db, "web", "s2") == Snapshot(
        "web",
        "s2",
        "s1",
        "2025-01-02",
        "valid",
        None,
        False,
        (SnapshotDisk("vdb", "/b/base", "raw"), SnapshotDisk("vda", "/a/1", "qcow2")),
    )
    ours = ["/a/base", "/a/golden", "/b/base", "/a/1", "/a/2", "/a/3", "/b/2", "/x"]
    assert [catalog.is_ours(db, p) for p in ours] == [False] * 3 + [True] * 4 + [False]


def test_what_uses_an_image_is_told_in_words(db: Database) -> None:
    """Nothing is removed while the catalog refers to it."""
    three(db)

    assert catalog.users_of_image(db, "/a/3") == ["disk vda of domain web"]
    assert catalog.users_of_image(db, "/a/2") == ["snapshot s3 of domain web"]
    assert catalog.users_of_image(db, "/a/golden") == []
    with pytest.raises(sqlite3.IntegrityError):
        catalog.forget_image(db, "/a/2")


def test_a_snapshot_of_a_disk_that_changed_is_not_recorded(db: Database) -> None:
    """Compare-and-set: the catalog must be as the plan saw it."""
    before = dump(db)
    wrong = creation("s1", vdb=("/b/base", "/b/1"), vda=("/a/other", "/a/1"))

    with pytest.raises(UsageError), db.atomic():
        catalog.record_snapshot(db, wrong, RUN, NOW)

    assert dump(db) == before


def test_a_status_carries_its_reason(db: Database) -> None:
    """Invalid says why; valid again forgets it; other snapshots are untouched."""
    three(db)

    catalog.mark_snapshot(db, "web", "s2", "invalid", "written into")
    marked = catalog.snapshot(db, "web", "s2")
    catalog.mark_snapshot(db, "web", "s2", "valid")

    assert (marked.status, marked.reason) == ("invalid", "written into")
    assert catalog.snapshot(db, "web", "s2").reason is None
    assert catalog.snapshot(db, "web", "s1").status == "valid"


# Folding


def test_the_newest_snapshot_is_folded_away(db: Database) -> None:
    """The disk runs on the base, and the parent is the current snapshot."""
    three(db)

    catalog.fold_snapshots(db, fold("s3", vda=("/a/3", "/a/2", True)))

    assert sources(db) == {"vdb": "/b/2", "vda": "/a/2"}
    assert tree(db) == {"s1": None, "s2": "s1"}
    assert current(db) == ["s2"]
    assert frozen(db)["s2"] == {"vdb": "/b/base", "vda": "/a/1"}


def test_a_middle_snapshot_is_folded_away(db: Database) -> None:
    """Its child's point in time lives in the base now; one disk is active, one not."""
    three(db)
    change = fold("s2", vdb=("/b/2", "/b/base", True), vda=("/a/2", "/a/1", False))

    catalog.fold_snapshots(db, change)

    assert sources(db) == {"vdb": "/b/base", "vda": "/a/3"}
    assert frozen(db) == {"s1": {"vda": "/a/base"}, "s3": {"vda": "/a/1"}}
    assert tree(db) == {"s1": None, "s3": "s1"}
    assert current(db) == ["s3"]


def test_the_first_snapshot_is_folded_away(db: Database) -> None:
    """Its child becomes a root."""
    three(db)

    catalog.fold_snapshots(db, fold("s1", vda=("/a/1", "/a/base", False)))

    assert tree(db) == {"s2": None, "s3": "s2"}
    assert frozen(db)["s2"] == {"vdb": "/b/base", "vda": "/a/base"}
    assert current(db) == ["s3"]


def test_the_only_snapshot_is_folded_away(db: Database) -> None:
    """Nothing is current then."""
    catalog.record_snapshot(db, creation("s1", vda=("/a/base", "/a/1")), RUN, NOW)

    catalog.fold_snapshots(db, fold("s1", vda=("/a/1", "/a/base", True)))

    assert tree(db) == {}
    assert catalog.domain(db, "web") == WEB
    assert catalog.users_of_image(db, "/a/1") == []


def test_every_child_gets_the_parent(db: Database) -> None:
    """After a revert, a snapshot may have several children."""
    three(db)
    db.execute(
        "insert into snapshots"
        " values ('web', 'branch', 's2', '2025', 'valid', null, 0, null)"
    )

    catalog.fold_snapshots(db, fold("s2"))

    assert tree(db) == {"s1": None, "s3": "s1", "branch": "s1"}


def test_folding_again_changes_nothing(db: Database) -> None:
    """Recovery repeats it."""
    three(db)
    change = fold("s3", vda=("/a/3", "/a/2", True))
    catalog.fold_snapshots(db, change)
    before = dump(db)

    catalog.fold_snapshots(db, change)

    assert dump(db) == before


def test_a_disk_that_somebody_moved_is_not_folded(db: Database) -> None:
    """Compare-and-set: all of the change or nothing of it."""
    three(db)
    db.execute("update disks set source = '/b/base' where target = 'vdb'")
    before = dump(db)
    change = fold("s2", vda=("/a/2", "/a/1", False), vdb=("/b/2", "/b/base", True))

    with pytest.raises(UsageError) as caught, db.atomic():
        catalog.fold_snapshots(db, change)

    assert "catalog is unchanged" in caught.value.data
    assert dump(db) == before


def test_a_frozen_image_that_somebody_moved_is_not_folded(db: Database) -> None:
    """Else a snapshot would go on naming an image that is about to be removed."""
    three(db)
    db.execute("update snapshot_disks set frozen = '/a/3' where snapshot = 's3'")

    with pytest.raises(UsageError):
        catalog.fold_snapshots(db, fold("s2", vda=("/a/2", "/a/1", False)))


def test_other_domains_are_not_touched(db: Database) -> None:
    """A template may be the base of many domains."""
    three(db)
    catalog.add_domain(
        db, Domain("db", None, (Disk("vda", "/c", "raw"),)), [("/a/golden", "raw")], NOW
    )
    db.execute(
        "insert into snapshots values ('db','s3',null,'2025','valid',null,1,null)"
    )
    db.execute("insert into snapshot_disks values ('db', 's3', 'vda', '/a/3')")
    before = catalog.snapshots(db, "db"), catalog.domain(db, "db")

    catalog.fold_snapshots(db, fold("s3", vda=("/a/3", "/a/2", True)))

    assert (catalog.snapshots(db, "db"), catalog.domain(db, "db")) == before


class Chains:
    """The same in Python lists: per disk its images, bottom first; snapshots."""

    def __init__(self) -> None:
        self.images = {disk.target: [disk.source] for disk in WEB.disks}
        self.snapshots: list[tuple[str, dict[str, str]]] = []
        self.count = 0

    def record(self, db: Database, targets: set[str]) -> None:
        self.count += 1
        name = f"s{self.count}"
        pairs = {t: (self.images[t][-1], f"/{t}/{self.count}") for t in sorted(targets)}
        catalog.record_snapshot(db, creation(name, **pairs), RUN, f"{self.count:04}")
        for target, (_, overlay) in pairs.items():
            self.images[target].append(overlay)
        self.snapshots.append((name, {t: pair[0] for t, pair in pairs.items()}))

    def fold(self, db: Database, which: int, repeat: bool) -> None:
        name, entries = self.snapshots.pop(which % len(self.snapshots))
        disks = {}
        for target, base in entries.items():
            images = self.images[target]
            top = images[images.index(base) + 1]
            disks[target] = (top, base, top == images[-1])
            images.remove(top)
            for _, others in self.snapshots:
                if others.get(target) == top:
                    others[target] = base
        for _ in range(1 + repeat):
            catalog.fold_snapshots(db, fold(name, **disks))
        for top, _, _ in disks.values():
            catalog.forget_image(db, top)


@given(
    st.lists(
        st.sampled_from([{"vda"}, {"vdb"}, {"vda", "vdb"}])
        | st.tuples(st.integers(0, 20), st.booleans()),
        max_size=25,
    )
)
def test_the_catalog_is_the_list_of_images_and_snapshots(
    orders: list[set[str] | tuple[int, bool]],
) -> None:
    """Whatever is taken and folded in whatever order: catalog and model agree."""
    model = Chains()
    with closing(journal()) as db:
        for order in orders:
            if isinstance(order, set):
                model.record(db, order)
            elif model.snapshots:
                model.fold(db, *order)

            names = [name for name, _ in model.snapshots]
            assert sources(db) == {t: i[-1] for t, i in model.images.items()}
            assert frozen(db) == dict(model.snapshots)
            assert list(tree(db).items()) == list(
                zip(names, [None, *names], strict=False)
            )
            assert current(db) == names[-1:]
            known = {"/a/golden"} | {i for each in model.images.values() for i in each}
            stored = {path for (path,) in db.execute("select path from images")}
            assert stored == known
            assert db.execute("pragma foreign_key_check").fetchall() == []


def test_the_catalog_of_a_store_reads_and_forgets(tmp_path: Path) -> None:
    """The class is the same functions, each in a transaction of the store."""

    async def main() -> None:
        store = await Store.open(tmp_path / "journal.db", SEEDS)
        try:
            await store.write(lambda db: catalog.add_domain(db, WEB, [], NOW))
            await store.write(three)
            known = Catalog(store)
            assert [domain.name for domain in await known.domains()] == ["web"]
            assert [s.name for s in await known.snapshots("web")] == ["s1", "s2", "s3"]
            assert (await known.snapshot("web", "s3")).current
            assert await known.is_ours("/a/3")
            assert await known.image_format("/b/base") == "raw"
            assert await known.users_of_image("/a/3") == ["disk vda of domain web"]
            await known.remove_domain("web")
            with pytest.raises(Refused):
                await known.domain("web")
        finally:
            await store.close()

    asyncio.run(main())
