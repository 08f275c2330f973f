"""The figures of pages, one file per kind: drawn by matplotlib, colored by the page's style sheet."""

from slimcnn.reporting.figures.drawing import Drawing, Panel, drawing_of, figures, house_style

__all__ = ["Drawing", "Panel", "drawing_of", "figures", "house_style"]
