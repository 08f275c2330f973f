"""One page that runs the networks of a run side by side on images, in the browser and offline."""

from slimcnn.playground.contents import Playground, Sample, ShownNetwork, playground_of
from slimcnn.playground.page import render_playground, write_playground
from slimcnn.playground.runtime import browser_runtime
from slimcnn.playground.serving import served

__all__ = [
    "Playground",
    "Sample",
    "ShownNetwork",
    "browser_runtime",
    "playground_of",
    "render_playground",
    "served",
    "write_playground",
]
