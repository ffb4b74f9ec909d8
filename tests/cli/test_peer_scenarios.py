"""What the peer's own tests ask of its command line; see `docs/scenarios.md`."""

from __future__ import annotations

from cli.command import Cli
from cli.conftest import Inside
from crash.test_reversion import io


def test_a15_deletion_by_command_line(web: Cli, inside: Inside) -> None:
    """Exit status 0, and nothing of the snapshot is listed or left over."""
    originals = [web.folder / f"{target}.qcow2" for target in ("vda", "vdb")]
    memory = web.folder / "s1.mem"
    memory.write_bytes(b"QEVM")
    for number, name in enumerate(("s1", "s2"), 1):
        (disk, _) = inside.json("domain", "domain", "show", "web")["disks"]
        io(disk["source"], f"write -P {number} {number}M 64k")
        with_memory = ["--memory", str(memory)] if name == "s1" else []
        inside("snapshot", "create", "web", name, *with_memory)
    inside("delete", "web", "s1", "--children-only", "--yes")
    listed = inside.json("snapshot-list", "snapshot", "list", "web")["snapshots"]
    assert [one["name"] for one in listed] == ["s1"]
    assert memory.exists()

    inside("delete", "web", "s1", "--yes")

    assert inside.json("snapshot-list", "snapshot", "list", "web")["snapshots"] == []
    assert not memory.exists()
    assert sorted(web.folder.glob("vd*")) == originals
    io(originals[0], *(f"read -P {n} {n}M 64k" for n in (1, 2)))
    gone = inside.json("error", "snapshot", "show", "web", "s1", status=3)
    assert gone["error"]["reasons"][0]["code"] == "unknown_snapshot"
