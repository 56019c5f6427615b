"""Choosing training data: how near candidate sources are to a target, and how varied.

`measures.py` and `warping.py` hold pure functions of distributions and series, `terms.py` turns
domains into distributions, `rank.py` ranks sources and selects samples of them.
"""

from domadapt.sources.rank import Selected, SourceRanking, rank_sources, select

__all__ = ["Selected", "SourceRanking", "rank_sources", "select"]
