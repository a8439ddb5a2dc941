#!/usr/bin/env bash
# Makes .venv/evals for `make test-clients`: evaluation and load tools of other projects, as tests/clients/evals.txt pins them.
#
# What they need of torch and transformers is found in .venv: a torch of their own would be gigabytes.
set -euo pipefail
cd "$(dirname "$0")/.."

packages() {
    "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}

echo "evals: installing lm-eval, guidellm and aiperf into .venv/evals"
.venv/bin/python -m venv .venv/evals
python=.venv/evals/bin/python
packages "$PWD/.venv/bin/python" >"$(packages "$python")/shared.pth"
"$python" -m pip install --quiet --disable-pip-version-check --requirement tests/clients/evals.txt
