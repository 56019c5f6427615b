"""The page of a study: one HTML file that needs nothing else."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from domadapt.layers.figure import cka_figure, figure
from domadapt.layers.results import LayerStudy, headline, shown, size_name
from domadapt.layers.tables import asked, headed, readings, remarks, tables
from domadapt.report.drawing import to_svg


def render(study: LayerStudy) -> str:
    """The page of `study` as HTML: inline styles and figures, no script, no network."""
    environment = Environment(
        loader=PackageLoader("domadapt", "layers"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = [
        (to_svg(cka_figure(study, size), f"cka{size}"), f"Linear CKA, {size_name(study, size)}")
        for size in study.sizes
        if study.look("cka", "source", size) is not None
    ]
    return environment.get_template("page.html.j2").render(
        study=study,
        headline=headline(study),
        headed=headed(study),
        figure=_labelled(to_svg(figure(study, titled=False), "layers"), in_words(study)),
        others=[_labelled(svg, words) for svg, words in drawn],
        tables=tables(study),
        readings=readings(study),
        remarks=remarks(study),
        asked=asked(study),
    )


def _labelled(svg: str, words: str) -> Markup:
    # Safe: to_svg escapes every text, and the label is escaped here.
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(words)}"', 1))


def in_words(study: LayerStudy) -> str:
    """The figure for those who see none."""
    parts = [headline(study)]
    for size in study.sizes:
        lost = study.lost(size)
        if lost:
            said = ", ".join(f"{study.blocks[i]} {shown(study, v)}" for i, v in lost.items())
            parts.append(f"Lost with {size_name(study, size)}: {said}.")
    return " ".join(parts)
