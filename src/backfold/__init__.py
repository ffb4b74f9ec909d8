"""Delete external QEMU snapshots as journaled, resumable state machines."""

__version__ = "0.1.0"
