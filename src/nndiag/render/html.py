"""One page to mail: no script, nothing fetched, the verdict first."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from nndiag.core.report import worst_exit
from nndiag.render import charts, phrases, words
from nndiag.render.svg import gauge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

    from nndiag.core.findings import Finding, Scalar, Table
    from nndiag.core.report import Report

MAX_FIGURES = 24
MAX_BYTES = 2_000_000
OPEN_ROWS = 12  # a longer table is folded
BUDGETS = ((300, 200), (60, 60), (12, 20))  # rows per table, findings: fewer when the page would be too large
LEVELS = ("error", "warning", "note", "ok", "skipped")
MAX_CELL = 160
QUANTITY = re.compile(r"[\d.,]+ [A-Za-z%]{1,5}")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table, with its class."""

    text: str
    cls: str = ""
    level: str = ""  # of its row


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as the page shows it."""

    title: str
    heads: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    hidden: int = 0
    summary: str = ""
    size: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One check as the page shows it."""

    command: str
    anchor: str
    level: str
    mark: str
    tally: str
    answer: str
    answers: tuple[str, ...]
    trouble: str
    context: str
    checked: str
    skipped: list[tuple[str, str]]
    figures: list[charts.Figure] = field(default_factory=list)
    undrawn: int = 0
    tables: list[Sheet] = field(default_factory=list)
    folded: list[Sheet] = field(default_factory=list)


def render(reports: Sequence[Report]) -> str:
    """Return the page; the same reports give the same bytes, wall time is left out."""
    figures = _figures(reports)
    page = ""
    for rows, findings in BUDGETS:
        page = _template().render(css=_css(), page=_page(reports, figures, rows, findings)) + "\n"
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(files("nndiag.render").joinpath("page.html.jinja").read_text("utf-8"))


@cache
def _css() -> Any:
    from markupsafe import Markup

    return Markup(files("nndiag.render").joinpath("page.css").read_text("utf-8"))  # noqa: S704 - our own file


def _figures(reports: Sequence[Report]) -> list[tuple[list[charts.Figure], int]]:
    """Draw the figures of every report, shared fairly: the first of each, then the second of each."""
    from markupsafe import Markup

    grouped = [charts.groups(report.series) for report in reports]
    turns = itertools.chain.from_iterable(
        ((index, turn) for index in range(len(grouped)) if turn < len(grouped[index]))
        for turn in range(max(map(len, grouped), default=0))
    )
    chosen = set(itertools.islice(turns, MAX_FIGURES))
    drawn = []
    for index, groups in enumerate(grouped):
        kept = []
        for turn, (title, members) in enumerate(groups):
            if (index, turn) in chosen:
                figure = charts.draw(title, members, f"f{index}-{turn}-")
                svg = Markup(figure.svg)  # noqa: S704 - made by charts, which escapes what it is given
                kept.append(charts.Figure(figure.title, figure.units, svg, figure.legend, figure.notes))
        drawn.append((kept, len(groups) - len(kept)))
    return drawn


def _page(
    reports: Sequence[Report], figures: Sequence[tuple[list[charts.Figure], int]], rows: int, most: int
) -> dict[str, Any]:
    many = len(reports) != 1
    sections = [_section(report, index, *figures[index], rows) for index, report in enumerate(reports)]
    pairs = [(section, item) for section, report in zip(sections, reports, strict=True) for item in report.findings]
    order = sorted(range(len(pairs)), key=lambda index: -pairs[index][1].severity)
    cards = [_card(*pairs[index], index) for index in order]
    active = [card for card in cards if not card["accepted"]]
    level = min((section.level for section in sections), key=LEVELS.index, default="skipped")
    names = dict.fromkeys(phrases.clean(report.name) for report in reports if report.name)
    first = reports[0].command if not many and reports else "all"
    code = worst_exit([report.exit_code for report in reports])
    fails = sorted({f"fails on {report.fail_on.word}" for report in reports if report.fail_on})
    lead: Sequence[str] = () if many else (*sections[0].answers, *filter(None, [sections[0].trouble]))
    return {
        "title": " · ".join([first, *list(names)[:3]]),
        "many": many,
        "verdict": words.capital(phrases.tally(reports)) if reports else "Nothing was run",
        "level": level,
        "mark": phrases.MARKS[level],
        "lead": lead,
        "fine": " · ".join([_reach(reports), f"exit code {code}", *fails]),
        "checks": sections,
        "findings": active[:most],
        "hidden": max(0, len(active) - most),
        "accepted": [card for card in cards if card["accepted"]][:most],
        "footer": " · ".join(_footer(reports)),
    }


def _reach(reports: Sequence[Report]) -> str:
    """Return how much was judged: what was skipped is not passed."""
    checked = sum(len(report.checked) for report in reports)
    skipped = len({(report.command, skip.code) for report in reports for skip in report.skipped})
    return f"{checked} rules checked, {skipped} skipped"


def _footer(reports: Sequence[Report]) -> list[str]:
    from nndiag import __version__

    said = [f"nndiag {__version__}"]
    for report in reports:
        run = report.run
        versions = [f"{phrases.clean(key)} {phrases.clean(value)}" for key, value in sorted(run.versions.items())]
        said += [f"seed {run.seed}", phrases.clean(run.device), *versions]
    return [*dict.fromkeys(said), "this page holds no script and fetches nothing"]


def _section(report: Report, index: int, figures: list[charts.Figure], undrawn: int, most: int) -> Section:
    level = phrases.state(report)
    trouble = f"Could not run: {report.error}" if report.status == "failed" else ""
    if report.empty:
        trouble = f"Nothing applicable: {report.empty}"
    tables, folded = _tables(report, most)
    answers = tuple(phrases.clean(words.sentence(text)) for text in report.answers)
    known = (report.name, *(part for part in report.context if part != report.name), report.run.device)
    context = [phrases.clean(part) for part in known]
    if report.status == "truncated":
        context.append("stopped by the time budget")
    return Section(
        command=phrases.clean(report.command),
        anchor=f"check-{index}",
        level=level,
        mark=phrases.MARKS[level],
        tally=phrases.tally([report]),
        answer=" ".join(answers) or phrases.clean(trouble),
        answers=answers,
        trouble=phrases.clean(trouble),
        context=" · ".join(filter(None, context)),
        checked=words.ranges(report.checked),
        skipped=phrases.reasons(report),
        figures=figures,
        undrawn=undrawn,
        tables=tables,
        folded=folded,
    )


def _card(section: Section, item: Finding, index: int) -> dict[str, Any]:
    from markupsafe import Markup

    return {
        "id": f"finding-{index}",
        "anchor": section.anchor,
        "command": section.command,
        "level": item.severity.word,
        "mark": phrases.MARKS[item.severity.word],
        "code": item.rule.code,
        "name": item.rule.name.replace("-", " "),
        "basis": str(item.rule.basis),
        "message": phrases.lines(item.message),
        "where": phrases.place(item.where),
        "proof": phrases.proof(item),
        "means": phrases.lines(item.means),
        "fix": phrases.lines(item.fix),
        "gauge": Markup(gauge(item)),  # noqa: S704 - numbers only, made by svg
        "accepted": phrases.clean(item.suppressed),
        "plain": [text for text in (item.message, item.means, item.fix) if words.capital(text) != text],
    }


def _tables(report: Report, most: int) -> tuple[list[Sheet], list[Sheet]]:
    """Return the tables that lie open, and those that are folded: long or secondary ones, numbers, settings."""
    opened, folded = [], []
    for table in report.tables:
        rows = [tuple(row) for row in table.rows]
        long = len(rows) > OPEN_ROWS
        if table.main:
            first = _worth(table)[:OPEN_ROWS] if long else rows
            opened.append(
                _sheet(table.title if not long else f"{table.title} (first {len(first)})", table.columns, first)
            )
        if long or not table.main:
            kept = rows[:most]
            folded.append(_sheet("", table.columns, kept, hidden=len(rows) - len(kept), summary=table.title))
    numbers = [(m.name, m.where, m.value, m.unit, _interval(m.interval)) for m in report.measurements]
    if numbers:
        heads = ("measurement", "where", "value", "unit", "95 % interval")
        hidden = max(0, len(numbers) - most)
        folded.append(_sheet("", heads, numbers[:most], hidden=hidden, summary="Measurements"))
    if report.settings:
        pairs = [(key.replace("_", "-"), _said(value)) for key, value in report.settings.items()]
        folded.append(_sheet("", ("setting", "value"), pairs[:most], summary="Settings"))
    return opened, folded


def _worth(table: Table) -> list[tuple[Scalar, ...]]:
    """Return the rows that speak of trouble first; without a status column the first ones."""
    rows = [tuple(row) for row in table.rows]
    if "status" not in table.columns:
        return rows
    at = list(table.columns).index("status")
    return sorted(rows, key=lambda row: LEVELS.index(str(row[at])) if row[at] in LEVELS else len(LEVELS))


def _sheet(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, hidden: int = 0, summary: str = ""
) -> Sheet:
    numeric = [
        all(isinstance(row[at], (int, float, type(None))) for row in rows if at < len(row)) and bool(rows)
        for at in range(len(columns))
    ]
    kinds = ["status" if name == "status" else "num" if numeric[at] else "" for at, name in enumerate(columns)]
    total = len(rows) + hidden
    return Sheet(
        title=phrases.clean(title),
        heads=tuple(Cell(phrases.clean(name), kind) for name, kind in zip(columns, kinds, strict=True)),
        rows=tuple(tuple(_cell(value, kinds[at]) for at, value in enumerate(row[: len(kinds)])) for row in rows),
        hidden=hidden,
        summary=phrases.clean(summary),
        size=f"{total:,} row{'s' if total != 1 else ''}",
    )


def _cell(value: Any, kind: str) -> Cell:
    if kind == "status":
        word = phrases.clean(value or "")
        known = word if word in LEVELS else ""
        return Cell(f"{phrases.MARKS[known]} {word}" if known else word, f"status {known}".strip(), known)
    text = "" if value is None and kind != "num" else phrases.number(value)
    if QUANTITY.fullmatch(text):
        text = text.replace(" ", "\u00a0")  # a number and its unit stay on one line
    if len(text) > MAX_CELL:
        text = phrases.short(text, MAX_CELL)
    return Cell(text, kind)


def _interval(pair: tuple[float, float] | None) -> str:
    return f"{phrases.number(pair[0])} to {phrases.number(pair[1])}" if pair else ""


def _said(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_said(item) for item in value)
    return phrases.number(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
