"""What each part loads when it is imported, third-party packages' own imports included.

The import contracts in pyproject.toml see Quire's imports only; this sees what really lands in memory.
"""

import subprocess
import sys

import pytest

LOADED = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(package, "__path__", ()), sys.argv[1] + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

TORCH = {"torch", "transformers"}
REDIS = {"redis"}
PROTOCOL = {"grpc", "google"}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("quire.clients", TORCH | REDIS),
        ("quire.engine.resources", TORCH | PROTOCOL),
        ("quire.engine.scheduling", TORCH | PROTOCOL),
        ("quire.engine.text", TORCH | REDIS | PROTOCOL),
        ("quire.services.frontend", TORCH | REDIS),
        ("quire.services.scheduler", TORCH),
        ("quire.services.executor", REDIS | {"transformers"}),
    ],
)
def test_package_loads_nothing_that_it_must_do_without(package: str, forbidden: set[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, package], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "quire" in loaded
    assert loaded & forbidden == set()
