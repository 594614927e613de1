"""The page stands alone, says everything, and is the same every time."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nndiag.core.findings import Series, Table
from nndiag.core.serial import from_dict
from nndiag.render import charts, html
from render import sample

SETS = {"six": sample.six(), "every": sample.every()} | {
    f"{index}": (report,) for index, report in enumerate(sample.every())
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """What a browser would see of tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = Counter(), [], [], []
        self.feed(text)
        self.close()

    VOID = frozenset({"meta", "br", "path", "use", "line", "circle", "rect", "image", "link"})

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def pages():
    return {name: html.render(reports) for name, reports in SETS.items()}


@pytest.mark.parametrize("name", SETS)
def test_the_page_holds_no_script_and_fetches_nothing(pages, name):
    page = Page(pages[name])
    assert not page.open
    assert not page.tags["script"]
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    for key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert value.startswith(("#", "data:image/png;base64,")), value
    styles = "".join(re.findall(r"<style>(.*?)</style>", pages[name], re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles


@pytest.mark.parametrize("name", SETS)
def test_ids_are_unique_and_every_reference_resolves(pages, name):
    page = Page(pages[name])
    ids = Counter(value for key, value in page.attributes if key == "id")
    assert all(count == 1 for count in ids.values())
    referred = {value[1:] for key, value in page.attributes if key == "href" and value.startswith("#")}
    referred |= set(re.findall(r"url\(#([^)]+)\)", pages[name]))
    assert referred <= set(ids)


@pytest.mark.parametrize("name", SETS)
def test_every_finding_is_told_in_full(pages, name):
    text = Page(pages[name]).text
    for report in SETS[name]:
        for item in report.findings:
            assert item.rule.code in text
            for part in (item.message, item.means, item.fix):
                for line in part.splitlines():
                    assert " ".join(html.phrases.clean(line).split()) in text


def test_what_was_skipped_is_told_with_its_reason(pages):
    text = Page(pages["six"]).text
    for report in sample.six():
        for skip in report.skipped:
            assert skip.reason in text
    assert "rules checked" in text


def test_the_verdict_comes_before_the_findings_and_those_before_the_checks(pages):
    page = pages["six"]
    assert page.index("4 errors, 2 warnings, 3 notes</h1>") < page.index('id="findings"') < page.index('id="check-0"')
    codes = re.findall(r'class="code">([A-Z]{3}\d{3})</span><span>', page)
    levels = re.findall(r'<article class="finding (\w+)"', page)
    assert codes[0] == "DRP105"
    counted = levels[:-1]  # the last one is accepted
    assert counted == sorted(counted, key=["error", "warning", "note"].index)


def test_a_failed_check_is_never_shown_as_clean(pages):
    text = html.render([sample.failed()])
    assert "could not run" in text
    assert "mat1 and mat2 shapes" in text
    assert "nothing found" not in text


@pytest.mark.parametrize("name", SETS)
def test_the_same_reports_give_the_same_bytes(pages, name):
    assert html.render(SETS[name]) == pages[name]


def test_wall_time_leaves_no_trace(pages):
    slower = [replace(report, run=replace(report.run, total_s=99.0)) for report in sample.six()]
    assert html.render(slower) == pages["six"]


def test_another_process_with_the_users_own_matplotlib_settings_gives_the_same_bytes(pages, tmp_path):
    (tmp_path / "matplotlibrc").write_text("svg.fonttype: path\nlines.linewidth: 9\nfont.size: 30\n")
    program = "from render import sample; from nndiag.render import html; import sys; sys.stdout.write(html.render(sample.six()))"
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": "tests", "PYTHONHASHSEED": "7"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, check=True)
    assert done.stdout.decode() == pages["six"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["matplotlibrc"]  # nothing was written


def test_a_stored_run_gives_the_same_page():
    stored = [from_dict(report.to_dict()) for report in sample.six()]
    again = [from_dict(report.to_dict()) for report in stored]
    assert html.render(stored) == html.render(again)


def test_six_checks_stay_small_and_are_drawn_quickly(pages):
    assert len(pages["six"].encode()) <= 400_000
    begun = time.process_time()
    html.render(sample.six())
    assert time.process_time() - begun <= 2.0


def huge():
    series = [
        Series(f"s{k}", tuple(range(20000)), tuple((i * k) % 97 for i in range(20000)), "1", "step", f"g{k}", "line")
        for k in range(60)
    ]
    heat = Series("h", tuple(range(300)), tuple(((i * 7) % 11) / 11 for i in range(90000)), "cos", "", "heat", "heat")
    rows = tuple((f"layer.{i}", i, i / 7, "x" * 300, "ok") for i in range(20000))
    table = Table("layers", ("layer", "n", "value", "words", "status"), rows, main=True)
    findings = tuple(
        replace(item, message=f"{item.message} {index}") for index in range(400) for item in sample.dropout().findings
    )
    return replace(sample.dropout(), series=(heat, *series), tables=(table, table), findings=findings)


def test_a_huge_report_stays_below_two_megabytes_and_24_figures():
    page = html.render([huge()])
    assert len(page.encode()) <= 2_000_000
    assert page.count('class="plot"') == 24
    assert "37 more figures are not drawn" in page
    assert re.search(r"\d+ more findings are in the JSON", page)


def test_figures_are_shared_fairly_between_checks():
    many = replace(
        sample.healthy(), series=tuple(replace(sample.healthy().series[0], group=f"g{k}") for k in range(40))
    )
    page = html.render([many, sample.entropy(), many])
    assert page.count('class="plot"') == 24
    assert "loss against its floor" in page


def test_long_tables_are_folded_with_the_troubled_rows_in_front():
    rows = tuple((f"layer.{i}", i, "error" if i == 70 else "ok") for i in range(100))
    report = replace(sample.healthy(), tables=(Table("layers", ("layer", "n", "status"), rows, main=True),))
    page = html.render([report])
    opened = page[page.index("layers (first 12)") : page.index("<details>")]
    assert opened.count("<tr") == 13
    assert "layer.70" in opened
    assert "100 rows" in page


def test_outside_names_do_not_become_markup(pages):
    page = pages["every"]
    assert "<script" not in page
    assert "alert(1)" in page
    assert "[/nope]" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_thinned_line_keeps_its_peaks():
    xs = tuple(range(10_000))
    ys = tuple(100.0 if x == 7777 else 0.0 for x in xs)
    thinned = charts.plots.thin(xs, ys)
    assert len(thinned[0]) <= 300
    assert max(thinned[1]) == 100.0
    assert thinned[0] == sorted(thinned[0])


@pytest.mark.parametrize("kind", ["line", "step", "bar", "stack", "histogram", "heat", "unheard"])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((0,), (1,)),
        ((0, 1), (5, 5)),
        ((0, 1, 2), (float("nan"),) * 3),
        ((0, 1, 2), (0, 0, 0)),
        ((0, 1, 2), (-1, 0, 1)),
        ((1, 10, 1e5, 1e9), (1e-12, 1, 1e12, 1e30)),
        ((0, 1, 2), (1, 2)),
        ((0, 1), (1, 2, 3, 4)),
        ((float("inf"), 1), (1, 2)),
    ],
)
def test_every_kind_of_series_can_be_drawn_whatever_it_holds(kind, x, y):
    for threshold in (None, 1.5, float("nan")):
        item = Series("s", x, y, "u", "x", "g", kind, threshold)
        figure = charts.draw("g", [item, item], "p-")
        assert figure.svg.startswith("<svg")
        assert figure.svg.endswith("</svg>")


def test_the_page_opens_in_a_browser_without_error_or_request(pages, tmp_path, capsys):
    if CHROMIUM is None:
        with capsys.disabled():
            print("\nno Chromium on this machine: the page was read by the Python parser only")  # noqa: T201
        return
    file = tmp_path / "report.html"
    file.write_text(pages["every"])
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--v=0",
        "--dump-dom",
    ]
    log = tmp_path / "net.json"
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", file.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    dom = Page(done.stdout)
    assert not dom.tags["script"]
    for report in sample.six():
        for item in report.findings:
            assert item.message in dom.text
    requested = set(re.findall(r'"url":"([a-z]+://[^"]*)"', log.read_text()))
    assert {url for url in requested if url.startswith("file:")} <= {file.as_uri()}
    assert not [url for url in requested if url.startswith("http") and "google" not in url]  # the browser's own
