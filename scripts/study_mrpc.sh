#!/usr/bin/env bash
# The README's table: teacher, student alone, VKD, FSD_I and FSD_L on MRPC, three seeds each, one budget for all.
#   scripts/study_mrpc.sh MODEL GLUE_DIR RUNS_DIR
# MODEL: a pretrained encoder (the published rows: MiniLM-L6, 6 layers; the student is its first 3).
# Run again after an interruption: finished runs are skipped, the one that was cut off goes on.
set -euo pipefail
model=${1:?a pretrained model} glue=${2:?the GLUE data folder} runs=${3:?a folder for the runs}
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
teacher=$runs/teacher-seed1
common=(--data_dir "$glue" --task_name MRPC --do_train --do_eval --max_seq_length 80 --bf16
  --per_gpu_train_batch_size 32 --per_gpu_eval_batch_size 64 --learning_rate 1e-4 --num_train_epochs 4
  --logging_steps 23 --save_steps 115 --results_csv "$runs/results.csv")
distil=("$here/glue_with_cka_i.py" --model_name_or_path "$teacher" --model_name_or_path_for_copy "$model"
  --copy_teacher --alpha 0.5 --temperature 5)

once() {  # once NAME SCRIPT FLAGS...: run it unless it has finished
  local output=$runs/$1 script=$2
  shift 2
  grep -qs '"finished": true' "$output/run.json" && return
  "$python" "$script" "${common[@]}" --output_dir "$output" "$@"
}

for seed in 1 2 3; do
  once "teacher-seed$seed" "$here/train_teacher.py" --model_name_or_path "$model" --seed "$seed"
  once "none-seed$seed" "$here/train_teacher.py" --model_name_or_path "$model" --student_num_hidden_layers 3 \
    --seed "$seed"
  once "vkd-seed$seed" "${distil[@]}" --beta 0 --seed "$seed"
  once "fsd_i-seed$seed" "${distil[@]}" --beta 4 --internal --seed "$seed"
  once "fsd_l-seed$seed" "${distil[@]}" --beta 4 --seed "$seed"
done
