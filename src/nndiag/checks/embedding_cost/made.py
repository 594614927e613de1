"""Which ids does a forward make of the data itself (offsets per column, shifted tokens, positions)?"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from nndiag.science.zipf_stream import RowCounter

if TYPE_CHECKING:
    from nndiag.checks.embedding_cost.model import ModelView
    from nndiag.core.subject import Subject
    from nndiag.science.zipf_stream import RowCounts

BATCHES = 16  # run at most
TIME = 0.1  # share of the time left that may be spent on them; one batch is run in any case


def made_ids(subject: Subject, view: ModelView) -> dict[str, RowCounts]:
    """Count, per table, the ids of lookups that do not come in the batch as they are looked up.

    The forward runs on real numbers; ids outside a table are counted and folded back inside, so that all lookups are
    reached. Whatever is the same in the first two batches (positions) is not followed any further.

    Returns:
        By table; empty where nothing is made, no forward could be watched or the forward ends in an error.
    """
    names = _unfollowed(view)
    counters = {site.name: RowCounter(site.rows, 1) for site in view.sites if site.parameter in names}
    with contextlib.suppress(Exception):  # the user's code may raise anything; what was counted until then holds
        _run(subject, names, counters)
    counts = {name: counter.result() for name, counter in counters.items()}
    return {name: counted for name, counted in counts.items() if counted.lookups or counted.above or counted.below}


def _run(subject: Subject, names: dict[str, str], counters: dict[str, RowCounter]) -> None:
    """Feed the counters; `names` loses the tables that are asked for the same ids whatever the data."""
    if not names or subject.model is None or subject.data is None:
        return
    from nndiag.lab.embedding.uses import watch_forward

    model = subject.model.make()
    begun = subject.run.seconds_left
    first: dict[str, bytes] = {}
    for batch in itertools.islice(subject.data.batches(subject.training.batch_size), BATCHES):
        uses = watch_forward(model, batch.inputs).uses
        for parameter, name in tuple(names.items()):
            asked = [ids.numpy() for ids in uses[parameter].asked] if parameter in uses else []
            print_of = b"".join(ids.tobytes() for ids in asked)
            if first.get(parameter) == print_of:
                del names[parameter]
                continue
            first.setdefault(parameter, print_of)
            for ids in asked:
                counters[name].feed_batch(ids)
        if not names or begun - subject.run.seconds_left > TIME * begun:
            return


def no_ids(subject: Subject, view: ModelView | None) -> str:
    """Say why no ids of the data could be counted."""
    if view is None or subject.data is None or subject.data.synthetic:
        return "needs ids: --tokens FILE, or DATA with a model"
    if view.watch is None:
        return f"no lookup could be watched: {view.trouble}"
    return "no table looks up ids as they come in the data"


def _unfollowed(view: ModelView) -> dict[str, str]:
    """Parameter name -> table of the lookups whose ids are not read from the batch. A bare matrix has negative ones."""
    if view.watch is None or view.batch is None or view.invented:
        return {}
    return {
        site.parameter: site.name
        for site in view.sites
        if site.held and site.parameter in view.watch.uses and site.name not in view.counts
    }
