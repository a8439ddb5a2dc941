"""deploy/helm/quire: what its values change, beyond what tests/packaging/test_kubernetes.py compares."""

import platform
import subprocess
from itertools import product
from pathlib import Path

import pytest
import yaml

from quire.clients.health import Settings as Health
from quire.engine.api.version import __version__
from quire.services.common.settings import parse
from support.manifests import BIN, CHART, check_schema, containers, helm, of_kind, pod_specs, run

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="kubectl and helm are had for x86-64 only")

EVERYTHING = (
    *("--set", "executor.autoscaling.enabled=true,monitoring.enabled=true,executor.gpus=2"),
    *("--set", "image.registry=registry.example.org/quire,image.pullSecrets[0].name=mine"),
    *("--set", "model.path=/models/llama,model.claim=models"),
    *("--set", "frontend.settings.workers=4,frontend.service.type=LoadBalancer,frontend.preStopSeconds=15"),
    *("--set", "networkPolicy.extraEgress[0].ports[0].port=443"),
)

ONE_POD = ("--set", "topology=one-pod,executor.autoscaling.enabled=false")


def environment(flags: tuple[str, ...], service: str) -> dict[str, str]:
    (found,) = (container for container in containers(helm(*flags)) if container["name"] == service)
    return {each["name"]: each.get("value", "") for each in found["env"]}


def failure(*flags: str) -> str:
    command = [str(BIN / "helm"), "template", "quire", str(CHART), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    return done.stderr


def test_helm_has_nothing_to_say_against_it() -> None:
    assert "0 chart(s) failed" in run("helm", "lint", "--strict", str(CHART))


def test_its_version_is_that_of_the_images() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.parametrize("flags", [EVERYTHING, (*EVERYTHING, *ONE_POD)])
def test_kubernetes_knows_every_field(flags: tuple[str, ...]) -> None:
    for manifest, version in product(helm(*flags), ("1.30", "1.37")):
        if manifest["kind"] != "ServiceMonitor":
            check_schema(manifest, version)


def test_images_come_from_the_registry() -> None:
    images = {each["image"] for each in containers(helm(*EVERYTHING)) if each["name"] != "redis"}
    names = ("frontend", "scheduler", "executor-gpu")
    assert images == {f"registry.example.org/quire/quire-{name}:{__version__}" for name in names}


def test_settings_reach_the_service() -> None:
    assert environment(EVERYTHING, "frontend")["QUIRE_FRONTEND_WORKERS"] == "4"
    assert environment(EVERYTHING, "frontend")["QUIRE_FRONTEND_MODEL"] == "/models/llama"
    assert environment(EVERYTHING, "executor")["QUIRE_EXECUTOR_MODEL"] == "/models/llama"
    assert (
        environment(("--set", "frontend.settings.listen=0.0.0.0:1"), "frontend")["QUIRE_FRONTEND_LISTEN"] == "0.0.0.0:1"
    )


def test_grace_periods_are_sums() -> None:
    flags = (
        "--set",
        "frontend.preStopSeconds=15,frontend.settings.drain_seconds=100,executor.settings.drain_seconds=50",
    )
    graces = {spec["containers"][0]["name"]: spec["terminationGracePeriodSeconds"] for spec in pod_specs(helm(*flags))}
    assert graces == {"frontend": 125, "scheduler": 10, "executor": 60, "redis": 10}
    (pod, _) = pod_specs(
        helm("--set", "topology=one-pod,frontend.preStopSeconds=15,scheduler.settings.drain_seconds=50")
    )
    assert pod["terminationGracePeriodSeconds"] == 75


SECURED = (
    *("--set", "security.tlsSecret=certificates,security.tlsName=inside,security.tokenSecret=token"),
    *("--set", "security.apiKeysSecret=keys,security.publicTlsSecret=public,security.publicTlsName=api.example.org"),
    *("--set", "monitoring.enabled=true,monitoring.keySecret=operator"),
)


@pytest.mark.parametrize("flags", [SECURED, (*SECURED, *ONE_POD)])
def test_secrets_are_files_that_settings_name(flags: tuple[str, ...]) -> None:
    rendered = helm(*flags)
    for manifest in rendered:
        if manifest["kind"] != "ServiceMonitor":
            check_schema(manifest, "1.30")
    specs = [spec for spec in pod_specs(rendered) if spec["containers"][0]["name"] != "redis"]
    for spec in specs:
        volumes = {each["name"]: each["secret"]["secretName"] for each in spec["volumes"] if "secret" in each}
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            mounted = {each["mountPath"]: volumes.get(each["name"]) for each in container["volumeMounts"]}
            named = {each["value"] for each in container["env"] if each["value"].startswith("/run/quire/")}
            assert {str(Path(path).parent) for path in named} == {path for path in mounted if "/run/quire" in path}
            assert all("valueFrom" not in each for each in container["env"])
            is_public = container["name"] == "frontend"
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                command = container[kind]["exec"]["command"]
                parse(Health, "quire health", command[2:])
                name = "api.example.org" if is_public else "inside"
                assert f"--tls-name={name}" in command
                files = {each.partition("=")[2] for each in command if "/run/quire/" in each}
                assert {str(Path(path).parent) for path in files} <= mounted.keys()
    (monitor,) = of_kind(rendered, "ServiceMonitor")
    http = monitor["spec"]["endpoints"][1]
    assert http["authorization"] == {"credentials": {"name": "operator", "key": "key"}}
    assert http["scheme"] == "https"
    assert environment(flags, "frontend")["QUIRE_FRONTEND_API_KEYS"] == "/run/quire/api-keys/keys.toml"


def test_redis_may_be_elsewhere() -> None:
    flags = ("--set", "redis.external=true,redis.existingSecret=mine")
    rendered = helm(*flags)
    assert not of_kind(rendered, "StatefulSet", "Secret")
    (scheduler,) = (each for each in containers(rendered) if each["name"] == "scheduler")
    (url,) = (each for each in scheduler["env"] if each["name"] == "QUIRE_SCHEDULER_REDIS")
    assert url["valueFrom"] == {"secretKeyRef": {"name": "mine", "key": "url"}}
    plain = ("--set", "redis.url=rediss://cache.example.org:6380/1")
    assert environment(plain, "scheduler")["QUIRE_SCHEDULER_REDIS"] == "rediss://cache.example.org:6380/1"
    assert "QUIRE_SCHEDULER_REDIS_PASSWORD_FILE" not in environment(plain, "scheduler")
    filed = environment((*plain, "--set", "redis.existingSecret=mine"), "scheduler")
    assert filed["QUIRE_SCHEDULER_REDIS_PASSWORD_FILE"] == "/run/quire/redis/password"


def test_the_autoscaler_alone_says_how_many_executors() -> None:
    rendered = helm(*EVERYTHING)
    (executor,) = (each for each in of_kind(rendered, "Deployment") if each["metadata"]["name"] == "quire-executor")
    (scaler,) = of_kind(rendered, "HorizontalPodAutoscaler")
    assert "replicas" not in executor["spec"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == "quire-executor"


def test_releases_of_one_namespace_have_nothing_in_common() -> None:
    one, other = helm(release="quire"), helm(release="second")
    names = [{(each["kind"], each["metadata"]["name"]) for each in release} for release in (one, other)]
    assert not names[0] & names[1]
    assert "quire-redis" not in str(other).replace("second-quire-redis", "")
    assert all(each["metadata"]["labels"]["app.kubernetes.io/instance"] == "second" for each in other)


def test_wrong_values_are_refused() -> None:
    assert 'topology: "two" must be cluster or one-pod' in failure("--set", "topology=two")
    assert "must be false with topology one-pod" in failure(
        "--set", "topology=one-pod,executor.autoscaling.enabled=true"
    )
    assert "redis.external needs redis.existingSecret" in failure("--set", "redis.external=true")
