"""`compare`: trains several methods from one model on the same data at equal labels, completions or FLOPs.

For each seed and amount, every method's commands run in folders of their own (`SEED/AMOUNT/METHOD-COMMAND`), and the
resulting models answer the same prompts. `allotment.py` gives each method its share; the runs' ledgers hold its costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assent.commands.allotment import Part, Rates, allot
from assent.commands.opening import open_policy, open_prompts, open_reader, template_of
from assent.config.compare import ONLINE, CompareConfig, parts_of
from assent.config.loading import parse_options
from assent.config.rewards import described
from assent.data.loading import write_groups
from assent.data.named import load_named
from assent.engine.random import permutation
from assent.engine.runtime import Runtime
from assent.errors import DataError
from assent.evaluation.answers import key
from assent.evaluation.policies import BestOfN, EvaluationPlan, Judges, Policy
from assent.evaluation.policy_table import evaluate_policies
from assent.evaluation.win_rate import win_rate
from assent.models.folders import check_revision
from assent.models.loading import load_tokenizer
from assent.pipelines.steps import STEPS
from assent.rewards.base import Reward
from assent.rewards.loading import check_reward, load_reward, readers_of
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.files import write_json
from assent.runs.progress import Progress, Silent
from assent.runs.text_table import aligned
from assent.stages.selecting import to_comparisons, to_demonstrations, to_prompts
from assent.statistics.intervals import Estimate, mean_interval
from assent.types import PromptGroup

START = "start"

COMPUTED_ON = ("device", "dtype", "allow_slow_dtype")


@dataclass(slots=True)
class Made:
    """The result of a method for one seed and amount, and what it spent."""

    model: str
    reward: str | None = None
    n: int | None = None
    demonstrations: float = 0.0
    comparisons: float = 0.0
    completions: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    scores: list[tuple[float, ...]] = field(default_factory=list)
    """The scores of each test prompt's answers."""
    kl_nats: float = 0.0


def compare(config: CompareConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Outputs: `output_dir`, `comparison` and `table` (files), `rows`, `lines`."""
    work = _Comparison(config, progress or Silent())
    plans = work.plans()
    made: dict[tuple[float, str], list[Made]] = {}
    for seed in work.seeds:
        for amount, parts in plans.items():
            for method, one in work.one(seed, amount, parts).items():
                made.setdefault((amount, method), []).append(one)
    rows = [
        _row(config, amount, method, ones, made[amount, START], work.groups) for (amount, method), ones in made.items()
    ]
    document = {
        "budget": config.budget,
        "judge": described(config.judge),
        "num_prompts": len(work.groups),
        "num_seeds": config.num_seeds,
        "rows": rows,
    }
    lines = lines_of(document)
    folder = Path(config.output_dir)
    write_json(folder / "comparison.json", document)
    (folder / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {
        "output_dir": str(folder),
        "comparison": str(folder / "comparison.json"),
        "table": str(folder / "table.txt"),
        "rows": rows,
        "lines": lines,
    }


class _Comparison:
    """Data, options and models. All input is checked before anything is written."""

    def __init__(self, config: CompareConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress
        self.folder = Path(config.output_dir)
        self.seeds = range(config.seed, config.seed + config.num_seeds)
        check_revision(config.revision, config.model)
        check_reward(config.judge)
        self.commands = list(dict.fromkeys(command for method in config.methods for command in parts_of(method)))
        self.data = {"comparisons": self._rows("data", to_comparisons)}
        if config.demonstrations is not None:
            self.data["demonstrations"] = self._rows("demonstrations", to_demonstrations)
        self.options = {name: self._parsed(name) for name in self.commands if name != "best-of-n"}
        self.tokenizer = load_tokenizer(config.model, revision=config.revision)
        prompts = open_prompts(
            to_prompts(load_named(config, "test_data")[: config.num_test_prompts or None])[0],
            template_of(config, self.tokenizer),
            source=config.test_data,
            max_length=config.max_length,
            max_new_tokens=config.max_new_tokens,
            models={"the model": config.model},
            revision=config.revision,
        )
        self.groups, self.ids = prompts.groups, prompts.ids
        self.runtime = Runtime.of(config)

    def _rows(self, name: str, select: Callable[[Sequence[PromptGroup]], Any]) -> list[PromptGroup]:
        dataset = load_named(self.config, name)
        path = dataset.path
        for line in dataset.lines():
            self.progress.line(f"{path}: {line}")
        kept, refused = select(dataset)
        for reason, sources in refused.items():
            self.progress.line(f"{path}: {len(sources)} rows left out ({reason})")
        if not kept:
            raise DataError(f"{path}: no usable row is left")
        # written as a comparison, a row has the order of its completions, not the scores that it may come from
        return [g if g.preference is None else replace(g, preference=replace(g.preference, scores=None)) for g in kept]

    def _given(self, command: str, model: str) -> dict[str, Any]:
        """Options of a command that starts from `model`. The folder of a trained model holds its chat template."""
        config = self.config
        shared = {name: getattr(config, name) for name in ("max_length", "system", *COMPUTED_ON)}
        shared["chat_template_kwargs"] = dict(config.chat_template_kwargs)
        if model == config.model:
            shared |= {"chat_template": config.chat_template, "revision": config.revision}
        if command in ONLINE:
            shared["max_new_tokens"] = config.max_new_tokens
        return {**shared, "model": model, **config.options.get(command, {})}

    def _parsed(self, command: str) -> Any:
        given = {**self._given(command, self.config.model), "data": self.config.data, "output_dir": str(self.folder)}
        if command in ONLINE:
            given |= {"reward": "module:function"}
        return parse_options(STEPS[command].config_class(), given, where=f" of {command}")

    def plans(self) -> dict[float, dict[str, list[Part]]]:
        """What each method may do with each amount. FLOPs are measured first, on a few updates of each command."""
        config = self.config
        rates = Rates(
            demonstrations=len(self.data.get("demonstrations", ())),
            comparisons=len(self.data["comparisons"]),
            served=config.served or len(self.groups),
            completions_per_round={
                name: options.batch_size * options.num_completions
                for name, options in self.options.items()
                if name in ONLINE
            },
            rows_per_step={name: options.batch_size for name, options in self.options.items() if name not in ONLINE},
            flops=self._measured() if config.budget == "flops" else {},
        )
        return {a: {method: allot(config, method, a, rates) for method in config.methods} for a in config.amounts}

    def _measured(self) -> dict[str, tuple[float, float]]:
        """FLOPs of each command before its first update and for each update, from a run of one and a run of three."""
        found: dict[str, tuple[float, float]] = {}
        folder, reward = self.folder / "measured", None
        for command in sorted(self.commands, key=lambda name: (name in ONLINE, name == "best-of-n")):
            if command == "best-of-n":
                found[command] = 0.0, self._measured_answer(folder, reward)
                continue
            ran = [
                self._train(self._short(command, n), folder / f"{command}-{n}", self.config.model, reward, 0)
                for n in (1, 3)
            ]
            one, three = (run["metrics"]["cost/flops"] for run in ran)
            each = (three - one) / 2
            found[command] = max(0.0, one - each), each
            reward = ran[0]["model_path"] if command == "reward" else reward
        return found

    def _short(self, command: str, steps: int) -> Part:
        if command in ONLINE:
            return Part(command=command, steps=steps)
        has_file = command == "sft" and "demonstrations" in self.data
        kind = "demonstrations" if has_file else "comparisons"
        rows = min(steps * self.options[command].batch_size, len(self.data[kind]))
        return Part(command=command, steps=steps, **{kind: rows})

    def _measured_answer(self, folder: Path, reward: str | None) -> float:
        """FLOPs of sampling and scoring one completion for best-of-n."""
        options: dict[str, Any] = {"model": self.config.model, "reward": reward, "n": 4}
        options["data"] = self._file(folder / "prompts.jsonl", self.groups[:4], "prompts")
        options |= {name: getattr(self.config, name) for name in ("max_length", "max_new_tokens", *COMPUTED_ON)}
        metrics = self._run("best-of-n", folder / "best-of-n", options, 0)["metrics"]
        return metrics["cost/flops"] / metrics["cost/completions_sampled"]

    def _file(self, path: Path, groups: Sequence[PromptGroup], layout: str) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_groups(path, groups, layout)
        return str(path)

    def _train(self, part: Part, folder: Path, model: str, reward: str | None, seed: int) -> dict[str, Any]:
        options = self._given(part.command, model)
        if part.command in ONLINE:
            options |= {"reward": reward, "data": self._prompts(folder)}
            options |= {} if part.steps is None else {"total_steps": part.steps}
        else:
            kind = "comparisons" if part.demonstrations is None else "demonstrations"
            count = part.comparisons if part.demonstrations is None else part.demonstrations
            rows = [self.data[kind][i] for i in permutation(len(self.data[kind]), seed, f"compare {kind}")[:count]]
            options["data"] = self._file(folder.with_name(f"{folder.name}.jsonl"), rows, kind)
            options |= {} if part.steps is None else {"max_steps": part.steps}
        if part.command == "dpo":  # reading another run's cache would make this one look cheaper
            options.setdefault("reference_cache", str(folder.with_name(f"{folder.name}-reference")))
        return self._run(part.command, folder, options, seed)

    def _prompts(self, folder: Path) -> str:
        """The data to sample at: as it is named, or a file of its prompts where options say how it is read."""
        name = "data" if self.config.prompts is None else "prompts"
        if not self.config.columns and (name == "prompts" or self.config.split is None):
            return str(getattr(self.config, name))
        prompts = to_prompts(load_named(self.config, name))[0]
        return self._file(folder.with_name(f"{folder.name}.jsonl"), prompts, "prompts")

    def _run(self, command: str, folder: Path, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
        step = STEPS[command]
        given = {**options, "output_dir": str(folder), "seed": seed}
        return step.run(parse_options(step.config_class(), given, where=f" of {command}"), progress=self.progress)

    def one(self, seed: int, amount: float, plan: Mapping[str, list[Part]]) -> dict[str, Made]:
        """Makes every method's model and judges them all, together with the start."""
        made = {START: Made(model=self.config.model)}
        for method, parts in plan.items():
            folder = self.folder / f"seed-{seed}" / f"{amount:g}"
            made[method] = self._make(folder, method, parts, seed)
        self._judge(made, seed)
        return made

    def _make(self, folder: Path, method: str, parts: Sequence[Part], seed: int) -> Made:
        one = Made(model=self.config.model)
        for part in parts:
            if part.command == "best-of-n":
                one.n = part.n
                continue
            ran = self._train(part, folder / f"{method}-{part.command}", one.model, one.reward, seed)
            cost = {name.removeprefix("cost/"): v for name, v in ran["metrics"].items() if name.startswith("cost/")}
            if part.demonstrations is not None:
                one.demonstrations += self._read(part, part.demonstrations, ran["steps"])
            elif part.comparisons is not None:  # rows that several commands read are paid for once
                one.comparisons = max(one.comparisons, self._read(part, part.comparisons, ran["steps"]))
            one.completions += cost["completions_sampled"]
            one.flops, one.seconds = one.flops + cost["flops"], one.seconds + cost["seconds"]
            if part.command == "reward":
                one.reward = ran["model_path"]
            else:
                one.model = ran["model_path"]
        one.completions += 2 * one.comparisons
        return one

    def _read(self, part: Part, rows: int, steps: int) -> int:
        """Different rows that so many updates have read."""
        return min(rows, steps * self.options[part.command].batch_size)

    def _judge(self, made: Mapping[str, Made], seed: int) -> None:
        config = self.config
        options = {"device": self.runtime.device, "dtype": config.dtype, "policy_tokenizer": self.tokenizer}
        samplers: dict[str, TorchSampler] = {}
        rewards: dict[str, Reward] = {}
        policies: list[Policy] = []
        for name, one in made.items():
            start = self._opener(name, one.model, samplers)
            if one.n is None or one.reward is None:
                policies.append(Policy(name=name, open=start))
            else:
                rewards[name] = load_reward(one.reward, **options)
                policies.append(BestOfN(name=name, open=start, n=one.n, reward=rewards[name]))
        with self.progress.task("judged", total=len(policies)) as task:
            plan = EvaluationPlan(
                groups=self.groups,
                prompt_ids=self.ids,
                judges=Judges(scorer=load_reward(config.judge, **options)),
                reference=open_reader(config, config.model, self.runtime.device),
                baseline=START,
                max_new_tokens=config.max_new_tokens,
                samples_per_prompt=config.samples_per_prompt,
                seed=seed,
            )
            table = evaluate_policies(policies, plan, on_policy=lambda name: task.advance(1, policy=name))
        for name, one in made.items():
            row = table.row(name)
            one.scores = list(row.sampled.scores)
            assert row.kl is not None  # the answers are sampled, and there is a reference
            one.kl_nats = row.kl.value
            if one.n is not None:
                served = config.served or len(self.groups)
                spent = samplers[name].flops + sum(reader.flops for reader in readers_of(rewards[name]))
                one.flops += spent / len(self.groups) * served
                one.completions += one.n * served

    def _opener(self, name: str, path: str, samplers: dict[str, TorchSampler]) -> Callable[[], TorchSampler]:
        """Opens a policy for sampling. The folder of a model that was trained here holds its chat template."""
        options = self.config
        if path != options.model:
            options = options.model_copy(update={"chat_template": None, "revision": None})

        def opened() -> TorchSampler:
            tokenizer = self.tokenizer if path == self.config.model else load_tokenizer(path)
            model = open_policy(options, path, self.runtime.device, tokenizer=tokenizer)
            samplers[name] = TorchSampler(model, tokenizer, eos_ids=template_of(options, tokenizer).eos_ids)
            samplers[name].progress = self.progress
            return samplers[name]

        return opened


def _row(
    config: CompareConfig,
    amount: float,
    method: str,
    ones: Sequence[Made],
    starts: Sequence[Made],
    groups: Sequence[PromptGroup],
) -> dict[str, Any]:
    """One method at one amount, over all seeds. Costs are means over seeds. A prompt that occurs twice in `groups` is
    one unit of the intervals."""
    scores = [prompt for one in ones for prompt in one.scores]
    at_start = [prompt for one in starts for prompt in one.scores]
    prompts = [key(group.prompt) for _ in ones for group in groups]
    seeds = [s for s, one in enumerate(ones) for _ in one.scores] if len(ones) > 1 else None
    flat = [value for prompt in scores for value in prompt]
    each = [p for p, prompt in zip(prompts, scores, strict=True) for _ in prompt]
    each_seed = None if seeds is None else [s for s, prompt in zip(seeds, scores, strict=True) for _ in prompt]
    wins = win_rate(scores, at_start, clusters=prompts, second_clusters=seeds)

    def mean(of: Callable[[Made], float]) -> float:
        return sum(map(of, ones)) / len(ones)

    prices = config.demonstration_cost, config.comparison_cost
    return {
        "amount": amount,
        "method": method,
        "labels": mean(lambda one: one.demonstrations * prices[0] + one.comparisons * prices[1]),
        "completions": mean(lambda one: one.completions),
        "flops": mean(lambda one: one.flops),
        "seconds": mean(lambda one: one.seconds),
        "n": ones[0].n,
        "score": mean_interval(flat, clusters=each, second_clusters=each_seed).as_dict(),
        "win_rate": None if method == START else wins.as_dict(),
        "kl_nats": mean(lambda one: one.kl_nats),
    }


HEAD = ("method", "labels", "completions", "TFLOP", "score", "wins vs start")


def lines_of(document: Mapping[str, Any]) -> list[str]:
    """The table as text, with a block for each amount."""
    seeds = f", {document['num_seeds']} seeds" if document["num_seeds"] > 1 else ""
    lines = [f"{document['num_prompts']} prompts{seeds}, judged by {document['judge']}; 95% intervals"]
    for amount in dict.fromkeys(row["amount"] for row in document["rows"]):
        cells = [_cells(row) for row in document["rows"] if row["amount"] == amount]
        lines += ["", f"equal {document['budget']}: {amount:,g}", *aligned([HEAD, *cells], widest_name=30)]
    return lines


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["method"] if row["n"] is None else f"{row['method']} ({row['n']})",
        f"{row['labels']:,g}",
        f"{row['completions']:,g}",
        f"{row['flops'] / 1e12:.3g}",
        Estimate.from_dict(row["score"]).text(),
        "" if row["win_rate"] is None else Estimate.from_dict(row["win_rate"]).text(),
    )
