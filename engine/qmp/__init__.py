"""QEMU over QMP: the monitor, the block graph, and the session that the states use."""
