#!/usr/bin/env bash
# Make .venv in this checkout with the measured versions (constraints.txt), mmdefect itself installed editable.
#
#   bash bash/setup_env.sh                        finds a Python >= 3.10
#   PYTHON=python3.12 bash bash/setup_env.sh      takes that one
#   EXTRAS=serve,ray bash bash/setup_env.sh       also brings these extras of setup.py (always: mm, dev); they stay
#
# Run again: nothing happens while constraints.txt and setup.py are unchanged; otherwise .venv is brought up to date.
# After an interruption it starts afresh. A .venv that you made yourself (say, with another torch build) is completed,
# never removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=0 PYTHONNOUSERSITE=1
unset PYTHONHOME PYTHONPATH

say() { printf '[setup %4ss] %s\n' "$SECONDS" "$*"; }
die() { printf 'setup_env: error: %s\n' "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || die "PYTHON must be an interpreter >= 3.10, but '$PYTHON' is not; set another one."
    printf '%s' "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3 python3.11 python3.12 python3.13 python3.10 python; do
    if new_enough "$candidate"; then printf '%s' "$candidate"; return; fi
  done
  die 'no Python >= 3.10 found; install one, or name it: PYTHON=/path/to/python3.11 bash bash/setup_env.sh'
}

# Of .venv with all extras 6.4 GB stay and 6.7 are taken on the way (measured on Linux x86-64, torch with its CUDA parts).
check_room() {
  local free
  free=$(df -Pm . | awk 'NR == 2 {print $4}')
  [ "${free:-7000}" -ge 7000 ] || die "7000 MB must be free for .venv, but $PWD has $free MB; make room, or take another disk."
}

make_venv() {  # make_venv PYTHON
  if "$1" -c 'import venv, ensurepip' 2>/dev/null; then
    "$1" -m venv .venv
  elif "$1" -c 'import venv' 2>/dev/null && "$1" -m pip --version >/dev/null 2>&1; then  # Debian without python3-venv
    "$1" -m venv --without-pip .venv
    "$1" -m pip --python .venv/bin/python install -q pip
  else
    die "'$1' cannot make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)."
  fi
}

install() {  # pip shows its progress on a terminal and keeps quiet in a log
  local quiet=-q
  [ -t 1 ] && quiet=
  .venv/bin/python -m pip install $quiet -c constraints.txt "$@"
}

stamp=.venv/.mmdefect-complete made=.venv/.mmdefect-made installed=.venv/.mmdefect-extras

extras() {  # what is asked for and what an earlier set-up brought, in one order
  { echo "mm,dev,${EXTRAS:-}" | tr ',' '\n'; cat $installed 2>/dev/null || true; } | sed '/^ *$/d' | sort -u | paste -sd, -
}

fingerprint() {
  { cat constraints.txt setup.py bash/setup_env.sh; extras; .venv/bin/python -VV; pwd; } | cksum
}

if [ -x .venv/bin/python ] && [ -f $stamp ] && [ "$(cat $stamp)" = "$(fingerprint)" ]; then
  say '.venv is complete'
  exit 0
fi

[ -x .venv/bin/python ] || check_room
mkdir -p .venv
if command -v flock >/dev/null; then  # two set-ups at once would write over each other
  exec 9<setup.py
  flock -n 9 || { say 'waiting for another set-up of this checkout'; flock 9; }
  if [ -x .venv/bin/python ] && [ -f $stamp ] && [ "$(cat $stamp)" = "$(fingerprint)" ]; then
    say '.venv is complete'
    exit 0
  fi
fi
if [ -f $made ] && { [ ! -f $stamp ] || ! .venv/bin/python -c pass 2>/dev/null; }; then
  say 'an earlier set-up was interrupted or its Python is gone: starting afresh'
  rm -rf .venv
fi
if [ ! -x .venv/bin/python ]; then
  python=$(find_python)
  say "making .venv with $python ($("$python" -c 'import platform; print(platform.python_version())'))"
  mkdir -p .venv && touch $made
  make_venv "$python"
elif [ ! -f $made ]; then
  new_enough .venv/bin/python || die '.venv has a Python older than 3.10; move it away and run this again.'
  say 'completing the .venv that is already here'
fi
rm -f $stamp

say 'installing torch and torchvision (the longest download)'
install torch torchvision
say 'installing OpenMMLab, the other packages and mmdefect'
wanted=$(extras)
install --use-pep517 -e ".[$wanted]"
tr ',' '\n' <<<"$wanted" >$installed
say 'trying it out'
if ! MPLCONFIGDIR=$PWD/.venv/matplotlib .venv/bin/python -m mmdefect doctor >.venv/doctor.txt 2>&1; then
  cat .venv/doctor.txt >&2
  die 'everything is installed, but does not work together here; the lines above say what to do.'
fi
fingerprint >$stamp
say 'ready; activate it with: . .venv/bin/activate'
