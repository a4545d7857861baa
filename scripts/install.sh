#!/usr/bin/env bash
# Installs this package, editable, with locked versions into a virtual environment.
#
#     scripts/install.sh VENV [EXTRAS]        for example: scripts/install.sh .venv dev,test
#
# torch is installed first and only as a CPU build, for on Linux the index's plain build brings several GB of CUDA:
#   1. the version with the local tag +cpu, from the places that pip is configured with (a mirror, a folder of wheels);
#      the public index has no local versions, so there this fails within a second or two;
#   2. the same from PyTorch's own index of CPU builds;
#   3. the plain version, if pip's plan for it holds no CUDA package: macOS, and mirrors that carry CPU builds alone.
# Everything else comes under the constraints of requirements/lock.txt, the build backend included.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:?usage: scripts/install.sh VENV [EXTRAS]}
extras=${2:-}
lock=requirements/lock.txt
cpu_index=https://download.pytorch.org/whl/cpu
oldest="import sys; sys.exit(sys.version_info < (3, 11))"

find_python() {
    local name
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$name" -c "$oldest" 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "LM Tailor needs Python 3.11 or newer. Tried: ${PYTHON:-python3, python3.13, python3.12, python3.11}." >&2
    echo "Name one with PYTHON=/path/to/python." >&2
    return 1
}

has_torch() {
    "$venv/bin/python" - "$1" <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    found = version("torch").split("+")[0]
except PackageNotFoundError:
    found = ""
sys.exit(found != sys.argv[1])
PY
}

plan_is_cpu() {
    "$venv/bin/python" -m pip install --quiet --dry-run --ignore-installed --report - "torch==$1" 2>/dev/null |
        "$venv/bin/python" -c 'import json, sys
names = [item["metadata"]["name"].lower() for item in json.load(sys.stdin)["install"]]
sys.exit(any(name.startswith(("nvidia", "cuda")) for name in names))'
}

install_torch() {
    local version=$1 quick=(-qq --retries 1 --timeout 15)
    local pip=("$venv/bin/python" -m pip install -c "$lock") log="$venv/torch-install.log"
    has_torch "$version" && return
    echo "Installing torch $version (CPU build)"
    if [ "$(uname -s)" != Darwin ]; then
        "${pip[@]}" "${quick[@]}" "torch==$version+cpu" 2>"$log" && return
        "${pip[@]}" "${quick[@]}" --extra-index-url "$cpu_index" "torch==$version+cpu" 2>>"$log" && return
    fi
    if plan_is_cpu "$version"; then
        "${pip[@]}" -qq "torch==$version"
        return
    fi
    echo "No CPU build of torch $version was found: pip's own sources offer a CUDA build or none, and $cpu_index did not answer." >&2
    echo "The errors are in $log. Install torch $version into $venv yourself and run this again." >&2
    return 1
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    "$python" -m venv "$venv" || {
        rm -rf "$venv"
        echo "$python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
fi
install_torch "$(sed -n 's/^torch==//p' "$lock")"
pip=("$venv/bin/python" -m pip install -qq -c "$lock")
echo "Installing the rest"
"${pip[@]}" hatchling editables
"${pip[@]}" --no-build-isolation --editable ".${extras:+[$extras]}"
"$venv/bin/python" -m pip check
