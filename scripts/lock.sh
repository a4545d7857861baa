#!/usr/bin/env bash
# Writes requirements/lock.txt: the newest versions that pyproject.toml allows, resolved in a fresh environment.
#
#     scripts/lock.sh TORCH TRANSFORMERS      for example: scripts/lock.sh 2.13.0 5.23.0
#
# torch is written without a local tag, so that the lock serves machines whose CPU build carries none.
set -euo pipefail
cd "$(dirname "$0")/.."

torch=${1:?usage: scripts/lock.sh TORCH TRANSFORMERS}
transformers=${2:?usage: scripts/lock.sh TORCH TRANSFORMERS}
lock=requirements/lock.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p requirements
cp "$lock" "$work/old.txt" 2>/dev/null || true
printf 'torch==%s\ntransformers==%s\n' "$torch" "$transformers" >"$lock"
if ! scripts/install.sh "$work/venv" dev,test; then
    [ -e "$work/old.txt" ] && cp "$work/old.txt" "$lock"
    exit 1
fi
{
    echo "# Exact versions of everything that the tests and the demonstration run with. Written by scripts/lock.sh."
    "$work/venv/bin/python" -m pip freeze --all --exclude pip --exclude-editable | sed 's/^\(torch==[^+]*\)+.*/\1/'
} >"$work/new.txt"
mv "$work/new.txt" "$lock"
