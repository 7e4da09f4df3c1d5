"""Chat templates under a budget of steps and characters (law 13): a template is a program that came with a model.

transformers renders templates in Jinja's sandbox, which keeps them from the system and not from endless work. Inside
`bounded`, each loop, call, filter and operator that can multiply its input is charged, and beyond the budget the
template fails with an ordinary TemplateError. What a template writes within the budget is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers.utils import chat_template_utils

MAX_STEPS, MAX_CHARACTERS = 1_000_000, 100_000_000
"""Of one rendering: rounds of loops with the items of lists made, and characters of all texts made on the way."""
MAX_WIDTH, MAX_BITS = 1_000_000, 100_000
_PADDING = {"center", "ljust", "rjust", "zfill", "expandtabs", "indent"}
_WRITING = {"tojson", "string", "pprint", "join", "escape", "e", "forceescape", "format", "xmlattr"}
_DIGITS, _NESTED = re.compile(r"\d+"), re.compile(r"\{[^{}]*\{")


class _Budget:
    def __init__(self) -> None:
        self.steps, self.characters = MAX_STEPS, MAX_CHARACTERS

    def step(self, number: int = 1) -> None:
        self.steps -= number
        if self.steps < 0:
            raise jinja2.TemplateRuntimeError(f"it takes more than {MAX_STEPS} steps")

    def text(self, length: int) -> None:
        """Charged before a text of this length is made, where that can be told, and after it otherwise."""
        self.characters -= length
        if self.characters < 0:
            raise jinja2.TemplateRuntimeError(f"it writes more than {MAX_CHARACTERS} characters")

    def made(self, value: Any) -> Any:
        if isinstance(value, str):
            self.text(len(value))
        elif isinstance(value, (list, tuple, dict, set, range)):
            self.step(len(value))
        return value

    def may_write(self, value: Any) -> None:
        """Charges a nested value as often as it would be written: few lists can stand for any number of items."""
        pending = [value]
        while pending:
            item = pending.pop()
            self.step()
            if isinstance(item, dict):
                self.text(2 * len(item))
                pending.extend(item)
                pending.extend(item.values())
            elif isinstance(item, (list, tuple, set)):
                self.text(2 * len(item))
                pending.extend(item)
            elif isinstance(item, str):
                self.text(len(item))


_budget: ContextVar[_Budget | None] = ContextVar("budget of a chat template", default=None)


class _Guards(NodeTransformer):
    """Puts a charge into every loop, macro and block, and sends `~` through `joined`."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  (Jinja's protocol)
        self.generic_visit(node)
        node.iter = _call("counted", [node.iter], node.lineno)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("enter", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Block(self, node: nodes.Block) -> nodes.Block:  # noqa: N802
        """A block may write others, by `self.name()`, and so may each of these."""
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("enter", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _call("weighed", [node.expr], node.lineno)
        for operand in node.ops:
            name = "searched" if operand.op in ("in", "notin") else "weighed"
            operand.expr = _call(name, [operand.expr], node.lineno)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _call("sliced", [node], node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes, node.lineno)


def _call(name: str, arguments: list[Any], line: int) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> Any:
        guarded = _Guards().visit(source)
        guarded.set_environment(self)
        return super()._generate(guarded, *args, **kwargs)

    def tick(self) -> None:
        if (budget := _budget.get()) is not None:
            budget.step()

    def enter(self) -> None:
        """A call of a macro takes ten times as long as a round of a loop."""
        if (budget := _budget.get()) is not None:
            budget.step(10)

    def counted(self, items: Any) -> Any:
        if (budget := _budget.get()) is not None and isinstance(items, (str, list, tuple, dict, set, range)):
            budget.step(len(items))
        return items

    def weighed(self, value: Any) -> Any:
        """An operand of a comparison, which may look at all that is in it."""
        if (budget := _budget.get()) is not None:
            if isinstance(value, str):
                budget.text(len(value))
            elif isinstance(value, (list, tuple, dict, set)):
                budget.may_write(value)
        return value

    def searched(self, value: Any) -> Any:
        return value if isinstance(value, (dict, set)) else self.weighed(value)

    def sliced(self, value: Any) -> Any:
        return value if (budget := _budget.get()) is None else budget.made(value)

    def joined(self, *parts: Any) -> str:
        if (budget := _budget.get()) is not None:
            for part in parts:
                budget.may_write(part)
        return "".join(map(str, parts))

    def concat(self, parts: Iterable[str]) -> str:
        budget, found = _budget.get(), []
        for part in parts:
            if budget is not None:
                budget.text(len(part))
            found.append(part)
        return "".join(found)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if (budget := _budget.get()) is None:
            return super().call_binop(context, operator, left, right)
        if operator == "*":
            _check_product(budget, left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(0, right))
        elif operator == "%" and isinstance(left, str):
            _check_format(budget, left, right if isinstance(right, tuple) else (right,))
        return budget.made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if (budget := _budget.get()) is None:
            return super().call(context, function, *args, **kwargs)
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
        if isinstance(owner, str):
            budget.text(len(owner))
            _check_call(budget, getattr(function, "__name__", ""), (owner, *args, *kwargs.values()))
        result = super().call(context, function, *args, **kwargs)
        return result if isinstance(owner, _Environment) else budget.made(result)


def _check_product(budget: _Budget, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, str):
            budget.text(len(many) * max(0, times))
        elif isinstance(times, int) and isinstance(many, (list, tuple)):
            budget.step(len(many) * max(0, times))


def _check_bits(number: int) -> None:
    if number > MAX_BITS:
        raise jinja2.TemplateRuntimeError(f"it makes a number of more than {MAX_BITS} bits")


def _check_call(budget: _Budget, name: str, given: tuple[Any, ...]) -> None:
    """Charges what a filter or a method of text may make beyond its input. `given` begins with the text."""
    first, rest = given[0], given[1:]
    if name in _WRITING:
        budget.may_write(first)
    if name in _PADDING or name == "tojson":
        width = max([0, *(len(g) if isinstance(g, str) else g for g in rest if isinstance(g, (int, str)))])
        if width > MAX_WIDTH:
            raise jinja2.TemplateRuntimeError(f"it pads to a width of {width}")
        lines = str(first).count("\n") + str(first).count("\t") + 1 if isinstance(first, str) else 1
        budget.text(width * lines)
        if name == "tojson" and not isinstance(first, str):
            before = budget.characters
            budget.may_write(first)
            budget.text(width * (before - budget.characters))
    elif name in ("slice", "batch"):
        budget.step(max([0, *(g for g in rest if isinstance(g, int))]))
    elif name == "wordwrap" and isinstance(first, str):
        budget.text(len(first) * max([0, *(len(g) for g in rest if isinstance(g, str))]))
    elif name == "replace" and len(rest) >= 2 and all(isinstance(g, str) for g in (first, *rest[:2])):
        budget.text(first.count(rest[0]) * len(rest[1]))
    elif name == "join":
        texts = [g for g in given if isinstance(g, str)]
        items = next((len(g) for g in given if isinstance(g, (list, tuple, range, dict, set))), 0)
        budget.text(items * max(map(len, texts), default=0))
    elif name in ("format", "format_map") and isinstance(first, str):
        _check_format(budget, first, rest)
    elif name == "translate":
        budget.text(len(first) * max((len(v) for g in rest if isinstance(g, dict) for v in g.values()
                                      if isinstance(v, str)), default=0))  # fmt: skip


def _check_format(budget: _Budget, pattern: str, values: Iterable[Any]) -> None:
    """A pattern may write a value many times, and to any width."""
    fields = pattern.count("{") + pattern.count("%")
    widths = [int(number[:9]) for number in _DIGITS.findall(pattern)]
    widths += [value for value in values if isinstance(value, int)] if "*" in pattern or _NESTED.search(pattern) else []
    for value in values:
        before = budget.characters
        budget.may_write(value)
        budget.text((before - budget.characters) * fields)
    budget.text(max([0, *widths]) * fields)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passed = hasattr(function, "jinja_pass_arg")

    @wraps(function)
    def filter_(*args: Any, **kwargs: Any) -> Any:
        if (budget := _budget.get()) is None:
            return function(*args, **kwargs)
        given = (*args[passed:], *kwargs.values())
        if given:
            _check_call(budget, name, given)
            counted = given[0] if isinstance(given[0], (list, tuple, range, dict, set)) else ()
            budget.step(len(counted))
        return budget.made(function(*args, **kwargs))

    return filter_


_COMPARING = ("eq", "==", "equalto", "ne", "!=", "lt", "<", "lessthan", "le", "<=", "gt", ">", "greaterthan", "ge",
              ">=", "in")  # fmt: skip


def _weighing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A test that compares (`is eq`), with a charge for what it looks at."""

    @wraps(function)
    def test(*args: Any) -> Any:
        if (budget := _budget.get()) is not None:
            for value in args:
                if isinstance(value, (list, tuple, dict, set)):
                    budget.may_write(value)
        return function(*args)

    return test


def _written(value: Any) -> Any:
    """Called with each `{{ value }}` before it becomes text."""
    if (budget := _budget.get()) is not None and not isinstance(value, str):
        budget.may_write(value)
    return value


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    """`source` in transformers' environment, with charges."""
    plain: Any = _original("").environment
    environment = _Environment(
        trim_blocks=plain.trim_blocks,
        lstrip_blocks=plain.lstrip_blocks,
        extensions=[type(extension) for extension in plain.extensions.values()],
        finalize=_written,
    )
    environment.filters.update({name: _guarded(name, function) for name, function in plain.filters.items()})
    tests: dict[str, Any] = environment.tests
    tests.update({name: _weighing(tests[name]) for name in _COMPARING})
    environment.globals.update(plain.globals)
    environment.globals.pop("lipsum", None)  # random filler text, of any length
    return environment.from_string(source)


_original: Callable[[str], Any] = chat_template_utils._compile_jinja_template


def _compile(source: str) -> Any:
    return _original(source) if _budget.get() is None else _compiled(source)


setattr(chat_template_utils, "_compile_jinja_template", _compile)  # noqa: B010


@contextmanager
def bounded() -> Iterator[None]:
    """Inside the block, `apply_chat_template` renders one conversation within the budget."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)
