#!/usr/bin/env bash
# Sets up $VENV: torch first (its build chosen by $TORCH), then looksay with the extras of $1 (demo or dev).
# Needs Python 3.11-3.13 on Linux; no compiler, no activated environment.
set -euo pipefail
start=$(date +%s)
extras=$([ "$1" = dev ] && echo "demo,dev" || echo "demo")

if [ "$(uname -s)" != Linux ]; then
    echo "looksay: error: looksay runs on Linux only (this is $(uname -s)): use a Linux machine, or a Linux container such as python:3.11" >&2
    exit 2
fi

if [ ! -x "$VENV/bin/python" ]; then
    python=""
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            python=$name
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "looksay: error: no Python 3.11, 3.12 or 3.13 with venv was found: install one (Debian: apt install python3 python3-venv), or name it with PYTHON=..." >&2
        exit 2
    fi
    echo "install: new environment $VENV with $("$python" --version)"
    "$python" -m venv "$VENV"
fi

pip=("$VENV/bin/python" -m pip --disable-pip-version-check --quiet --timeout 60 --retries 3)

if "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    echo "install: torch $("$VENV/bin/python" -c 'import torch; print(torch.__version__)') is in the environment already: kept"
else
    build=$TORCH
    if [ "$build" = auto ]; then
        if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
            build=default
            echo "install: a GPU was found: torch $TORCH_VERSION with CUDA"
        else
            build=cpu
            echo "install: no GPU was found: torch $TORCH_VERSION for the CPU"
        fi
    else
        echo "install: torch $TORCH_VERSION for $build, as TORCH says"
    fi
    # pip's own index is asked first for a CPU build where it is a mirror (a mirror of one's own may carry it); else
    # PyTorch's public index, whose wheels carry no CUDA.
    index=$("$VENV/bin/python" -m pip config get global.index-url 2>/dev/null || true)
    index=${PIP_INDEX_URL:-$index}
    extra=$("$VENV/bin/python" -m pip config get global.find-links 2>/dev/null || true)
    if [ "$build" = default ]; then
        "${pip[@]}" install "torch==$TORCH_VERSION"
    elif [ -n "$index$extra" ] && [ "$build" = cpu ]; then
        echo "install: pip is set up with an index of its own: torch is taken from there"
        "${pip[@]}" install "torch==$TORCH_VERSION"
    else
        "${pip[@]}" install "torch==$TORCH_VERSION" --index-url "https://download.pytorch.org/whl/$build"
    fi
fi

echo "install: looksay[$extras] with constraints.txt"
"${pip[@]}" install -c constraints.txt "setuptools>=70" wheel
"${pip[@]}" install -c constraints.txt --no-build-isolation -e ".[$extras]"
touch "$VENV/installed-$1"
[ "$1" = dev ] && touch "$VENV/installed-demo"
seconds=$(($(date +%s) - start))
[ -f "$VENV/install-seconds" ] || echo "$seconds" >"$VENV/install-seconds"
echo "install: done in $seconds s"
