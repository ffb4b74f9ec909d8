"""The public API and everything that touches the world."""
