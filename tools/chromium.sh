#!/usr/bin/env bash
# Gets a headless Chromium for the tests of the live page where that can be done: by root, from Debian's archive.
set -euo pipefail

has() {
    command -v "$1" >/dev/null
}

has chromium-headless-shell || has chromium || has chromium-browser || has google-chrome && exit

package=chromium-headless-shell
if [[ $EUID == 0 ]] && has apt-get && apt-get update -qq && apt-cache show "$package" >/dev/null 2>&1; then
    echo "set-up: installing $package"
    apt-get install -qq --yes --no-install-recommends "$package" >/dev/null && exit
fi
echo "set-up: there is no Chromium, so the tests of the live page are skipped; on Debian run: sudo apt-get install $package" >&2
