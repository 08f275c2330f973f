"""Check again, from the files of a run alone, what it claimed.

Read top to bottom: verification (the order of the checks), certificate (what comes out), claimed_files (what may be
read), cuts, numbers.
"""

from slimcnn.verifying.certificate import Certificate, Check
from slimcnn.verifying.verification import verify

__all__ = ["Certificate", "Check", "verify"]
