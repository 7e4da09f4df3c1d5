"""The pages: labelling, adjudication, the dashboard, signing in."""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from sqlalchemy.engine import Connection
from starlette.responses import Response

from assent.errors import DataError
from assent.feedback.app.rendering import markdown, only_body, shown_json, turns, visible
from assent.feedback.app.site import Page, Site, Visit, begin_session, redirect
from assent.feedback.dashboard import dashboard
from assent.feedback.store.labelling import (
    Assignment,
    answer,
    assignment_of,
    last_answered,
    latest_comment,
    latest_value,
    next_assignment,
    next_dispute,
)
from assent.feedback.store.people import SHORTEST_PASSWORD, accept, invited, sign_in
from assent.feedback.store.reading import (
    MOST_LEFT,
    Progress,
    current_guidelines,
    has_guidelines,
    own_left,
    own_pace,
    read_items,
    task_of,
    votes_on,
)
from assent.feedback.store.schema import ADJUDICATION
from assent.feedback.tasks import Value, normal
from assent.statistics.intervals import Estimate

RATINGS = 5
LONGEST_COMMENT = 4000
QUESTIONS = {
    "compare": "Which answer is better?",
    "rank": "Rank the answers, best first.",
    "rate": "How good is this answer?",
    "thumbs": "Is this a good answer?",
}


def home(_: Site, __: Visit) -> Response:
    return redirect("/label")


def label(site: Site, visit: Visit) -> Response:
    """The next item; or with ?again=N an earlier one of the annotator's own, to change its answer."""
    again = visit.request.query_params.get("again", "")
    if again:
        with site.database.reading() as connection:
            found = assignment_of(connection, int(again), visit.who.id) if _is_number(again) else None
        if found is None:
            return site.message(visit, "There is no such item among yours.", status=404)
    else:
        found = next_assignment(site.database, visit.who.id, site.mix)
    is_adjudication = found is not None and found.occasion == ADJUDICATION
    return _task(site, visit, found, "/adjudicate" if is_adjudication else "/label")


def adjudicate(site: Site, visit: Visit) -> Response:
    return _task(site, visit, next_dispute(site.database, visit.who.id), "/adjudicate")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _task(site: Site, visit: Visit, assignment: Assignment | None, action: str) -> Response:
    done, total = site.totals()
    item, votes, before, said, comment = None, [], None, None, ""
    with site.database.reading() as connection:  # one for all: each costs a database as much as a question
        own, seconds = own_pace(connection, visit.who.id)
        progress = Progress(done, total, own, seconds, own_left(connection, visit.who.id))
        version, instructions = current_guidelines(connection)
        until = {} if assignment is None else {"before": assignment.ordinal}
        undo = last_answered(connection, visit.who.id, **until)
        if assignment is not None:
            item = read_items(connection, [assignment.item_id])[assignment.item_id]
            votes = votes_on(connection, item.id) if assignment.occasion == ADJUDICATION else []
            before = _said(connection, assignment) if assignment.revision else None
            comment = latest_comment(connection, assignment.id) if assignment.revision else ""
            said = None if undo is None else _said(connection, undo)
    common: dict[str, Any] = {
        "progress": progress,
        "time_left": _time_left(progress),
        "most_left": MOST_LEFT,
        "guidelines": None if instructions is None else markdown(instructions),
        "action": action,
        "undo": undo,
    }
    if assignment is None or item is None:
        return site.html("nothing.html.jinja", visit, **common)
    places = assignment.shown_order
    return site.html(
        "task.html.jinja",
        visit,
        assignment=assignment,
        task=item.task,
        question=QUESTIONS[item.task],
        prompt=turns(item.prompt),
        tools=shown_json(item.tools) if item.tools else None,
        answers=[only_body(item.completions[place]) for place in places],
        votes=[(_shown_value(item.task, vote.value, places), visible(vote.comment or "")) for vote in votes],
        shown=f"{site.database.clock():.3f}",
        version="" if version is None else version,
        comment=comment,
        ratings=list(range(1, RATINGS + 1)),
        before=before,
        said=said,
        **common,
    )


def _said(connection: Connection, assignment: Assignment) -> str:
    """What the annotator said of an item before."""
    value = latest_value(connection, assignment.id)
    if value is None:
        return "you skipped it"
    return f"you said “{_shown_value(task_of(connection, assignment.item_id), value, assignment.shown_order)}”"


def _shown_value(task: str, value: Value, places: Sequence[int]) -> str:
    """A judgement in the words of the page, with the numbers of the answers as shown."""
    if task == "rate":
        return f"{value['scores'][0]:g} of {RATINGS}"
    if task == "thumbs":
        return "good" if value["thumbs"][0] else "not good"
    ranks = [value["ranking"][place] for place in places]
    if task == "compare":
        return "equally good" if ranks[0] == ranks[1] else f"answer {1 + ranks.index(min(ranks))} is better"
    return "ranks " + ", ".join(f"answer {i + 1}: {rank}" for i, rank in enumerate(ranks))


def _time_left(progress: Progress) -> str | None:
    """At the annotator's own pace. Of more items than are counted it is the least."""
    seconds, is_least = progress.seconds_left, progress.left >= MOST_LEFT
    if not seconds:
        return None
    minutes = round(seconds / 60)
    if minutes == 0:
        return None if is_least else "less than a minute"
    how = "more than" if is_least else "about"
    return f"{how} {minutes} min" if minutes < 60 else f"{how} {minutes // 60} h {minutes % 60:02} min"


def post_label(site: Site, visit: Visit) -> Response:
    return _store(site, visit, "/label")


def post_adjudicate(site: Site, visit: Visit) -> Response:
    return _store(site, visit, "/adjudicate")


def _store(site: Site, visit: Visit, back: str) -> Response:
    form = visit.form
    number, revision = form.get("assignment", ""), form.get("revision", "")
    is_form = _is_number(number) and _is_number(revision)
    version = form.get("guidelines", "")
    with site.database.reading() as connection:
        found = assignment_of(connection, int(number), visit.who.id) if is_form else None
        task = "" if found is None else task_of(connection, found.item_id)
        is_known = not version or (_is_number(version) and has_guidelines(connection, int(version)))
    if not is_known:
        return site.message(visit, "This form names guidelines that do not exist.", status=400, link=back)
    if found is None or (found.occasion == ADJUDICATION) != (back == "/adjudicate"):
        return site.message(visit, "There is no such item among yours.", status=404, link=back)
    try:
        value = None if form.get("choice") == "skip" else value_of_form(task, form, found.shown_order)
    except ValueError as error:
        return site.message(visit, f"This answer cannot be stored: {error}", status=400, link=back)
    stored = answer(
        site.database,
        found.id,
        visit.who.id,
        revision=int(revision),
        value=value,
        comment=form.get("comment", "").strip()[:LONGEST_COMMENT],
        seconds=_seconds(form.get("shown", ""), found.given, site.database.clock()),
        guideline_id=int(version) if version else None,
    )
    if stored == "taken":
        text = "This item was open for so long that somebody else has it now. Your answer was not stored."
        return site.message(visit, text, status=409, link=back)
    return redirect(back)


def _seconds(shown: str, given: float, now: float) -> float | None:
    """Since the page was shown, as its form says; never longer than the item has been out."""
    try:
        seconds = now - float(shown)
    except ValueError:
        return None
    return min(max(0.0, seconds), now - given) if math.isfinite(seconds) else None


def value_of_form(task: str, form: Mapping[str, str], places: Sequence[int]) -> Value:
    """What the form says, over the completions in their stored order. Raises ValueError."""
    choice = form.get("choice", "")
    if task == "compare":
        if choice == "=":
            return {"ranking": [1, 1]}
        if choice not in ("1", "2"):
            raise ValueError("choose 1, 2 or =.")
        best = places[int(choice) - 1]
        return {"ranking": [1 if place == best else 2 for place in range(2)]}
    if task == "thumbs":
        if choice not in ("up", "down"):
            raise ValueError("choose thumbs up or down.")
        return {"thumbs": [choice == "up"]}
    if task == "rate":
        if not _is_number(choice) or not 1 <= int(choice) <= RATINGS:
            raise ValueError(f"choose 1 to {RATINGS}.")
        return {"scores": [int(choice)]}
    given = [form.get(f"rank_{i + 1}", "") for i in range(len(places))]
    if not all(_is_number(rank) and 1 <= int(rank) <= len(places) for rank in given):
        raise ValueError(f"give every answer a rank from 1 to {len(places)}.")
    ranking = [0] * len(places)
    for place, rank in zip(places, given, strict=True):
        ranking[place] = int(rank)
    return {"ranking": normal(ranking)}


def show_dashboard(site: Site, visit: Visit) -> Response:
    done, total = site.totals()
    figures = dashboard(site.database, precision=site.precision)
    return site.html("dashboard.html.jinja", visit, figures=figures, done=done, total=total, shown=shown_estimate)


def shown_estimate(estimate: Estimate | None, *, percent: bool = True, sign: str = "%") -> str:
    """`71% [66%, 75%]`, or the same as numbers; without `sign`, a difference of percentages in points."""
    if estimate is None:
        return "–"

    def number(value: float) -> str:
        return (f"{100 * value:.0f}{sign}" if percent else f"{value:.2f}").replace("-", "−")

    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return f"{number(estimate.value)} (too few for an interval)"
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def login(site: Site, visit: Visit) -> Response:
    if visit.annotator is not None:
        return redirect("/label")
    return site.html("login.html.jinja", visit, error=None)


def post_login(site: Site, visit: Visit) -> Response:
    name = visit.form.get("name", "").strip()
    keys = (f"name:{name.lower()[:100]}", f"address:{visit.address}")
    if not site.limiter.is_open(*keys):
        error = "Too many wrong passwords. Wait five minutes."
        return site.html("login.html.jinja", visit, status=429, error=error)
    annotator = sign_in(site.database, name, visit.form.get("password", ""))
    if annotator is None:
        site.limiter.failed(*keys)
        return site.html("login.html.jinja", visit, status=403, error="The name or the password is wrong.")
    begin_session(visit, annotator)
    return redirect("/label")


def logout(_: Site, visit: Visit) -> Response:
    visit.session.clear()
    return redirect("/login")


def start(site: Site, visit: Visit) -> Response:
    """The link that the command prints: signs the owner of the terminal in, on loopback."""
    token = visit.request.query_params.get("token", "")
    if site.start_token is None or site.owner is None or not hmac.compare_digest(
        token.encode(), site.start_token.encode()
    ):  # fmt: skip
        return site.message(visit, "This link is out of date. Take the one that the command prints.", status=403)
    begin_session(visit, site.owner)
    return redirect("/label")


def invitation(site: Site, visit: Visit) -> Response:
    token = visit.request.path_params["token"]
    name = invited(site.database, token)
    if name is None:
        return site.message(visit, "This invitation is unknown, used or too old.", status=403, link="/login")
    return site.html("invitation.html.jinja", visit, name=name, shortest=SHORTEST_PASSWORD, error=None)


def post_invitation(site: Site, visit: Visit) -> Response:
    token = visit.request.path_params["token"]
    name = invited(site.database, token)
    if name is None:
        return site.message(visit, "This invitation is unknown, used or too old.", status=403, link="/login")
    error = None
    if visit.form.get("password", "") != visit.form.get("again", ""):
        error = "The two passwords differ."
    else:
        try:
            begin_session(visit, accept(site.database, token, visit.form.get("password", "")))
            return redirect("/label")
        except DataError as refused:
            error = refused.what
    return site.html(
        "invitation.html.jinja", visit, status=400, name=name, shortest=SHORTEST_PASSWORD, error=Markup.escape(error)
    )


PAGES = (
    Page("/", "GET", "annotator", home),
    Page("/label", "GET", "annotator", label),
    Page("/label", "POST", "annotator", post_label),
    Page("/adjudicate", "GET", "admin", adjudicate),
    Page("/adjudicate", "POST", "admin", post_adjudicate),
    Page("/dashboard", "GET", "admin", show_dashboard),
    Page("/login", "GET", "nobody", login),
    Page("/login", "POST", "nobody", post_login),
    Page("/logout", "POST", "annotator", logout),
    Page("/start", "GET", "nobody", start),
    Page("/invitation/{token}", "GET", "nobody", invitation),
    Page("/invitation/{token}", "POST", "nobody", post_invitation),
)
"""All routes. Those that need nobody show no data, and check a password or a secret of their own."""
