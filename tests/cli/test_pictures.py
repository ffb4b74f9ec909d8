"""Trees in the terminal: what is where, at 80 columns, without colour, in ASCII."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backfold.engine.cli import pictures
from backfold.engine.cli.output import Output, Stream, shown_on
from backfold.engine.results import DomainDisk
from backfold.journal.model import Snapshot, SnapshotDisk, TreeImage
from written import plan

NAMES = {"a": ["b", "c"], "c": ["d"], "d": ["e", "f"]}


def drawn(below: dict[str, list[str]], root: str) -> list[str]:
    found = pictures.branches([root], lambda name: below.get(name, []))
    return [before + name for before, _, name in found]


def snapshot(
    name: str, parent: str | None = None, *targets: str, **fields: object
) -> Snapshot:
    frozen = [SnapshotDisk(t, f"/images/{t}.{name}", "qcow2") for t in targets]
    taken = "2026-01-31T03:00:00+00:00"
    made = Snapshot("web", name, parent, taken, "valid", None, False, (*frozen,))
    return replace(made, **fields)  # type: ignore[arg-type]


def shape(lines: Sequence[str]) -> list[str]:
    """The first column of what was drawn."""
    return [line.split("  2026")[0].rstrip() for line in lines[1:]]


# Shapes


def test_every_branch_is_told_from_the_others() -> None:
    assert drawn(NAMES, "a") == [
        "a",
        "├─ b",
        "└─ c",
        "   └─ d",
        "      ├─ e",
        "      └─ f",
    ]


def test_a_long_chain_is_a_column_and_only_branches_are_indented() -> None:
    chain = {str(number): [str(number + 1)] for number in range(500)}
    chain["3"] = ["side", "4"]
    chain["side"] = ["side2"]
    lines = drawn(chain, "0")

    assert len(lines) == 503
    assert lines[:7] == ["0", "1", "2", "3", "├─ side", "│  side2", "4"]
    assert lines[-1] == "500"


def test_many_branches_of_one_node() -> None:
    lines = drawn({"a": [f"b{number}" for number in range(40)]}, "a")

    assert [line[:3] for line in lines[1:]] == ["├─ "] * 39 + ["└─ "]


# Snapshots


def test_the_current_line_is_the_last_branch() -> None:
    found = [
        snapshot("s1", None, "vda"),
        snapshot("s2", "s1", "vda"),
        snapshot("now", "s2", "vda", current=True),
        snapshot("other", "s1", "vda", status="invalid"),
    ]
    lines = pictures.snapshots(found)

    assert shape(lines) == ["s1", "├─ other", "└─ s2", "   └─ now"]
    assert "valid, current  vda   missing  vda.now" in lines[4]
    assert "invalid" in lines[2]


def test_several_images_of_a_snapshot_hang_on_its_line() -> None:
    found = [snapshot("s1", None, "vda", "vdb"), snapshot("s2", "s1", memory="/m/s2")]
    lines = pictures.snapshots(found)

    assert [line[:2].strip() for line in lines[1:]] == ["s1", "│", "└─"]
    assert lines[2].split() == ["│", "vdb", "missing", "vdb.s1"]
    assert lines[3].split()[-3:] == ["memory", "missing", "s2"]


def test_a_snapshot_whose_parent_is_not_known_is_a_root() -> None:
    assert shape(pictures.snapshots([snapshot("s2", "gone", "vda")])) == ["s2"]


def test_eighty_columns_are_kept_by_cutting_names_of_images_only() -> None:
    deep = "/a/very/long/folder/of/images/on/some/mounted/storage/with/a/name/"
    image = SnapshotDisk("vda", f"{deep}vda.qcow2", "qcow2")
    same = SnapshotDisk("vda", f"/other{deep}vda.qcow2", "qcow2")
    found = [
        snapshot("before-upgrade", disks=(image,)),
        snapshot("s2", "before-upgrade", disks=(same,)),
    ]
    lines = pictures.snapshots(found, 80)
    whole = pictures.snapshots(found)

    assert max(map(len, lines)) <= 80
    assert "before-upgrade" in lines[1]
    assert "…" in lines[1]
    assert lines[1].endswith("vda.qcow2")
    assert image.frozen in whole[1]


# Images


def test_what_a_file_takes_is_told(tmp_path: Path) -> None:
    sparse = tmp_path / "base.raw"
    sparse.touch()
    with sparse.open("r+b") as file:
        file.truncate(1 << 30)
        file.write(b"x" * 4096)
    top = str(tmp_path / "top.qcow2")
    disk = DomainDisk("vda", top, "qcow2", (top, str(sparse), "/far/away"), None)
    lines = pictures.chain(disk, {str(sparse): ["s1", "s2"]})

    assert [line.split() for line in lines] == [
        ["/far/away", "missing", "-"],
        ["└─", "base.raw", "4.0", "KiB", "s1,", "s2"],
        ["└─", "top.qcow2", "missing", "active"],
    ]


def test_a_plan_shows_each_disk_before_and_after() -> None:
    assert pictures.images_before_and_after(plan(), "vda") == [
        "before   vda.qcow2  s1",
        "         └─ vda.s1  active",
        "after    vda.qcow2  active",
    ]


def test_images_that_refer_to_each_other_are_no_trap() -> None:
    loop = [
        TreeImage("vda", path, below, (), False)
        for path, below in (
            ("a", "b"),
            ("b", "a"),
            ("c", None),
            ("c", None),
            ("d", "c"),
        )
    ]
    made = replace(plan(), images=tuple(loop), folds=())

    assert pictures.images_before_and_after(made, "vda")[:2] == [
        "before   c     -",
        "         └─ d  -",
    ]


def test_hostile_names_keep_their_line() -> None:
    name = "s\x1b[2J\n\u202e"
    disk = SnapshotDisk("vda", f"/images/{name}", "qcow2")
    lines = pictures.snapshots([snapshot("s1", disks=(disk,))])

    assert lines[1].endswith(r"s\x1b[2J\n\u202e")


# ASCII


class Terminal(io.StringIO):
    """A stream of a given encoding."""

    def __init__(self, encoding: str | None) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding or ""


DRAWING = "├─ a → b · …"
ASCII = "|- a -> b - ..."


@pytest.mark.parametrize(
    ("encoding", "locale", "shown"),
    [
        ("utf-8", {"LANG": "de_DE.UTF-8"}, DRAWING),
        ("utf-8", {}, DRAWING),
        ("utf-8", {"LANG": "C"}, ASCII),
        ("utf-8", {"LC_ALL": "POSIX", "LANG": "de_DE.UTF-8"}, ASCII),
        ("utf-8", {"LC_ALL": "C.UTF-8", "LANG": "C"}, DRAWING),
        ("ascii", {"LANG": "de_DE.UTF-8"}, ASCII),
        ("iso8859-1", {}, ASCII),
        ("no-such-encoding", {}, ASCII),
    ],
)
def test_lines_are_drawn_where_they_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, encoding: str, locale: dict[str, str], shown: str
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in locale.items():
        monkeypatch.setenv(name, value)

    assert shown_on(Stream(Terminal(encoding)), DRAWING) == shown


def test_everything_for_people_is_shown_that_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    out, err = Terminal("utf-8"), Terminal("utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    output = Output(as_json=False)
    output.line(DRAWING)
    output.note(DRAWING)

    assert (out.getvalue(), err.getvalue()) == (f"{ASCII}\n",) * 2


@pytest.mark.parametrize(("locale", "shown"), [("C", ASCII), ("C.UTF-8", DRAWING)])
def test_a_process_is_told_its_locale_by_the_environment(
    locale: str, shown: str
) -> None:
    """Python changes the environment of a process that starts in the locale C."""
    program = "from backfold.engine.cli.output import Output\n"
    program += f"Output(as_json=False).line({DRAWING!r})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"LANG": locale},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )

    assert done.stdout == f"{shown}\n"
