"""Core types: tokens, blocks, policies, sequences and traces, which all other parts use."""
