"""A fixture and a marker: `def test_model(nndiag): nndiag.check_init_symmetry(Net()).raise_for_findings()`.

The marker gives defaults to every call in its test: `@pytest.mark.nndiag(seed=1, ignore="DRP107")`. The reports of a
failing test are printed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nndiag.core.report import Report

QUESTIONS = (
    "check_dropout",
    "check_normalization",
    "entropy_floor",
    "embedding_cost",
    "init_symmetry",
    "multigpu_lr",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, also under --strict-markers."""
    config.addinivalue_line("markers", "nndiag(**settings): defaults for the nndiag fixture in this test")


class Asker:
    """The six questions with the test's own defaults; remembers what they answered."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.reports: list[Report] = []

    def __getattr__(self, name: str) -> Callable[..., Report]:
        """Return the question of this name; `check_init_symmetry` and the like are understood too."""
        plain = name if name in QUESTIONS else name.removeprefix("check_")
        if plain not in QUESTIONS:
            raise AttributeError(f"nndiag has no '{name}'; it has {', '.join(QUESTIONS)}")
        from nndiag import api

        question: Callable[..., Report] = getattr(api, plain)

        def ask(*args: Any, **settings: Any) -> Report:
            report = question(*args, **{**self.settings, **settings})
            self.reports.append(report)
            return report

        return ask


@pytest.fixture
def nndiag(request: pytest.FixtureRequest) -> Iterator[Asker]:
    """Ask nndiag about a model; a failing test shows the whole report."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("nndiag"))):  # the closest one last: it wins
        settings |= marker.kwargs
    asker = Asker(settings)
    request.node.stash[ASKED] = asker
    yield asker
    del request.node.stash[ASKED]


ASKED = pytest.StashKey[Asker]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the reports of a failing test beside its traceback."""
    outcome = yield
    asker = item.stash.get(ASKED, None)
    if asker is not None and call.when == "call" and outcome.failed:
        from nndiag.render import render

        for report in asker.reports:
            outcome.sections.append((f"nndiag {report.command}", render([report], "text")))
    return outcome
