"""A target model behind an endpoint, and asking it."""
