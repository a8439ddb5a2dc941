"""The manifests of deploy/, as kubectl and helm render them, and the schemas of Kubernetes that they must meet."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import yaml
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "quire"
BIN = Path(sys.executable).parent

# One object, as it is sent to an API server.
Manifest: TypeAlias = dict[str, Any]


def run(*command: str) -> str:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout


@cache
def kustomize(folder: Path) -> tuple[Manifest, ...]:
    return _parsed(run("kubectl", "kustomize", str(folder)))


@cache
def helm(*flags: str, release: str = "quire") -> tuple[Manifest, ...]:
    return _parsed(run("helm", "template", release, str(CHART), "--namespace", "default", *flags))


def _parsed(text: str) -> tuple[Manifest, ...]:
    # Ten times as fast as the loader in Python; a document may be empty.
    return tuple(manifest for manifest in yaml.load_all(text, yaml.CSafeLoader) if manifest)


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pod_specs(manifests: tuple[Manifest, ...]) -> list[Manifest]:
    return [workload["spec"]["template"]["spec"] for workload in of_kind(manifests, "Deployment", "StatefulSet")]


def containers(manifests: tuple[Manifest, ...]) -> Iterator[Manifest]:
    for spec in pod_specs(manifests):
        yield from spec.get("initContainers", [])
        yield from spec["containers"]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


@cache
def _schema(version: str, name: str) -> Any:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    return json.loads((folder / name).read_text())


@cache
def _registry(version: str) -> Registry[Any]:
    registry: Registry[Any] = Resource.from_contents(_schema(version, "_definitions.json")) @ Registry()
    return registry.crawl()


def check_schema(manifest: Manifest, version: str) -> None:
    """
    Raises:
        jsonschema.ValidationError: that version of Kubernetes ("1.30") does not know a field, or it has a wrong value.
    """
    group, _, api = manifest["apiVersion"].rpartition("/")
    api = f"{group.partition('.')[0]}-{api}" if group else api
    schema = _schema(version, f"{manifest['kind'].lower()}-{api}.json")
    jsonschema.Draft202012Validator(schema, registry=_registry(version)).validate(manifest)
