"""Every night: finish what was interrupted, then delete what is older than N days.

    15 3 * * *  root  python /opt/backfold/cron.py --days 14

It prints a summary that cron mails, and ends with the worst exit status: 0 all done,
3 refused, 4 somebody else has a domain, 5 rolled back, 6 something is left open.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from backfold import BackfoldError, Deletion, Engine


@dataclass
class Summary:
    """What was done, in lines, and the worst exit status of it."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    status: int = 0

    def add(self, subject: str, outcome: object) -> None:
        """Note how something ended: with a result, or with an error."""
        if isinstance(outcome, BackfoldError):
            line = f"{subject}: {outcome.what} {outcome.data} {outcome.remedy}"
            self.failed.append(line.rstrip())
            self.status = max(self.status, outcome.exit_status)
        elif isinstance(outcome, Deletion):
            copied = sum(disk.bytes for disk in outcome.disks) / (1 << 20)
            stood = outcome.downtime_ms or 0
            self.done.append(
                f"{subject}: deleted in {outcome.seconds:.1f} s,"
                f" {copied:.1f} MiB copied, guest stood {stood:.0f} ms"
            )
        else:
            self.done.append(f"{subject}: finished")

    def text(self) -> str:
        """The mail: what needs somebody comes first."""
        counts = f"{len(self.done)} done, {len(self.failed)} failed"
        return "\n".join(
            [f"Snapshots on {socket.gethostname()}: {counts}", *self.failed, *self.done]
        )


async def clean(
    engine: Engine, oldest: datetime, *, tries: int = 5, pause: float = 60.0
) -> Summary:
    """Delete snapshots that were taken before ``oldest``, one after the other.

    A domain that somebody else works on is tried again after ``pause`` seconds.
    """
    summary = Summary()
    for outcome in await engine.recover():
        subject = "recovered"
        if not isinstance(outcome, BackfoldError):
            subject += f" {outcome.domain}/{outcome.snapshot}"
        summary.add(subject, outcome)
    for domain in await engine.catalog.domains():
        snapshots = await engine.catalog.snapshots(domain.name)
        for snapshot in sorted(snapshots, key=lambda each: each.created):
            if datetime.fromisoformat(snapshot.created) < oldest:
                outcome = await delete(engine, domain.name, snapshot.name, tries, pause)
                summary.add(f"{domain.name}/{snapshot.name}", outcome)
    return summary


async def delete(
    engine: Engine, domain: str, snapshot: str, tries: int, pause: float
) -> Deletion | BackfoldError:
    """Delete one snapshot; how it ended, or why it did not."""
    while True:
        tries -= 1
        try:
            return await engine.delete(domain, snapshot, timeout=3600)
        except BackfoldError as error:
            # 4: another process has the domain, or an image, for now.
            if error.exit_status != 4 or tries <= 0:
                return error
        await asyncio.sleep(pause)


async def run(options: argparse.Namespace) -> int:
    """Clean, and print the summary."""
    oldest = datetime.now(UTC) - timedelta(days=options.days)
    async with Engine(options.journal) as engine:
        summary = await clean(engine, oldest)
    print(summary.text())
    return summary.status


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Delete old snapshots.")
    parser.add_argument("--days", type=float, default=14)
    parser.add_argument("--journal", help="where it is if not in the usual place")
    try:
        return asyncio.run(run(parser.parse_args(arguments)))
    except BackfoldError as error:  # The journal cannot be used.
        print(error.what, error.data, error.remedy, sep="\n")
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
