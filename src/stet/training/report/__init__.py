"""The report of a training as a page."""

from stet.training.report.page import page, write_page

__all__ = ["page", "write_page"]
