"""The pictures of a report: matplotlib draws them, the page's style sheet colours them."""

from slimcnn.reporting.figures.choice import choice
from slimcnn.reporting.figures.closeness import closeness, closeness_maps
from slimcnn.reporting.figures.curves import curves
from slimcnn.reporting.figures.drawing import Panel, house_style
from slimcnn.reporting.figures.front import front
from slimcnn.reporting.figures.norms import norms
from slimcnn.reporting.figures.scales import scales
from slimcnn.reporting.figures.stages import stages
from slimcnn.reporting.figures.trade import trade
from slimcnn.reporting.figures.units import units
from slimcnn.reporting.figures.widths import widths

__all__ = [
    "Panel",
    "choice",
    "closeness",
    "closeness_maps",
    "curves",
    "front",
    "house_style",
    "norms",
    "scales",
    "stages",
    "trade",
    "units",
    "widths",
]
