"""The report of a pruning run: JSON for machines, a page and a picture for people."""

from pruner.report.run_report import GroupRow, RunReport, SiteRow, Staircase
from pruner.report.terminal import print_report
from pruner.report.write import load_report, write_report

__all__ = ["GroupRow", "RunReport", "SiteRow", "Staircase", "load_report", "print_report", "write_report"]
