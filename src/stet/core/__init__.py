"""What everything stands on: tokens, blocks and rules, and what passes between them."""
