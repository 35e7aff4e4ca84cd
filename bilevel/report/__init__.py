"""Reports on runs: one HTML file for a run, several runs or a sweep, and the sentences that a run ends with."""

from bilevel.report.logger import REPORT, Page
from bilevel.report.page import page
from bilevel.report.runs import RecordedRun, found, read

__all__ = ["REPORT", "Page", "RecordedRun", "found", "page", "read"]
