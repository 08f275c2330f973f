"""The figures of pages: matplotlib draws them, the page's style sheet colors them; one file a kind."""

from slimcnn.reporting.figures.drawing import Drawing, Panel, drawing_of, figures, house_style

__all__ = ["Drawing", "Panel", "drawing_of", "figures", "house_style"]
