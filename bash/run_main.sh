#!/usr/bin/env bash
# Train, select and test a list of models.
#
#   bash bash/run_main.sh                                                 asks for what it needs
#   PROJECT_NAME=x GPU_COUNT=0 bash bash/run_main.sh cfgA cfgB            asks nothing; 0 = CPU, n = torchrun
#   ... bash/run_main.sh fast_scnn/fast-scnn_baseline_2k_wta-256 -- data_root=/data/wta train_cfg.max_iters=200
#   ... bash/run_main.sh cfgA cfgA+paste_poisson cfgA+paste_poisson+focal  the same model with and without recipes
#   ... ENGINE=ray SLOTS=4 THREADS=1 bash bash/run_main.sh ...            side by side: local, ray or slurm
#
# Variables (all optional but the first two, which are asked for on a terminal):
#   PROJECT_NAME       folder of this batch below WORK_DIR; the same name goes on with a stopped batch
#   GPU_COUNT          0 = CPU, 1, or n processes
#   TEST_CANDI         models to train when none are given as arguments: the list below, or a text, one a line
#   WITH               recipes laid over all models, such as "paste_poisson focal" (tools/list_configs.py lists them)
#   MODEL_CONFIG_PATH  where configs lie (configs)       WORK_DIR  where results go (work_dirs)
#   FIND_BEST_DIR      folder of find_best.py (bash)     PYTHON    interpreter
#   ENGINE             local (default), ray, slurm: where jobs run       SLOTS, THREADS, GPUS  see run_batch.py --help
#   METRIC, TIE        rule of find_best.py (score, last)           EXCLUDE_BACKGROUND=1  means without background
# Arguments before `--` may also be options of tools/run_batch.py (see its --help).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -z "${TEST_CANDI+set}" ]; then
  TEST_CANDI=(
    # fast_scnn/fast-scnn_baseline_2k_wta-256
    # bisenetv2/bisenetv2_baseline_40k_wta-256+schedule_2k
  )
fi

ask() {  # ask NAME QUESTION: fills the variable NAME unless it is set
  if [ -z "${!1:-}" ]; then
    if [ ! -t 0 ]; then
      echo "run_main: error: $1 must be set when there is no terminal to ask on, for example $1=$3" >&2
      exit 2
    fi
    while [ -z "${!1:-}" ]; do read -r -p "$2: " "$1" || exit 2; done
  fi
}

case " $* " in
  *" -h "* | *" --help "*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
ask PROJECT_NAME 'Project name' blades
ask GPU_COUNT 'Number of GPUs (0 = CPU)' 0

if [ -z "${PYTHON:-}" ]; then
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then PYTHON=python
  elif [ -x "$here/.venv/bin/python" ]; then PYTHON=$here/.venv/bin/python
  else PYTHON=python3; fi
fi

options=(--project "$PROJECT_NAME" --gpu-count "$GPU_COUNT" --candidates "$(printf '%s\n' "${TEST_CANDI[@]:-}")"
  --config-root "${MODEL_CONFIG_PATH:-configs}" --work-dir "${WORK_DIR:-work_dirs}"
  --find-best "${FIND_BEST_DIR:-$here/bash}/find_best.py" --metric "${METRIC:-score}" --tie "${TIE:-last}"
  --smooth "${SMOOTH:-1}")
options+=(--engine "${ENGINE:-local}" --threads "${THREADS:-0}" --gpus "${GPUS:-}")
# shellcheck disable=SC2206  (a list of words)
if [ -n "${WITH:-}" ]; then options=(--with $WITH "${options[@]}"); fi
if [ -n "${SLOTS:-}" ]; then options+=(--slots "$SLOTS"); fi
case "${EXCLUDE_BACKGROUND:-0}" in 1 | true | yes) options+=(--exclude-background) ;; esac
exec "$PYTHON" "$here/tools/run_batch.py" "${options[@]}" "$@"
