#!/usr/bin/env bash
# The H100 measurements, one step a call, each under ten minutes. See README.md beside this file.
#   bash benchmarks/h100/run.sh STEP
# OUT is where CSV files go (default: results/ beside this file), TABLES where tables go (default: tables/).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
out=${OUT:-$here/results}
tables=${TABLES:-tables}
mkdir -p "$out" "$tables"

# An interrupted profile goes on where it was: repeat a table step until it says that nothing is left.
table() { # NAME STEP PRECISION BATCH MODEL...
  local name=$1 step=$2 precision=$3 batch=$4
  shift 4
  timeout --signal=INT --kill-after=20 560 python gharial.py profile "$@" --runtime onnxruntime --device cuda:0 \
    --precision "$precision" --batch "$batch" --step "$step" \
    --out "$tables/h100-onnxruntime-cuda-$name-$precision-batch$batch.parquet"
}

case ${1:-} in
  check)
    python -m pytest tests/profiler/gpu -m gpu
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit --format=csv \
      | tee "$out/device.csv"
    ;;
  rate)
    for builds in 1 4; do
      for search in exhaustive heuristic; do
        python "$here/rate.py" --search "$search" --builds "$builds" --out "$out/rate.csv"
      done
    done
    ;;
  rows-a) python "$here/rows.py" --seed 1 --out "$out/rows_a.csv" ;;
  rows-b) python "$here/rows.py" --seed 2 --out "$out/rows_b.csv" ;;
  compare) python "$here/compare.py" "$out/rows_a.csv" "$out/rows_b.csv" --out "$out/compare.csv" | tee "$out/compare.txt" ;;
  searches)
    python "$here/rows.py" --seed 3 --configs 400 --search heuristic --out "$out/rows_heuristic.csv"
    python "$here/compare.py" "$out/rows_a.csv" "$out/rows_heuristic.csv" --out "$out/searches.csv" | tee "$out/searches.txt"
    ;;
  sums) python "$here/sums.py" --out "$out/sums.csv" ;;
  budget) python "$here/resnet50_budget.py" --measure --out "$out" ;;
  budget-decide) # ROWS and NETWORKS: the probe's rows (.parquet) and networks (.json.gz)
    work=out/resnet50_budget
    if [ ! -f "$work/model/model.json" ]; then
      python gharial.py fit "$ROWS" --device "NVIDIA H100 80GB HBM3" --networks "$NETWORKS" --no-report --out "$work/model"
    fi
    if [ ! -f "$work/table_batch32.parquet" ]; then
      python "$here/resnet50_budget.py" --model "$work/model" --work "$work" --plans "$work"
    fi
    python "$here/resnet50_budget.py" --measure --decide --work "$work" --out "$out"
    ;;
  table-cifar-*) # table-cifar-fp16-1
    IFS=- read -r _ _ precision batch <<<"$1"
    table cifar 8 "$precision" "$batch" resnet20 resnet56 resnet110
    ;;
  table-imagenet-*) # table-imagenet-fp16-8
    IFS=- read -r _ _ precision batch <<<"$1"
    table imagenet 64 "$precision" "$batch" torchvision:{resnet18,resnet50,vgg16,mobilenet_v2}
    ;;
  *)
    echo "steps: check rate rows-a rows-b compare searches sums budget budget-decide table-{cifar,imagenet}-{fp16,fp32}-{1,8,32}" >&2
    exit 2
    ;;
esac
