"""Written by `make stubs`, from the options of the commands."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias

import datasets
import pandas

from assent.commands.functions import Result as Result
from assent.pipelines.runner import PipelineResult
from assent.pipelines.shares import Jobs
from assent.runs.progress import Progress
from assent.types import PromptGroup

__version__: str
__all__ = ["Result", "a2c", "best_of_n", "compare", "convert_config", "doctor", "dpo", "evaluate", "explain", "frontier", "grpo", "iterate", "judge", "kto", "label", "merge", "monitor", "new_model", "online_dpo", "plan", "ppo", "report", "reward", "rloo", "rollback", "run", "sample", "score", "serve_check", "sft", "update"]

Path: TypeAlias = str | PathLike[str]
Data: TypeAlias = (
    Path | Sequence[Mapping[str, Any]] | Sequence[PromptGroup]
    | datasets.Dataset | datasets.DatasetDict | pandas.DataFrame
)
"""A file, a folder or a hub name; or rows in memory: tables, DataFrames, dictionaries with a file's columns."""
Source: TypeAlias = Path | Callable[..., Any] | Mapping[str, Any]
Reward: TypeAlias = Source | Sequence[Source]
"""A reward model's folder, a rule, an address, module:function, or the function itself; or several, with weights."""

def a2c(
    *,
    model: Path,
    data: Data,
    reward: Reward,
    reward_processes: Literal['main', 'each'] = "main",
    router_aux_loss_coef: float = 0.0,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    reference: Path | None = None,
    total_steps: int = 50,
    batch_size: int = 64,
    num_completions: int = 1,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    kl_penalty: Literal['reward', 'k2', 'k3', 'k3+'] = "reward",
    kl_coef: float = 0.05,
    kl_target: float | None = None,
    kl_horizon: float | None = None,
    entropy_coef: float = 0.0,
    missing_eos_penalty: float = 0.0,
    importance_sampling_cap: float | None = None,
    trunk: Literal['separate', 'shared', 'one'] = "separate",
    offload_frozen: bool = False,
    shuffle: bool = True,
    scale_scores: bool = False,
    critic: Path | None = None,
    critic_learning_rate: float | None = None,
    critic_warmup_steps: int = 0,
    vf_coef: float = 0.1,
    gamma: float = 1.0,
    bootstrap_truncated: bool = False,
    potential: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    r"""Trains with advantage actor-critic. Options: those of `assent a2c` (`model`, `data`, `reward`, `kl_coef` …).

    reward_processes: Where functions and addresses are asked, if several processes train together. main: the main
        process asks for the whole round. each: every process asks for its share of the prompts; for a function that
        judges each prompt's completions by themselves. Reward models are always read by all processes.
    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Policy to train: a folder or a hub name.
    data: Prompts: a file, a folder or a hub name. Completions in it are ignored.
    reward: What scores completions: a reward-model folder, module:function, a rule, an address,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md).
    reference: Reference policy: a folder or a hub name. Default: the policy as it starts.
    total_steps: Rounds of sampling and training.
    batch_size: Prompts per round, over all processes.
    num_completions: Completions sampled for each prompt.
    max_new_tokens: Longest completion, in tokens.
    temperature: Sampling temperature. Log-probabilities are those of the tempered policy.
    kl_penalty: Where the KL penalty applies. reward: it is subtracted from each token's reward (k1). The others add
        it to the loss, per token: k2 and k3+ with the gradient of KL(policy || reference), k3 (GRPO's) with that of
        KL(reference || policy).
    kl_coef: Factor of the KL penalty. With --kl-target, the value it starts at.
    kl_target: Adapt kl_coef to keep the KL near this many nats per completion (arXiv:1909.08593, eq. 3). Default:
        kl_coef stays as it is.
    kl_horizon: Completions over which the adaptive kl_coef changes. Needs --kl-target. Default: 1000.
    entropy_coef: Factor of the entropy bonus, which is a mean over completion tokens (arXiv:1602.01783, section 4).
    missing_eos_penalty: Subtracted from the score of a completion that did not end.
    importance_sampling_cap: For a sampler that computes differently from the trainer (another engine, bfloat16).
        The trainer reads the sampled tokens again, and ratios are taken to its own log-probabilities. Each token's
        loss is multiplied by min(pi_trainer / pi_sampler, this): truncated importance sampling (Ionides 2008).
        Default: the sampler's log-probabilities are the old policy's.
    trunk: Which models share weights. separate: none. shared: the critic is a value head on the policy's trunk.
        one: policy, critic and reward model are adapters on one frozen base, and that base is the reference (Hydra,
        arXiv:2309.00754).
    offload_frozen: Keep reward model and reference in main memory while they are not in use. Needs CUDA.
    shuffle: Read the prompts in a new order in each pass. With --no-shuffle they keep the file's order.
    scale_scores: Divide scores by their standard deviation over all rounds so far. Their mean is not shifted.
    critic: Model that the critic starts from. Default: the reward model, if it is the only reward, has one head and
        uses the policy's tokenizer; otherwise the policy with a new head.
    critic_learning_rate: Peak learning rate of the critic. Default: the policy's.
    critic_warmup_steps: Number of first rounds in which only the critic learns.
    vf_coef: Factor of the value loss. Only with --trunk shared.
    gamma: Discount per token.
    bootstrap_truncated: Treat a completion that was cut at max_new_tokens as unfinished: the critic's value of its
        last state replaces its score. Otherwise the completion ends where it was cut and is scored as it stands.
    potential: Reward model for potential-based shaping. It must have the policy's tokenizer, and is read at every
        token. Its rise, gamma Phi(s') - Phi(s), is added to the token's reward, which leaves the optimal policy as
        it is.
    """


def best_of_n(
    *,
    output_dir: Path,
    num_shards: int | None = None,
    shard: int | None = None,
    engine: Literal['local', 'ray'] | None = None,
    workers: int | None = None,
    status: bool = False,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    num_prompts: int = 0,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    reference: Path | None = None,
    realignment: float | None = None,
    seed: int = 0,
    model: Path | None = None,
    data: Data | None = None,
    samples: Data | None = None,
    reward: Reward | None = None,
    n: int | None = None,
    gain: float | None = None,
    soft_temperature: float | None = None,
    block_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Keeps the best of N completions: `completions` (path), `n`, `curve`. Options: those of `assent best-of-n`.

    num_shards: Cut the input into this many shards. Each is written to a file of its own; a shard that is done is
        not repeated. Default: none, or with --engine as many as suit the rows.
    shard: Do this shard alone, counted from 0, for a scheduler that starts one process for each. Whoever ends the
        last one joins them. Needs --num-shards.
    engine: Do the shards in a pool: local: processes on this machine; ray: actors on a Ray cluster (pip install
        'assent[ray]'), the one of RAY_ADDRESS or one on this machine.
    workers: Workers of --engine, each with its own copy of the models. Default: 2.
    status: Say which shards are done, running and failed, and do nothing.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    output_dir: Folder to write completions.jsonl to.
    num_prompts: Use only this many prompts, from the start of the data. 0: all.
    max_new_tokens: Longest completion, in tokens.
    temperature: Sampling temperature.
    top_p: Sample from the smallest set of tokens that has this probability.
    top_k: Sample from this many of the most likely tokens. 0: from all.
    reference: Model that the policy was trained from, to be mixed with it: a folder or a hub name. Needs
        --realignment.
    realignment: Decoding-time realignment (arXiv:2402.02992): sample with the logits (1 - this) * reference + this
        * policy. This comes close to training with beta or the KL coefficient divided by this. 1: the policy; 0:
        the reference.
    seed: Seed of sampling. A completion depends on the seed, its prompt's number and its own number alone.
    model: Policy to sample from: a folder or a hub name.
    data: Prompts: a file, a folder or a hub name. Completions in it are ignored.
    samples: Completions that exist already, as sample and best-of-n write them. Give them instead of --model and
        --data.
    reward: What scores completions: a reward-model folder, module:function, a rule, an address,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md). Default with --samples: the
        scores in the file.
    n: Completions of each prompt, of which the best is kept. Default: 16; with --samples, as many as the file has.
    gain: Use the smallest N that raises the mean score by this over a single completion. --n is then the largest N.
    soft_temperature: Soft best-of-N (arXiv:2505.03156): draw the completion to keep, with probability proportional
        to exp(score / this).
    block_size: Reward-guided decoding (arXiv:2310.17022): choose among n continuations after every this many
        tokens. The reward must make sense of unfinished text.
    """


def compare(
    *,
    methods: str | Sequence[str],
    model: Path,
    data: Data,
    budget: Literal['labels', 'completions', 'flops'],
    amounts: float | Sequence[float],
    judge: Reward,
    test_data: Data,
    output_dir: Path,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    demonstrations: Data | None = None,
    prompts: Data | None = None,
    test_split: str | None = None,
    num_test_prompts: int = 0,
    served: int = 0,
    demonstration_cost: float = 1.0,
    comparison_cost: float = 1.0,
    n: int = 16,
    max_new_tokens: int = 64,
    samples_per_prompt: int = 4,
    seed: int = 0,
    num_seeds: int = 1,
    options: Mapping[str, Mapping[str, Any]] = {},
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Compares methods at equal cost: `rows`, `comparison` (path). Options: those of `assent compare`.

    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    methods: Methods to compare: sft, dpo, ppo, grpo, rloo, best-of-n, separated by commas or spaces. Join methods
        that follow one another with +, as in sft+dpo+best-of-n.
    model: Model from which every method starts: a folder or a hub name.
    data: Comparisons: a file, a folder or a hub name. sft trains on the chosen completions, unless --demonstrations
        is given.
    demonstrations: Demonstrations for sft to train on: a file, a folder or a hub name.
    prompts: Prompts that ppo, grpo and rloo sample at. Default: those of --data.
    budget: What every method may spend the same amount of.
    amounts: Amounts to spend, in ascending order. Each is a comparison of its own.
    judge: What scores the answers: a reward-model folder that no method trains against, module:function, a rule, an
        address, implicit:POLICY,REFERENCE; or several of them, with weights.
    test_data: Prompts to judge on: a file, a folder or a hub name. Completions in it are ignored.
    output_dir: Folder of the runs and of comparison.json. Finished runs are not repeated.
    test_split: Split of --test-data to read. Default: train, or the only one.
    num_test_prompts: Use only this many prompts, from the start of --test-data. 0: all.
    served: Number of answers that best-of-n will have to give; each costs n completions. 0: as many as there are
        test prompts.
    demonstration_cost: Cost of one demonstration, in labels.
    comparison_cost: Cost of one comparison, in labels.
    n: Completions per prompt in best-of-n at equal labels. With other budgets it follows from what may be spent.
    max_new_tokens: Longest completion, in tokens.
    samples_per_prompt: Completions of each test prompt that are judged. best-of-n has one.
    seed: Seed that chooses the rows, and of training and sampling.
    num_seeds: Repeat everything with this many seeds. Intervals are then over prompts and seeds.
    options: Options of the commands (sft, reward, dpo, ppo, grpo, rloo), by name: --options.dpo '{"beta": 0.3}'.
    """


def convert_config(
    file: Path,
    **options: Any,
) -> dict[str, Any]:
    r"""Another trainer's configuration in our names: `for` (command), `options`, `changed`, `left`, `to_do`.

    Options: those of `assent convert-config` (`output`, `command`, `num_devices`).

    file: File to convert: YAML or JSON, or a shell script with the command line.
    output: File to write, which must not exist yet. Default: the YAML is printed.
    command: Command of ours that the configuration is for. Default: what the file says (stage, rl, the script's
        name).
    num_devices: Processes that theirs ran on, which multiply the batch. Default: what the file says, else 1.
    """


def doctor(
    *targets: Path,
    **options: Any,
) -> dict[str, Any]:
    r"""Says what is wrong with runs, and what to change: `reports`, each with `verdict`, `findings`, `not_checked`.

    Options: those of `assent doctor`. Torch is not imported.

    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    targets: What to look at: run folders, finished or running; or logs of other trainers (trainer_state.json, lines
        of dictionaries, trainer_log.jsonl, a model card, exported CSV or JSONL); or data (prompts and answers), as
        a file or as a saved dataset; with --probe, folders of policies and of reward models.
    stage: Command that trains like the run (sft, reward, dpo, kto, ppo, grpo …). Default: what the log says, or
        what its metrics show. Only for other trainers' logs.
    settings: YAML or JSON file with the options of another trainer's run (beta, loss_type, learning_rate …). Only
        for other trainers' logs.
    fail_on: Least severity of a finding that gives exit status 1.
    accepted: YAML or JSON file of findings that are known and accepted: the rule's name and the reason. They are
        shown, and do not count for the exit status.
    rules: More rules, as module:NAME. Give the flag once for each (docs/add-a-rule.md).
    against: A run that worked: say in which options and metrics the run differs from it. For data: another file, to
        find prompts that both have.
    bundle: Write a zip for whoever is asked for help: options, versions, metrics and findings, no prompt and no
        answer.
    watch: Look again and again while the run trains, and print what is new. Ends with the run (of another
        trainer's: ten minutes after its log's last line), or with Ctrl-C.
    refresh_seconds: Least seconds between two looks with --watch. A look that takes a hundredth of it makes the
        pause longer.
    list_rules: List the rules: what each looks for, and in which metrics. Nothing is read.
    apply: Write the run's configuration, with the changes that the findings name, as YAML for --config. Of data:
        write the rows that the findings leave standing, as JSONL. A file that exists is an error.
    probe: Load models and measure. Of a policy's folder: which stage of training it lacks. Of a reward model's:
        what its scores depend on besides quality. Of a file of data: how likely its answers are to the policy that
        --model names.
    data: File of held-out comparisons, for a reward model: how well it ranks them, and what else its scores follow.
        Only with --probe. Default: ten built-in pairs in English, which say nothing of how it ranks.
    prompts: File with prompts of yours, for a policy. With comparisons it also says whether the policy answers as
        they prefer. Only with --probe.
    model: Policy that is to be trained on the data: a folder or a hub name. Only with --probe.
    max_new_tokens: Longest answer that a policy is asked for. Only with --probe.
    max_length: Most tokens of a prompt and its answer. Only with --probe.
    """


def dpo(
    *,
    model: Path,
    data: Data,
    router_aux_loss_coef: float = 0.0,
    reference: Path | None = None,
    reference_cache: Path | None = None,
    reference_sync_steps: int = 0,
    reference_mixup_alpha: float | None = None,
    loss_type: str | Callable[..., Any] | None = None,
    beta: float | None = None,
    hyperparameters: Mapping[str, float | str] = {},
    losses: Sequence[str | Mapping[str, Any]] = [],
    eval_data: Data | None = None,
    eval_split: str | None = None,
    eval_fraction: float | None = None,
    eval_steps: int = 0,
    metric_for_best_model: str | None = None,
    early_stopping_patience: int | None = None,
    early_stopping_threshold: float = 0.0,
    eval_prompts: int = 0,
    eval_max_new_tokens: int = 64,
    batch_size: int = 8,
    num_train_epochs: float = 1.0,
    max_steps: int = 0,
    shuffle: bool = True,
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    prompt_format: Literal['template', 'concat'] = "template",
    keep_template_tail: bool = False,
    data_storage: Literal['auto', 'memory', 'mapped'] = "auto",
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    progress: Progress | None = None,
) -> Result:
    r"""Trains with DPO or a related loss. Options: those of `assent dpo` (`model`, `data`, `beta` …).

    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    reference: Reference policy: a folder or a hub name. logged: use the log-probabilities in the data. Default: the
        policy as it starts.
    reference_cache: Folder of cached reference log-probabilities, keyed by content. Default: a folder inside the
        user's cache folder.
    reference_sync_steps: TR-DPO (arXiv:2404.09656): move the reference towards the policy every this many steps. 0:
        never.
    reference_mixup_alpha: Share of the policy in the moved reference; 1 copies the policy. Needs --reference-sync-
        steps. Default: 0.6.
    loss_type: Loss to train with. Default: sigmoid, which is DPO (arXiv:2305.18290). docs/papers.md lists all
        losses.
    beta: Strength of the pull to the reference, for losses that have a beta. Default: the loss's own (sigmoid:
        0.1).
    hyperparameters: Other hyperparameters of the loss, by name: --hyperparameters.label_smoothing 0.1.
        docs/papers.md lists them.
    losses: A weighted sum of losses, instead of --loss-type. Each is a name, or {"name": …, "weight": …,
        "hyperparameters": …}.
    eval_data: Held-out rows of the same kind as --data. A prompt that is in both is an error.
    eval_split: Split of --eval-data to read; without --eval-data, the split of --data that is held out.
    eval_fraction: Hold out this share of --data instead of giving --eval-data. Whole conversations are held out,
        chosen by --seed.
    eval_steps: Measure on held-out data before the first step, every this many steps, and after the last. 0: only
        after the last.
    metric_for_best_model: Held-out figure that chooses the best model (loss, for example). Each new best is kept as
        a checkpoint, and the best becomes the result. The start counts too: if training improves nothing, the
        result is the start.
    early_stopping_patience: Stop after this many measurements in a row without an improvement in --metric-for-best-
        model.
    early_stopping_threshold: An improvement must be larger than this to count for --early-stopping-patience.
    eval_prompts: Number of held-out prompts to answer at each measurement. The answers go to samples.jsonl, and
        give lengths and the KL to the reference. 0: none.
    eval_max_new_tokens: Longest answer to a held-out prompt, in tokens.
    batch_size: Rows per update, over all processes. Memory depends on --micro-batch-tokens instead.
    num_train_epochs: Passes over the data. A fraction is allowed.
    max_steps: Stop after this many updates. 0: run all epochs.
    shuffle: Read the rows in a new order in each epoch, set by --seed and the epoch. With --no-shuffle they keep
        the file's order.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    prompt_format: concat: render prompt and completion separately. Choose it when the template renders a prompt
        differently once an answer follows.
    keep_template_tail: Also train on what the template writes after EOS, as TRL does.
    data_storage: Where the tokens of the training data are kept. memory: in memory. mapped: in a file of the cache
        (ASSENT_CACHE), from which each step reads its rows; the numbers are the same. auto: mapped from 256 MB of
        data on.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Policy to train: a folder or a hub name.
    data: Comparisons, or rankings for a ranking loss: a file, a folder or a hub name.
    """


def evaluate(
    *,
    data: Data,
    num_shards: int | None = None,
    shard: int | None = None,
    engine: Literal['local', 'ray'] | None = None,
    workers: int | None = None,
    status: bool = False,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    output_dir: Path | None = None,
    policy: Path | None = None,
    against: Sequence[str] = [],
    policies: Mapping[str, Path] = {},
    judge: Reward | None = None,
    pair_judge: str | Callable[..., Any] | None = None,
    judge_model: str | None = None,
    judge_api_key_env: str | None = None,
    judge_rubric: str | None = None,
    safety: str | Callable[..., Any] | None = None,
    baseline: Path | None = None,
    reference: Path | None = None,
    ledgers: Mapping[str, str] = {},
    reward_model: Path | None = None,
    best_of_n: int = 0,
    reward_pairs: Data | None = None,
    slices: Sequence[str] = [],
    rank_by: str | None = None,
    labels: Path | None = None,
    precision: float | None = None,
    lm_eval: Sequence[str] = [],
    lm_eval_limit: int = 0,
    num_prompts: int = 0,
    samples_per_prompt: int | None = None,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Compares policies on the same prompts: `evaluation`, `table` (paths). Options: those of `assent eval`.

    num_shards: Cut the input into this many shards. Each is written to a file of its own; a shard that is done is
        not repeated. Default: none, or with --engine as many as suit the rows.
    shard: Do this shard alone, counted from 0, for a scheduler that starts one process for each. Whoever ends the
        last one joins them. Needs --num-shards.
    engine: Do the shards in a pool: local: processes on this machine; ray: actors on a Ray cluster (pip install
        'assent[ray]'), the one of RAY_ADDRESS or one on this machine.
    workers: Workers of --engine, each with its own copy of the models. Default: 2.
    status: Say which shards are done, running and failed, and do nothing.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    output_dir: Folder to write table.txt and evaluation.json (for a reward model, reward_model.json) to. Default:
        no files are written.
    policy: Policy to compare with --baseline: a model folder, a hub name, or a file of completions.
    against: More policies to compare, besides --policy.
    policies: Policies to compare, each under a name of its own (--policies.NAME PATH); --baseline is one of the
        names. Give them instead of --policy and --against.
    data: Prompts, whose completions are ignored. Without a policy: comparisons or rankings. In both cases a file, a
        folder or a hub name.
    judge: What scores each answer: a reward-model folder, module:function, a rule, an address that returns scores,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md). Default for the sandbox's
        prompts: its gold reward.
    pair_judge: What compares two answers, in both orders: the address of a server with OpenAI's chat completions
        API (with --judge-model), or module:function of (prompts, first, second). Give it instead of --judge.
    judge_model: Name of the model at the address of --pair-judge or --safety.
    judge_api_key_env: Environment variable that holds the key for that address. Default: no key is sent.
    judge_rubric: What the model at --pair-judge decides, in words. Default: which answer serves the person who
        asked better.
    safety: What decides whether each answer is safe, apart from its quality: module:function, or the address of a
        judge (with --judge-model). Default for the sandbox's prompts: the sandbox's own.
    baseline: Policy that win rates are against: a model folder, a hub name or a file of completions; with
        --policies, one of the names.
    reference: Policy that the KL is measured to: one of those compared. Default: the baseline.
    ledgers: Run folders whose costs appear in the policies' rows, by the policy's name (--ledgers.NAME FOLDER).
    reward_model: Reward-model folder. It is judged on held-out comparisons, and chooses the best of n (--best-
        of-n).
    best_of_n: Also evaluate best-of-n of the baseline, chosen by --reward-model. 0: not evaluated.
    reward_pairs: Held-out comparisons to judge --reward-model on.
    slices: Columns to show figures by, of the prompts and of the comparisons that judge a reward model.
    rank_by: Without a policy: column that names who wrote each completion. The table ranks them by the reward model
        and by the labels.
    labels: labels.json of the sandbox's labelling step. The table shows its noise ceiling beside the reward model's
        accuracy.
    precision: Half-width that a win rate's interval should have. The table then shows how many prompts that takes.
    lm_eval: Tasks of lm-evaluation-harness that every policy is also asked: names (hellaswag), or YAML files of
        tasks. Needs the extra lm-eval.
    lm_eval_limit: Ask only the first questions of each task of --lm-eval, so many. 0: all.
    num_prompts: Use only this many prompts, from the start of the data. 0: all.
    samples_per_prompt: Completions at temperature 1 for each prompt, besides the greedy one. Default: 4; for a file
        of completions, all it has.
    max_new_tokens: Longest completion, in tokens.
    seed: Seed of all sampling.
    """


def explain(
    *,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    prompt_format: Literal['template', 'concat'] = "template",
    keep_template_tail: bool = False,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    logps: Sequence[float] | Path | None = None,
    ratios: Sequence[float] | None = None,
    unit: Literal['log_ratio', 'ratio'] | None = None,
    scores: Sequence[float] | None = None,
    beta: float = 0.1,
    model: Path | None = None,
    reference: Path | None = None,
    prompt: str | None = None,
    chosen: str | None = None,
    rejected: str | None = None,
    data: Data | None = None,
    row: int | None = None,
) -> dict[str, Any]:
    r"""Explains a preference probability: `reward_chosen`, `margin`, `preference_probability`, `loss`, `betas` …

    Options: those of `assent explain`: `logps`; `ratios` and `unit`; `scores`; or `model`, `reference` and a text.
    Torch is imported only if a model is named.

    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    prompt_format: concat: render prompt and completion separately. Choose it when the template renders a prompt
        differently once an answer follows.
    keep_template_tail: Also train on what the template writes after EOS, as TRL does.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    logps: Four sums of log-probabilities: policy chosen, policy rejected, reference chosen, reference rejected; or
        a file of them.
    ratios: Two ratios of policy to reference: of the chosen, then of the rejected completion. Needs --unit.
    unit: Unit of --ratios. log_ratio: log(policy / reference) in nats; ratio: policy / reference.
    scores: Two scores of a reward model: of the chosen, then of the rejected completion.
    beta: Strength of the pull to the reference. An implicit reward is beta times a log-ratio.
    model: Policy: a folder or a hub name. Needs --reference and a comparison.
    reference: Reference policy: a folder or a hub name.
    prompt: Prompt of the comparison: raw text, or messages as JSON.
    chosen: Chosen completion, in the same form as --prompt.
    rejected: Rejected completion, in the same form as --prompt.
    data: Comparisons from which --row is taken: a file, a folder or a hub name. Give it instead of --prompt,
        --chosen and --rejected.
    row: Row of --data to explain: the line of a JSONL or CSV file, otherwise the row's number, from 1.
    """


def frontier(
    *,
    output_dir: Path,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    sandbox: bool = False,
    fast: bool = False,
    reference: Path | None = None,
    data: Data | None = None,
    gold: str | Callable[..., Any] | None = None,
    proxies: Mapping[str, Path | Callable[..., Any]] = {},
    curves: Mapping[str, Sequence[str]] = {},
    best_of_n: int = 256,
    num_prompts: int = 0,
    samples_per_prompt: int = 4,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Measures reward against √KL: `frontier`, `picture`, `table` (paths). Options: those of `assent frontier`.

    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    output_dir: Folder to write frontier.json, frontier.svg and table.txt to.
    sandbox: Measure on the built-in world, and train what is measured: proxies from few and from many comparisons,
        PPO against them, DPO. Takes only --output-dir, --seed and --fast.
    fast: With --sandbox: run the same steps in under a minute, a smoke test whose numbers mean nothing.
    reference: Policy that all others started from. The KL is measured to it, and best-of-N samples from it.
    data: Prompts to measure on: a file, a folder or a hub name. Completions in it are ignored.
    gold: The reward that the proxies stand for, and were not trained on: module:function, or a reward-model folder.
    proxies: Proxies, by name (--proxies.NAME PATH): reward-model folders or module:function. Best-of-N by each
        proxy is a curve of its own.
    curves: Curves of trained policies, by name (--curves.NAME FOLDER): the folders that make up each curve. A
        training run gives all its checkpoints and its result (keep them with --save-steps and --save-total-limit).
        A model gives one point, as for one of several betas.
    best_of_n: Completions of the reference per prompt. They give best-of-N for every N up to this number. Needs a
        proxy.
    num_prompts: Use only this many prompts, from the start of the data. 0: all.
    samples_per_prompt: Completions at temperature 1 for each prompt, from each policy of a curve.
    max_new_tokens: Longest completion, in tokens.
    seed: Seed of all sampling.
    """


def grpo(
    *,
    model: Path,
    data: Data,
    reward: Reward,
    reward_processes: Literal['main', 'each'] = "main",
    router_aux_loss_coef: float = 0.0,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    reference: Path | None = None,
    total_steps: int = 50,
    batch_size: int = 16,
    num_completions: int = 8,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    kl_penalty: Literal['reward', 'k2', 'k3', 'k3+'] = "k3",
    kl_coef: float = 0.04,
    kl_target: float | None = None,
    kl_horizon: float | None = None,
    entropy_coef: float = 0.0,
    missing_eos_penalty: float = 0.0,
    importance_sampling_cap: float | None = None,
    trunk: Literal['separate', 'shared', 'one'] = "separate",
    offload_frozen: bool = False,
    shuffle: bool = True,
    num_ppo_epochs: int = 1,
    num_mini_batches: int = 1,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
    target_kl: float | None = None,
    scale_rewards: Literal['group', 'batch', 'none'] = "group",
    loss_type: Literal['grpo', 'dapo', 'dr_grpo'] = "grpo",
    mask_truncated_completions: bool = False,
    progress: Progress | None = None,
) -> Result:
    r"""Trains with GRPO. Options: those of `assent grpo` (`model`, `data`, `reward`, `scale_rewards` …).

    reward_processes: Where functions and addresses are asked, if several processes train together. main: the main
        process asks for the whole round. each: every process asks for its share of the prompts; for a function that
        judges each prompt's completions by themselves. Reward models are always read by all processes.
    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Policy to train: a folder or a hub name.
    data: Prompts: a file, a folder or a hub name. Completions in it are ignored.
    reward: What scores completions: a reward-model folder, module:function, a rule, an address,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md).
    reference: Reference policy: a folder or a hub name. Default: the policy as it starts.
    total_steps: Rounds of sampling and training.
    batch_size: Prompts per round, over all processes.
    num_completions: Completions sampled for each prompt. Together they are the group.
    max_new_tokens: Longest completion, in tokens.
    temperature: Sampling temperature. Log-probabilities are those of the tempered policy.
    kl_penalty: Where the KL penalty applies. reward: it is subtracted from each token's reward (k1). The others add
        it to the loss, per token: k2 and k3+ with the gradient of KL(policy || reference), k3 (GRPO's) with that of
        KL(reference || policy).
    kl_coef: Factor of the KL penalty. With --kl-target, the value it starts at.
    kl_target: Adapt kl_coef to keep the KL near this many nats per completion (arXiv:1909.08593, eq. 3). Default:
        kl_coef stays as it is.
    kl_horizon: Completions over which the adaptive kl_coef changes. Needs --kl-target. Default: 1000.
    entropy_coef: Factor of the entropy bonus, which is a mean over completion tokens (arXiv:1602.01783, section 4).
    missing_eos_penalty: Subtracted from the score of a completion that did not end.
    importance_sampling_cap: For a sampler that computes differently from the trainer (another engine, bfloat16).
        The trainer reads the sampled tokens again, and ratios are taken to its own log-probabilities. Each token's
        loss is multiplied by min(pi_trainer / pi_sampler, this): truncated importance sampling (Ionides 2008).
        Default: the sampler's log-probabilities are the old policy's.
    trunk: Which models share weights. separate: none. shared: the critic is a value head on the policy's trunk.
        one: policy, critic and reward model are adapters on one frozen base, and that base is the reference (Hydra,
        arXiv:2309.00754).
    offload_frozen: Keep reward model and reference in main memory while they are not in use. Needs CUDA.
    shuffle: Read the prompts in a new order in each pass. With --no-shuffle they keep the file's order.
    num_ppo_epochs: Passes over each round's rollouts.
    num_mini_batches: Updates per pass, each on an equal part of the round's prompts.
    cliprange: The probability ratio of new and old policy is clipped to 1 ± this. 0: no clipping.
    cliprange_high: Upper clip range (Clip-Higher, arXiv:2503.14476). Default: the value of --cliprange.
    dual_clip: Dual clip (arXiv:1912.09729): the largest ratio that counts where the advantage is negative. Default:
        no limit.
    target_kl: End the policy's updates in a round once one of them finds the policy farther than this from the one
        that sampled, in nats per token (k3). The schedule of the learning rate counts the updates that were made.
    scale_rewards: Standard deviation that divides a reward's distance from the mean of its group. group: that of
        the group; batch: that of the whole round; none: no division (Dr. GRPO, arXiv:2503.20783).
    loss_type: How the loss is averaged. grpo: over each completion's tokens, then over completions. dapo: over all
        tokens of the update (arXiv:2503.14476). dr_grpo: the sum over tokens, divided by completions times
        max_new_tokens (arXiv:2503.20783).
    mask_truncated_completions: Leave completions that were cut at max_new_tokens out of the loss and its averages
        (DAPO's overlong filtering, arXiv:2503.14476). Their rewards still count in the mean and deviation of their
        group, as in TRL.
    """


def iterate(
    path: Path,
    *,
    output_dir: str | None = None,
    seed: int | None = None,
    rounds: int | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Runs a loop file, as `assent iterate` does: `model_path`, `rounds`, `status`, `reason`, `report`.

    `overrides`: `stage.option=value`.
    """


def judge(
    *,
    output_dir: Path,
    data: Data,
    reward_ensemble: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    num_prompts: int = 0,
    endpoint: str | None = None,
    model: Path | None = None,
    reward: Reward | None = None,
    function: str | Callable[..., Any] | None = None,
    revision: str | None = None,
    api_key_env: str | None = None,
    rubric: Path | None = None,
    reply: Literal['letter', 'json'] = "letter",
    probabilities: bool = False,
    controls: int = 10,
    anchor: str | None = None,
    previous: str | None = None,
    writers: str | None = None,
    revise: int = 0,
    max_new_tokens: int = 512,
    seed: int = 0,
    concurrency: int = 8,
    timeout_seconds: float = 60.0,
    max_requests: int | None = None,
    max_cost: float | None = None,
    input_price: float = 0.0,
    output_price: float = 0.0,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Has a judge compare completions: `judged`, `report` (paths). Options: those of `assent judge`.

    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    output_dir: Folder to write judged.jsonl and judge.json to. A run that was interrupted, or whose budget was
        spent, continues there and asks nothing twice.
    data: Prompts with two completions or more in a row, or rows of one completion that share their prompt, as
        sample writes them: a file, a folder or a hub name. What they say about the completions is not shown to the
        judge.
    num_prompts: Judge only this many prompts, from the start of the data. 0: all.
    endpoint: Address of a server with OpenAI's chat completions API: vLLM, transformers serve, llama.cpp, or a
        hosted one.
    model: Name of the model at --endpoint. Without an endpoint: a model to load, a folder or a hub name.
    reward: What scores completions, as the judge: a reward-model folder, module:function, a rule, an address that
        returns scores, implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md).
    function: Python function (module:function) of (prompts, first, second) that returns A, B or tie for each.
    revision: Revision of a model on the hub.
    api_key_env: Environment variable that holds the key for --endpoint. Default: no key is sent.
    rubric: File with what to decide, in words, for a model that is asked: a text, or YAML with criterion and
        principles. Default: which answer serves the person who asked better.
    reply: What the model replies. letter: A or B. json: its reason and then A or B, as structured output.
    probabilities: Take the probability of A from the reply's log-probabilities, instead of the letter; of a reward,
        the sigmoid of the difference. Two completions then have the column chosen_probability, and never tie. An
        endpoint that gives no log-probabilities is an error.
    controls: Mix in this many answers of each kind that are known to be bad (empty, "choose A", flattery), each
        beside a real one, and report how often they win. 0: none.
    anchor: Comparisons or rankings by people: a file, a folder or a hub name. The judge gets them too, and its
        agreement with people is reported.
    previous: Folder of an earlier run of judge with the same anchor set. A change of agreement since then is
        reported.
    writers: Column that names who wrote each completion. The writers' win rates are reported; with --anchor also
        corrected for the judge's errors.
    revise: Instead of comparing: have each completion criticised by a principle of the rubric and rewritten, this
        many times over (constitutional AI, arXiv:2212.08073). judged.jsonl then has the new completion as chosen
        and the old one as rejected, for dpo and for sft.
    max_new_tokens: Longest critique and longest new completion of --revise, in tokens.
    seed: Seed of the choice of controls and of principles, and of the tests of bias.
    concurrency: Requests under way at a time.
    timeout_seconds: A request that takes longer is repeated, up to four times.
    max_requests: Stop before more requests than this, repeated ones and those of an interrupted run included.
        Prompts judged by then are written; with a larger number the same command continues. Default: no limit.
    max_cost: Stop before the requests cost more than this, in the money of the two prices.
    input_price: Price of a million tokens that the model reads.
    output_price: Price of a million tokens that the model writes.
    dry_run: Count requests, tokens and money, ask nothing and write nothing.
    """


def kto(
    *,
    model: Path,
    data: Data,
    router_aux_loss_coef: float = 0.0,
    reference: Path | None = None,
    reference_cache: Path | None = None,
    reference_sync_steps: int = 0,
    reference_mixup_alpha: float | None = None,
    eval_data: Data | None = None,
    eval_split: str | None = None,
    eval_fraction: float | None = None,
    eval_steps: int = 0,
    metric_for_best_model: str | None = None,
    early_stopping_patience: int | None = None,
    early_stopping_threshold: float = 0.0,
    eval_prompts: int = 0,
    eval_max_new_tokens: int = 64,
    batch_size: int = 8,
    num_train_epochs: float = 1.0,
    max_steps: int = 0,
    shuffle: bool = True,
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    prompt_format: Literal['template', 'concat'] = "template",
    keep_template_tail: bool = False,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    split_comparisons: bool = False,
    loss_type: str | Callable[..., Any] = "kto",
    beta: float | None = None,
    desirable_weight: float | None = None,
    undesirable_weight: float | None = None,
    progress: Progress | None = None,
) -> Result:
    r"""Trains with KTO on thumbs up and down. Options: those of `assent kto` (`model`, `data`, `beta` …).

    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    reference: Reference policy: a folder or a hub name. logged: use the log-probabilities in the data. Default: the
        policy as it starts.
    reference_cache: Folder of cached reference log-probabilities, keyed by content. Default: a folder inside the
        user's cache folder.
    reference_sync_steps: TR-DPO (arXiv:2404.09656): move the reference towards the policy every this many steps. 0:
        never.
    reference_mixup_alpha: Share of the policy in the moved reference; 1 copies the policy. Needs --reference-sync-
        steps. Default: 0.6.
    eval_data: Held-out rows of the same kind as --data. A prompt that is in both is an error.
    eval_split: Split of --eval-data to read; without --eval-data, the split of --data that is held out.
    eval_fraction: Hold out this share of --data instead of giving --eval-data. Whole conversations are held out,
        chosen by --seed.
    eval_steps: Measure on held-out data before the first step, every this many steps, and after the last. 0: only
        after the last.
    metric_for_best_model: Held-out figure that chooses the best model (loss, for example). Each new best is kept as
        a checkpoint, and the best becomes the result. The start counts too: if training improves nothing, the
        result is the start.
    early_stopping_patience: Stop after this many measurements in a row without an improvement in --metric-for-best-
        model.
    early_stopping_threshold: An improvement must be larger than this to count for --early-stopping-patience.
    eval_prompts: Number of held-out prompts to answer at each measurement. The answers go to samples.jsonl, and
        give lengths and the KL to the reference. 0: none.
    eval_max_new_tokens: Longest answer to a held-out prompt, in tokens.
    batch_size: Rows per update, over all processes. Memory depends on --micro-batch-tokens instead.
    num_train_epochs: Passes over the data. A fraction is allowed.
    max_steps: Stop after this many updates. 0: run all epochs.
    shuffle: Read the rows in a new order in each epoch, set by --seed and the epoch. With --no-shuffle they keep
        the file's order.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    prompt_format: concat: render prompt and completion separately. Choose it when the template renders a prompt
        differently once an answer follows.
    keep_template_tail: Also train on what the template writes after EOS, as TRL does.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Policy to train: a folder or a hub name.
    data: Completions with a thumb up or down (columns prompt, completion, label): a file, a folder or a hub name.
    split_comparisons: Accept comparisons too. The chosen completion counts as a thumb up, the rejected one as a
        thumb down.
    loss_type: Loss to train with: kto, or apo_zero_unpaired (arXiv:2408.06266), which has no KL baseline.
    beta: Strength of the pull to the reference. Default: the loss's own.
    desirable_weight: Weight of completions with a thumb up. Default: 1.
    undesirable_weight: Weight of completions with a thumb down. Default: 1.
    """


def label(
    *,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    store: str = "labels.db",
    completions: Data | None = None,
    prompts: Data | None = None,
    model: Path | Sequence[Path] = (),
    num_completions: int = 2,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    samples_dir: str | None = None,
    seed: int = 0,
    task: Literal['compare', 'rank', 'rate', 'thumbs'] = "compare",
    pairs_per_prompt: int = 0,
    reviews: int | None = None,
    gold: str | Callable[..., Any] | None = None,
    gold_every: int = 10,
    repeat_every: int = 0,
    order: Literal['random', 'disagreement', 'margin'] = "random",
    reward: Reward | None = None,
    guidelines: str | None = None,
    serve: bool = True,
    open: bool = True,
    host: str = "127.0.0.1",
    port: int = 8765,
    public_url: str | None = None,
    trusted_proxy: str | None = None,
    precision: float = 0.05,
    annotator: str | None = None,
    export: str | None = None,
    layout: str | None = None,
    aggregate: Literal['each', 'majority'] = "each",
    format: Literal['columns', 'argilla', 'label-studio'] = "columns",
    import_labels: Data | None = None,
    backup: str | None = None,
    restore: str | None = None,
    invite: str | None = None,
    role: Literal['annotator', 'admin'] = "annotator",
    erase: str | None = None,
) -> dict[str, Any]:
    r"""Collects, exports or imports people's preferences. Options: those of `assent label` (`store`, `export` …).

    Without `serve=False` or an action such as `export` it serves the app until it is interrupted.

    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    store: Where the labels are kept: a file (SQLite), or postgresql://user@host/name.
    completions: Completions to judge: a file, a folder or a hub name. Rows of the same prompt are put together.
    prompts: Prompts to sample completions for, with --model: a file, a folder or a hub name.
    model: Policy to sample from: a folder or a hub name. Give the flag again for each further one.
    num_completions: Completions sampled for each prompt from each model.
    max_new_tokens: Longest sampled completion, in tokens.
    temperature: Sampling temperature.
    top_p: Sample from the smallest set of tokens that has this probability.
    top_k: Sample from this many of the most likely tokens. 0: from all.
    samples_dir: Folder for the sampled completions. Default: beside the store.
    seed: Seed of the sampling, of the pairs and of the order of the items.
    task: What annotators do. compare: two answers side by side; rank: order all answers of a prompt; rate: give one
        answer 1 to 5; thumbs: good or not good.
    pairs_per_prompt: compare: how many pairs of a prompt's completions to judge. 0: all.
    reviews: Number of annotators who judge each item. Default: what the store has, else 1.
    gold: Questions with known answers, to measure annotators: a file with preferences, a folder or a hub name.
    gold_every: Every so manieth item is a gold question, as long as there are new ones. 0: none.
    repeat_every: Every so manieth item is one that the annotator has judged before. 0: none.
    order: Which items come first. disagreement: those on which the heads of a reward ensemble disagree most;
        margin: those whose two answers score most alike. Both need --reward.
    reward: What scores the answers for --order: a reward model's folder (with several heads for disagreement), or
        for margin also implicit:POLICY,REFERENCE.
    guidelines: File of instructions in Markdown, shown beside each item. A changed file is a new version.
    serve: Serve the app. With --no-serve the store is filled and nothing else.
    open: Open the app in the browser.
    host: Address to listen on. Others than loopback need --public-url.
    port: Port to listen on. 0: any free one.
    public_url: Address under which browsers reach the app: https://host. A reverse proxy with a certificate answers
        there.
    trusted_proxy: IP address of the reverse proxy, whose X-Forwarded-For is believed. Needs --public-url.
    precision: Half-width to which the dashboard wants agreement known, for its count of labels that are still
        needed.
    annotator: Your name in the store. Default: your user name on this computer. Only on loopback.
    export: Write the labels to this file, .jsonl, .jsonl.gz or .csv, and beside it which of them were taken.
    layout: Columns to export. Default: comparisons where every row is one, else what fits.
    aggregate: each: a row for each label, with its annotator; majority: a row for each item.
    format: Format to export or import: our columns, or the JSON of another tool.
    import_labels: Add the labels of this file to the store: any layout of columns, or see --format.
    backup: Write the whole store to this file (.jsonl.gz), also while the app runs.
    restore: Fill a new store from a backup.
    invite: Print a link with which the person of this name chooses a password, once and within seven days.
    role: Role of the invited person. admin: also adjudicates and sees the dashboard.
    erase: Remove the annotator of this name: name and password go, the labels stay under a number.
    """


def merge(
    *,
    adapter: Path,
    output_dir: Path,
    dtype: Literal['float32', 'bfloat16'] = "float32",
) -> dict[str, Any]:
    r"""Merges an adapter into its base model. Options: those of `assent merge` (`adapter`, `output_dir`).

    adapter: Adapter of a policy or of a reward model: a folder or a hub name. Its base must still be where it was.
    output_dir: Folder to write. It must be new or empty.
    dtype: Data type in which the merged weights are computed and written.
    """


def monitor(
    *,
    baseline: Path,
    logs: Path,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    state: Path | None = None,
    columns: Mapping[str, str] | str = {},
    alpha: float = 0.05,
    season: Literal['auto', 'week', 'none'] = "auto",
    baseline_rows: int = 50000,
    reward_model: Path | None = None,
    policy: Path | None = None,
    policy_rows: int = 64,
    max_length: int = 2048,
    output: Path | None = None,
    openmetrics: Path | None = None,
    show_text: bool = False,
    fail_on: Literal['new', 'open'] = "new",
    watch: bool = False,
    refresh_seconds: int = 3600,
) -> dict[str, Any]:
    r"""Says what moved in a deployed model's logs: `moved`, `causes`, `new`, `findings`. Options: `assent monitor`'s.

    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    baseline: What the model did at the release: a file or folder of logs, or a run's folder with its samples.
    logs: Logs to look at: a file, or a folder whose files grow and are rotated. Our JSONL (prompt, completion,
        time, rating …), OpenAI-style requests, exports of Langfuse or Phoenix, vLLM's own log. JSONL, JSON, CSV,
        Parquet or text.
    state: File that remembers between calls which rows were counted, how much of --alpha was spent, and which
        alerts are open. Without it every call begins anew: right for one look at old logs, wrong for a look every
        day.
    columns: Fields of the logs that have other names, as THEIRS=OURS with commas between, dots leading into nested
        ones: request.text=prompt,answer.text=completion.
    alpha: Allowed probability of any false alarm, over all days and causes together, however long the monitor runs.
    season: Compare each weekday with its like in the baseline. auto: if the baseline has each weekday at least
        twice.
    baseline_rows: Most rows of the baseline to use. Of a longer one, those with the smallest hash are taken.
    reward_model: Reward model of the release: a folder, a rule or module:function. It scores the rated rows that
        have no score, of the baseline too, so that it can be seen to age. Not needed where the logs have its
        scores.
    policy: Folder of the released policy: compare the log-probabilities that the server logged with those computed
        here.
    policy_rows: Most rows of a call that --policy reads.
    max_length: Most tokens of a prompt and its answer. Only with --reward-model or --policy.
    output: HTML page to write.
    openmetrics: File to write figures to, as OpenMetrics text: for the textfile collector of Prometheus' node
        exporter.
    show_text: Name the words that moved. Without it neither the output nor the page has any word of a prompt or an
        answer.
    fail_on: new: exit status 1 only when an alert is raised, not again before it has cleared. open: as long as one
        is open.
    watch: Look again and again until Ctrl-C, and print each new alert on stderr. Needs --state.
    refresh_seconds: Seconds between two looks with --watch.
    """


def new_model(
    *,
    output_dir: Path,
    text_files: Sequence[Path],
    vocab_size: int = 8192,
    hidden_size: int = 256,
    layers: int = 8,
    heads: int = 8,
    context: int = 2048,
    chat_template: Path = "chatml",
    seed: int = 0,
) -> dict[str, Any]:
    r"""Makes a small model and its tokenizer from text files. Options: those of `assent new-model`.

    output_dir: Folder to write. It must be new or empty.
    text_files: Files to learn the tokenizer from: plain text, or JSONL, in which every string is used. They may be
        gzipped.
    vocab_size: Entries in the vocabulary, control tokens included.
    hidden_size: Width of the model.
    layers: Number of transformer layers.
    heads: Attention heads per layer.
    context: Longest sequence, in tokens.
    chat_template: Chat template: chatml, or a file with a Jinja template.
    seed: Seed of the random weights.
    """


def online_dpo(
    *,
    model: Path,
    data: Data,
    reward: Reward,
    reward_processes: Literal['main', 'each'] = "main",
    router_aux_loss_coef: float = 0.0,
    eval_data: Data | None = None,
    eval_split: str | None = None,
    eval_fraction: float | None = None,
    eval_steps: int = 0,
    metric_for_best_model: str | None = None,
    early_stopping_patience: int | None = None,
    early_stopping_threshold: float = 0.0,
    eval_prompts: int = 0,
    eval_max_new_tokens: int = 64,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    loss_type: str | Callable[..., Any] | None = None,
    beta: float | None = None,
    hyperparameters: Mapping[str, float | str] = {},
    losses: Sequence[str | Mapping[str, Any]] = [],
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    reference: Path | None = None,
    total_steps: int = 50,
    batch_size: int = 16,
    num_completions: int = 2,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    missing_eos_penalty: float = 0.0,
    updates_per_round: int = 1,
    shuffle: bool = True,
    progress: Progress | None = None,
) -> Result:
    r"""Trains with DPO on its own samples. Options: those of `assent online-dpo` (`model`, `data`, `reward` …).

    reward_processes: Where functions and addresses are asked, if several processes train together. main: the main
        process asks for the whole round. each: every process asks for its share of the prompts; for a function that
        judges each prompt's completions by themselves. Reward models are always read by all processes.
    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    eval_data: Held-out rows of the same kind as --data. A prompt that is in both is an error.
    eval_split: Split of --eval-data to read; without --eval-data, the split of --data that is held out.
    eval_fraction: Hold out this share of --data instead of giving --eval-data. Whole conversations are held out,
        chosen by --seed.
    eval_steps: Measure on held-out data before the first step, every this many steps, and after the last. 0: only
        after the last.
    metric_for_best_model: Held-out figure that chooses the best model (loss, for example). Each new best is kept as
        a checkpoint, and the best becomes the result. The start counts too: if training improves nothing, the
        result is the start.
    early_stopping_patience: Stop after this many measurements in a row without an improvement in --metric-for-best-
        model.
    early_stopping_threshold: An improvement must be larger than this to count for --early-stopping-patience.
    eval_prompts: Number of held-out prompts to answer at each measurement. The answers go to samples.jsonl, and
        give lengths and the KL to the reference. 0: none.
    eval_max_new_tokens: Longest answer to a held-out prompt, in tokens.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    loss_type: Loss to train with. Default: sigmoid, which is DPO (arXiv:2305.18290). docs/papers.md lists all
        losses.
    beta: Strength of the pull to the reference, for losses that have a beta. Default: the loss's own (sigmoid:
        0.1).
    hyperparameters: Other hyperparameters of the loss, by name: --hyperparameters.label_smoothing 0.1.
        docs/papers.md lists them.
    losses: A weighted sum of losses, instead of --loss-type. Each is a name, or {"name": …, "weight": …,
        "hyperparameters": …}.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Policy to train: a folder or a hub name.
    data: Prompts: a file, a folder or a hub name. Completions in it are ignored.
    reward: What ranks completions: a reward-model folder, module:function, a rule, an address,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md).
    reference: Reference policy, fixed for the run: a folder or a hub name. Default: the policy as it starts.
    total_steps: Rounds of sampling, ranking and training.
    batch_size: Prompts per round, over all processes.
    num_completions: Completions sampled for each prompt. A pair loss compares the best with the worst; a ranking
        loss uses all.
    max_new_tokens: Longest completion, in tokens.
    temperature: Sampling temperature. Log-probabilities are those of the tempered policy.
    missing_eos_penalty: Subtracted from the score of a completion that did not end, before completions are ranked.
    updates_per_round: Updates in each round. Each uses all of the round's comparisons.
    shuffle: Read the prompts in a new order in each pass. With --no-shuffle they keep the file's order.
    """


def plan(
    *,
    update: bool = False,
    run: Path | None = None,
    logs: Path | None = None,
    baseline: Path | None = None,
    up_above: float | None = None,
    model: Path = "",
    data: Data = (),
    hardware: str | None = None,
    deadline: str | None = None,
    price: float | None = None,
    budget: float | None = None,
    measure: bool = False,
    calibrate: bool = False,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    start: Literal['auto', 'base', 'instruct'] = "auto",
    feedback: Literal['fixed', 'fresh'] = "fixed",
    reward: Reward | None = None,
    judge: Reward | None = None,
    safety: str | Callable[..., Any] | None = None,
    max_fault: Mapping[str, float] = {},
    slices: Sequence[str] = (),
    constraint: Sequence[Literal['no-sampling', 'offline-only', 'regulated', 'high-stakes', 'one-answer', 'no-new-labels']] = (),
    problem: Sequence[Literal['wrong-facts', 'ignores-instructions', 'rude', 'unsafe', 'too-long', 'stale']] = (),
    method: Literal['sft', 'dpo', 'pl-dpo', 'kto', 'best-of-n', 'ppo', 'grpo', 'online-dpo', 'iterated-dpo', 'collect'] | None = None,
    precision: float = 0.05,
    frontier: str | None = None,
    maximise: str | None = None,
    limit: Sequence[str] = (),
    output: Path | None = None,
    blueprint: str | None = None,
    data_license: Mapping[str, str] = {},
    owner: str | None = None,
) -> dict[str, Any]:
    r"""Says which method the data supports, and why: `facts`, `choice`, `risks`, `evaluation`, `stages`, `pipeline`.

    Options: those of `assent plan` (`model`, `data`, `constraint` …). Torch is not imported.

    update: Plan an update of a deployed model from its logs, instead of a first training: what the logs are good
        for, and the pipeline file for `assent update`. Needs --run and --logs; --model is then the run's
        (docs/update.md).
    run: Folder of the run that trained the released model. Only with --update.
    logs: Logs of the released model: a file or a folder, as `assent monitor` reads them. Only with --update.
    baseline: What the model did at the release, as in `assent monitor`. Default: the run's own samples. Only with
        --update.
    up_above: A rating above this is a thumb up. Default: 0.5. Only with --update.
    model: Model to start from: a folder or a hub name.
    data: Data at hand: files, folders or hub names of any kind (demonstrations, comparisons, rankings, thumbs,
        scores, prompts). Give the flag once for each.
    hardware: Also plan memory, time and cost, on this device: auto (this machine), cpu, a name as h100-80gb, or
        several of one as 8xh100-80gb. It reads the data with the model's tokenizer, which takes some seconds.
    deadline: Time that the training may take: 30m, 8h, 2d. Only with --hardware.
    price: Price of one device for one hour, as 2.5 or 2.5/h. Only with --hardware.
    budget: Money that the training may cost. Needs --price.
    measure: Run two real steps of the training in a process of their own, and say how far the plan is off. Needs
        --hardware auto and the model's weights.
    calibrate: Measure how fast this machine's CPU trains and samples, in under a minute, keep it for later plans
        and runs, and plan nothing.
    split: Split of the data to read, for hub names and folders that have several. Default: train, or the only one.
        Beside these, a file is read whole.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. Of several files, each is read with those that it has; a column that none
        of them has is an error.
    start: Whether the model follows instructions already. auto: instruct, if its tokenizer has a chat template.
    feedback: fixed: the data is all there will be. fresh: people or a judge can label new answers of the model.
    reward: A reward that exists already: a reward model's folder, or module:function that checks an answer.
    judge: What scores answers in the evaluation of the pipeline file, as --judge of `assent eval`. It must not be
        the reward that training sees. Default: the file measures only held-out data.
    safety: What decides in that evaluation whether an answer is safe, as --safety of `assent eval`.
    max_fault: Largest share of each fault of safety that the release gate lets through: --max-fault.under_refusal
        0.02. Needs --judge, --safety, and gates (--constraint regulated or high-stakes, or --blueprint).
    slices: Columns of the prompts by which the evaluation shows its figures. Give the flag once for each. Needs
        --judge.
    constraint: What is ruled out. no-sampling: the model cannot answer while it trains. offline-only: nothing new
        is sampled or labelled before the release. regulated: every answer to train on is in a signed file, and
        gates stand before the release. high-stakes: a wrong answer costs far more than a dull one. one-answer:
        serving has time for one answer. no-new-labels: nobody labels more. Give the flag once for each.
    problem: What the deployed model does wrong. The plan says which data mends it, and what no preference method
        mends. Give the flag once for each.
    method: Plan this method, whatever the rules prefer; the plan says what they would.
    precision: Half-width that the interval of the win rate should have; the plan says how many prompts that takes.
    frontier: Measured points, one row each with settings and figures (JSONL, JSON, CSV); or frontier.json of
        `assent frontier`. The best that keeps every --limit gives the settings. Needs --maximise.
    maximise: Figure of --frontier to maximise.
    limit: Constraint of the product on a figure of --frontier: tokens<=40, or helpful>=0.5. An interval's end
        counts, where the point has one (NAME_low, NAME_high). Give the flag once for each.
    output: Write the pipeline file here, for `assent run`. It must not exist yet.
    blueprint: Write a pipeline with gates and a sign-off (pipeline.yaml), and the document about it for a regulated
        setting (blueprint.md), into this folder, which must not exist yet. Instead of --output.
    data_license: Licence of each file of the data, as FILE=LICENCE with commas between, for --blueprint, which
        needs all of them.
    owner: Who answers for the release and signs it, for --blueprint.
    """


def ppo(
    *,
    model: Path,
    data: Data,
    reward: Reward,
    reward_processes: Literal['main', 'each'] = "main",
    router_aux_loss_coef: float = 0.0,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    reference: Path | None = None,
    total_steps: int = 50,
    batch_size: int = 32,
    num_completions: int = 4,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    kl_penalty: Literal['reward', 'k2', 'k3', 'k3+'] = "reward",
    kl_coef: float = 0.05,
    kl_target: float | None = None,
    kl_horizon: float | None = None,
    entropy_coef: float = 0.0,
    missing_eos_penalty: float = 0.0,
    importance_sampling_cap: float | None = None,
    trunk: Literal['separate', 'shared', 'one'] = "separate",
    offload_frozen: bool = False,
    shuffle: bool = True,
    num_ppo_epochs: int = 4,
    num_mini_batches: int = 1,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
    target_kl: float | None = None,
    scale_scores: bool = False,
    critic: Path | None = None,
    critic_learning_rate: float | None = None,
    critic_warmup_steps: int = 0,
    vf_coef: float = 0.1,
    gamma: float = 1.0,
    bootstrap_truncated: bool = False,
    potential: Path | None = None,
    algorithm: str | Callable[..., Any] = "ppo",
    cliprange_value: float = 0.2,
    lam: float = 0.95,
    whiten_advantages: bool = True,
    progress: Progress | None = None,
) -> Result:
    r"""Trains with PPO. Options: those of `assent ppo` (`model`, `data`, `reward`, `kl_coef` …).

    reward_processes: Where functions and addresses are asked, if several processes train together. main: the main
        process asks for the whole round. each: every process asks for its share of the prompts; for a function that
        judges each prompt's completions by themselves. Reward models are always read by all processes.
    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Policy to train: a folder or a hub name.
    data: Prompts: a file, a folder or a hub name. Completions in it are ignored.
    reward: What scores completions: a reward-model folder, module:function, a rule, an address,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md).
    reference: Reference policy: a folder or a hub name. Default: the policy as it starts.
    total_steps: Rounds of sampling and training.
    batch_size: Prompts per round, over all processes.
    num_completions: Completions sampled for each prompt. The prompt is read once for all of them.
    max_new_tokens: Longest completion, in tokens.
    temperature: Sampling temperature. Log-probabilities are those of the tempered policy.
    kl_penalty: Where the KL penalty applies. reward: it is subtracted from each token's reward (k1). The others add
        it to the loss, per token: k2 and k3+ with the gradient of KL(policy || reference), k3 (GRPO's) with that of
        KL(reference || policy).
    kl_coef: Factor of the KL penalty. With --kl-target, the value it starts at.
    kl_target: Adapt kl_coef to keep the KL near this many nats per completion (arXiv:1909.08593, eq. 3). Default:
        kl_coef stays as it is.
    kl_horizon: Completions over which the adaptive kl_coef changes. Needs --kl-target. Default: 1000.
    entropy_coef: Factor of the entropy bonus, which is a mean over completion tokens (arXiv:1602.01783, section 4).
    missing_eos_penalty: Subtracted from the score of a completion that did not end.
    importance_sampling_cap: For a sampler that computes differently from the trainer (another engine, bfloat16).
        The trainer reads the sampled tokens again, and ratios are taken to its own log-probabilities. Each token's
        loss is multiplied by min(pi_trainer / pi_sampler, this): truncated importance sampling (Ionides 2008).
        Default: the sampler's log-probabilities are the old policy's.
    trunk: Which models share weights. separate: none. shared: the critic is a value head on the policy's trunk.
        one: policy, critic and reward model are adapters on one frozen base, and that base is the reference (Hydra,
        arXiv:2309.00754).
    offload_frozen: Keep reward model and reference in main memory while they are not in use. Needs CUDA.
    shuffle: Read the prompts in a new order in each pass. With --no-shuffle they keep the file's order.
    num_ppo_epochs: Passes over each round's rollouts.
    num_mini_batches: Updates per pass, each on an equal part of the round's prompts.
    cliprange: The probability ratio of new and old policy is clipped to 1 ± this. 0: no clipping.
    cliprange_high: Upper clip range (Clip-Higher, arXiv:2503.14476). Default: the value of --cliprange.
    dual_clip: Dual clip (arXiv:1912.09729): the largest ratio that counts where the advantage is negative. Default:
        no limit.
    target_kl: End the policy's updates in a round once one of them finds the policy farther than this from the one
        that sampled, in nats per token (k3). The schedule of the learning rate counts the updates that were made.
    scale_scores: Divide scores by their standard deviation over all rounds so far. Their mean is not shifted.
    critic: Model that the critic starts from. Default: the reward model, if it is the only reward, has one head and
        uses the policy's tokenizer; otherwise the policy with a new head.
    critic_learning_rate: Peak learning rate of the critic. Default: the policy's.
    critic_warmup_steps: Number of first rounds in which only the critic learns.
    vf_coef: Factor of the value loss. Only with --trunk shared.
    gamma: Discount per token.
    bootstrap_truncated: Treat a completion that was cut at max_new_tokens as unfinished: the critic's value of its
        last state replaces its score. Otherwise the completion ends where it was cut and is scored as it stands.
    potential: Reward model for potential-based shaping. It must have the policy's tokenizer, and is read at every
        token. Its rise, gamma Phi(s') - Phi(s), is added to the token's reward, which leaves the optimal policy as
        it is.
    algorithm: ppo, or another registered algorithm that uses this command's options: reinforce++, rloo or a2c; or
        your own as module:NAME (docs/extending.md). An option that the algorithm does not read is refused.
    cliprange_value: The value is clipped to within this of the rollout's value. 0: no clipping.
    lam: Lambda of generalised advantage estimation (GAE, arXiv:1506.02438).
    whiten_advantages: Scale advantages to mean 0 and variance 1 over the whole round.
    """


def report(
    *runs: Path,
    **options: Any,
) -> dict[str, Any]:
    r"""Writes the page about one run or pipeline, or about several: `report`, `model_cards` (paths).

    Options: those of `assent report` (`output`, `live` …).
    """


def reward(
    *,
    model: Path,
    data: Data,
    loss_type: str | Callable[..., Any] | None = None,
    hyperparameters: Mapping[str, float | str] = {},
    losses: Sequence[str | Mapping[str, Any]] = [],
    eval_data: Data | None = None,
    eval_split: str | None = None,
    eval_fraction: float | None = None,
    eval_steps: int = 0,
    metric_for_best_model: str | None = None,
    early_stopping_patience: int | None = None,
    early_stopping_threshold: float = 0.0,
    batch_size: int = 8,
    num_train_epochs: float = 1.0,
    max_steps: int = 0,
    shuffle: bool = True,
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    prompt_format: Literal['template', 'concat'] = "template",
    keep_template_tail: bool = False,
    data_storage: Literal['auto', 'memory', 'mapped'] = "auto",
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    supervision: Literal['outcome', 'process'] = "outcome",
    center_rewards_coefficient: float = 0.0,
    num_heads: int = 1,
    num_adapters: int = 1,
    bootstrap: bool = False,
    normalize_rewards: bool = False,
    normalize_data: Data | None = None,
    progress: Progress | None = None,
) -> Result:
    r"""Trains a reward model. Options: those of `assent reward` (`model`, `data`, `learning_rate` …).

    loss_type: Loss to train with. For comparisons: bradley_terry (the default). For rankings: plackett_luce,
        davidson and rao_kupper, which allow ties, or all_pairs. For ratings: mse. For thumbs and probabilities:
        bce.
    hyperparameters: Hyperparameters of the loss, by name: --hyperparameters.label_smoothing 0.1. docs/papers.md
        lists them.
    losses: A weighted sum of losses, instead of --loss-type. Each is a name, or {"name": …, "weight": …,
        "hyperparameters": …}.
    eval_data: Held-out rows of the same kind as --data. A prompt that is in both is an error.
    eval_split: Split of --eval-data to read; without --eval-data, the split of --data that is held out.
    eval_fraction: Hold out this share of --data instead of giving --eval-data. Whole conversations are held out,
        chosen by --seed.
    eval_steps: Measure on held-out data before the first step, every this many steps, and after the last. 0: only
        after the last.
    metric_for_best_model: Held-out figure that chooses the best model (loss, for example). Each new best is kept as
        a checkpoint, and the best becomes the result. The start counts too: if training improves nothing, the
        result is the start.
    early_stopping_patience: Stop after this many measurements in a row without an improvement in --metric-for-best-
        model.
    early_stopping_threshold: An improvement must be larger than this to count for --early-stopping-patience.
    batch_size: Rows per update, over all processes. Memory depends on --micro-batch-tokens instead.
    num_train_epochs: Passes over the data. A fraction is allowed.
    max_steps: Stop after this many updates. 0: run all epochs.
    shuffle: Read the rows in a new order in each epoch, set by --seed and the epoch. With --no-shuffle they keep
        the file's order.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    prompt_format: concat: render prompt and completion separately. Choose it when the template renders a prompt
        differently once an answer follows.
    keep_template_tail: Also train on what the template writes after EOS, as TRL does.
    data_storage: Where the tokens of the training data are kept. memory: in memory. mapped: in a file of the cache
        (ASSENT_CACHE), from which each step reads its rows; the numbers are the same. auto: mapped from 256 MB of
        data on.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Model to start from: a causal model, which gets a new head, or a sequence classifier with one label per
        head, which keeps its own.
    data: Comparisons, or what --loss-type takes: a file, a folder or a hub name.
    supervision: outcome: one score per completion, read at its end. process: one score per step (columns prompt,
        completions, labels).
    center_rewards_coefficient: Adds this times (sum of a comparison's scores)^2 to the loss, which keeps scores
        around zero (arXiv:2312.09244).
    num_heads: Number of heads of an ensemble on one trunk. Each head has its own initial weights and one label in
        the saved model.
    num_adapters: Number of members of an ensemble on one frozen trunk. Each has an adapter (--lora-r) and a head of
        its own, its own initial weights and updates, and its own folder in the saved model.
    bootstrap: Train each member of the ensemble on its own resample of the rows (Poisson weights).
    normalize_rewards: Normalise scores to mean 0 and standard deviation 1 on the training completions. The gain
        goes into the head's weights, the bias into the model's config.
    normalize_data: Normalise on these prompts and completions instead: a file, a folder or a hub name.
    """


def rloo(
    *,
    model: Path,
    data: Data,
    reward: Reward,
    reward_processes: Literal['main', 'each'] = "main",
    router_aux_loss_coef: float = 0.0,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    reference: Path | None = None,
    total_steps: int = 50,
    batch_size: int = 16,
    num_completions: int = 4,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    kl_penalty: Literal['reward', 'k2', 'k3', 'k3+'] = "reward",
    kl_coef: float = 0.05,
    kl_target: float | None = None,
    kl_horizon: float | None = None,
    entropy_coef: float = 0.0,
    missing_eos_penalty: float = 0.0,
    importance_sampling_cap: float | None = None,
    trunk: Literal['separate', 'shared', 'one'] = "separate",
    offload_frozen: bool = False,
    shuffle: bool = True,
    num_ppo_epochs: int = 1,
    num_mini_batches: int = 1,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
    target_kl: float | None = None,
    scale_scores: bool = False,
    progress: Progress | None = None,
) -> Result:
    r"""Trains with REINFORCE leave-one-out. Options: those of `assent rloo` (`model`, `data`, `reward` …).

    reward_processes: Where functions and addresses are asked, if several processes train together. main: the main
        process asks for the whole round. each: every process asks for its share of the prompts; for a function that
        judges each prompt's completions by themselves. Reward models are always read by all processes.
    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Policy to train: a folder or a hub name.
    data: Prompts: a file, a folder or a hub name. Completions in it are ignored.
    reward: What scores completions: a reward-model folder, module:function, a rule, an address,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md).
    reference: Reference policy: a folder or a hub name. Default: the policy as it starts.
    total_steps: Rounds of sampling and training.
    batch_size: Prompts per round, over all processes.
    num_completions: Completions sampled for each prompt.
    max_new_tokens: Longest completion, in tokens.
    temperature: Sampling temperature. Log-probabilities are those of the tempered policy.
    kl_penalty: Where the KL penalty applies. reward: it is subtracted from each token's reward (k1). The others add
        it to the loss, per token: k2 and k3+ with the gradient of KL(policy || reference), k3 (GRPO's) with that of
        KL(reference || policy).
    kl_coef: Factor of the KL penalty. With --kl-target, the value it starts at.
    kl_target: Adapt kl_coef to keep the KL near this many nats per completion (arXiv:1909.08593, eq. 3). Default:
        kl_coef stays as it is.
    kl_horizon: Completions over which the adaptive kl_coef changes. Needs --kl-target. Default: 1000.
    entropy_coef: Factor of the entropy bonus, which is a mean over completion tokens (arXiv:1602.01783, section 4).
    missing_eos_penalty: Subtracted from the score of a completion that did not end.
    importance_sampling_cap: For a sampler that computes differently from the trainer (another engine, bfloat16).
        The trainer reads the sampled tokens again, and ratios are taken to its own log-probabilities. Each token's
        loss is multiplied by min(pi_trainer / pi_sampler, this): truncated importance sampling (Ionides 2008).
        Default: the sampler's log-probabilities are the old policy's.
    trunk: Which models share weights. separate: none. shared: the critic is a value head on the policy's trunk.
        one: policy, critic and reward model are adapters on one frozen base, and that base is the reference (Hydra,
        arXiv:2309.00754).
    offload_frozen: Keep reward model and reference in main memory while they are not in use. Needs CUDA.
    shuffle: Read the prompts in a new order in each pass. With --no-shuffle they keep the file's order.
    num_ppo_epochs: Passes over each round's rollouts.
    num_mini_batches: Updates per pass, each on an equal part of the round's prompts.
    cliprange: The probability ratio of new and old policy is clipped to 1 ± this. 0: no clipping.
    cliprange_high: Upper clip range (Clip-Higher, arXiv:2503.14476). Default: the value of --cliprange.
    dual_clip: Dual clip (arXiv:1912.09729): the largest ratio that counts where the advantage is negative. Default:
        no limit.
    target_kl: End the policy's updates in a round once one of them finds the policy farther than this from the one
        that sampled, in nats per token (k3). The schedule of the learning rate counts the updates that were made.
    scale_scores: Divide scores by their standard deviation over all rounds so far. Their mean is not shifted.
    """


def rollback(
    folder: Path = "releases",
) -> dict[str, Any]:
    r"""Marks the model that was released before, as `assent rollback` does: `model`, `release`, `from`, `mark`.
    """


def run(
    path: Path,
    *,
    output_dir: str | None = None,
    seed: int | None = None,
    fast: bool = False,
    overrides: Sequence[str] = (),
    jobs: Jobs = 1,
    progress: Progress | None = None,
) -> PipelineResult:
    r"""Runs a pipeline file, as `assent run` does. `overrides`: `stage.option=value`. `jobs`: a number, or "auto".
    """


def sample(
    *,
    output_dir: Path,
    model: Path,
    data: Data,
    num_shards: int | None = None,
    shard: int | None = None,
    engine: Literal['local', 'ray'] | None = None,
    workers: int | None = None,
    status: bool = False,
    sampler: Literal['torch', 'vllm'] = "torch",
    reward_ensemble: str | None = None,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    num_prompts: int = 0,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    reference: Path | None = None,
    realignment: float | None = None,
    seed: int = 0,
    num_completions: int = 1,
    greedy: bool = False,
    stop: Sequence[str] = [],
    keep: Literal['all', 'best'] = "all",
    reward: Reward | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Samples completions from a policy: `completions` (path), `metrics`. Options: those of `assent sample`.

    num_shards: Cut the input into this many shards. Each is written to a file of its own; a shard that is done is
        not repeated. Default: none, or with --engine as many as suit the rows.
    shard: Do this shard alone, counted from 0, for a scheduler that starts one process for each. Whoever ends the
        last one joins them. Needs --num-shards.
    engine: Do the shards in a pool: local: processes on this machine; ray: actors on a Ray cluster (pip install
        'assent[ray]'), the one of RAY_ADDRESS or one on this machine.
    workers: Workers of --engine, each with its own copy of the models. Default: 2.
    status: Say which shards are done, running and failed, and do nothing.
    sampler: What samples completions. torch: the policy itself, through transformers. vllm: a vLLM engine (extra
        vllm), which receives the policy's weights whenever they change. For the same seed it draws the same
        completions, up to rounding.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    output_dir: Folder to write completions.jsonl to.
    num_prompts: Use only this many prompts, from the start of the data. 0: all.
    max_new_tokens: Longest completion, in tokens.
    temperature: Sampling temperature.
    top_p: Sample from the smallest set of tokens that has this probability.
    top_k: Sample from this many of the most likely tokens. 0: from all.
    reference: Model that the policy was trained from, to be mixed with it: a folder or a hub name. Needs
        --realignment.
    realignment: Decoding-time realignment (arXiv:2402.02992): sample with the logits (1 - this) * reference + this
        * policy. This comes close to training with beta or the KL coefficient divided by this. 1: the policy; 0:
        the reference.
    seed: Seed of sampling. A completion depends on the seed, its prompt's number and its own number alone.
    model: Policy to sample from: a folder or a hub name.
    data: Prompts: a file, a folder or a hub name. Completions in it are ignored.
    num_completions: Completions sampled for each prompt.
    greedy: Always take the most likely token.
    stop: Texts that end a completion, in ASCII. The completion keeps the token that completed one.
    keep: best: keep each prompt's highest-scoring completion by --reward, as data for sft (RAFT, arXiv:2304.06767).
    reward: What scores completions for --keep best: a reward-model folder, module:function, a rule, an address; or
        several of them, with weights (docs/rewards.md).
    """


def score(
    *,
    data: Data,
    output_dir: Path,
    num_shards: int | None = None,
    shard: int | None = None,
    engine: Literal['local', 'ray'] | None = None,
    workers: int | None = None,
    status: bool = False,
    reward_ensemble: str | None = None,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    reward: Reward | None = None,
    logprobs: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Scores given completions: `scored` (path), `metrics`. Options: those of `assent score`.

    num_shards: Cut the input into this many shards. Each is written to a file of its own; a shard that is done is
        not repeated. Default: none, or with --engine as many as suit the rows.
    shard: Do this shard alone, counted from 0, for a scheduler that starts one process for each. Whoever ends the
        last one joins them. Needs --num-shards.
    engine: Do the shards in a pool: local: processes on this machine; ray: actors on a Ray cluster (pip install
        'assent[ray]'), the one of RAY_ADDRESS or one on this machine.
    workers: Workers of --engine, each with its own copy of the models. Default: 2.
    status: Say which shards are done, running and failed, and do nothing.
    reward_ensemble: How to combine the heads or adapters of a reward-model ensemble: mean, min, mean-std:K (mean
        minus K standard deviations) or weights:A,B,…. Default: mean.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    data: Completions: a file, a folder or a hub name. Judgements in it are not read.
    output_dir: Folder to write scores.jsonl, or logprobs.jsonl, to.
    reward: What scores completions: a reward-model folder, module:function, a rule, an address,
        implicit:POLICY,REFERENCE; or several of them, with weights (docs/rewards.md).
    logprobs: Model whose log-probabilities of the completions are written, in the place of rewards, as the columns
        that dpo and kto read with --reference logged: a folder or a hub name.
    """


def serve_check(
    *,
    model: Path,
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    revision: str | None = None,
    engines: Sequence[Literal['transformers', 'vllm']] | None = None,
    data: Data | None = None,
    num_prompts: int = 4,
    max_new_tokens: int = 16,
) -> dict[str, Any]:
    r"""Checks what engines compute with a model: `checks`, `differs`. Options: those of `assent serve-check`.

    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    model: Model to check: the folder of a policy or of a reward model, or a hub name.
    revision: Revision of a model on the hub.
    engines: What to open the model with. Default: transformers, and vLLM where it is installed.
    data: Prompts, for a reward model with completions: a file, a folder or a hub name. Default: a few built-in
        ones.
    num_prompts: Use only this many rows, from the start of --data.
    max_new_tokens: Tokens to generate for each prompt.
    """


def sft(
    *,
    model: Path,
    data: Data,
    router_aux_loss_coef: float = 0.0,
    eval_data: Data | None = None,
    eval_split: str | None = None,
    eval_fraction: float | None = None,
    eval_steps: int = 0,
    metric_for_best_model: str | None = None,
    early_stopping_patience: int | None = None,
    early_stopping_threshold: float = 0.0,
    eval_prompts: int = 0,
    eval_max_new_tokens: int = 64,
    batch_size: int = 8,
    num_train_epochs: float = 1.0,
    max_steps: int = 0,
    shuffle: bool = True,
    learning_rate: float = 1e-05,
    lr_scheduler_type: Literal['constant', 'linear', 'cosine'] = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.0,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-08,
    max_grad_norm: float = 1.0,
    revision: str | None = None,
    chat_template: Path | None = None,
    chat_template_kwargs: Mapping[str, Any] = {},
    system: Literal['error', 'merge'] = "error",
    max_length: int = 1024,
    prompt_format: Literal['template', 'concat'] = "template",
    keep_template_tail: bool = False,
    data_storage: Literal['auto', 'memory', 'mapped'] = "auto",
    split: str | None = None,
    columns: Mapping[str, str] | str = {},
    sharding: Literal['auto', 'replicate', 'shard'] = "auto",
    lora_r: int = 0,
    lora_alpha: float | None = None,
    lora_target_modules: Sequence[str] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    load_in_4bit: bool = False,
    device: str = "auto",
    dtype: Literal['float32', 'bfloat16'] = "float32",
    allow_slow_dtype: bool = False,
    mixed_precision: Literal['no', 'bf16'] = "no",
    micro_batch_tokens: int = 0,
    gradient_checkpointing: bool = False,
    master_weights: bool = False,
    optim: Literal['adamw', 'adamw_8bit'] = "adamw",
    output_dir: Path | None = None,
    seed: int = 0,
    resume: bool = True,
    recover: bool = False,
    fork: str | None = None,
    stop: bool = True,
    stop_on: Literal['fatal', 'fault'] = "fatal",
    save_steps: int = 100,
    save_total_limit: int = 2,
    report_to: Sequence[str | type] = [],
    project: str | None = None,
    license: str | None = None,
    train_on: Literal['all', 'last', 'each'] = "all",
    progress: Progress | None = None,
) -> Result:
    r"""Fine-tunes on demonstrations. Options: those of `assent sft` (`model`, `data`, `learning_rate` …).

    router_aux_loss_coef: For a mixture of experts: adds this times the load-balancing loss of its routers
        (arXiv:2101.03961), over the tokens of the whole update. Models are often trained with 0.001 to 0.01. 0:
        off.
    eval_data: Held-out rows of the same kind as --data. A prompt that is in both is an error.
    eval_split: Split of --eval-data to read; without --eval-data, the split of --data that is held out.
    eval_fraction: Hold out this share of --data instead of giving --eval-data. Whole conversations are held out,
        chosen by --seed.
    eval_steps: Measure on held-out data before the first step, every this many steps, and after the last. 0: only
        after the last.
    metric_for_best_model: Held-out figure that chooses the best model (loss, for example). Each new best is kept as
        a checkpoint, and the best becomes the result. The start counts too: if training improves nothing, the
        result is the start.
    early_stopping_patience: Stop after this many measurements in a row without an improvement in --metric-for-best-
        model.
    early_stopping_threshold: An improvement must be larger than this to count for --early-stopping-patience.
    eval_prompts: Number of held-out prompts to answer at each measurement. The answers go to samples.jsonl, and
        give lengths and the KL to the reference. 0: none.
    eval_max_new_tokens: Longest answer to a held-out prompt, in tokens.
    batch_size: Rows per update, over all processes. Memory depends on --micro-batch-tokens instead.
    num_train_epochs: Passes over the data. A fraction is allowed.
    max_steps: Stop after this many updates. 0: run all epochs.
    shuffle: Read the rows in a new order in each epoch, set by --seed and the epoch. With --no-shuffle they keep
        the file's order.
    learning_rate: Peak learning rate.
    lr_scheduler_type: Schedule of the learning rate after the warm-up. linear and cosine fall to zero.
    warmup_ratio: Share of the steps in which the learning rate rises linearly from zero.
    weight_decay: Decoupled weight decay. It applies to matrices only.
    adam_beta1: Decay rate of AdamW's first moment.
    adam_beta2: Decay rate of AdamW's second moment.
    adam_epsilon: Added to the square root of AdamW's second moment.
    max_grad_norm: Largest norm of the gradient over all parameters. A larger gradient is scaled down to it.
    revision: Revision of a model on the hub.
    chat_template: Chat template for a model that has none: chatml, or a file with a Jinja template. A trained model
        is saved with it.
    chat_template_kwargs: Extra arguments for the chat template: --chat-template-kwargs.NAME VALUE.
    system: What happens when the template refuses a system message. error: the command stops; merge: the message
        moves into the first user turn.
    max_length: Longest sequence in tokens, prompt and completion together. A long conversation loses its oldest
        turns and a long raw prompt its start; then the completion loses its end. A long raw prompt that is to be
        answered is refused instead.
    prompt_format: concat: render prompt and completion separately. Choose it when the template renders a prompt
        differently once an answer follows.
    keep_template_tail: Also train on what the template writes after EOS, as TRL does.
    data_storage: Where the tokens of the training data are kept. memory: in memory. mapped: in a file of the cache
        (ASSENT_CACHE), from which each step reads its rows; the numbers are the same. auto: mapped from 256 MB of
        data on.
    split: Split of the data to read, for a hub name or a folder that has several. Default: train, or the only one.
    columns: Columns of the data that have other names, as THEIRS=OURS with commas between:
        question=prompt,reply=completion. They hold for all data that the command reads. The file of --data must
        have all of them; any other file is read with those that it has. What a judgement's values mean follows a
        colon: vote=winner:left=a|right=b|both=tie.
    sharding: What each of several processes holds. replicate: the whole model. shard: its part of weights,
        gradients and optimiser state (FSDP2). auto: shard where a whole copy would take more than half of a
        process's memory. It changes memory and speed, never the result.
    lora_r: Rank of a LoRA adapter, which is trained instead of the model's weights. 0: train the weights
        themselves.
    lora_alpha: The adapter is scaled by lora_alpha / lora_r. Default: 2 * lora_r.
    lora_target_modules: Layers that get an adapter, given by the ends of their names (q_proj). Default: all linear
        layers except the head.
    use_dora: Use DoRA (arXiv:2402.09353), which trains the length of each weight vector apart from its direction.
    use_rslora: Use rsLoRA (arXiv:2312.03732), which scales the adapter by lora_alpha / sqrt(lora_r).
    load_in_4bit: Use QLoRA (arXiv:2305.14314): hold the frozen weights in 4 bits (NF4). Needs CUDA and the
        bitsandbytes package.
    device: Where to compute: auto, cpu, cuda, cuda:N or mps.
    dtype: Data type of the weights.
    allow_slow_dtype: Compute in bfloat16 even on a processor that is over ten times slower at it than in float32.
    mixed_precision: bf16: compute in bfloat16 under autocast. Weights and optimiser state keep the type of --dtype.
    micro_batch_tokens: Tokens per forward pass. 0: chosen for the device. It changes memory and speed, never the
        result.
    gradient_checkpointing: Recompute activations in the backward pass. This saves memory and takes about a quarter
        more time.
    master_weights: With --dtype bfloat16: keep a float32 copy of each weight in the optimiser, so that small
        updates are not lost.
    optim: Optimiser. adamw_8bit holds the moments in 8 bits (arXiv:2110.02861): two bytes per weight instead of
        eight. It needs the bitsandbytes package.
    output_dir: Folder of the run. An interrupted run of the same configuration resumes there.
    seed: Seed of the batch order and of all randomness.
    resume: Continue an interrupted run. With --no-resume, an existing run folder is an error.
    recover: Rebuild a damaged or missing run.json from the newest checkpoint, if that one is of this very run, and
        continue. The log says what was rebuilt.
    fork: Begin with a checkpoint of another run, RUN@STEP: its weights, optimiser and figures up to that step. The
        options may differ from that run's; they hold for the steps that follow, and that run is left as it is.
    stop: End the run when a check of its metrics finds that it cannot succeed. The run keeps its checkpoint and its
        model. With --no-stop the check only reports, and a run that it has ended continues.
    stop_on: Least severity of a finding that ends the run: fatal (the run cannot recover), or fault (its result is
        wrong, or worse than it need be; about one healthy run in a hundred has one).
    save_steps: Write a checkpoint every this many steps. An interrupt (Ctrl-C) always writes one. 0: only an
        interrupt does.
    save_total_limit: Number of checkpoints to keep. The oldest are deleted first.
    report_to: Trackers that also receive every line of metrics.jsonl: tensorboard, wandb, mlflow, trackio, or
        module:Class.
    project: Name of the project in wandb and trackio, of the experiment in MLflow. Default: assent. The run is
        named after its folder.
    license: Licence of the trained model, for its model card, as the hub's identifier (mit, apache-2.0, other).
        Default: the licence of the model that training starts from.
    model: Model to start from: a folder or a hub name.
    data: Demonstrations: a file, a folder or a hub name. If it holds comparisons, their chosen completions are
        used.
    train_on: Which assistant turns of a `messages` row to train on. all: every one, in one row. last: the last one.
        each: every one, in a row of its own that ends with it, as the template renders it at that point; for
        templates that take the reasoning out of earlier turns (Qwen3).
    """


def update(
    path: Path,
    *,
    releases: str = "releases",
    output_dir: str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    jobs: Jobs = 1,
    again: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Trains a successor of the released model, and marks it if all gates pass: `model`, `release`, `gates`, `mark`.

    Options: those of `assent update`; `overrides`: `stage.option=value`. Raises FaultError if a gate stops it.
    """

