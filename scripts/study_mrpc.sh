#!/usr/bin/env bash
# The README's table on MRPC: teacher, student alone, VKD and FSD with each structure and with several, three seeds
# each, one budget for all; the memory of the global structure has 100 centroids.
#   scripts/study_mrpc.sh MODEL GLUE_DIR RUNS_DIR
# MODEL: a pretrained encoder (the published rows: MiniLM-L6, 6 layers; the student is its first 3).
# Run again after an interruption: finished runs are skipped, the one that was cut off goes on.
set -euo pipefail
model=${1:?a pretrained model} glue=${2:?the GLUE data folder} runs=${3:?a folder for the runs}
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
teacher=$runs/teacher-seed1
rows=(--data_dir "$glue" --task_name MRPC --do_train --max_seq_length 80 --bf16 --per_gpu_train_batch_size 32)
common=("${rows[@]}" --do_eval --per_gpu_eval_batch_size 64 --learning_rate 1e-4 --num_train_epochs 4
  --logging_steps 23 --save_steps 115 --results_csv "$runs/results.csv")
distil=(--model_name_or_path "$teacher" --model_name_or_path_for_copy "$model" --copy_teacher --alpha 0.5
  --temperature 5)
vkd=("$here/glue_with_cka_i.py" "${distil[@]}")
structure_g=(--teacher_memory_path "$runs/memory" --gamma_m 1e-4)
several=("$here/glue_with_cka_ilg.py" "${distil[@]}" --beta 1 --gamma_i 4 --gamma_l 4)

finished() {
  grep -qs '"finished": true' "$runs/$1/run.json"
}

once() {  # once NAME SCRIPT FLAGS...: run it unless it has finished
  local name=$1 script=$2
  shift 2
  finished "$name" || "$python" "$script" "${common[@]}" --output_dir "$runs/$name" "$@"
}

for seed in 1 2 3; do
  once "teacher-seed$seed" "$here/train_teacher.py" --model_name_or_path "$model" --seed "$seed"
  once "none-seed$seed" "$here/train_teacher.py" --model_name_or_path "$model" --student_num_hidden_layers 3 \
    --seed "$seed"
  once "vkd-seed$seed" "${vkd[@]}" --beta 0 --seed "$seed"
  once "fsd_i-seed$seed" "${vkd[@]}" --beta 4 --internal --seed "$seed"
  once "fsd_l-seed$seed" "${vkd[@]}" --beta 4 --seed "$seed"
done

finished memory || "$python" "$here/train_memory.py" "${rows[@]}" --model_name_or_path "$teacher" --num_centroid 100 \
  --memory_num_train_epochs 3 --seed 1 --output_dir "$runs/memory"
for seed in 1 2 3; do
  once "fsd_ilg-seed$seed" "${several[@]}" --gamma_g 1 "${structure_g[@]}" --seed "$seed"
  once "fsd_g-seed$seed" "$here/glue_with_cka_g.py" "${distil[@]}" --beta 1 "${structure_g[@]}" --seed "$seed"
  once "fsd_il-seed$seed" "${several[@]}" --gamma_g 0 --seed "$seed"
done
