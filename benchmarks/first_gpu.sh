#!/usr/bin/env bash
# What is true on the first GPU? Ten minutes on one H200, in the order of what matters most, and one JSON document.
#
#     benchmarks/first_gpu.sh [--smallest] [--output first_gpu.json]
#
# Each tier of attention and the decoding graphs against the plain model; DPO and reward models against transformers'
# Trainer, and against TRL where TRL_PYTHON names the python of an environment with it (and TRL_SCRIPTS the folder of its
# scripts); a PPO step; decoding as a share of what the memory's bandwidth allows; DPO and PPO with LoRA on 8 B weights
# under a cap of 24 GB; QLoRA; and of each of these runs, the plan's memory beside the measured one.
#
# --smallest tries every step on the CPU, at the smallest shape; what needs CUDA says so. A step that fails, or takes
# longer than its share, is written down with its last words, and the next one starts. Exit status 1 if a step failed.
# PYTHON names another python than `python`; nothing is downloaded.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python} output=first_gpu.json device=cuda smallest=
while [ $# -gt 0 ]; do
  case $1 in
    --smallest) smallest=--smallest device=cpu ;;
    --output) output=${2:?--output needs a file}; shift ;;
    *) echo "unknown option $1; benchmarks/first_gpu.sh [--smallest] [--output FILE]" >&2; exit 2 ;;
  esac
  shift
done
if [ "$device" = cuda ]; then
  budget=590 shape=0.5b large=8b more=(--bf16) dtype=bfloat16
  compared=(--pairs 96 --repeats 1) ppo=(--rounds 4) drawn=(--prompts 64 --new-tokens 128)
  trained=(--batch-size 8 --max-length 512) rank=16 limit_gb=24
else
  budget=3600 shape=tiny large=tiny more=() dtype=float32
  compared=(--pairs 8 --batch-size 4 --per-device 4 --repeats 1) drawn=(--prompts 4 --completions 2 --new-tokens 4)
  ppo=(--rounds 2 --batch-size 4 --epochs 1 --max-prompt 32 --new-tokens 4)
  trained=(--batch-size 2 --max-length 64) rank=4 limit_gb=24
fi
if [ -n "${TRL_PYTHON:-}" ] && [ -z "${TRL_SCRIPTS:-}" ]; then
  echo "TRL_PYTHON is given without TRL_SCRIPTS, the folder of TRL's scripts: give both, or neither" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ASSENT_CACHE=$work/cache HF_HUB_OFFLINE=1

step() { # NAME SECONDS COMMAND...: its document goes to NAME.json, what it says to NAME.err
  local name=$1 limit=$2 began=$SECONDS left=$((budget - SECONDS))
  shift 2
  [ "$device" = cuda ] || limit=$budget
  if [ "$left" -lt 5 ]; then
    echo "no time left" >"$work/$name.err"
    echo "124 0" >"$work/$name.status"
    return
  fi
  timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$work/$name.json" 2>"$work/$name.err"
  echo "$? $((SECONDS - began))" >"$work/$name.status"
  echo "$name: status and seconds $(cat "$work/$name.status")" >&2
}
parts() { echo "$python" benchmarks/first_gpu_parts.py; }
data=$work/comparisons.jsonl tokenizer=$work/tokenizer

step inputs 60 $(parts) inputs "$work" $smallest
step attention 90 $(parts) attention --device "$device"
step graphs 45 $(parts) graphs --device "$device" --model "$tokenizer" --data "$data"
step against_trainer 150 "$python" benchmarks/against_trainer.py --shape "$shape" --tokenizer "$tokenizer" --data "$data" \
  --device "$device" "${more[@]}" "${compared[@]}"
if [ -n "${TRL_PYTHON:-}" ]; then
  step small_model 30 "$python" benchmarks/make_model.py --shape "$shape" --tokenizer "$tokenizer" --output-dir "$work/small"
  step against_trl 120 "$python" benchmarks/against_trl.py --trl-python "$TRL_PYTHON" --scripts "$TRL_SCRIPTS" \
    --data "$data" --model "$work/small" --pairs 32 --repeats 1 --per-device 8 "${more[@]}"
fi
step ppo_step 80 "$python" benchmarks/ppo_step.py --shape "$shape" --tokenizer "$tokenizer" --data "$data" \
  --device "$device" "${more[@]}" "${ppo[@]}"
step large_model 90 "$python" benchmarks/make_model.py --shape "$large" --tokenizer "$tokenizer" \
  --output-dir "$work/large" --device "$device" --dtype "$dtype"
step decode 60 "$python" benchmarks/generate.py --sample --model "$work/large" --data "$data" --device "$device" \
  --dtype "$dtype" "${drawn[@]}"
common=(--model "$work/large" --device "$device" --dtype "$dtype" --save-steps 0 --no-stop)
step dpo_under_a_cap 90 $(parts) capped --gigabytes "$limit_gb" -- dpo "${common[@]}" --data "$data" --lora-r "$rank" \
  --max-steps 3 "${trained[@]}" --reference-cache "$work/reference" --output-dir "$work/dpo"
step ppo_under_a_cap 90 $(parts) capped --gigabytes "$limit_gb" -- ppo "${common[@]}" --data "$work/prompts.jsonl" \
  --lora-r "$rank" --trunk one --reward "{reward: length, maximum: 64}" --total-steps 3 --max-new-tokens 16 \
  "${trained[@]}" --output-dir "$work/ppo"
step qlora 90 $(parts) capped --gigabytes "$limit_gb" --needs-cuda -- dpo "${common[@]}" --data "$data" --load-in-4bit \
  --lora-r "$rank" --max-steps 3 "${trained[@]}" --reference-cache "$work/reference4" --output-dir "$work/qlora"
$(parts) join "$work" --device "$device" >"$output.tmp"
status=$?
mv "$output.tmp" "$output"
cat "$output"
exit $status
