"""Text and tokens: there and back without a change."""
