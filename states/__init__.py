"""The state machines; they know the journal and the ports, not QEMU."""
