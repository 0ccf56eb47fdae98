"""Reports on a study's directory: a terminal table, and HTML and Markdown with plots. Loads no torch."""

from prunus.report.scaling_terminal import print_findings
from prunus.report.tables import main_table
from prunus.report.terminal import print_table
from prunus.report.writing import write_report, write_scaling_report

__all__ = ["main_table", "print_findings", "print_table", "write_report", "write_scaling_report"]
