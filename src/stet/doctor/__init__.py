"""Whether a pair is sound and pays on this machine."""
