"""The report of a comparison: on the terminal, as a page, and as files for other programs."""

from stet.evaluation.report.files import to_csv, to_json, write_report
from stet.evaluation.report.markdown import markdown
from stet.evaluation.report.terminal import terminal

__all__ = ["markdown", "terminal", "to_csv", "to_json", "write_report"]
