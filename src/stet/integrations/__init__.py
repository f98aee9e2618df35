"""Integrations of Stet into other libraries."""
