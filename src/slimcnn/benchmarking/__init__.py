"""Compare networks in their target runtimes: latency, the task's metric, file size, memory, energy."""

from slimcnn.benchmarking.candidate import Candidate, runtime_of_file
from slimcnn.benchmarking.comparing import benchmark, check, compare
from slimcnn.benchmarking.recommending import Recommendation, rule
from slimcnn.benchmarking.results import Benchmark
from slimcnn.benchmarking.rows import TITLES, BenchmarkRow
from slimcnn.benchmarking.subjects import Subjects, subjects_of

__all__ = [
    "TITLES",
    "Benchmark",
    "BenchmarkRow",
    "Candidate",
    "Recommendation",
    "Subjects",
    "benchmark",
    "check",
    "compare",
    "rule",
    "runtime_of_file",
    "subjects_of",
]
