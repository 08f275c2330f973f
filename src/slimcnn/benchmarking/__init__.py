"""Networks side by side in the runtimes that will run them: time, top-1, file size, memory, energy."""

from slimcnn.benchmarking.candidate import Candidate, runtime_of_file
from slimcnn.benchmarking.choice import DROP, Choice, choices, rule
from slimcnn.benchmarking.comparing import benchmark, check, compare
from slimcnn.benchmarking.results import TITLES, Benchmark, BenchmarkRow
from slimcnn.benchmarking.subjects import Subjects, subjects_of

__all__ = [
    "DROP",
    "TITLES",
    "Benchmark",
    "BenchmarkRow",
    "Candidate",
    "Choice",
    "Subjects",
    "benchmark",
    "check",
    "choices",
    "compare",
    "rule",
    "runtime_of_file",
    "subjects_of",
]
