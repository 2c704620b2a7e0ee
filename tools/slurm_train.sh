#!/usr/bin/env bash
# Train a config on several processes of a Slurm cluster, on one machine or on many, and wait for it.
#
#   bash tools/slurm_train.sh CONFIG N [options of tools/train.py]
#   PARTITION=gpu GPUS_PER_NODE=4 bash tools/slurm_train.sh CONFIG 8 --work-dir work_dirs/eight
#
# N processes, one for each GPU. PARTITION, JOB_NAME (name of the config), GPUS_PER_NODE (8, at most N; 0 = CPU),
# CPUS_PER_TASK (5), SRUN_ARGS (further options of srun), MASTER_PORT (29500), PYTHON (python).
# `train_dataloader.batch_size` is that of one process. DRY_RUN=1 prints the command only.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 2 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
config=$1 count=$2
shift 2
per_node=${GPUS_PER_NODE:-8}
options=(--job-name "${JOB_NAME:-$(basename "$config" .py)}" --ntasks "$count"
  --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1)
if [ -n "${PARTITION:-}" ]; then options+=(--partition "$PARTITION"); fi
if [ "$per_node" -gt 0 ]; then
  if [ "$count" -lt "$per_node" ]; then per_node=$count; fi
  options+=(--gres "gpu:$per_node" --ntasks-per-node "$per_node")
fi
read -r -a more <<< "${SRUN_ARGS:-}"
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
command=(srun "${options[@]}" ${more[@]+"${more[@]}"} "${PYTHON:-python}" -u "$here/train.py" "$config" --launcher slurm "$@")
if [ "${DRY_RUN:-0}" = 1 ]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
exec "${command[@]}"
