"""What clients send, and what they are sent: OpenAI's API, with what Stet adds to it."""
