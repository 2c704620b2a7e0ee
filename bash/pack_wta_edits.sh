#!/usr/bin/env bash
# The packed sets of configs/studies/wta_generated.py: relabelled, copied and copied_accepted.
#
#   bash bash/pack_wta_edits.sh data/wta512 data/wta512_edits/img_dir [data/generated/wta]
#
# Edits are named new_X.png for the training image X.png. Sets that are there are kept; remove them to make them again.
# Look at OUT/review/sheets, write accept or reject into the column `decision` of OUT/review/review.csv, remove the sets
# and run again: the decisions count.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
real=$1 edits=$2 out=${3:-data/generated/wta}
generate() { "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/../tools/generate.py" "$@"; }

[ -f "$out/review/relabel.json" ] || generate relabel --edits "$edits" --prefix new_ --sources "$real/img_dir/train" \
  --labels "$real/ann_dir/train" --classes normal attached broken --out "$out/review"
[ -d "$out/relabelled" ] || generate pack "$out/review" --out "$out/relabelled"
[ -d "$out/copied" ] || generate pack "$out/review" --copy-labels --out "$out/copied"
[ -d "$out/copied_accepted" ] || generate pack "$out/review" --copy-labels --only-accepted --out "$out/copied_accepted"
