"""Searches over what goes: how much, by which criterion, on as many processes as there are."""

from slimcnn.searching.board import Board, Outcome
from slimcnn.searching.search import Found, Trying, join, search, winner
from slimcnn.searching.settings import Search

__all__ = ["Board", "Found", "Outcome", "Search", "Trying", "join", "search", "winner"]
