"""The report: one HTML file that needs no other, the curves as PNG, and the figures as JSON beside it."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from quire.clients.bench.document import Document
from quire.clients.bench.report.curves import draw, to_svg, write_png
from quire.clients.bench.report.table import latency_rows, throughput_rows, warnings

_STYLE = """body{font:15px sans-serif;margin:2em auto;max-width:84em;padding:0 1em}svg{max-width:100%;height:auto}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:right}
td:first-child,th:first-child{text-align:left}"""


def write_report(folder: Path, document: Document) -> None:
    """Writes report.html and curves.png to a folder, which is made if need be."""
    runs, model = document.runs, document.model
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw(runs)
    write_png(figure, folder / "curves.png")
    given = [["setting", "value"], *([name, str(each)] for name, each in document.settings.items() if each is not None)]
    notes = "".join(f"<li>{escape(line)}</li>" for line in warnings(runs))
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>quire bench: {escape(model)}</title>"
        f"<style>{_STYLE}</style><h1>quire bench: {escape(model)}</h1>"
        f"{_table(_facts(document))}{to_svg(figure)}<ul>{notes}</ul>"
        f"<h2>Throughput</h2>{_table(throughput_rows(runs))}<h2>Latency</h2>{_table(latency_rows(runs))}"
        f"<h2>Settings</h2>{_table(given)}</html>\n"
    )
    (folder / "report.html").write_text(page)


def _facts(document: Document) -> list[list[str]]:
    """Facts that a reader of the page asks for first."""
    given = document.settings
    if given.get("trace") is None:
        lengths = f"{given.get('input_tokens')} tokens in, {given.get('output_tokens')} out"
        if given.get("prefix_tokens"):
            lengths += f", behind one of {given.get('num_prefixes')} prefixes of {given.get('prefix_tokens')}"
    else:
        lengths = f"as in {given['trace']}"
    return [
        ["model", document.model],
        ["target", str(given.get("target"))],
        ["lengths", lengths],
        ["seed", str(given.get("seed"))],
        ["date", document.when],
        ["version", f"quire {document.quire}, Python {document.python}"],
        ["machine", f"{document.machine} (the load generator's)"],
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"
