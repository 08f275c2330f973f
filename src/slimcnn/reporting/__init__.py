"""Reports of runs and views: HTML pages, JSON, terminal tables and notebook output."""

from slimcnn.reporting.comparison import headline, verdict_in_words
from slimcnn.reporting.distances import ks_distance
from slimcnn.reporting.markdown import markdown
from slimcnn.reporting.notebook import fragment, section_html
from slimcnn.reporting.page import render, render_curve, render_page
from slimcnn.reporting.schema import CurveReport, Report
from slimcnn.reporting.storing import read_report, write_report
from slimcnn.reporting.terminal import summary, tables

__all__ = [
    "CurveReport",
    "Report",
    "fragment",
    "headline",
    "ks_distance",
    "markdown",
    "read_report",
    "render",
    "render_curve",
    "render_page",
    "section_html",
    "summary",
    "tables",
    "verdict_in_words",
    "write_report",
]
