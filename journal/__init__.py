"""What is durable; knows nothing of QEMU."""
