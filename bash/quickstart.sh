#!/usr/bin/env bash
# From a bare machine to a trained, selected and tested model: environment, demo data, training, test, images.
#
#   bash bash/quickstart.sh                  on the CPU; about 5 minutes on two cores, downloads not counted
#   GPU_COUNT=1 bash bash/quickstart.sh      on a GPU
#
# Run again: nothing that is finished is repeated.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { printf '[quickstart %4ss] %s\n' "$SECONDS" "$*"; }

bash bash/setup_env.sh
export PYTHON=$PWD/.venv/bin/python PROJECT_NAME=quickstart GPU_COUNT=${GPU_COUNT:-0} WORK_DIR=work_dirs
model=fast_scnn/fast-scnn_paste-poisson_demo
config=configs/$model.py
project=$WORK_DIR/$PROJECT_NAME

if [ -f data/demo/dataset.json ]; then
  say 'the demo data are already in data/demo'
elif [ -e data/demo ]; then
  echo 'quickstart: error: data/demo must be a demo data set or absent, but has no dataset.json; move it away.' >&2
  exit 1
else
  say 'rendering the demo data into data/demo'
  rm -rf data/demo.partial
  "$PYTHON" tools/make_demo_data.py data/demo.partial
  mv data/demo.partial data/demo
fi

say "training, selecting and testing $model"
bash bash/run_main.sh "$model"

run=$project/exp/$model
best=$run/train/ckpt/$(cat "$run/train/ckpt/best_checkpoint")
if [ ! -f "$project/sheets/sheet.png" ]; then
  say 'drawing image, label and prediction side by side'
  "$PYTHON" tools/test.py "$config" "$best" --work-dir "$project/sheets/log" --show-dir "$project/sheets" \
    >"$project/sheets.log" 2>&1 || { tail -n 20 "$project/sheets.log" >&2; exit 1; }
fi

say 'done'
echo "result table:   $PWD/$project/results.md"
echo "overlay sheet:  $PWD/$project/sheets/sheet.png"
echo "checkpoint:     $PWD/$best"
echo "your own part:  $PYTHON tools/init_project.py path/to/photos --name mypart"
