"""Studies: compare settings over several seeds, with shared beginnings, any number of workers, and statistics."""

from slimcnn.studying.measures import measures
from slimcnn.studying.publishing import card, render
from slimcnn.studying.rows import StudyRow, StudyRows, read_rows
from slimcnn.studying.settings import Study, parse_study, read_study
from slimcnn.studying.work import run_study

__all__ = [
    "Study",
    "StudyRow",
    "StudyRows",
    "card",
    "measures",
    "parse_study",
    "read_rows",
    "read_study",
    "render",
    "run_study",
]
