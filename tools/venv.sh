#!/usr/bin/env bash
# Makes or refreshes .venv with Quire (editable), its dependencies and the developer tools.
#
#   tools/venv.sh STAMP INPUT...
#
# STAMP is touched when all is done and is newer than every INPUT until one of them changes. Several runs
# at a time are safe: they take turns, and the later ones find the work done. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=$1
inputs=("${@:2}")

fail() {
    printf 'set-up: %s\n' "$*" >&2
    exit 1
}

up_to_date() {
    [[ -e $stamp ]] || return 1
    local input
    for input in "${inputs[@]}"; do
        [[ $input -nt $stamp ]] && return 1
    done
    return 0
}

supported() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate found=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        supported "$candidate" && echo "$candidate" && return
        found+="; $candidate is $("$candidate" --version 2>/dev/null || echo missing)"
    done
    fail "Quire needs Python 3.11, 3.12 or 3.13$found. Name one with: make PYTHON=/path/to/python"
}

# Debian ships Python without ensurepip, which venv needs, and keeps it in a package of its own.
need_ensurepip() {
    "$1" -c 'import ensurepip' 2>/dev/null && return
    local package
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    [[ $EUID == 0 ]] && command -v apt-get >/dev/null ||
        fail "$1 cannot make virtual environments; on Debian or Ubuntu run: sudo apt-get install $package"
    apt-get update -qq
    apt-get install -qq --yes --no-install-recommends "$package"
}

# The lock is on a file that is there anyway, so that none is left behind.
exec 9<pyproject.toml
command -v flock >/dev/null && flock 9
up_to_date && exit

if ! supported .venv/bin/python || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    need_ensurepip "$python"
    echo "set-up: making .venv with $("$python" --version); fetching torch takes most of the minutes to come"
    rm -rf .venv
    "$python" -m venv .venv
fi

# Its time of change is that of the start: what is edited from here on counts as newer.
started=.venv/.started
touch "$started"
export PATH="$PWD/.venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
echo "set-up: installing Quire and what it needs into .venv"
# The build tools are in the dev group: once they are there, a changed proto needs no network.
.venv/bin/python -m pip install --quiet 'pip>=25.1'
.venv/bin/python -m pip install --quiet --group dev
.venv/bin/python -m pip install --quiet --no-build-isolation --group dev --editable '.[all]'
# Tools of the dev group hold these back; tests start services with what users get, too.
.venv/bin/python -m pip install --quiet --no-deps --upgrade --target .venv/newest \
    'protobuf>=7,<8' grpcio-health-checking grpcio-reflection
.venv/bin/python tools/kubernetes_tools.py
mv "$started" "$stamp"
