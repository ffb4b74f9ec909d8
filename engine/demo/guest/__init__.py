"""A guest that writes without pause, and the books on what it must find again."""

from .boot import boot_image, read_acknowledgements
from .export import export_raw, qemu_img
from .ledger import Ledger, Loss, Verdict

__all__ = [
    "Ledger",
    "Loss",
    "Verdict",
    "boot_image",
    "export_raw",
    "qemu_img",
    "read_acknowledgements",
]
