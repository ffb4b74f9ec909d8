"""Reading an image as QEMU itself reads it."""

import subprocess
from pathlib import Path


def qemu_img(*arguments: str | Path) -> str:
    """Run `qemu-img` with these arguments and return what it printed.

    Raises:
        RuntimeError: With the words of qemu-img, when it failed.
    """
    command = ["qemu-img", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def export_raw(
    image: Path, fmt: str, raw_path: Path, *, force_share: bool = False
) -> None:
    """Write all that a guest would see in an image, its backing images included.

    Args:
        image: The image to read.
        fmt: Its format, as in `qcow2`; it is never guessed.
        raw_path: The raw file to write.
        force_share: Read although a QEMU has the image open for writing. The guest
            has to be stopped, or the copy is not of one instant.
    """
    share = ["-U"] if force_share else []
    source = image.absolute()  # A relative name could be read as a protocol.
    qemu_img("convert", *share, "-f", fmt, "-O", "raw", source, raw_path.absolute())
