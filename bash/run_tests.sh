#!/usr/bin/env bash
# Set up the environment if needed, then run the test suite.
#
#   bash bash/run_tests.sh                   everything but the tests marked slow
#   bash bash/run_tests.sh --all             also the slow ones, and on a machine with a GPU those for it: what CI runs
#   bash bash/run_tests.sh tests/datasets -k split       arguments go to pytest
#
# TEST_WORKERS  parallel processes (default: the number of cores, at most 8; 0 runs all tests in one process)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRAS=pretrain,generation,export,serve,ray bash bash/setup_env.sh  # so that no optional part is skipped
python=$PWD/.venv/bin/python

arguments=() all=
for argument in "$@"; do
  if [ "$argument" = --all ]; then all=1; else arguments+=("$argument"); fi
done
if [ -n "$all" ]; then
  if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    arguments=(-m 'slow or not slow' ${arguments[@]+"${arguments[@]}"})
  else
    arguments=(-m 'not gpu' ${arguments[@]+"${arguments[@]}"})
  fi
fi

cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
workers=${TEST_WORKERS:-$((cores < 8 ? cores : 8))}
# One thread a process: the processes fill the cores, and more threads only wait for each other.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1
export MPLBACKEND=Agg PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1

# Temporary files and caches go to one short path (sockets of data loaders need that) that is removed at the end.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch XDG_CACHE_HOME=$scratch/cache XDG_CONFIG_HOME=$scratch/config MPLCONFIGDIR=$scratch/matplotlib
export TORCH_HOME=$scratch/torch HF_HOME=$scratch/hf MMENGINE_HOME=$scratch/mmengine
export PIP_CACHE_DIR=${PIP_CACHE_DIR:-$scratch/pip}

echo "[tests] $workers processes"
"$python" -m pytest -n "$workers" --dist loadfile -p no:cacheprovider --basetemp="$scratch/t" \
  ${arguments[@]+"${arguments[@]}"}
