"""The rows of `domadapt list methods --long`."""

from __future__ import annotations

from domadapt.methods import method_class, method_names, table


def test_every_method_has_a_row() -> None:
    rows = {r.name: r for r in table.rows()}
    assert set(rows) == set(method_names())
    assert next(iter(rows)) == "source_only"
    # Other tests register methods of their own.
    ours = {n: r for n, r in rows.items() if method_class(n).__module__.startswith("domadapt.")}
    for name, row in ours.items():
        assert row.what, name
        assert name == "source_only" or row.link.startswith(("arXiv:", "doi:")), name


def test_a_row_by_hand() -> None:
    row = table.row("tent")
    assert row.setting == "test-time"
    assert row.needs.startswith("a trained model, no source data, BatchNorm")
    assert (row.paper, row.link) == ("Wang et al., 2021", "arXiv:2006.10726")
    assert row.defaults == "entropy_weight 1.0, passes 1"


def test_measured_figures_are_of_known_methods() -> None:
    known = set(method_names())
    for spec in table.measured():
        assert set(spec.split("+")) <= known, spec


def test_figures_in_words() -> None:
    row = table.Row("a", "", "", "", "", "", "", cost=2.04, digits=70.25, spread=1.26, seeds=3)
    assert table.cost_text(row) == "2.0x"
    assert table.digits_text(row) == "70.2 ± 1.3"
    on_rows = table.Row("a", "", "", "", "", "", "", digits=50.0, rows=True)
    assert table.digits_text(on_rows) == "50.0 (rows)"
    empty = table.Row("a", "", "", "", "", "", "")
    assert table.cost_text(empty) == table.digits_text(empty) == "not measured"
