"""Benchmarks: methods over tasks and seeds, resumable, with honest tables."""

from domadapt.benchmark.run import Benchmark, benchmark, report
from domadapt.benchmark.search import Search
from domadapt.benchmark.suite import Entry, Suite, read_suite

__all__ = ["Benchmark", "Entry", "Search", "Suite", "benchmark", "read_suite", "report"]
