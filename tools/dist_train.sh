#!/usr/bin/env bash
# Train a config on several processes of one machine: GPUs, or CPU processes (gloo) where there is none.
#
#   bash tools/dist_train.sh CONFIG N [options of tools/train.py]
#   bash tools/dist_train.sh configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py 2 --work-dir work_dirs/two
#
# Several machines: the same command on each, with NNODES, NODE_RANK (0 .. NNODES-1), MASTER_ADDR (machine 0) and
# MASTER_PORT (29500). PYTHON is the interpreter (python). `train_dataloader.batch_size` is that of one process.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 2 ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
config=$1 count=$2
shift 2
if [ "${NNODES:-1}" -gt 1 ]; then
  meet=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?must be the number of this machine, 0 .. NNODES-1}"
    --master_addr "${MASTER_ADDR:?must be the address of machine 0}" --master_port "${MASTER_PORT:-29500}")
else
  meet=(--standalone)
fi
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "${PYTHON:-python}" -m torch.distributed.run "${meet[@]}" --nproc_per_node "$count" \
  "$here/train.py" "$config" --launcher pytorch "$@"
