"""Search for the smallest network over sizes and options of the criterion, with any number of processes."""

from slimcnn.searching.search import Evaluator, Found, join, search, winner
from slimcnn.searching.settings import Point, Search
from slimcnn.searching.study_storage import Outcome, StudyStorage

__all__ = ["Evaluator", "Found", "Outcome", "Point", "Search", "StudyStorage", "join", "search", "winner"]
