"""How the demo shows things: headings, trees, chains and the time line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from ...journal.model import Snapshot
from ...journal.runs import TransitionRow
from ..results import DomainDisk
from .proof import Finding


class Teller:
    """Prints the acts of the story; escapes everything that it is given."""

    def __init__(self, console: Console) -> None:
        """Print to this console."""
        self.console = console
        self._act = 0

    def act(self, heading: str, sentence: str) -> None:
        """Begin an act."""
        self._act += 1
        self.console.print(f"\n[bold]{self._act}. {escape(heading)}[/]")
        self.say(sentence)

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self.console.print(escape(sentence), highlight=False)

    def line(self, text: str) -> None:
        """Print one line that stays one: names in it are never broken."""
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def domain(
        self, name: str, snapshots: Sequence[Snapshot], disks: Sequence[DomainDisk]
    ) -> None:
        """Print the tree of snapshots, and the chain of each disk from its base on."""
        self.console.print(_tree(name, snapshots))
        for disk in disks:
            names = [Path(path).name for path in reversed(disk.chain)]
            self.line(f"{disk.target}: {' <- '.join(names)}")

    def time_line(
        self, rows: Sequence[TransitionRow], names: Mapping[str, str], killed: str
    ) -> None:
        """Print a run's history, with the kill where its first process ends.

        ``names`` says who a process id was; others were a guard.
        """
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("s", justify="right")
        table.add_column("who")
        table.add_column("state")
        table.add_column("what", overflow="fold")
        begin = datetime.fromisoformat(rows[0].at)
        first = who = None
        for line in _lines(rows, names):
            if who is not None and who == first != line.who:
                table.add_row("", "", "", escape(killed), style="red")
            seconds = (line.at - begin).total_seconds()
            changed = line.who if line.who != who else ""
            first, who = first or line.who, line.who
            style = "bold" if line.is_edge else ""
            table.add_row(
                f"{seconds:.2f}", changed, line.state, escape(line.text), style=style
            )
        if who == first:
            table.add_row("", "", "", escape(killed), style="red")
        self.console.print(table, highlight=False)

    def findings(self, findings: Iterable[Finding]) -> None:
        """Print what a proof found."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column()
        table.add_column(overflow="fold")
        table.add_column(overflow="fold")
        for found in findings:
            mark = "[green]ok[/]" if found.ok else "[bold red]BAD[/]"
            table.add_row(mark, escape(found.what), escape(found.detail))
        self.console.print(table, highlight=False)

    def verdict(self, line: str, *, passed: bool) -> None:
        """Print the one line that everything comes down to."""
        style = "bold green" if passed else "bold red"
        self.console.print(
            f"\n{escape(line)}", style=style, highlight=False, soft_wrap=True
        )


@dataclass
class _Line:
    at: datetime
    who: str
    state: str
    text: str
    is_edge: bool = False
    step: str | None = None


def _tree(name: str, snapshots: Sequence[Snapshot]) -> Tree:
    tree = Tree(escape(name))
    branches: dict[str | None, Tree] = {None: tree}

    def grow(parent: str | None) -> None:
        for snapshot in snapshots:
            if snapshot.parent == parent:
                status = "" if snapshot.status == "valid" else f" ({snapshot.status})"
                here = " <- current" if snapshot.current else ""
                label = escape(f"{snapshot.name}{status}{here}")
                branches[snapshot.name] = branches[parent].add(label)
                grow(snapshot.name)

    grow(None)
    return tree


def _lines(rows: Iterable[TransitionRow], names: Mapping[str, str]) -> Iterator[_Line]:
    """One line for each edge, remark and step; a step's two rows become one."""
    line: _Line | None = None
    for row in rows:
        if row.machine == "fold":
            continue
        who = names.get(row.who.rpartition(":")[2], "guard")
        if row.kind == "note" and line is not None and _same(line, row, who):
            line.text = line.text.removesuffix(" ...")
            continue
        disk = row.detail.get("disk")
        if row.kind == "announce" and disk and line and _same(line, row, who):
            line.text += f", {disk} ..."
            continue
        if line is not None:
            yield line
        at = datetime.fromisoformat(row.at)
        line = _Line(at, who, row.source, _text(row), row.kind == "edge")
        line.step = row.trigger if row.kind in ("announce", "note") else None
    if line is not None:
        yield line


def _same(line: _Line, row: TransitionRow, who: str) -> bool:
    return (line.who, line.state, line.step) == (who, row.source, row.trigger)


def _text(row: TransitionRow) -> str:
    because = row.detail.get("because")
    if row.kind == "edge":
        return f"{row.trigger} -> {row.dest}" + (f": {because}" if because else "")
    if row.kind == "remark":
        return (
            f"{row.trigger}: {row.detail['what']}"
            if "what" in row.detail
            else ("begins" if row.detail.get("began") else "takes the run over")
        )
    disk = row.detail.get("disk")
    return (f"{row.trigger} {disk}" if disk else row.trigger) + (
        " ..." if row.kind == "announce" else ""
    )
