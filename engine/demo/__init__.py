"""A real QEMU with a guest that writes, to show and to test what Backfold does."""
