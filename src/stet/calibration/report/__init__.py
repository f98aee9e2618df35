"""The report of a calibration: on the terminal and as a page."""

from stet.calibration.report.page import page, write_page
from stet.calibration.report.terminal import terminal

__all__ = ["page", "terminal", "write_page"]
