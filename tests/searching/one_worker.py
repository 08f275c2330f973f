"""A worker of test_searching.py in a process of its own: `one_worker.py STORAGE hang|join FILE`."""

import sys
import time
from pathlib import Path

from test_searching import SETTINGS, evaluator

from slimcnn.searching import StudyStorage, join, search


def main() -> None:
    storage, what, note = sys.argv[1:]
    way = evaluator()
    if what == "hang":

        def hanging(point, least, most):  # type: ignore[no-untyped-def]
            Path(note).touch()
            time.sleep(600)

        way.attempt = hanging  # type: ignore[method-assign]
        search(way, SETTINGS, StudyStorage.open(storage, "one", SETTINGS))
    else:
        join(way, SETTINGS, StudyStorage.open(storage, "one", SETTINGS, join=True), patience=20)


if __name__ == "__main__":
    main()
