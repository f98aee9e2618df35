"""Remote decoding: a target model behind an endpoint, and its client."""
