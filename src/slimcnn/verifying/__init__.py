"""Verify the claims of a run from its files alone.

Reading order: verification (the order of the checks), certificate (the result), claimed_files (file access), cuts,
numbers.
"""

from slimcnn.verifying.certificate import Certificate, Check
from slimcnn.verifying.verification import verify

__all__ = ["Certificate", "Check", "verify"]
