"""The ServiceMonitor of deploy/, against the Prometheus operator's own definition as the package cloudcoil has it."""

import copy
import json
import subprocess
from typing import Any

import pytest
import yaml

from support.manifests import KUBERNETES, ROOT, helm, of_kind

PYTHON = ROOT / ".venv" / "clients" / "bin" / "python"
CHECK = """
import json, sys
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
ServiceMonitor.model_validate(json.load(sys.stdin), extra="forbid")
"""

pytestmark = pytest.mark.clients


def problems(monitor: dict[str, Any]) -> str:
    done = subprocess.run(
        [PYTHON, "-c", CHECK], input=json.dumps(monitor), capture_output=True, text=True, timeout=100, check=False
    )
    return done.stderr


def test_the_operator_knows_every_field() -> None:
    (component,) = yaml.safe_load_all((KUBERNETES / "components" / "monitoring" / "services.yaml").read_text())
    (chart,) = of_kind(helm("--set", "monitoring.enabled=true,monitoring.labels.release=prometheus"), "ServiceMonitor")
    assert problems(component) == ""
    assert problems(chart) == ""


def test_a_field_that_the_operator_does_not_know_is_found() -> None:
    (monitor,) = yaml.safe_load_all((KUBERNETES / "components" / "monitoring" / "services.yaml").read_text())
    wrong = copy.deepcopy(monitor)
    wrong["spec"]["endpoints"][0]["intervall"] = "15s"
    assert "intervall" in problems(wrong)
