accelerate launch --config_file examples/accelerate_configs/deepspeed_zero3.yaml \
    examples/scripts/ppo/ppo.py \
    --dataset_name org/desc \
    --dataset_train_split descriptiveness \
    --output_dir models/ppo \
    --num_ppo_epochs 1 \
    --num_mini_batches 1 \
    --learning_rate 3e-6 \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps 16 \
    --total_episodes 10000 \
    --model_name_or_path org/m \
    --sft_model_path org/m \
    --reward_model_path org/rm \
    --local_rollout_forward_batch_size 1 \
    --missing_eos_penalty 1.0
