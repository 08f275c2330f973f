"""One compression run as a page to read, data to compute with, and a table for the terminal."""

from slimcnn.reporting.contents import Report
from slimcnn.reporting.distances import ks_distance
from slimcnn.reporting.page import render
from slimcnn.reporting.storing import read_report, write_report
from slimcnn.reporting.table import summary_table

__all__ = ["Report", "ks_distance", "read_report", "render", "summary_table", "write_report"]
