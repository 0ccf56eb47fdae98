"""Reports on a study's directory: a terminal table, and Markdown with figures. Loads no torch."""

from prunus.report.markdown import write_report
from prunus.report.tables import main_table
from prunus.report.terminal import print_table

__all__ = ["main_table", "print_table", "write_report"]
