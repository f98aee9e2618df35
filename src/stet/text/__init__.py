"""Conversion between text and tokens, without a change to either."""
