"""From what a user hands in to a request of the engine, and back to a result."""
