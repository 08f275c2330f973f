"""The measured numbers of the pages, as claims on the rows of benchmarks/: `python docs/claims.py --check`."""

from claimed import design, front, guides, methods

CLAIMS = [*front.CLAIMS, *guides.CLAIMS, *methods.CLAIMS, *design.CLAIMS]
