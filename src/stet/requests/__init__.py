"""Requests: from prompts and options to jobs of the engine, and back to results."""
