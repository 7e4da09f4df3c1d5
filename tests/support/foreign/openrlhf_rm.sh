deepspeed ../train_rm.py \
     --save_path "./ckpt/rm" \
     --train_batch_size 128 \
     --micro_train_batch_size 1 \
     --pretrain "org/m" \
     --bf16 \
     --max_len 1536 \
     --zero_stage 3 \
     --learning_rate 9e-6 \
     --dataset 'a/b,c/d' \
     --dataset_probs '0.72,0.28'
     # --load_model './x.pt'
