"""The page of a benchmark: ``benchmark.html``, one file that needs nothing else."""

from domadapt.benchmark.page.render import PAGE, Content, content_of, render

__all__ = ["PAGE", "Content", "content_of", "render"]
