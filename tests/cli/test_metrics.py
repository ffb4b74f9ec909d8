"""`backfold metrics`: real runs, read from the journal alone."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlite_utils import Database

from backfold import Disk, Domain, Engine
from backfold.engine import metrics
from backfold.engine.demo.guest import qemu_img
from backfold.engine.seeds import SEEDS
from backfold.journal import catalog, runs
from backfold.journal.locks import Locks
from backfold.journal.model import FileId
from backfold.journal.runs import Author, RunKey
from backfold.journal.store import Store
from backfold.metrics import JournalCollector
from cli.command import Cli, parsed, stop
from cli.conftest import Inside
from histories import BEGAN, MIDDLE, REFUSED, ROLLED_BACK, History

Figures = dict[str, float]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with every kind of run, one of them open, over two images.

    Nothing may change it: tests that do have a copy.
    """
    folder = tmp_path_factory.mktemp("metrics")
    images = [folder / f"{target}.qcow2" for target in ("vda", "vdb")]
    for image in images:
        image.touch()

    def fill(db: Database) -> None:
        disks = tuple(Disk(image.stem, str(image), "qcow2") for image in images)
        catalog.add_domain(db, Domain("web", None, disks), [], BEGAN.isoformat())
        history = History(db, who=f"root@{socket.gethostname()}:1")
        history.deletion(folds={"vda": ("stream", 1 << 20)}, seconds=3)
        history.deletion(folds={"vda": ("commit", 1 << 30)}, downtime_ms=12.5)
        history.deletion(ROLLED_BACK, folds={"vda": ("commit", 7)}, downtime_ms=400)
        history.deletion(REFUSED, commits=None)
        history.deletion(MIDDLE, folds={"vda": ("commit", 9)})

    async def main() -> Path:
        path = folder / "journal" / "journal.db"
        store = await Store.open(path, SEEDS)
        await store.write(fill)
        await store.close()
        return path

    return asyncio.run(main())


@pytest.fixture
def copied(recorded: Path, cli: Cli) -> Cli:
    """A copy of that journal, to be changed."""
    shutil.copytree(recorded.parent, cli.journal.parent)
    return cli


def figures(text: str) -> Figures:
    """Every series by its name with labels, as they are written."""
    families = list(text_string_to_metric_families(text))
    for family in families:
        assert family.documentation and family.type != "unknown", family.name
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == sum(len(family.samples) for family in families)
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def seen(inside: Inside, journal: Path, *options: str, status: int = 0) -> Figures:
    found = inside("--journal", str(journal), "metrics", *options, status=status)
    return figures(found.out)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.iterdir()}


def only(found: Figures, name: str) -> tuple[dict[str, str], float]:
    """Labels and value of the one series of a name."""
    ((series, value),) = [(k, v) for k, v in found.items() if k.startswith(name + "{")]
    return dict(re.findall(r'(\w+)="([^"]*)"', series)), value


def test_runs_are_counted_and_measured(recorded: Path, inside: Inside) -> None:
    found = seen(inside, recorded)

    assert found["backfold_journal_usable"] == 1
    ends = {k: v for k, v in found.items() if k.startswith("backfold_deletions_total")}
    assert {k: v for k, v in ends.items() if v} == {
        'backfold_deletions_total{outcome="completed",strategy="stream"}': 1,
        'backfold_deletions_total{outcome="completed",strategy="commit"}': 1,
        'backfold_deletions_total{outcome="rolled_back",strategy="commit"}': 1,
        'backfold_deletions_total{outcome="refused",strategy="none"}': 1,
    }
    # What never happened is zero, so that the first time is an increase.
    assert len(ends) == 12
    assert found['backfold_creations_total{outcome="undone"}'] == 0
    assert found['backfold_copied_bytes_total{strategy="commit"}'] == 1 << 30
    vote = 'machine="deletion",state="vote"'
    took = found[f"backfold_state_duration_seconds_sum{{{vote}}}"]
    assert took == pytest.approx(5, abs=0.001)
    bucket = "backfold_state_duration_seconds_bucket"
    for bound, count in (("1.0", 0), ("5.0", 2), ("+Inf", 2)):
        assert found[f'{bucket}{{le="{bound}",{vote}}}'] == count
    assert found["backfold_guest_downtime_seconds_count"] == 2
    assert found['backfold_guest_downtime_seconds_bucket{le="0.025"}'] == 1
    assert found["backfold_journal_commit_seconds_count"] == 120
    assert found["backfold_run_longest_commit_seconds_count"] == 3
    assert found["backfold_domains"] == 1
    assert found["backfold_chain_depth_images_max"] == 1


def test_a_run_that_nobody_works_on_is_interrupted(
    recorded: Path, inside: Inside
) -> None:
    found = seen(inside, recorded)
    labels, at = only(found, "backfold_open_run_last_row_timestamp_seconds")

    assert opened(found) == {("deletion", "interrupted"): 1}
    assert labels == {
        "machine": "deletion",
        "run": "000000000005",
        "domain": "web",
        "snapshot": "s1",
        "state": "commit_per_disk",
        "work": "interrupted",
    }
    assert found["backfold_oldest_open_run_start_timestamp_seconds"] == at - 4


def test_a_run_that_somebody_works_on_is_not(recorded: Path, inside: Inside) -> None:
    """Whoever works on it has locked its images, in the folder of all engines."""
    image = os.stat(recorded.parent.parent / "vdb.qcow2")
    with Locks() as locks:
        locks.acquire([FileId(image.st_dev, image.st_ino)])
        found = seen(inside, recorded)

    assert opened(found) == {("deletion", "going_on"): 1}


def test_a_run_that_ends_between_two_looks_was_not_interrupted(
    copied: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row was read when it was open, and its locks when it was over."""

    def end(db: Database) -> None:
        db.execute("update deletions set finished = started")

    found = while_looking(copied, inside, monkeypatch, end)

    assert opened(found) == {}
    assert not [name for name in found if "open_run_last_row" in name]


def test_a_run_that_goes_on_between_two_looks_is_not_interrupted(
    copied: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_on(db: Database) -> None:
        runs.claim(db, "deletion", "000000000005", Author("me", BEGAN.isoformat()))

    found = while_looking(copied, inside, monkeypatch, go_on)

    assert opened(found) == {("deletion", "going_on"): 1}


def while_looking(
    cli: Cli,
    inside: Inside,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Database], object],
) -> Figures:
    """What is seen when the journal changes before the locks are looked at."""

    def held() -> frozenset[str]:
        with closing(sqlite3.connect(cli.journal)) as connection:
            change(Database(connection, execute_plugins=False))
            connection.commit()
        return frozenset()

    monkeypatch.setattr(metrics, "held_locks", held)
    return seen(inside, cli.journal)


def opened(found: Figures) -> dict[tuple[str, str], float]:
    """Open runs by machine and work, without those that there are none of."""
    series = {k: v for k, v in found.items() if k.startswith("backfold_open_runs{")}
    assert len(series) == 9
    labels = re.compile(r'machine="(\w+)",work="(\w+)"')
    return {labels.findall(k)[0]: v for k, v in series.items() if v}


def test_a_real_run_tells_what_the_journal_took(web: Cli, inside: Inside) -> None:
    inside("snapshot", "create", "web", "s1")
    found = seen(inside, web.journal)

    assert found['backfold_creations_total{outcome="recorded"}'] == 1
    assert found['backfold_snapshots{status="valid"}'] == 1
    assert found["backfold_chain_depth_images_max"] == 2
    assert found["backfold_run_longest_commit_seconds_count"] == 1
    assert found["backfold_journal_commit_seconds_count"] >= 5
    longest = found["backfold_run_longest_commit_seconds_sum"]
    assert found["backfold_journal_commit_seconds_sum"] > longest > 0


def test_names_that_are_hostile_are_values_and_nothing_else(
    copied: Cli, inside: Inside, tmp_path: Path
) -> None:
    """To whoever parses the text, and to a terminal."""
    name = 'we"b\\\n\x1b[31m{run="1"} 5'
    with closing(sqlite3.connect(copied.journal)) as db:
        db.execute("update deletions set domain = ? where finished is null", (name,))
        db.commit()
    file = tmp_path / "backfold.prom"
    seen(inside, copied.journal, "--textfile", str(file))
    found = {
        sample.labels.get("domain")
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }

    assert found == {None, name}
    said = inside("--journal", str(copied.journal), "metrics").out
    assert "\x1b" not in said and "\\x1b[31m" in said


def test_a_time_that_is_none_makes_the_journal_unusable(
    copied: Cli, inside: Inside
) -> None:
    with closing(sqlite3.connect(copied.journal)) as db:
        db.execute("update deletions set started = 'x' where finished is null")
        db.commit()
    said = inside("--journal", str(copied.journal), "metrics", status=1)

    assert figures(said.out)["backfold_journal_usable"] == 0
    assert "is damaged: Invalid isoformat string" in said.err


def test_domains_have_series_when_they_are_asked_for(
    recorded: Path, inside: Inside
) -> None:
    found = seen(inside, recorded, "--domains")

    assert found['backfold_domain_snapshots{domain="web"}'] == 0
    assert found['backfold_domain_chain_depth_images{domain="web"}'] == 1
    assert not [k for k in seen(inside, recorded) if "backfold_domain_" in k]


def test_nothing_is_written_and_nothing_is_made(
    copied: Cli, inside: Inside, tmp_path: Path
) -> None:
    before = content(copied.journal.parent)
    assert seen(inside, copied.journal)["backfold_journal_usable"] == 1
    assert content(copied.journal.parent) == before
    missing = tmp_path / "nowhere" / "journal.db"
    said = inside("--journal", str(missing), "metrics", status=1)

    assert figures(said.out)["backfold_journal_usable"] == 0
    assert f"There is no journal {missing}" in said.err
    assert not missing.parent.exists()


# The file


def test_the_file_is_replaced_whole_and_can_be_read_by_others(
    recorded: Path, inside: Inside, tmp_path: Path
) -> None:
    file = tmp_path / "backfold.prom"
    file.write_text("old")
    reader = file.open()
    old = os.umask(0o077)
    try:
        said = inside(*("--journal", str(recorded), "metrics", "--textfile", str(file)))
    finally:
        os.umask(old)

    assert (said.out, said.err) == ("", "")
    with reader:
        assert reader.read() == "old"
    assert figures(file.read_text())["backfold_journal_usable"] == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [f.name for f in tmp_path.glob("*.prom*")] == [file.name]
    assert not list(tmp_path.glob(".*"))


def test_a_journal_that_cannot_be_used_is_in_the_file_too(
    copied: Cli, inside: Inside, tmp_path: Path
) -> None:
    """An alarm, not a file that gets old; and nothing that cannot be known."""
    file = tmp_path / "backfold.prom"
    seen(inside, copied.journal, "--textfile", str(file))
    copied.journal.write_bytes(b"no database" * 1000)
    where = ("--journal", str(copied.journal))
    said = inside(*where, "metrics", "--textfile", str(file), status=1)
    found = figures(file.read_text())

    assert found.pop("backfold_journal_usable") == 0
    assert found.keys() == {
        "backfold_journal_size_bytes",
        "backfold_metrics_collection_seconds",
    }
    assert "is damaged" in said.err and "next: " in said.err
    told = inside.json("metrics", *where, "metrics", status=1)
    assert told["error"]["code"] == "journal_damaged"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--textfile", "backfold.txt"], "does not end in .prom"),
        (["--textfile", "nowhere/backfold.prom"], "its folder is missing"),
        (["--textfile", "folder.prom"], "or it is one"),
        (["--textfile", "a.prom", "--listen", "1"], "exclude each other"),
        (["--listen", "here"], "is not [HOST:]PORT"),
        (["--listen", "127.0.0.1:70000"], "is not [HOST:]PORT"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    cli: Cli,
    inside: Inside,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    what: str,
) -> None:
    monkeypatch.chdir(cli.folder)
    (cli.folder / "folder.prom").mkdir()

    assert what in inside("metrics", *options, status=2).err
    assert [f.name for f in cli.folder.iterdir()] == ["folder.prom"]


def test_a_file_that_cannot_be_written_stays_as_it_was(
    recorded: Path, inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backfold.prom"
    file.write_text("old")

    def full(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    where = ("--journal", str(recorded))
    said = inside(*where, "metrics", "--textfile", str(file), status=1)

    assert "No space left" in said.err and "is there still" in said.err
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_without_the_package_it_says_what_to_install(
    recorded: Path, inside: Inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    file = tmp_path / "backfold.prom"
    said = inside("metrics", "--textfile", str(file), status=2)

    assert "prometheus-client is not installed" in said.err
    assert "pip install 'backfold[metrics]'" in said.err
    assert not file.exists()


def test_programs_get_the_same_as_json(
    recorded: Path, inside: Inside, tmp_path: Path
) -> None:
    file = tmp_path / "backfold.prom"
    where = ("--journal", str(recorded))
    told = inside.json("metrics", *where, "metrics", "--textfile", str(file))
    text = figures(file.read_text())

    samples = [each for family in told["families"] for each in family["samples"]]
    assert len(samples) == len(text)
    assert sum(each["value"] for each in samples) == pytest.approx(sum(text.values()))
    assert (told["textfile"], told["url"], told["error"]) == (str(file), None, None)


# The endpoint


@pytest.fixture
def served(copied: Cli) -> Iterator[tuple[Cli, str]]:
    """A journal, and where its metrics are served until a signal comes."""
    process = copied.start("--json", "metrics", "--listen", "0")
    try:
        assert process.stdout is not None
        (told,) = parsed("metrics", process.stdout.readline())
        yield copied, told["url"]
        out, err = stop(process, signal.SIGTERM)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.wait()


def fetched(url: str) -> Figures:
    # No proxy of the environment may stand between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        return figures(answer.read().decode())


def test_an_endpoint_reads_the_journal_at_each_request(
    served: tuple[Cli, str], inside: Inside
) -> None:
    """Only what is new, and with the same result as a command that reads it all."""
    cli, url = served
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url)
    assert opened(fetched(url)) == {("deletion", "interrupted"): 1}
    with closing(sqlite3.connect(cli.journal)) as connection:
        db = Database(connection, execute_plugins=False)
        history = History(db, BEGAN + timedelta(hours=1), count=9)
        runs.move(
            db,
            RunKey("deletion", "000000000005", 1),
            *ROLLED_BACK[2],
            history.author,
            {},
            final=False,
        )
        history.deletion(domain="db", folds={"vda": ("stream", 5)}, downtime_ms=30)
        connection.commit()
    after, whole = fetched(url), seen(inside, cli.journal)

    assert after['backfold_deletions_total{outcome="completed",strategy="stream"}'] == 2
    differing = {"backfold_metrics_collection_seconds", "backfold_journal_size_bytes"}
    for name in whole.keys() - differing:
        assert after[name] == pytest.approx(whole[name]), name
    assert after.keys() == whole.keys()
    cli.journal.unlink()
    assert fetched(url)["backfold_journal_usable"] == 0


def test_an_address_that_cannot_be_had_is_an_error(cli: Cli, inside: Inside) -> None:
    """One of a network that no machine has (RFC 5737)."""
    said = inside("metrics", "--listen", "192.0.2.1:0", status=1)

    assert "Nobody can listen on 192.0.2.1" in said.err


# Embedded


def test_a_collector_in_a_registry_of_ones_own_tells_of_its_engine(
    tmp_path: Path,
) -> None:
    """Registering reads nothing; asking reads the journal beside the open engine."""
    image = tmp_path / "vda.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    registry = CollectorRegistry()

    def value(name: str) -> float | None:
        return registry.get_sample_value(name)

    async def main() -> None:
        engine = Engine(tmp_path / "state" / "journal.db", managed=dict)
        registry.register(JournalCollector(engine))
        assert not engine.journal.exists()
        assert value("backfold_journal_usable") == 0
        async with engine:
            commits = [value("backfold_engine_journal_commit_seconds_count")]
            await engine.add_domain("web", [Disk("vda", str(image), "qcow2")])
            commits.append(value("backfold_engine_journal_commit_seconds_count"))
            assert commits == [0, 1]
            assert value("backfold_domains") == 1
            total = value("backfold_engine_journal_commit_seconds_sum")
            assert value("backfold_engine_journal_commit_seconds_max") == total
            assert total is not None and total > 0

    asyncio.run(main())


def test_a_collector_that_lives_on_finds_damage_and_its_end(
    copied: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the whole file, at the first look and then now and again."""
    registry = CollectorRegistry()
    collector = JournalCollector(copied.journal)
    registry.register(collector)

    def usable() -> float | None:
        return registry.get_sample_value("backfold_journal_usable")

    assert usable() == 1
    # A page that only history's index is on: nothing else looks at it.
    with closing(sqlite3.connect(copied.journal)) as db:
        (page,) = db.execute(
            "select rootpage from sqlite_master where name = 'failed_flushes'"
        ).fetchone()
        (size,) = db.execute("pragma page_size").fetchone()
    whole = copied.journal.read_bytes()
    harmed = bytearray(whole)
    harmed[(page - 1) * size : page * size] = b"\xff" * size
    copied.journal.write_bytes(harmed)
    assert usable() == 1
    monkeypatch.setattr(metrics, "CHECK_EVERY", 0.0)
    assert usable() == 0
    assert collector.failure is not None and "damaged" in collector.failure.what
    copied.journal.write_bytes(whole)
    assert usable() == 1
    assert collector.failure is None


def test_every_name_keeps_to_the_conventions(recorded: Path, inside: Inside) -> None:
    told = json.loads(
        inside("--json", "--journal", str(recorded), "metrics", "--domains").out
    )
    for family in told["families"]:
        assert re.fullmatch(r"backfold(_[a-z]+)+", family["name"]), family["name"]
        assert not family["name"].endswith(("_ms", "_milliseconds", "_total"))
        assert family["help"].endswith(".")
