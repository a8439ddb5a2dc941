"""Compares versions of Quire's dependencies with the advisories that are known: the installed, and the lowest allowed.

python tools/audit.py FOLDER [PIP-AUDIT'S ARGUMENT...]

FOLDER has the installed packages. Ends with 1 for a known vulnerability, and with 2 if the database of advisories
does not answer: that nothing was found then says nothing. pip-audit alone would end with 0.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
AUDIT = (sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off")


def lowest(project: dict[str, Any]) -> list[str]:
    """The lowest version that each dependency of the package and its extras may have, as name==version."""
    every = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    bounds = (re.match(r"([\w.-]+)(?:\[[^]]*])?[^;]*>=([\w.]+)", each) for each in every)
    return sorted({f"{found[1]}=={found[2]}" for found in bounds if found})


def audited(*arguments: str) -> list[dict[str, Any]]:
    """Every package, as pip-audit reports it.

    Raises:
        SystemExit: it has no report, as the database is out of reach.
    """
    done = subprocess.run([*AUDIT, *arguments], capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(f"pip-audit gives no report: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        raise SystemExit(2) from None
    return found


def vulnerabilities(packages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for each that is known."""
    for package in packages:
        for each in package.get("vulns", ()):
            fixed = ", ".join(each["fix_versions"]) or "no version"
            yield f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}"


def judged(name: str, packages: Sequence[dict[str, Any]]) -> int:
    """Says what is known of these packages; the exit code."""
    found, skipped = sorted(vulnerabilities(packages)), [each for each in packages if "skip_reason" in each]
    print(f"{name}: {len(packages) - len(skipped)} audited, {len(skipped)} not, {len(found)} vulnerabilities")
    for line in found:
        print(f"  {line}")
    if found:
        return 1
    # A few are not there to be found: Quire itself, and builds of PyTorch that are had elsewhere.
    if 2 * len(skipped) > len(packages):
        print(f"  the database of advisories did not answer, as of {skipped[0]['skip_reason']}")
        return 2
    for each in skipped:
        print(f"  not audited: {each['skip_reason']}")
    return 0


def main() -> int:
    folder, *arguments = sys.argv[1:]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(lowest(tomllib.loads(PROJECT.read_text())["project"])))
        file.flush()
        allowed = audited("--no-deps", "--disable-pip", "--requirement", file.name, *arguments)
    installed = audited("--path", folder, *arguments)
    codes = (judged("lowest versions allowed", allowed), judged("installed versions", installed))
    return 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    raise SystemExit(main())
