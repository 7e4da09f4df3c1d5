"""Whether a change of the code has changed a number: the same runs by two checkouts, their files compared bit by bit.

    python benchmarks/same_numbers.py record before.json --source ../before
    python benchmarks/same_numbers.py record after.json
    python benchmarks/same_numbers.py compare before.json after.json

`record` runs the demo, the pipeline of examples/hh cut short, and every command that computes, most in several ways, a
few steps each, on models and rows that it makes; on a CPU, in a temporary folder, `--jobs` at a time, with this Python
and its packages. It writes SHA-256 digests of weights, checkpoints, samples, metrics and evaluations. `compare` says
which files differ, in metrics.jsonl by name; exit status 1 is a difference, and so is a file that one of the two lacks.
Only on the same kind of processor with the same packages should all be equal. `--only NAME …` takes a few of the parts.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import random
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sandbox import machine

HERE = Path(__file__).resolve().parents[1]
HH_DATA = {"hh-harmless.train.jsonl.gz": 1800, "hh-harmless.test.jsonl.gz": 40}
"""Files beside a checkout, in shared/data, and how many of their rows are read."""

_STEPS = "--max-length 96 --learning-rate 3e-3 --warmup-ratio 0.2 --save-steps 2"
_EPOCHS = f"{_STEPS} --model runs/start --batch-size 6 --max-steps 5"
_ROUNDS = f"{_STEPS} --model runs/sft/model --data prompts.jsonl --batch-size 4 --total-steps 3 --max-new-tokens 8"
_SAMPLES = "--data prompts.held.jsonl --max-length 96 --max-new-tokens 8"
DEFAULTS = {
    "new-model": "--text-files chats.jsonl --vocab-size 384 --hidden-size 32 --layers 2 --heads 2 --context 256",
    "sft": f"{_EPOCHS} --data demos.jsonl",
    **dict.fromkeys(["reward", "dpo"], f"{_EPOCHS} --data pairs.jsonl"),
    "kto": f"{_EPOCHS} --data thumbs.jsonl",
    **dict.fromkeys(["ppo", "a2c"], f"{_ROUNDS} --reward runs/reward/model --num-completions 2"),
    **dict.fromkeys(["grpo", "rloo", "online-dpo"], f"{_ROUNDS} --reward runs/reward/model --num-completions 3"),
    "sample": f"{_SAMPLES} --model runs/sft/model",
    "best-of-n": f"{_SAMPLES} --model runs/sft/model --reward judge:score --n 4",
    "frontier": f"{_SAMPLES} --reference runs/sft/model --gold judge:score --best-of-n 8",
}
"""Options of a command, where a part gives no others of that name."""

PARTS = """
start: new-model
other: new-model --seed 1 --layers 3
sft: sft --max-steps 40 --learning-rate 1e-2 --lr-scheduler-type cosine --weight-decay 0.01 --save-steps 20 \
  --eval-data demos.held.jsonl --eval-steps 20 --eval-prompts 3 --eval-max-new-tokens 8
reward: reward --learning-rate 1e-3 --eval-data pairs.held.jsonl --eval-steps 2 --metric-for-best-model accuracy \
  --center-rewards-coefficient 0.01 --normalize-rewards
hh: run hh.yaml --set sft.max_steps=20 --set reward.max_steps=20 --set dpo.max_steps=20 --set ppo.total_steps=20 \
  --set ppo.batch_size=4 --set ppo.max_new_tokens=16 --set evaluation.num_prompts=12 --set evaluation.max_new_tokens=16
demo: demo --fast
reward-lora: reward --model runs/sft/model --lora-r 4 --eval-fraction 0.2
reward-heads: reward --num-heads 3 --bootstrap --normalize-rewards --normalize-data pairs.held.jsonl
reward-adapters: reward --model runs/sft/model --lora-r 4 --num-adapters 2 --bootstrap --normalize-rewards
reward-process: reward --supervision process --loss-type bce --data steps.jsonl
reward-ranks: reward --loss-type plackett_luce --data ranks.jsonl --eval-data ranks.held.jsonl --gradient-checkpointing
reward-sum: reward --losses davidson '{"name": "rao_kupper", "weight": 0.5}' plackett_luce --data ranks.jsonl
reward-all-pairs: reward --loss-type all_pairs --data scores.jsonl --micro-batch-tokens 128
reward-soft: reward --data soft.jsonl
reward-ratings: reward --loss-type mse --data ratings.jsonl
reward-thumbs: reward --loss-type bce --data thumbs.jsonl --num-heads 2
sft-lora: sft --lora-r 4 --lora-target-modules q_proj v_proj --micro-batch-tokens 128
sft-dora: sft --lora-r 4 --use-dora --use-rslora --gradient-checkpointing
sft-chats: sft --data chats.jsonl --train-on last --keep-template-tail --gradient-checkpointing
sft-bfloat16: sft --dtype bfloat16 --master-weights --prompt-format concat
sft-autocast: sft --mixed-precision bf16 --no-shuffle --data soft.jsonl
sft-8bit: sft --optim adamw_8bit
sft-stopping: sft --eval-fraction 0.25 --eval-steps 1 --metric-for-best-model loss --early-stopping-patience 1 \
  --learning-rate 0.3 --max-steps 12
dpo: dpo --eval-data pairs.held.jsonl --eval-steps 2 --eval-prompts 3 --eval-max-new-tokens 8 --weight-decay 0.01 \
  --metric-for-best-model rewards/accuracies
dpo-following: dpo --reference-sync-steps 2 --reference-mixup-alpha 0.5 --micro-batch-tokens 96
dpo-soft: dpo --reference runs/other --loss-type robust --data soft.jsonl --gradient-checkpointing
dpo-logged: dpo --reference logged --data logged.jsonl --beta 0.3
dpo-ranks: dpo --loss-type plackett_luce --data ranks.jsonl --eval-data ranks.held.jsonl
dpo-aot: dpo --loss-type aot --micro-batch-tokens 96 --hyperparameters.label_smoothing 0.1
dpo-bco: dpo --loss-type bco_pair --micro-batch-tokens 96 --lora-r 4
dpo-sum: dpo --reference runs/other --losses sigmoid sigmoid_norm robust ipo hinge exo_pair discopop nca_pair bco_pair \
  sppo_hard aot aot_unpaired apo_zero apo_down dpop rpo simpo orpo cpo slic sft
dpo-divergence: dpo --reference runs/other --hyperparameters.f_divergence_type js_divergence
dpo-simpo: dpo --loss-type simpo --eval-data pairs.held.jsonl --mixed-precision bf16
dpo-lora: dpo --model runs/sft/model --lora-r 4 --eval-data pairs.held.jsonl --eval-prompts 3 --gradient-checkpointing
kto: kto --micro-batch-tokens 96 --eval-data thumbs.held.jsonl --eval-steps 2
kto-apo: kto --loss-type apo_zero_unpaired --data pairs.jsonl --split-comparisons --undesirable-weight 0.5 \
  --eval-fraction 0.2 --eval-prompts 2 --eval-max-new-tokens 8
kto-following: kto --reference-sync-steps 2 --lr-scheduler-type constant
online-dpo: online-dpo --updates-per-round 2 --missing-eos-penalty 0.5 --eval-data prompts.held.jsonl --eval-steps 1 \
  --eval-prompts 3 --eval-max-new-tokens 8 --metric-for-best-model objective/scores
online-dpo-ranks: online-dpo --loss-type plackett_luce --reward judge:score --reference runs/start --lora-r 4
ppo: ppo --num-mini-batches 2 --scale-scores --kl-target 0.5 --missing-eos-penalty 0.5
ppo-shared: ppo --trunk shared --vf-coef 0.3 --entropy-coef 0.01 --micro-batch-tokens 128
ppo-one: ppo --trunk one --lora-r 4 --reward runs/reward-lora/model
ppo-lora: ppo --lora-r 4 --critic-learning-rate 1e-3 --critic-warmup-steps 1 --gradient-checkpointing
ppo-potential: ppo --potential runs/reward/model --reward judge:score --gamma 0.95 --lam 0.8
ppo-process: ppo --reward '{reward: runs/reward-process/model, supervision: process}' judge:score
ppo-heads: ppo --reward '{reward: runs/reward-heads/model, combine: mean-std:1}' '{reward: length, maximum: 4}' \
  '{reward: repetition, ngram_size: 1, weight: 0.5}' --bootstrap-truncated
ppo-adapters: ppo --reward runs/reward-adapters/model --reward-ensemble min --reference runs/start
ppo-bfloat16: ppo --dtype bfloat16 --master-weights --importance-sampling-cap 2
ppo-target: ppo --target-kl 0.01 --num-ppo-epochs 4 --kl-penalty k2 --cliprange-value 0 --no-whiten-advantages
ppo-reinforce: ppo --algorithm reinforce++ --gamma 0.9 --dual-clip 3 --temperature 0.8
a2c: a2c --scale-scores --critic runs/reward-ratings/model --reward judge:score
a2c-shared: a2c --trunk shared --bootstrap-truncated
grpo: grpo --kl-target 0.5 --kl-horizon 100 --num-mini-batches 2 --entropy-coef 0.01
grpo-dapo: grpo --loss-type dapo --scale-rewards batch --kl-penalty k3+ --cliprange-high 0.3 --num-ppo-epochs 2
grpo-dr: grpo --loss-type dr_grpo --scale-rewards none --kl-penalty reward --lora-r 4 --micro-batch-tokens 128
grpo-process: grpo --reward '{reward: judge:steps, supervision: process}' --kl-penalty k2
rloo: rloo --num-ppo-epochs 2 --scale-scores --no-shuffle
rloo-implicit: rloo --reward '{reward: "implicit:runs/dpo/model,runs/start", beta: 0.1}' --mixed-precision bf16
merge: merge runs/sft-lora/model
sample: sample --num-completions 3 --top-p 0.9 --top-k 20 --temperature 0.7
sample-greedy: sample --greedy --model runs/dpo-lora/model
sample-best: sample --num-completions 3 --keep best --reward runs/reward/model --stop .
sample-mixed: sample --reference runs/start --realignment 0.5 --dtype bfloat16
best-of-n: best-of-n --reward runs/reward/model
best-of-n-gain: best-of-n --reward runs/reward-heads/model --reward-ensemble mean-std:1 --gain 0.0001
best-of-n-soft: best-of-n --soft-temperature 0.5
best-of-n-blocks: best-of-n --block-size 3
eval: eval --policies.start runs/start --policies.sft runs/sft/model --policies.dpo runs/dpo/model --baseline sft \
  --policies.ppo runs/ppo/model --reference start --judge judge:score --best-of-n 4 --reward-model runs/reward/model \
  --reward-pairs pairs.held.jsonl --slices kind --precision 0.1 --ledgers.dpo runs/dpo --ledgers.ppo runs/ppo \
  --safety judge:safe --data prompts.held.jsonl --max-length 96 --max-new-tokens 8
eval-files: eval --policy runs/sample/completions.jsonl --baseline runs/sample-best/completions.jsonl \
  --pair-judge judge:prefer --data prompts.held.jsonl
eval-heads: eval --reward-model runs/reward-heads/model --data pairs.jsonl --slices kind --max-length 96 \
  --reward-ensemble min
eval-ranks: eval --reward-model runs/reward-adapters/model --data ranks.jsonl --max-length 96
frontier: frontier --proxies.rm runs/reward/model --curves.ppo runs/ppo --curves.dpo runs/dpo/model
compare: compare --methods sft,dpo,grpo,sft+best-of-n --model runs/start --data pairs.jsonl --budget labels \
  --amounts 12,24 --judge judge:score --test-data prompts.held.jsonl --n 3 --max-length 96 --max-new-tokens 8 \
  --num-seeds 2 --options.grpo '{"total_steps": 2, "batch_size": 4, "num_completions": 2}'
dpo-two-processes: dpo --micro-batch-tokens 128
ppo-two-processes: ppo --num-mini-batches 2
ppo-two-threads: ppo --num-mini-batches 2
"""
"""Name, command and options. A part writes the folder runs/NAME, and stands below those whose folders it reads."""
TWO = {"threads": {"OMP_NUM_THREADS": "2"}, "processes": {"PYTHONHASHSEED": "0"}}
"""Parts called -two-… take two cores, with nothing beside them. Processes that each order a set of names in their own
way can send one another the wrong tensors (engine/reading.py did): here they have one order."""
_TIMES = r"time/.*|eps|rollout/tokens_per_second|perf/(tokens_per_second|step_seconds|mfu|reference_seconds)"
CLOCK = re.compile(rf"(eval_|critic/)?({_TIMES}|(cost/)?seconds|cost/peak_memory_bytes)")
"""Left out of metrics.jsonl and of results: a clock or the system measures them. What else begins with perf/ follows
from the rows, and is compared."""
RESULTS = re.compile(r"(evaluation|reward_model|frontier|comparison|labels|tokenizer)\.json")
"""Beside all safetensors and JSONL. Manifests, pages and cards hold times, and no number that is not here."""
SURROUNDINGS = {"OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
SURROUNDINGS |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
JUDGE = """
def score(prompts, completions):
    return [any(map(str.isdigit, text)) - len(text) / 20 for text in completions]
def steps(prompts, completions, steps):
    return [[sum(map(str.isalpha, line)) / (1 + len(line)) for line in lines] for lines in steps]
def prefer(prompts, first, second):
    return ["tie" if len(a) == len(b) else "A" if len(a) < len(b) else "B" for a, b in zip(first, second)]
def safe(prompts, completions, groups):
    return [{"harm_in_answer": len(text) % 3 == 0, "over_refusal": "not" in text or None} for text in completions]
"""


def rows(first: int, last: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """File and row, some for each of these numbers: little sums, asked as raw text, as messages, and in two turns."""
    for i in range(first, last):
        draw, b = random.Random(i), 7 * i % 30
        text, answer = f"what is {i} plus {b}?", f"it is {i + b}."
        wrong = [f"it is {i + b + draw.randrange(1, 9)}.", "I will not say." * (1 + i % 3), f"{i} plus {b}\nis no sum."]
        head = [{"role": "system", "content": "be brief."}] * (i % 4 == 0)
        tail = [{"role": "assistant", "content": "of what?"}, {"role": "user", "content": "of apples."}] * (i % 3 == 0)
        asked = [*head, {"role": "user", "content": text}, *tail]
        said = [[{"role": "assistant", "content": one}] for one in (answer, *wrong)]
        kind = {"kind": "even" if i % 2 == 0 else "odd"}
        yield "prompts", {"prompt": asked, **kind}
        yield "demos", {"prompt": asked, "completion": said[0]}
        yield "chats", {"messages": [*asked, *said[0], {"role": "user", "content": "sure?"}, *said[2]]}
        yield "pairs", {"prompt": asked, "chosen": said[0], "rejected": said[1], **kind}
        logged = {"chosen_logps": -3.0 * len(answer), "rejected_logps": -2.0 * len(wrong[1])}
        yield "logged", {"prompt": text, "chosen": answer, "rejected": wrong[1], **logged, "margin": draw.random()}
        soft = {"weight": draw.uniform(0.5, 2), "chosen_probability": draw.uniform(0.3, 1), "margin": draw.random()}
        yield "soft", {"prompt": text, "chosen": answer, "rejected": wrong[1], **soft}
        yield "ranks", {"prompt": asked, "completions": said[: 3 + i % 2], "ranking": [1, 2, 2, 4][: 3 + i % 2]}
        yield "scores", {"prompt": text, "completions": [answer, *wrong], "scores": [draw.random() for _ in range(4)]}
        yield "ratings", {"prompt": text, "completion": wrong[i % 3], "score": draw.uniform(-1, 1)}
        yield "thumbs", {"prompt": asked, "completion": said[i % 3], "label": i % 3 == 0}
        yield "steps", {"prompt": text, "completions": [answer, wrong[0], "done."], "labels": [True, i % 2 == 0, True]}


def prepare(folder: Path, source: Path) -> list[str]:
    """Writes what the parts read into `folder`. Gives the parts that must be left out."""
    (folder / "judge.py").write_text(JUDGE)
    for ending, numbers in {"": (0, 48), ".held": (48, 60)}.items():
        for name, row in rows(*numbers):
            with (folder / f"{name}{ending}.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
    (folder / "hh.yaml").write_text((source / "examples" / "hh" / "pipeline.yaml").read_text())
    read, written = (place.parent / "shared" / "data" for place in (HERE, folder))
    if not all((read / name).exists() for name in HH_DATA):
        return ["hh"]
    written.mkdir(parents=True)
    for name, number in HH_DATA.items():
        lines = gzip.decompress((read / name).read_bytes()).splitlines(keepends=True)
        (written / name).write_bytes(gzip.compress(b"".join(lines[:number]), mtime=0))
    return []


def parts() -> dict[str, list[str]]:
    """The command line of each part, with the defaults that it does not override."""
    found = {}
    for line in PARTS.strip().splitlines():
        name, command, *given = shlex.split(line.replace(":", "", 1))
        folder = [f"runs/{name}"] if command == "new-model" else ["--output-dir", f"runs/{name}"]
        found[name] = [command, *folder, *given]
        default = shlex.split(DEFAULTS.get(command, ""))
        for flag, value in zip(default[::2], default[1::2], strict=True):
            found[name] += [] if flag in given else [flag, value]
    return found


def needs(name: str, commands: Mapping[str, Sequence[str]]) -> set[str]:
    """The parts whose folders this one reads."""
    return {other for word in commands[name] for other in re.findall(r"runs/([\w-]+)", word)} - {name}


def chosen(only: Sequence[str], commands: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of the parts to run, and of those that they read, in order."""
    if unknown := set(only) - set(commands):
        sys.exit(f"no part {', '.join(sorted(unknown))}; there are {', '.join(commands)}")
    wanted = list(only or commands)
    for name in wanted:
        wanted += needs(name, commands) - set(wanted)
    return [name for name in commands if name in wanted]


def environment(folder: Path, source: Path, name: str) -> dict[str, str]:
    """Of a part: the checkout's code, and a cache of its own, where nothing lies that another run has read."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHON", "CUDA_"))}
    caches = dict.fromkeys(["ASSENT_CACHE", "XDG_CACHE_HOME"], str(folder.parent / "cache" / name))
    kept |= {**SURROUNDINGS, **caches, "PYTHONPATH": str(source / "src")}
    return kept | TWO.get(name.rpartition("-two-")[2], {})


class Runner:
    """Runs parts in `folder` by the code of `source`; keeps their seconds, and the names of those that failed."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source, self.started = folder, source, time.monotonic()
        self.commands, self.seconds, self.failed = parts(), dict[str, float](), list[str]()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.1f} s  {text}", file=sys.stderr, flush=True)

    def run(self, name: str, before: Sequence[Future[bool]]) -> bool:
        """Whether the part ended well; it begins when those that it reads have."""
        command = [sys.executable, "-m", "assent", *self.commands[name]]
        if name.endswith("-two-processes"):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                address = ["--master-addr", "127.0.0.1", "--master-port", str(probe.getsockname()[1])]
            command[1:1] = ["-m", "torch.distributed.run", "--nproc-per-node", "2", *address]
        ready, started = all(one.result() for one in before), time.monotonic()
        fault = "" if ready else ": left out, for what it reads has failed"
        if ready:
            surroundings = environment(self.folder, self.source, name)
            done = subprocess.run(command, cwd=self.folder, env=surroundings, capture_output=True, check=False)
            if done.returncode:
                fault = f": exit status {done.returncode} of {shlex.join(command)}\n{done.stderr.decode()[-4000:]}"
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.failed += [name] if fault else []
        self.say(f"{name}, {self.seconds[name]} s{fault}")
        return not fault

    def run_all(self, names: Sequence[str], jobs: int) -> None:
        """`jobs` at a time in their order, then one by one those that take two cores."""
        running: dict[str, Future[bool]] = {}
        with ThreadPoolExecutor(jobs) as pool:
            for name in names:
                if "-two-" not in name:  # the pool takes them in this order, so what one waits for has begun
                    before = [running[other] for other in needs(name, self.commands)]
                    running[name] = pool.submit(self.run, name, before)
        for name in (name for name in names if "-two-" in name):
            self.run(name, [running[other] for other in needs(name, self.commands)])


def without_clock(value: Any) -> Any:
    """Without the figures that a clock or the system's memory measures, at any depth."""
    if isinstance(value, dict):
        return {key: without_clock(one) for key, one in value.items() if not CLOCK.fullmatch(key)}
    return [without_clock(one) for one in value] if isinstance(value, list) else value


def digest(value: Any) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()).hexdigest()


def digests(runs: Path) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Of each file that holds numbers, and of metrics.jsonl also name by name, to say what differs."""
    files, names = {}, dict[str, dict[str, str]]()
    for path in sorted(path for path in runs.rglob("*") if path.is_file()):
        known = str(path.relative_to(runs))
        if path.name == "metrics.jsonl":
            lines = [without_clock(json.loads(line)) for line in path.read_text().splitlines()]
            files[known] = digest(lines)
            names[known] = {key: digest([line.get(key) for line in lines]) for key in sorted(set().union(*lines))}
        elif RESULTS.fullmatch(path.name):
            files[known] = digest(without_clock(json.loads(path.read_bytes())))
        elif path.suffix == ".safetensors":  # whose writer puts metadata in any order
            content = path.read_bytes()
            start = 8 + int.from_bytes(content[:8], "little")
            files[known] = digest([json.loads(content[8:start]), digest(content[start:])])
        elif path.suffix == ".jsonl":
            files[known] = digest(path.read_bytes())
    return files, names


def revision(source: Path) -> str:
    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(source), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "src", "examples") else "")


def record(args: argparse.Namespace) -> int:
    source = Path(args.source).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "work"
        folder.mkdir()
        where = [sys.executable, "-c", "import assent; print(assent.__file__)"]
        surroundings = environment(folder, source, "start")
        imported = subprocess.check_output(where, cwd=folder, env=surroundings, text=True).strip()
        if not Path(imported).is_relative_to(source):
            sys.exit(f"assent would be imported from {imported}, not from {source}")
        skipped, runner = prepare(folder, source), Runner(folder, source)
        for name in skipped:
            runner.say(f"{name}: skipped, for shared/data beside this checkout does not hold {' and '.join(HH_DATA)}")
        runner.run_all([name for name in chosen(args.only, runner.commands) if name not in skipped], args.jobs)
        files, metrics = digests(folder / "runs")
    runner.say(f"{len(files)} files of {len(runner.seconds)} parts; failed: {', '.join(runner.failed) or 'none'}")
    versions = {"python": platform.python_version(), "torch": version("torch"), "transformers": version("transformers")}
    document = {"date": time.strftime("%Y-%m-%d"), "revision": revision(source), "machine": machine()}
    document |= {"versions": versions, "skipped": skipped, "failed": runner.failed, "seconds": runner.seconds}
    Path(args.out).write_text(json.dumps({**document, "files": files, "metrics": metrics}, indent=1) + "\n")
    return 1 if runner.failed else 0


def compare(args: argparse.Namespace) -> int:
    before, after = (json.loads(Path(path).read_text()) for path in (args.before, args.after))
    for name in ("revision", "machine", "versions", "skipped"):
        if before[name] != after[name]:
            print(f"note: {name} {before[name]} before, {after[name]} after")
    wanted = chosen(args.only, parts()) if args.only else {**before["seconds"], **after["seconds"]}
    old, new = (
        {path: one["files"][path] for path in one["files"] if path.split("/")[0] in wanted} for one in (before, after)
    )
    lines = [f"failed: {name}" for name in {*before["failed"], *after["failed"]} if name in wanted]
    lines += [f"{'missing' if path in old else 'additional'}: {path}" for path in sorted(old.keys() ^ new.keys())]
    for path in old:
        if path in new and old[path] != new[path]:
            ours, theirs = (one["metrics"].get(path, {}) for one in (before, after))
            names = [name for name in sorted({**ours, **theirs}) if ours.get(name) != theirs.get(name)]
            lines.append(f"differs: {path}" + (f" ({', '.join(names)})" if names else ""))
    print("\n".join(lines) if lines else f"all {len(old)} files are equal")
    return 1 if lines or not old else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("record", help="run everything and write the digests")
    one.add_argument("out", metavar="OUT.json")
    one.add_argument("--source", default=HERE, help="the checkout whose code runs; none given: this script's")
    one.add_argument("--jobs", type=int, default=2, help="parts at a time")
    one.set_defaults(do=record)
    two = commands.add_parser("compare", help="print what differs; exit status 1 where something does")
    two.add_argument("before", metavar="BEFORE.json")
    two.add_argument("after", metavar="AFTER.json")
    two.set_defaults(do=compare)
    for each in (one, two):
        each.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these parts, and what they read")
    args = parser.parse_args()
    sys.exit(args.do(args))


if __name__ == "__main__":
    main()
