"""The guest of the real tests, and whether its books notice what they must."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from backfold.engine.demo import guest
from backfold.engine.demo.command import Bus, Style
from backfold.engine.demo.guest import Ledger, boot_image, export_raw, qemu_img
from backfold.engine.demo.guest.boot import (
    BLOCK_SIZE,
    DATA_OFFSET,
    SECTOR_SIZE,
    SLOTS,
    block_of,
    slot_of,
)
from backfold.engine.demo.machine import Machine, MachineError
from sampled import sampled

SIZE = 16 * 1024 * 1024
GUEST = Path(guest.__file__).parent


def new_disks(folder: Path, number: int) -> list[tuple[str, Path, str]]:
    """Create empty disks vda, vdb, ..."""
    disks = []
    for letter in "abcdefgh"[:number]:
        path = folder / f"vd{letter}.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", path, str(SIZE))
        disks.append((f"vd{letter}", path, "qcow2"))
    return disks


def raw_of(image: Path) -> Path:
    """Export an image that QEMU does not write to any more."""
    raw = image.with_suffix(".raw")
    export_raw(image, "qcow2", raw)
    return raw


def assert_all_there(machine: Machine) -> None:
    for number, (_, image, _) in enumerate(machine.disks):
        verdict = machine.ledger.verify(raw_of(image), number)

        assert verdict.lost == ()
        assert verdict.ok
        assert verdict.checked == SLOTS


# The boot sector


def test_binary_is_the_assembled_source(tmp_path: Path) -> None:
    fresh = tmp_path / "writer.bin"
    subprocess.run(
        ["nasm", "-f", "bin", "-Wall", "-Werror", "-o", fresh, GUEST / "writer.asm"],
        check=True,
    )

    assert (GUEST / "writer.bin").read_bytes() == fresh.read_bytes()
    assert len(fresh.read_bytes()) == SECTOR_SIZE


def test_boot_image_patches_the_fields(tmp_path: Path) -> None:
    image = tmp_path / "boot.img"
    boot_image(image, first_sequence=7, disks=3, pause=70_000, limit=9)
    sector = image.read_bytes()[:SECTOR_SIZE]

    assert struct.unpack_from("<4I", sector, 4) == (7, 3, 70_000, 9)
    assert sector[20:] == (GUEST / "writer.bin").read_bytes()[20:]
    assert image.stat().st_size == 1_474_560


# The guest on a real QEMU


@pytest.mark.parametrize("number", sampled(1, [3, 1]))
def test_acknowledged_writes_survive_kills(tmp_path: Path, number: int) -> None:
    with Machine(tmp_path, new_disks(tmp_path, number)) as machine:
        first_end = machine.wait_for_writes(200)
        machine.kill()
        assert machine.poll() == -9
        assert machine.acknowledged() >= first_end >= 200
        assert_all_there(machine)

        second_start = machine.ledger.next_sequence()
        assert second_start == machine.acknowledged() + 2
        machine.start()
        machine.wait_for_writes(200)
        machine.kill()
        assert machine.acknowledged() >= second_start + 198
        assert_all_there(machine)


@pytest.mark.parametrize(
    "style", sampled(2, ["blockdev", "relative", "drive", "implicit"])
)
def test_every_style_boots_from_a_chain(tmp_path: Path, style: Style) -> None:
    folder = tmp_path / "a folder, with a comma"
    folder.mkdir()
    disks = []
    for target, base, _ in new_disks(folder, 2):
        overlay = folder / f"{target}, overlay.qcow2"
        link = ["-b", base.name, "-F", "qcow2"]
        qemu_img("create", "-q", "-f", "qcow2", *link, overlay)
        disks.append((target, overlay, "qcow2"))
    with Machine(folder, disks, style=style) as machine:
        machine.wait_for_writes(20)
        nodes = {node["node-name"] for node in machine.qmp("query-named-block-nodes")}
        machine.quit()

        assert machine.poll() == 0
        assert_all_there(machine)
        explicit = {"vda-0", "vda-0-file", "vda-1", "vda-1-file", "vdb-1-file"}
        assert (explicit <= nodes) == (style == "blockdev")


@pytest.mark.parametrize("bus", sampled(1, ["scsi", "ide"]))
def test_other_buses_keep_what_they_acknowledge(tmp_path: Path, bus: Bus) -> None:
    with Machine(tmp_path, new_disks(tmp_path, 2), bus=bus) as machine:
        machine.wait_for_writes(100)
        machine.kill()
        assert_all_there(machine)


def test_snapshot_of_two_disks_is_one_instant(tmp_path: Path) -> None:
    frozen = new_disks(tmp_path, 2)
    overlays = [(t, tmp_path / f"{t}-s1.qcow2", f) for t, _, f in frozen]
    with Machine(tmp_path, frozen) as machine:
        low = machine.wait_for_writes(100)
        take = [
            {
                "type": "blockdev-snapshot-sync",
                "data": {"device": f"drive-{target}", "snapshot-file": str(overlay)},
            }
            for target, overlay, _ in overlays
        ]
        machine.qmp("transaction", actions=take)
        high = machine.acknowledged()
        machine.wait_for_writes(100)
        ledger = machine.ledger
        raws = [raw_of(image) for _, image, _ in frozen]
        verdicts = [
            ledger.verify(raw, number, low=low, high=high)
            for number, raw in enumerate(raws)
        ]
        cuts = [verdict.cut or (1, 0) for verdict in verdicts]
        instant = max(first for first, _ in cuts)

        assert all(verdict.ok for verdict in verdicts)
        assert low <= instant <= min(last for _, last in cuts) <= high + 1
        assert not ledger.verify(raws[0], 0).ok  # It is not the present.

        machine.kill()
        machine.disks = overlays
        assert_all_there(machine)

        # After a revert only what the snapshot holds is expected.
        reverted_past = ledger.next_sequence()
        ledger.revert(instant)
        machine.disks = frozen
        machine.start()
        machine.wait_for_writes(50)
        machine.kill()
        assert machine.acknowledged() >= reverted_past + 49
        assert_all_there(machine)


def test_limit_and_paused_start(tmp_path: Path) -> None:
    disks = new_disks(tmp_path, 1)
    with Machine(tmp_path, disks, paused=True, pause=500, limit=30) as machine:
        assert machine.qmp("query-status")["status"] == "prelaunch"
        assert machine.acknowledged() == 0
        machine.qmp("cont")
        machine.wait_for_writes(30)
        with pytest.raises(TimeoutError, match="0 writes"):
            machine.wait_for_writes(1, timeout=0.3)
        assert machine.poll() is None
        assert machine.pid


def test_machine_says_why_qemu_ended(tmp_path: Path) -> None:
    disks = new_disks(tmp_path, 1)
    machine = Machine(tmp_path, disks, second_monitor=False, extra_args=["-nonsense"])
    with pytest.raises(MachineError, match="-nonsense: invalid option"):
        machine.start()
    machine.extra_args = []
    with machine:
        with pytest.raises(MachineError, match="runs already"):
            machine.start()
        with pytest.raises(MachineError, match="no-such-command"):
            machine.qmp("no-such-command")
        machine.kill()
        with pytest.raises(MachineError, match="ended with status -9"):
            machine.wait_for_writes(1_000_000)


def test_long_folder_has_short_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with Machine(folder, new_disks(folder, 1)) as machine:
        assert machine.monitor.is_socket()
        assert len(str(machine.monitor)) < 108
    assert not machine.monitor.parent.exists()


# The books, on disks that the guest could have written


class Books:
    """A disk as the guest leaves it, ready to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger()
        self.raw = folder / "disk.raw"
        self.raw.write_bytes(bytes(SIZE))
        self.boots = 0

    def boot(self, writes: int) -> range:
        """Let the guest boot, write, and be killed without a write in flight."""
        self.boots += 1
        acknowledgements = self.folder / f"{self.boots}.bin"
        acknowledgements.touch()
        first = self.ledger.begin(acknowledgements, 1)
        numbers = range(first, first + writes)
        acknowledgements.write_bytes(
            b"".join(struct.pack("<I", number) for number in numbers) + b"\x01\x02"
        )
        for number in numbers:
            self.put(number, block_of(number, 0))
        return numbers

    def put(self, number: int, data: bytes) -> None:
        """Write to the slot that this write of the guest goes to."""
        with self.raw.open("r+b") as raw:
            raw.seek(DATA_OFFSET + slot_of(number, 1) * BLOCK_SIZE)
            raw.write(data)


@pytest.fixture
def books(tmp_path: Path) -> Books:
    books = Books(tmp_path)
    books.boot(5000)
    return books


def before(number: int) -> int:
    """The write before this one to the same slot."""
    slot = slot_of(number, 1)
    return next(n for n in range(number - 1, 0, -1) if slot_of(n, 1) == slot)


def torn(new: int, old: int, sectors: int = 3) -> bytes:
    cut = sectors * SECTOR_SIZE
    return block_of(new, 0)[:cut] + block_of(old, 0)[cut:]


def test_whole_disk_is_accepted(books: Books) -> None:
    verdict = books.ledger.verify(books.raw, 0)

    assert verdict.ok
    assert verdict.cut == (5000, 5001)


def test_lost_write_is_noticed(books: Books) -> None:
    books.put(4000, bytes(BLOCK_SIZE))
    verdict = books.ledger.verify(books.raw, 0)

    assert not verdict.ok
    assert verdict.cut is None
    assert verdict.lost == ((slot_of(4000, 1), 4000, 0),)


def test_stale_block_is_noticed(books: Books) -> None:
    stale = before(5000)
    books.put(5000, block_of(stale, 0))
    verdict = books.ledger.verify(books.raw, 0)

    assert verdict.lost == ((slot_of(5000, 1), 5000, stale),)


def test_torn_block_is_noticed(books: Books) -> None:
    books.put(5000, torn(5000, before(5000)))
    verdict = books.ledger.verify(books.raw, 0)

    assert verdict.lost == ((slot_of(5000, 1), 5000, None),)


@pytest.mark.parametrize("damage", ["bit", "other disk", "other slot", "short"])
def test_wrong_block_is_noticed(books: Books, damage: str) -> None:
    block = bytearray(block_of(4999, 0))
    if damage == "bit":
        block[-1] ^= 1
    elif damage == "other disk":
        block[:] = block_of(4999, 1)
    elif damage == "other slot":
        block[:] = block_of(4998, 0)
    if damage == "short":
        with books.raw.open("r+b") as raw:
            raw.truncate(DATA_OFFSET + (SLOTS - 1) * BLOCK_SIZE)
    else:
        books.put(4999, bytes(block))

    assert len(books.ledger.verify(books.raw, 0).lost) == 1


def test_write_in_flight_may_be_there_or_not_or_torn(books: Books) -> None:
    for data in (torn(5001, before(5001)), block_of(5001, 0)):
        books.put(5001, data)
        assert books.ledger.verify(books.raw, 0).cut == (5001, 5001)

    # Still so after boots that do not touch its slot.
    books.boot(0)
    numbers = books.boot(100)
    assert numbers[0] == 5003
    assert slot_of(5001, 1) not in {slot_of(number, 1) for number in numbers}
    books.put(5001, torn(5001, before(5001)))
    assert books.ledger.verify(books.raw, 0).ok

    # It must not come back when a later write has replaced it.
    books.boot(3000)
    assert books.ledger.verify(books.raw, 0).ok
    books.put(5001, block_of(5001, 0))
    assert len(books.ledger.verify(books.raw, 0).lost) == 1


def test_write_beyond_the_one_in_flight_is_noticed(books: Books) -> None:
    books.put(5002, block_of(5002, 0))

    assert [loss.found for loss in books.ledger.verify(books.raw, 0).lost] == [5002]


def test_frozen_image_holds_one_prefix(books: Books, tmp_path: Path) -> None:
    frozen = tmp_path / "frozen.raw"
    shutil.copy(books.raw, frozen)
    books.boot(3000)
    raw, books.raw = books.raw, frozen

    verdict = books.ledger.verify(frozen, 0, low=4990, high=6000)
    assert verdict.cut == (5000, 5001)
    assert not books.ledger.verify(frozen, 0, low=5002, high=6000).ok
    assert not books.ledger.verify(frozen, 0, low=4900, high=4998).ok
    assert books.ledger.verify(frozen, 0, low=4900, high=4999).ok

    # A later write in it, while earlier ones are missing: not a prefix.
    books.put(5500, block_of(5500, 0))
    verdict = books.ledger.verify(frozen, 0, low=4990, high=6000)
    assert verdict.lost == ((slot_of(5500, 1), before(5500), 5500),)
    assert books.ledger.verify(raw, 0).ok


def test_acknowledgements_out_of_order_are_an_error(books: Books) -> None:
    with (books.folder / "1.bin").open("ab") as file:
        file.write(struct.pack("<I", 1))
    with pytest.raises(RuntimeError, match="was the guest reset"):
        books.ledger.verify(books.raw, 0)
