"""Training an arbiter: branches, a supervised warm start, and policy gradient."""
