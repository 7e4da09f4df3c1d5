"""The judges that `judge` can ask: a model behind an address, a local model, a reward, a Python function."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from assent.config.functions import import_function
from assent.config.judge import JudgeConfig
from assent.engine.runtime import Runtime
from assent.errors import ModelError
from assent.judging.budget import Budget, Prices
from assent.judging.chat import LETTER_TOKENS, REASON_TOKENS, VERDICT_SCHEMA, ChatJudge, ChatModel, compare_texts
from assent.judging.rubric import Rubric, read_rubric
from assent.judging.verdicts import FunctionJudge, PairJudge, Verdict
from assent.models.folders import content_hash
from assent.models.loading import check_is_policy, load_config, load_policy, load_tokenizer
from assent.models.module import AlignmentModel
from assent.models.templates import resolve_template
from assent.rewards.base import Reward, checked_reward
from assent.rewards.loading import check_reward, load_reward, reward_hash
from assent.rewards.reading import Encoding, ModelReader
from assent.runs.files import storage_errors
from assent.runs.folder import ATTEMPTS
from assent.runs.kept import Kept
from assent.types import Message, PromptGroup, Text

LETTERS = ("A", "B")


def judge_of(config: JudgeConfig) -> PairJudge:
    """The judge that the options name. Raises ConfigError and ModelError before weights are loaded."""
    if config.function is not None:
        return FunctionJudge(import_function(config.function, what="judge"), name=config.function)
    if config.reward is not None:
        check_reward(config.reward, ensemble=config.reward_ensemble)
        device = Runtime.of(config).device
        reward = load_reward(config.reward, ensemble=config.reward_ensemble, device=device, dtype=config.dtype)
        return ScoreJudge(reward, probabilities=config.probabilities)
    if config.endpoint is None:
        return LocalJudge(config, rubric=rubric_of(config))
    as_json = config.reply == "json"
    chat = chat_of(
        config,
        max_tokens=REASON_TOKENS if as_json else LETTER_TOKENS,
        logprobs=config.probabilities,
        schema=VERDICT_SCHEMA if as_json else None,
    )
    return ChatJudge(chat, rubric=rubric_of(config), probabilities=config.probabilities, as_json=as_json)


def rubric_of(config: JudgeConfig) -> Rubric:
    return Rubric() if config.rubric is None else read_rubric(config.rubric)


def chat_of(config: JudgeConfig, **options: Any) -> ChatModel:
    """The model behind --endpoint, with its budget. `options` are those of `ChatModel`."""
    assert config.endpoint is not None
    assert config.model is not None
    prices = Prices(config.input_price, config.output_price)
    return ChatModel(
        config.endpoint,
        model=config.model,
        key_env=config.api_key_env,
        concurrency=config.concurrency,
        timeout_seconds=config.timeout_seconds,
        budget=Budget(max_requests=config.max_requests, max_cost=config.max_cost, prices=prices),
        **options,
    )


def continue_chat(chat: ChatModel, kept: Kept, folder: Path) -> None:
    """Answers of an earlier process are not requested again. They count in the budget, and its other attempts too."""
    chat.kept, budget, attempts = kept, chat.budget, folder / ATTEMPTS
    assert budget is not None
    for answer in kept.answers():
        budget.kept(answer["usage"])

    def write(lines: int) -> None:
        with storage_errors(attempts), attempts.open("ab") as file:
            file.write(b"\n" * lines)

    written = attempts.stat().st_size if attempts.exists() else 0
    write(max(0, budget.requests - written))
    budget.requests = max(budget.requests, written)
    budget.begun = lambda: write(1)


def hashes_of(config: JudgeConfig) -> dict[str, str]:
    """What the verdicts depend on besides the options: files and code. Of an endpoint only the address is known."""
    if config.function is not None:
        file = getattr(sys.modules.get(config.function.partition(":")[0]), "__file__", None)
        return {"function": hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()}
    if config.reward is not None:
        return {"reward": reward_hash(config.reward)}
    found = {"rubric": hashlib.sha256(Path(config.rubric).read_bytes()).hexdigest()} if config.rubric else {}
    if config.endpoint is None:
        assert config.model is not None
        found["model"] = content_hash(config.model, revision=config.revision)
    return found


class LocalJudge:
    """A policy that reads the same question as a model behind an address, and gives the probability of A among A and B
    as its reply's first token.

    Instruction and answers stand in one user turn, as some templates have no system turn.
    """

    def __init__(self, config: JudgeConfig, *, rubric: Rubric) -> None:
        path = config.model
        assert path is not None
        found = load_config(path, revision=config.revision)
        check_is_policy(found, path)
        self.name, self.rubric, self.probabilities = path, rubric, config.probabilities
        tokenizer = load_tokenizer(path, revision=config.revision)
        device = Runtime.of(config).device
        model = load_policy(path, dtype=config.dtype, revision=config.revision, tokenizer=tokenizer).to(device)
        module = AlignmentModel(model, kind="policy").eval()
        self._reader = ModelReader(module, device=torch.device(device), micro_batch_tokens=8192)
        context = getattr(found.get_text_config(), "max_position_embeddings", None) or 1 << 20
        self._encoding = Encoding(
            tokenizer, resolve_template(tokenizer), reads_ids=False, max_length=context, name=path
        )

    def compare(
        self,
        prompts: Sequence[Text],
        first: Sequence[str],
        second: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
    ) -> list[Verdict]:
        asked: list[Text] = []
        for one in zip(prompts, first, second, strict=True):
            asked.append((Message("user", "\n\n".join(compare_texts(self.rubric, *one))),))
        tokens = self._encoding.tokens([text for text in asked for _ in LETTERS], [*LETTERS] * len(asked), None, None)
        for a, b in zip(tokens[::2], tokens[1::2], strict=True):
            if a.completions[0].ids[0] == b.completions[0].ids[0]:
                raise ModelError(f"{self.name} cannot judge: A and B begin with the same token")
        read = [float(piece[0]) for piece in self._reader.read(tokens, "logprobs")]
        found: list[Verdict] = []
        for of_a, of_b in zip(read[::2], read[1::2], strict=True):
            found.append(_sigmoid(of_a - of_b) if self.probabilities else _letter(of_a, of_b))
        return found


class ScoreJudge:
    """A reward as a judge: the answer with the higher score is the better one; equal scores tie.

    probabilities   σ(score of the first − score of the second), which is what a reward model was trained to give
    Each completion is scored once, however often it is compared.
    """

    def __init__(self, reward: Reward, *, probabilities: bool) -> None:
        self.reward, self.probabilities, self.name = reward, probabilities, reward.name
        self._known: dict[tuple[str, str], float] = {}

    def compare(
        self,
        prompts: Sequence[Text],
        first: Sequence[str],
        second: Sequence[str],
        *,
        groups: Sequence[PromptGroup] | None = None,
    ) -> list[Verdict]:
        rows = [None] * len(prompts) if groups is None else list(groups)
        wanted = [
            (prompt, text, row)
            for prompt, *texts, row in zip(prompts, first, second, rows, strict=True)
            for text in texts
        ]
        new = {(repr(prompt), text): (prompt, text, row) for prompt, text, row in wanted}
        new = {key: one for key, one in new.items() if key not in self._known}
        if new:
            of, texts, their = (list(column) for column in zip(*new.values(), strict=True))
            scores = checked_reward(self.reward, of, texts, groups=None if groups is None else their)
            self._known |= dict(zip(new, scores, strict=True))
        found: list[Verdict] = []
        for prompt, one, two in zip(prompts, first, second, strict=True):
            a, b = self._known[repr(prompt), one], self._known[repr(prompt), two]
            found.append(_sigmoid(a - b) if self.probabilities else _letter(a, b))
        return found


def _sigmoid(x: float) -> float:
    return float(torch.sigmoid(torch.tensor(x, dtype=torch.float64)))


def _letter(a: float, b: float) -> str:
    return "A" if a > b else "B" if a < b else "tie"
