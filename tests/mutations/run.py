"""Break one safeguard at a time, and see which tests notice.

    make mutations
    make mutations ARGS='--only fence'

Each mutation of the catalogue is applied to a copy of the tree; nothing is changed
here. The tests that it names are run there: all of them must fail. Before that they are
run once without any mutation: all of them must pass, or their failing would prove
nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutations.catalogue import CATALOGUE, Mutation

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "mutations.md"
#: How long the tests of one mutation may take, in seconds.
PATIENCE = 900
_PASSED, _FAILED = 0, 1


class Broken(Exception):
    """The catalogue does not fit the code, or the tests could not be run."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a mutation: its named tests that failed, and the others."""

    mutation: Mutation
    red: tuple[str, ...]
    green: tuple[str, ...]

    @property
    def noticed(self) -> bool:
        """Whether every named test has failed."""
        return not self.green


def copy_tree(target: Path) -> None:
    """Everything that git knows or would add, links as links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and (source.is_symlink() or source.is_file()):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def mutate(tree: Path, mutation: Mutation) -> str:
    """Apply a mutation; returns what the file held. Raises `Broken`."""
    path = tree / mutation.file
    before = text = path.read_text()
    for old, new in mutation.edits:
        if before.count(old) != 1:
            raise Broken(f"{mutation.name}: not in {mutation.file} once: {old!r}")
        text = text.replace(old, new)
    path.write_text(text)
    return before


def failures(tree: Path, tests: Sequence[str]) -> tuple[str, ...]:
    """Run tests in a copy of the tree; returns those that did not pass.

    Raises `Broken` when they could not be run at all: a mutation that does not even
    import would be noticed by everything, and prove nothing.
    """
    red = []
    for test in tests:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, "--durations=0", "--durations-min=1000", test],
                cwd=tree,
                env={**os.environ, "PYTHONPATH": str(tree / "src")},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            red.append(test)
            continue
        if done.returncode not in (_PASSED, _FAILED) or " error" in done.stdout[-200:]:
            raise Broken(f"{test} could not be run:\n{done.stdout}{done.stderr}")
        if done.returncode == _FAILED:
            red.append(test)
    return tuple(red)


def examine(mutations: Iterable[Mutation]) -> Iterator[Found]:
    """Every mutation in a copy of the tree. Raises `Broken`."""
    chosen = tuple(mutations)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        every = list(dict.fromkeys(test for m in chosen for test in m.tests))
        if red := failures(tree, every):
            raise Broken(f"without any mutation these fail: {', '.join(red)}")
        for mutation in chosen:
            before = mutate(tree, mutation)
            red = failures(tree, mutation.tests)
            (tree / mutation.file).write_text(before)
            green = tuple(test for test in mutation.tests if test not in red)
            yield Found(mutation, red, green)


def table(found: Sequence[Found]) -> list[str]:
    """The results as a table of Markdown."""
    lines = ["| without | where | tests that fail |", "|---|---|---|"]
    for each in found:
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in each.red)
        if each.green:
            tests += " **not noticed by** " + ", ".join(each.green)
        what = f"**{each.mutation.name}**: {each.mutation.what}"
        lines.append(f"| {what} | `{each.mutation.file}` | {tests} |")
    return lines


def document(found: Sequence[Found]) -> str:
    """The page of the documentation."""
    noticed = sum(each.noticed for each in found)
    return "\n".join(
        [
            "# What fails without each safeguard",
            "",
            "Each line is one change of the code that takes a safeguard away, applied"
            " to a copy of the tree, and the tests that",
            "fail then. Without a change all of them pass. Written by"
            " `make mutations ARGS=--document`; the changes are in",
            "[tests/mutations/catalogue.py](../tests/mutations/catalogue.py).",
            "",
            f"{noticed} of {len(found)} changes are noticed by every test that is"
            " named for them.",
            "",
            *table(found),
            "",
        ]
    )


def main() -> int:
    """Print a line per mutation; the status is 1 when one is not noticed."""
    parser = argparse.ArgumentParser(description="Take one safeguard away at a time.")
    parser.add_argument("--only", action="append", metavar="NAME")
    parser.add_argument("--document", action="store_true", help=f"write {DOCUMENT}")
    arguments = parser.parse_args()
    chosen = [m for m in CATALOGUE if not arguments.only or m.name in arguments.only]
    found = []
    try:
        for each in examine(chosen):
            found.append(each)
            word = "noticed" if each.noticed else "NOT NOTICED"
            print(f"{word:12} {each.mutation.name}: {each.mutation.what}", flush=True)
            for test in each.red:
                print(f"             fails   {test}", flush=True)
            for test in each.green:
                print(f"             passes  {test}", flush=True)
    except Broken as error:
        print(f"mutations: {error}", file=sys.stderr)
        return 2
    if arguments.document:
        DOCUMENT.write_text(document(found))
    noticed = sum(each.noticed for each in found)
    print(f"{noticed} of {len(found)} mutations were noticed by all of their tests")
    return 0 if noticed == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
