"""Stet inside other people's tools."""
