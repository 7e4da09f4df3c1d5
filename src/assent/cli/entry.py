"""The `assent` program: its commands, its exit status, and the one message that an error prints.

Exit status: 0 done; 1 ran and found a fault; 2 bad input or usage, nothing written; 3 failed while running, the last
checkpoint is kept; 130 interrupted by Ctrl-C or SIGTERM, resumable. Progress and logs go to stderr; with --json stdout
is exactly one JSON document.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cyclopts import App, CycloptsError, UnknownOptionError, UnusedCliTokensError

from assent import __version__
from assent.cli.outcome import Outcome
from assent.config.foreign import OURS_TOO, answer, foreign_error
from assent.config.launch import check_one_process, place
from assent.errors import AssentError, ConfigError, UsageError

EPILOGUE = (
    "Every command takes --config FILE.yaml (options by name; a flag overrides the file), --json (prints one JSON "
    "document on stdout), --verbose (prints all figures at the end, not only the main ones) and --debug (prints a "
    "traceback with an error)."
)

PIPELINES, TRAINING, MODELS, DATA = "Pipelines and reports", "Training", "Models and answers", "Data"
FEEDBACK = "Preferences"

COMMANDS = (
    # name, place below assent.cli, group, help. A module is imported when its command is named, not before.
    ("sft", "training:sft", TRAINING, "Fine-tune on demonstrations (instruction tuning)."),
    ("reward", "training:reward", TRAINING, "Train a reward model on comparisons, rankings, ratings or step labels."),
    ("dpo", "training:dpo", TRAINING, "Train with DPO, or a related loss, on comparisons or rankings."),
    ("kto", "training:kto", TRAINING, "Train with KTO on thumbs up and down."),
    (
        "online-dpo",
        "training:online_dpo",
        TRAINING,
        "Train with DPO on completions that the policy samples and a reward ranks.",
    ),
    ("ppo", "training:ppo", TRAINING, "Train with PPO against a reward, with a KL penalty to the reference."),
    ("a2c", "training:a2c", TRAINING, "Train with advantage actor-critic: one update per round, with a critic."),
    (
        "grpo",
        "training:grpo",
        TRAINING,
        "Train with GRPO: rewards normalised over each prompt's completions, no critic.",
    ),
    (
        "rloo",
        "training:rloo",
        TRAINING,
        "Train with REINFORCE leave-one-out: the other completions are the baseline, no critic.",
    ),
    (
        "convert-config",
        "conversion:convert_config",
        TRAINING,
        "Convert a configuration of TRL, LLaMA-Factory, axolotl or OpenRLHF to ours.",
    ),
    ("demo", "pipelines:demo", PIPELINES, "Run every stage on the built-in world and write a report."),
    (
        "run",
        "pipelines:run",
        PIPELINES,
        "Run the stages of a pipeline file in order; finished stages are not repeated.",
    ),
    (
        "iterate",
        "pipelines:iterate",
        PIPELINES,
        "Repeat sampling, collecting preferences, training and evaluating until a rule stops it.",
    ),
    (
        "update",
        "pipelines:update",
        PIPELINES,
        "Train a successor of the released model, and mark it as released if all gates pass.",
    ),
    ("rollback", "pipelines:rollback", PIPELINES, "Put the mark back on the model that was released before."),
    (
        "report",
        "pipelines:report",
        PIPELINES,
        "Write an HTML page about a run or a pipeline, or about several side by side.",
    ),
    ("eval", "models:evaluate", MODELS, "Compare policies on the same prompts, or measure a reward model."),
    ("judge", "models:judge", MODELS, "Have a judge compare completions, as preferences to train on."),
    (
        "frontier",
        "models:frontier",
        MODELS,
        "Measure proxy and gold reward against √KL: where does over-optimisation begin?",
    ),
    ("compare", "models:compare", MODELS, "Compare methods on the same data at equal labels, completions or FLOPs."),
    (
        "plan",
        "plan:plan",
        PIPELINES,
        "Say which method your data supports, and why; write the pipeline file that runs it.",
    ),
    (
        "doctor",
        "models:doctor",
        PIPELINES,
        "Say what is wrong with a run, of any trainer, and what to change.",
    ),
    (
        "monitor",
        "models:monitor",
        PIPELINES,
        "Say what moved in the logs of a deployed model since its release, and why.",
    ),
    ("explain", "models:explain", MODELS, "Explain a preference probability, from numbers or from models."),
    ("merge", "models:merge", MODELS, "Merge an adapter into its base model."),
    (
        "serve-check",
        "models:serve_check",
        MODELS,
        "Check that transformers and vLLM compute what the trained model computes.",
    ),
    ("new-model", "models:new_model", MODELS, "Make a small model and its tokenizer from text files."),
    ("sample", "models:sample", MODELS, "Sample completions from a policy, as JSONL."),
    ("label", "feedback:label", FEEDBACK, "Collect preferences from people in the browser, and export them."),
    ("best-of-n", "models:best_of_n", MODELS, "Keep each prompt's highest-scoring completion out of N."),
    ("score", "models:score", MODELS, "Score completions by a reward, or read their log-probabilities."),
)

IN_SEVERAL_PROCESSES = frozenset(name for name, location, *_ in COMMANDS if location.startswith("training:"))
"""Commands that torchrun, accelerate launch or srun may start; any other one says at once that it is made for one."""

DATA_COMMANDS = (
    (
        "show",
        "data:show",
        "Show rows as a model reads them: turns, tokens, loss, EOS and cuts; writes nothing.\n\n"
        "Exit status 1 if a row shown would be refused.",
    ),
    (
        "check",
        "data:check",
        "Show what is in a file and what is wrong with it; writes only with --apply.\n\n"
        "Exit status 1 if it finds rows that are refused, empty or identical completions, contradictions, exact "
        "duplicates or prompts shared with --against; with --model also rows that are cut or unusable, and faults of "
        "template and EOS.",
    ),
    ("split", "data:split", "Split a file into training and held-out rows; no conversation is in both."),
)


def build_app() -> App:
    app = App(
        name="assent",
        help="Align a language model with preferences, and show whether it worked. Options: assent COMMAND --help.",
        help_epilogue=EPILOGUE,
        version=__version__,
        help_format="plaintext",
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for name, location, group, text in COMMANDS:
        app.command(f"assent.cli.{location}", name=name, help=text, group=group)
    data = App(name="data", help="Show, check and split files of prompts and completions.", group=DATA)
    for name, location, text in DATA_COMMANDS:
        data.command(f"assent.cli.{location}", name=name, help=text)
    app.command(data)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. `argv` excludes the program's name; None: the process's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags, arguments = _global_flags(arguments)
    as_json, debug = "--json" in flags, "--debug" in flags
    try:
        with _terminable(), _stdout_on_stderr() if as_json else contextlib.nullcontext():
            outcome = _run(arguments)
        if outcome is not None and place().is_main:  # torchrun starts several processes
            text = outcome.whole if "--verbose" in flags and outcome.whole is not None else outcome.text
            print(_json(outcome.document) if as_json else text)
            sys.stdout.flush()
        return 0 if outcome is None else outcome.exit_status
    except BrokenPipeError:  # the reader of stdout is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stopped:  # raised by a library, which has printed why
        return stopped.code if isinstance(stopped.code, int) else 3
    except BaseException as error:
        if debug:
            traceback.print_exc()
        message, status = _explain(error)
        message = in_columns(message) if sys.stderr.isatty() else message
        print(message, file=sys.stderr, flush=True)
        return status


def _json(document: Mapping[str, Any]) -> str:
    """JSON as in the run folder: a figure that is not finite becomes text, since JSON has no number for it."""
    from assent.runs.files import to_json

    return to_json(document)


def _run(arguments: list[str]) -> Outcome | None:
    """None if help or the version was asked for and printed."""
    app = build_app()
    if not arguments:
        names = ", ".join([*(name for name, *_ in COMMANDS), "data"])
        raise UsageError("no command given", expected=names, fix="assent --help, or assent COMMAND --help")
    _check_processes(arguments)
    try:
        return app(arguments)
    except UnusedCliTokensError as error:
        words = error.unused_tokens or []
        raise ConfigError("words that no option takes", got=" ".join(words), fix=_where(words, error)) from None
    except CycloptsError as error:
        error.verbose = False
        if isinstance(error, UnknownOptionError) and error.token is not None:
            flags = [str(error.token.keyword), *(word for word in arguments if word.startswith("--"))]
            named = [flag.partition("=")[0] for flag in flags]
            others = [name for name in named[1:] if answer(name) and name[2:].replace("-", "_") not in OURS_TOO]
            if (foreign := foreign_error(dict.fromkeys([named[0], *others]))) is not None:
                raise foreign from None
        raise ConfigError(str(error).strip(), fix=f"see {_help_command(error)}") from None


def _check_processes(arguments: Sequence[str]) -> None:
    """UsageError if a launcher started several processes of a command of one. Only the main one says so. Shards of a
    file are apart from each other: a scheduler may start a process for each."""
    apart = any(word.partition("=")[0] in ("--shard", "--help", "-h", "--version") for word in arguments)
    if arguments[0] in IN_SEVERAL_PROCESSES or apart or place().number == 1:
        return
    if not place().is_main:
        raise SystemExit(2)
    check_one_process(f"assent {arguments[0]}")


def _help_command(error: CycloptsError) -> str:
    return " ".join(["assent", *(error.command_chain or ()), "--help"])


def _where(words: Sequence[str], error: UnusedCliTokensError) -> str:
    """What to do with words that no option takes: where they are a file or a model's folder, the option for it."""
    options = () if error.target is None else inspect.signature(error.target).parameters
    paths = [Path(word) for word in words]
    for option, is_one in (("model", Path.is_dir), ("data", Path.exists)):
        if option in options and words and all(map(is_one, paths)):
            given = " ".join(f"--{option} {word}" for word in words)
            return f"give {given}; for other options see {_help_command(error)}"
    return f"see {_help_command(error)}"


GLOBAL = frozenset({"--json", "--verbose", "--debug"})


def _global_flags(arguments: list[str]) -> tuple[frozenset[str], list[str]]:
    """Those of `GLOBAL` that are given, anywhere before `--`, and the other arguments."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    head = arguments[:end]
    return GLOBAL.intersection(head), [argument for argument in head if argument not in GLOBAL] + arguments[end:]


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops a command as Ctrl-C does. Only the main thread can set this; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Sends to stderr what Python, libraries in C and child processes print on stdout."""
    import ctypes

    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C buffers its output while stdout is not a terminal
        os.dup2(kept, 1)
        os.close(kept)


_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


UNLESS_SAID = "the same command continues from the last checkpoint, if there is one"


_OF_A_MESSAGE = re.compile("(error: |  (?:got: {6}|expected: |to do: {4}))\\S")
_TO_COPY = re.compile(r"(assent|pip|python|iconv|hf) \S|[{}]|'[^' ]* [^']*'")
"""A command, a value of JSON, or a quoted word with blanks: in two lines it could not be copied."""


def in_columns(message: str) -> str:
    """The message in 80 columns, for a terminal. What can be copied, such as a command, keeps its line, logs too."""
    lines: list[str] = []
    for line in message.splitlines():
        named = _OF_A_MESSAGE.match(line) if len(line) > 80 else None
        is_whole = named is None or (not line.startswith("  expected: ") and _TO_COPY.search(line))
        indent = "" if named is None else " " * (2 if line.startswith("error: ") else len(named[1]))
        options: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
        lines += [line] if is_whole else textwrap.wrap(line, 80, subsequent_indent=indent, **options)
    return "\n".join(lines)


def _explain(error: BaseException) -> tuple[str, int]:
    """The message to print, and the exit status."""
    if isinstance(error, AssentError):
        return f"error: {error}", error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted: {error if error.args else UNLESS_SAID}", 130
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"error: the disk is full{where}\n  to do:    free some space, then repeat the command: it resumes", 3
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        fix = "check the path and its permissions, or choose another"
        return f"error: {error.filename} cannot be opened: {error.strerror}\n  to do:    {fix}", 2
    if isinstance(error, MemoryError):
        return "error: not enough memory\n  to do:    give smaller inputs or a smaller model, or free some memory", 3
    text = " ".join(str(error).split()) or "no message"
    return f"error: unexpected {type(error).__name__}: {text}\n  to do:    --debug shows where", 3
