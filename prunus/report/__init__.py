"""Reports on a study's directory: a terminal table, and HTML and Markdown with plots. Loads no torch."""

from prunus.report.tables import main_table
from prunus.report.terminal import print_table
from prunus.report.writing import write_report

__all__ = ["main_table", "print_table", "write_report"]
