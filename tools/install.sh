#!/usr/bin/env bash
# Sets up $VENV: torch first (its build chosen by $TORCH), then looksay with the extras of $1 (demo or dev).
# Needs Python 3.11-3.13 on Linux; no compiler, no activated environment. Running it again completes what is missing.
set -euo pipefail
start=$(date +%s)
VENV=${VENV:-.venv}
TORCH=${TORCH:-auto}
extras=$([ "$1" = dev ] && echo "demo,dev" || echo "demo")
unset PYTHONPATH PYTHONHOME
export PIP_USER=0

refuse() {
    echo "looksay: error: $1" >&2
    exit 2
}

[ "$(uname -s)" = Linux ] ||
    refuse "looksay runs on Linux only (this is $(uname -s)): use a Linux machine, or a Linux container such as python:3.11"
[[ "$TORCH" =~ ^(auto|cpu|cu[0-9]+)$ ]] ||
    refuse "TORCH=$TORCH is not a build of torch: use auto, cpu, or a CUDA build such as cu130"

stamp=$VENV/installed-$1
asked=""
[ "$TORCH" = auto ] || asked=" (TORCH=$TORCH is for a new environment: \`make clean\` removes this one)"
if [ -x "$VENV/bin/looksay" ] && [ "$stamp" -nt setup.py ] && [ "$stamp" -nt constraints.txt ]; then
    echo "install: $VENV is complete already$asked"
    exit
fi

# --- the environment -------------------------------------------------------------------------------------------------

fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
        refuse "$VENV is not an environment of Python's: remove it, or name another with VENV=..."
    fi
    python=""
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if "$name" -c "$fits" 2>/dev/null; then
            python=$name
            break
        fi
    done
    [ -n "$python" ] || refuse "no Python 3.11, 3.12 or 3.13 with venv was found: install one (Debian: apt install python3 python3-venv), or name it with PYTHON=..."
    echo "install: new environment $VENV with $("$python" --version)"
    "$python" -m venv "$VENV"
fi
"$VENV/bin/python" -c "$fits" ||
    refuse "$VENV has $("$VENV/bin/python" --version), not 3.11, 3.12 or 3.13: remove it, or name another with VENV=..."
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null
py=$VENV/bin/python
pip=("$py" -m pip --disable-pip-version-check -qq --timeout 60 --retries 3)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- torch -----------------------------------------------------------------------------------------------------------

wanted=$(sed -n 's/^torch==//p' constraints.txt)

installed() {
    "$py" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null
}

# Where pip looks besides the public package index: an index, a mirror or a folder that the user or the machine set up.
pip_has_sources_of_its_own() {
    [ -n "${PIP_INDEX_URL:-}${PIP_EXTRA_INDEX_URL:-}${PIP_FIND_LINKS:-}" ] ||
        "$py" -m pip config list 2>/dev/null | grep -qE '(index-url|find-links)='
}

# Such a source may carry a CPU build (then it is the nearest one) or mirror the CUDA build, which is 30 times larger:
# pip is asked which it would take, from the metadata, before anything is installed.
own_source_has_a_cpu_build() {
    pip_has_sources_of_its_own &&
        "${pip[@]}" install --dry-run --no-deps --report "$scratch/torch.json" "torch==$wanted" >/dev/null 2>&1 &&
        "$py" - "$scratch/torch.json" <<'PYTHON'
import json, sys
needs = json.load(open(sys.argv[1]))["install"][0]["metadata"].get("requires_dist", [])
sys.exit(any(need.startswith(("nvidia", "cuda", "triton")) for need in needs))
PYTHON
}

install_torch_from_its_index() {
    echo "install: torch $wanted from PyTorch's own index for $1"
    "${pip[@]}" --timeout 20 --retries 1 install "torch==$wanted" --index-url "https://download.pytorch.org/whl/$1"
}

if has=$(installed); then
    echo "install: torch $has is in the environment already: kept$asked"
elif [ "$TORCH" = auto ] && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo "install: a GPU was found: torch $wanted with CUDA"
    "${pip[@]}" install "torch==$wanted"
elif [ "$TORCH" != auto ] && [ "$TORCH" != cpu ]; then
    install_torch_from_its_index "$TORCH"
else
    [ "$TORCH" = cpu ] || echo "install: no GPU was found: torch for the CPU (TORCH=cu130 would take a CUDA build)"
    if own_source_has_a_cpu_build; then
        echo "install: torch $wanted for the CPU, from where pip is set up to look"
        "${pip[@]}" install "torch==$wanted"
    elif ! install_torch_from_its_index cpu; then
        echo "install: that index did not answer: torch $wanted from pip's default index (with CUDA: large, works as well)"
        "${pip[@]}" install "torch==$wanted"
    fi
fi

# --- looksay ---------------------------------------------------------------------------------------------------------

# The torch that is there stays, whatever the tested version is.
sed "s/^torch==.*/torch==$(installed)/" constraints.txt >"$scratch/constraints.txt"
echo "install: looksay[$extras] with the versions of constraints.txt (a minute or two)"
"${pip[@]}" install -c "$scratch/constraints.txt" "setuptools>=70" wheel
"${pip[@]}" install -c "$scratch/constraints.txt" --no-build-isolation -e ".[$extras]"
touch "$stamp"
[ "$1" = dev ] && touch "$VENV/installed-demo"
seconds=$(($(date +%s) - start))
[ -f "$VENV/install-seconds" ] || echo "$seconds" >"$VENV/install-seconds"
echo "install: done in $seconds s"
