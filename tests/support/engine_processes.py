"""Run by torchrun (or alone) in tests of several processes: trains a few steps and writes what came of it as JSON.

python -m tests.support.engine_processes OUT replicate|shard MODEL
"""

from __future__ import annotations

import faulthandler
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from assent.engine.checkpoint import latest_verified, write_checkpoint
from assent.engine.learner import Learner
from assent.engine.references import Reference
from assent.engine.runtime import Runtime
from assent.engine.weights import gathered
from assent.engine.wrapping import full
from assent.errors import NonFiniteError
from assent.models.batch import GroupBatch, Outputs
from assent.models.saving import folder_weights
from assent.rollouts.sampler import SamplingParams, SeedKey
from assent.rollouts.torch_sampler import TorchSampler
from assent.runs.files import write_json
from assent.stages.sampling import sample
from assent.types import Rollout
from tests.support.engine import Nll, Settings, TinyPolicy, make_groups
from tests.support.models import tiny_module
from tests.support.rollouts import IdTokenizer

GROUPS = make_groups(7)


class Small(TinyPolicy):
    """Runs out of memory on the first process alone, at more than `limit` tokens."""

    limit = 10**9

    def forward(self, batch: GroupBatch, want: frozenset[str]) -> Outputs:
        if (
            torch.distributed.is_initialized()
            and torch.distributed.get_rank() == 0
            and len(batch.input_ids) > self.limit
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch, want)


class WholeStep(Nll):
    """Not a sum over groups: the largest of its completions' log-probabilities counts most, and most are cut off."""

    scope = "step"

    def __call__(self, outputs: Outputs, batch: GroupBatch):  # type: ignore[no-untyped-def]
        sums = batch.sum_by_completion(outputs.logprobs)
        return {"nll": -10 * torch.relu(sums - sums.detach().median()).logsumexp(0)}, {}


class Poisoned(Nll):
    def __call__(self, outputs: Outputs, batch: GroupBatch):  # type: ignore[no-untyped-def]
        terms, metrics = super().__call__(outputs, batch)
        return {"nll": terms["nll"] * (float("nan") if "rows.jsonl:5" in batch.sources else 1.0)}, metrics


def run_out(module: nn.Module, where: list[str]) -> None:
    """On the first process memory runs out in a layer: at each place in `where`, forward or backward, once, in turn."""
    if torch.distributed.get_rank() != 0:
        return

    def check(place: str) -> None:
        if where and where[0] == place:
            where.pop(0)
            raise torch.OutOfMemoryError("CUDA out of memory")

    mlp = module.base.model.layers[0].mlp  # type: ignore[union-attr,operator]
    mlp.register_forward_pre_hook(lambda *_: check("forward"))
    mlp.register_full_backward_hook(lambda *_: check("backward"))


def sampled(learner: Learner) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Tokens and log-probabilities of a few completions by the weights of now."""
    sampler = TorchSampler(learner.module.base, IdTokenizer(), eos_ids=(2,))  # type: ignore[arg-type]
    sampler.load({}, learner.fingerprint_step)
    prompts, params = [group.prompt_ids for group in GROUPS[:3]], SamplingParams(max_new_tokens=6)
    rollouts = learner.whole(sampler.sample, prompts, num_completions=2, params=params, seed=SeedKey(0, "rollout", 0))
    assert sampler.tier == "cohorts", sampler.tier_reason
    return [(rollout.ids, rollout.logprobs) for rollout in rollouts]


class FakeEngine:
    """A sampler with weights of its own, as vLLM is: it gets them by their names in a folder, whole."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.version, self.flops = learner, "", 0.0
        self.weights: dict[str, torch.Tensor] = {}

    def load(self, named_tensors: Mapping[str, torch.Tensor], version: str) -> None:
        assert not named_tensors
        self.weights = {name: t.clone() for name, t in folder_weights(self.learner.module.hf).items()}  # type: ignore[arg-type]
        self.version = version

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        num_completions: int,
        params: SamplingParams,
        seed: SeedKey,
        prompt_numbers: Sequence[int] | None = None,
    ) -> list[Rollout]:
        assert prompt_numbers is not None
        self.flops += len(prompts)
        return [
            Rollout(
                prompt_ids=prompt,
                ids=(number, k),
                logprobs=(-0.1 - k, -1 / 3),
                finish_reason="length",
                text=f"{number}.{k}",
                prompt_index=at,
                completion_index=k,
                policy_version=self.version,
            )
            for at, (prompt, number) in enumerate(zip(prompts, prompt_numbers, strict=True))
            for k in range(num_completions)
        ]


def handed_over(learner: Learner) -> bool:
    """Whether each process's engine has the policy's weights of now, and every process all completions, in order."""
    engine, prompts = FakeEngine(learner), [group.prompt_ids for group in GROUPS[:3]]
    common = {"num_completions": 2, "max_new_tokens": 2, "temperature": 1.0, "seed": SeedKey(0, "rollout", 0)}
    few = sample(engine, learner, prompts[:1], **common)  # type: ignore[arg-type]  # one process has no prompt
    drawn = sample(engine, learner, prompts, **common)  # type: ignore[arg-type]
    held = gathered(learner.module, keep=True)
    names = [(r.ids, r.prompt_ids, r.text, r.logprobs) for r in drawn]
    asked = [((n, k), p, f"{n}.{k}", (-0.1 - k, -1 / 3)) for n, p in enumerate(prompts) for k in range(2)]
    same = all(torch.equal(tensor, held[name]) for name, tensor in engine.weights.items())
    return bool(same and engine.weights and names == asked and len(few) == 2 and engine.flops == 4)


def main(out: Path, sharding: Literal["replicate", "shard"], model: str) -> None:
    runtime = Runtime("cpu", sharding=sharding)

    def module(seed: int = 0) -> nn.Module:
        return tiny_module(seed=seed) if model == "llama" else Small(seed=seed)

    def learner_of(module: nn.Module) -> Learner:
        optim = Settings(micro_batch_tokens=60, gradient_checkpointing=model == "llama")
        return Learner(module, runtime=runtime, optim=optim, total_steps=10)

    learner = learner_of(module())
    facts: dict[str, object] = {"dtensors": all(isinstance(p, DTensor) for p in learner.module.parameters())}
    facts["fingerprint"] = learner.fingerprint()
    if model == "llama":  # the first thing that happens to a sharded module, as in an online stage
        facts["sampled"] = [sampled(learner)]
    logged = [learner.update(GROUPS[:4], Nll()), learner.update(GROUPS[:1], Nll())]  # one group: one process has none
    write_checkpoint(out, 2, learners={"model": learner}, state={})
    learner = learner_of(module(seed=5))
    found = latest_verified(out)
    assert found is not None
    found.load_into({"model": learner})
    logged += [learner.update(GROUPS, Nll()), learner.update(GROUPS, WholeStep())]
    if model == "llama":
        facts["sampled"] += [sampled(learner)]  # type: ignore[operator]
        facts["handed_over"] = all(runtime.from_each(handed_over(learner)))
        facts["sharded_again"] = all(isinstance(p, DTensor) for p in learner.module.parameters())
    facts["metrics"] = [{k: v for k, v in step.items() if not k.startswith("perf/")} for step in logged]

    before = learner.fingerprint()
    try:
        learner.update(GROUPS, Poisoned())
    except NonFiniteError as error:
        facts["named"] = "rows.jsonl:5" in str(error)
    facts["untouched"] = learner.fingerprint() == before

    learner.budget.tokens = 1000
    pending = ["forward", "backward"]
    if not runtime.is_sharded:
        Small.limit = max(group.num_tokens for group in GROUPS)
    elif model == "llama":
        run_out(learner.module, pending)
    facts["retried"] = {k: v for k, v in learner.update(GROUPS, Nll()).items() if not k.startswith("perf/")}
    facts["budget_fell"] = learner.budget.tokens < 1000
    facts["ran_out"] = not pending
    Small.limit = 10**9

    reference = Reference(module(), runtime, 50)
    logprobs = reference.read(GROUPS, want={"logprobs"}).logprobs
    assert logprobs is not None
    after = learner.read([replace(g) for g in GROUPS], want={"logprobs"}).logprobs
    assert after is not None
    weights = {name: full(p.detach()) for name, p in learner.module.named_parameters()}
    facts["agree"] = bool(torch.equal(runtime.max(after), after))  # every process has all of it
    if runtime.is_main:
        save_file({**weights, "reference": logprobs, "after": after}, out / "result.safetensors")
        write_json(out / "facts.json", facts)
    runtime.meet("the test")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def start(environment: dict[str, str], out: Path, sharding: Literal["replicate", "shard"], model: str) -> None:
    """`main` in a process of its own; what it prints and why it fails goes into a log beside the results."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with (out / f"{environment['RANK']}.log").open("w") as log:
        faulthandler.dump_traceback_later(100, file=log)
        try:
            main(out, sharding, model)
        except BaseException:
            traceback.print_exc(file=log)
            raise
