"""`label`: fills the store, serves the labelling app, and moves labels in and out."""

from __future__ import annotations

import getpass
import importlib.util
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assent.config.label import LabelConfig
from assent.data.named import load_named
from assent.data.texts import counted
from assent.errors import ConfigError, DataError, DataFileNotFoundError, UsageError

if TYPE_CHECKING:
    from assent.feedback.store.database import Database
    from assent.feedback.store.exporting import Selection
    from assent.feedback.tasks import NewItem

Outcome = tuple[dict[str, Any], list[str]]
NEEDED = ("starlette", "uvicorn", "sqlalchemy", "alembic", "pwdlib", "itsdangerous", "multipart", "markdown_it")


def label(config: LabelConfig, *, say: Callable[[str], None] | None = None) -> Outcome:
    """Outputs: `store`, and what was done with it. `say` gets lines while it serves; None: they go to stderr."""
    check_packages("label")
    from assent.feedback.store.database import open_database

    actions = {
        "export": _export,
        "import_labels": _import,
        "backup": _backup,
        "restore": _restore,
        "invite": _invite,
        "erase": _erase,
    }
    action = next((name for name in actions if getattr(config, name) is not None), None)
    fills = config.completions is not None or config.prompts is not None or config.gold is not None
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    is_new = "://" not in config.store and not Path(config.store).exists()
    with open_database(config.store, create=fills or action in ("import_labels", "restore", "invite")) as database:
        try:
            document, lines = actions[action](config, database) if action else _collect(config, database, say)
        except UsageError:  # nothing is written then
            if is_new:
                database.discard()
            raise
        return {"store": database.name, **document}, lines


def check_packages(what: str) -> None:
    """Raises ConfigError where packages of the extra feedback are missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what} needs packages of the extra feedback", got=f"no {', '.join(missing)}",
            fix="pip install 'assent[feedback]'",
        )  # fmt: skip


def _collect(config: LabelConfig, database: Database, say: Callable[[str], None]) -> Outcome:
    lines = _fill(config, database)
    if not config.serve:
        done, total = _totals(database)
        return {"reviews_done": done, "reviews": total}, [*lines, f"{done} of {total} reviews done"]
    for line in lines:
        say(line)
    _serve(config, database, say)
    done, total = _totals(database)
    after = f"assent label --export labels.jsonl --store {database.name}"
    return {"reviews_done": done, "reviews": total}, [f"{done} of {total} reviews done; next: {after}"]


def _totals(database: Database) -> tuple[int, int]:
    from assent.feedback.store.reading import totals

    return totals(database)


def _fill(config: LabelConfig, database: Database) -> list[str]:
    """Adds what the options name, and returns what to tell the user."""
    from assent.feedback.store.items import add_guidelines, add_items
    from assent.feedback.store.places import set_reviews
    from assent.feedback.tasks import gold_items

    items, lines = _new_items(config, database)
    gold: list[NewItem] = []
    if config.gold is not None:
        gold = gold_items(load_named(config, "gold"), config.task)
    instructions = _instructions(config.guidelines) if config.guidelines is not None else None
    reviews = config.reviews or _reviews_so_far(database)
    if items:
        added = add_items(database, items, task=config.task, reviews=reviews, seed=config.seed)
        lines.append(f"{counted(added, 'item')} new in the store, {len(items) - added} there already")
    if gold:
        added = add_items(database, gold, task=config.task, reviews=0, seed=config.seed)
        lines.append(f"{counted(added, 'gold question')} new in the store, {len(gold) - added} there already")
    if config.reviews is not None:
        set_reviews(database, config.reviews)
    if config.order != "random":
        from assent.commands.label_order import order_items

        lines.append(order_items(config, database))
    if instructions is not None:
        version = add_guidelines(database, instructions)
        lines.append(f"guidelines: version {version}")
    return lines


def _instructions(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataFileNotFoundError(f"there are no guidelines {file}") from None
    except UnicodeDecodeError:
        raise DataError("the guidelines are not UTF-8 text", got=file) from None


def _reviews_so_far(database: Database) -> int:
    import sqlalchemy as sa

    from assent.feedback.store.schema import queue

    with database.reading() as connection:
        return int(connection.scalar(sa.select(sa.func.max(queue.c.reviews))) or 1)


def _new_items(config: LabelConfig, database: Database) -> tuple[list[NewItem], list[str]]:
    from assent.feedback.tasks import to_items

    options: dict[str, Any] = {"pairs_per_prompt": config.pairs_per_prompt, "seed": config.seed}
    if config.completions is not None:
        dataset = load_named(config, "completions", is_to_be_judged=True)
        items, lines = to_items(dataset, config.task, **options)
        return items, [*dataset.lines(), *lines]
    if config.prompts is not None:
        from assent.commands.label_sampling import sampled

        return to_items(sampled(config, database), config.task, **options)
    return [], []


def _serve(config: LabelConfig, database: Database, say: Callable[[str], None]) -> None:
    from assent.feedback.app.guard import place_of
    from assent.feedback.app.serving import listen, serve
    from assent.feedback.app.site import Site
    from assent.feedback.store.labelling import Mix
    from assent.feedback.store.people import ensure_annotator

    with listen(config.host, config.port) as socket:
        port = socket.getsockname()[1]
        mix = Mix(config.gold_every, config.repeat_every)
        site = Site(database, place_of(port, config.public_url), mix=mix, precision=config.precision)
        if config.public_url is None:
            site.owner = ensure_annotator(database, config.annotator or getpass.getuser(), role="admin")
            site.start_token = secrets.token_urlsafe(24)
            link = f"http://127.0.0.1:{port}/start?token={site.start_token}"
            say(f"label at {link}\n  this link signs you in as {site.owner.name}; Ctrl-C ends, all answers are stored")
        else:
            link = config.public_url
            say(f"label at {link}; invite people with: assent label --invite NAME --public-url {link}")
        serve(site, socket, trusted_proxy=config.trusted_proxy, open_link=link if config.open else None)


def _export(config: LabelConfig, database: Database) -> Outcome:
    from assent.feedback.store import exporting

    assert config.export is not None
    folder = Path(config.export).parent
    if not folder.is_dir():
        raise DataFileNotFoundError(f"there is no folder {folder} for the export", fix="create it first")
    if config.format != "columns":
        return _export_for(config, database)
    found = exporting.select(database, aggregate=config.aggregate)
    if config.layout is not None:
        exporting.keep_layout(found, config.layout)
    if not found.rows:
        raise _nothing_to_export(database, found)
    layout = config.layout or exporting.choose_layout(found.rows)
    manifest = exporting.write_export(database, config.export, found, layout)
    return {"export": config.export, **manifest}, exporting.lines_of(found, config.export, layout)


def _nothing_to_export(database: Database, found: Selection) -> DataError:
    left = "; ".join(f"{reason}: {len(numbers)}" for reason, numbers in found.left_out.items() if numbers)
    return DataError(
        f"the store {database.name} has no label to export",
        got=left or "no label at all",
        fix=f"label first: assent label --store {database.name}",
    )


def _export_for(config: LabelConfig, database: Database) -> Outcome:
    """In another tool's format: all judgements, each with its annotator."""
    from assent.feedback import exchange
    from assent.feedback.store import exporting
    from assent.runs.files import write_json

    assert config.export is not None
    found = exporting.Selection()
    judged = list(exporting.judged_items(database, found))
    if not judged:
        raise _nothing_to_export(database, found)
    write = exchange.to_argilla if config.format == "argilla" else exchange.to_label_studio
    write_json(Path(config.export), write(judged))
    found.rows = exporting.as_taken(judged)
    manifest = exporting.record_export(database, config.export, found, config.format)
    return {"export": config.export, **manifest}, exporting.lines_of(found, config.export, config.format)


def _import(config: LabelConfig, database: Database) -> Outcome:
    from assent.feedback.exchange import read_file
    from assent.feedback.store.importing import import_groups

    assert config.import_labels is not None
    notes: list[str] = []
    if config.format == "columns":
        dataset = load_named(config, "import_labels")
        groups, notes = list(dataset), dataset.lines()
    else:
        groups = read_file(config.import_labels, config.format)
    name = Path(config.import_labels).name
    counts, lines = import_groups(database, groups, source=f"file {name}" if name[:1].isalnum() else "imported")
    return {"imported": counts}, [*notes, *lines]


def _backup(config: LabelConfig, database: Database) -> Outcome:
    from assent.feedback.store.backup import backup

    assert config.backup is not None
    counts = backup(database, config.backup)
    return {"backup": config.backup, "rows": counts}, [f"{counted(sum(counts.values()), 'row')} -> {config.backup}"]


def _restore(config: LabelConfig, database: Database) -> Outcome:
    from assent.feedback.store.backup import restore

    assert config.restore is not None
    counts = restore(database, config.restore)
    return {"restored": config.restore, "rows": counts}, [
        f"{counted(sum(counts.values()), 'row')} of {config.restore} -> {database.name}"
    ]


def _invite(config: LabelConfig, database: Database) -> Outcome:
    from assent.feedback.app.guard import place_of
    from assent.feedback.store.people import invite

    assert config.invite is not None
    (origin, *_) = sorted(place_of(config.port, config.public_url).origins)
    link = f"{origin}/invitation/{invite(database, config.invite, role=config.role)}"
    return {"invited": config.invite, "link": link}, [
        link,
        "  it works once, within seven days; whoever has it is this person",
    ]


def _erase(config: LabelConfig, database: Database) -> Outcome:
    from assent.feedback.store.people import erase

    assert config.erase is not None
    number = erase(database, config.erase)
    return {"erased": config.erase, "annotator": number}, [
        f"{config.erase} is annotator {number} from now on; the labels stay. Files exported before still have the name."
    ]
