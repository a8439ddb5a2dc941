"""deploy/kubernetes, rendered by kubectl: it is valid, and it agrees with the services that it runs."""

import os
import platform
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings, CliApp

from quire.engine.api.version import __version__
from quire.services.cli import COMMANDS
from quire.services.common.health import LIVE
from quire.services.common.targets import RESOLVE_SECONDS
from quire.services.scheduler.metrics import METRICS
from support.documents import commands
from support.manifests import (
    CHART,
    KUBERNETES,
    Manifest,
    check_schema,
    containers,
    helm,
    kustomize,
    matches,
    of_kind,
    pod_specs,
)

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="kubectl and helm are had for x86-64 only")

OVERLAYS = ("one-pod", "cluster", "gpu")
COMPONENTS = ("model", "monitoring", "autoscaling")
# The oldest that the documents promise, one between, and the newest that there is a schema of.
VERSIONS = ("1.30", "1.34", "1.37")
# What a service takes to end behind the time for open requests, at most: gRPC's grace, HTTP's, and its own end.
END_SECONDS = 3


def overlay(name: str) -> tuple[Manifest, ...]:
    return kustomize(KUBERNETES / "overlays" / name)


def settings(container: Manifest, monkeypatch: pytest.MonkeyPatch) -> BaseSettings:
    """The service's settings, as it reads them in the container; every variable is one of them."""
    for name in [name for name in os.environ if name.startswith("QUIRE_")]:
        monkeypatch.delenv(name)
    program, command = container["command"]
    assert program == "quire"
    kind = import_module(COMMANDS[command].module).Settings
    variables: dict[str, str] = {}
    for each in container["env"]:
        value = each.get("value", "secret")
        # Kubernetes knows only those that stand before.
        variables[each["name"]] = re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], value)
    prefix = kind.model_config["env_prefix"]
    for name, value in variables.items():
        assert name.startswith(prefix) or f"$({name})" in str(container["env"]), name
        monkeypatch.setenv(name, value)
    made: BaseSettings = CliApp.run(kind, cli_args=[])
    read = {prefix + name.upper() for name in made.model_fields_set}
    assert {name for name in variables if name.startswith(prefix)} == read
    return made


def services(manifests: tuple[Manifest, ...]) -> Iterator[Manifest]:
    """Containers that run a service of ours."""
    for container in containers(manifests):
        if container["command"][0] == "quire":
            yield container


def _variable(container: Manifest, suffix: str) -> str | None:
    return next((each["value"] for each in container["env"] if each["name"].endswith(f"_{suffix}")), None)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    return overlay(request.param)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_knows_every_field(name: str, tmp_path: Path) -> None:
    """With all components; those of the Prometheus operator are tested in tests/clients."""
    paths = [KUBERNETES / "components" / each for each in COMPONENTS if name != "one-pod" or each != "autoscaling"]
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "resources": [os.path.relpath(KUBERNETES / "overlays" / name, tmp_path)],
                "components": [os.path.relpath(path, tmp_path) for path in paths],
            }
        )
    )
    rendered = kustomize(tmp_path)
    for manifest, version in product(rendered, VERSIONS):
        if manifest["kind"] != "ServiceMonitor":
            check_schema(manifest, version)
    models = {container["name"]: _variable(container, "MODEL") for container in services(rendered)}
    assert models == {"executor": "/models/model", "frontend": "/models/model", "scheduler": None}
    claims = [volume for spec in pod_specs(rendered) for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in claims} == {"quire-model"}
    assert all(volume.keys() == {"name", "persistentVolumeClaim"} for volume in claims)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    service = {**of_kind(overlay("cluster"), "Service")[0]}
    service["spec"] = {**service["spec"], "clusterIp": "None"}
    with pytest.raises(Exception, match="clusterIp"):
        check_schema(service, VERSIONS[0])


def test_settings_exist_and_ports_are_those_of_the_services(
    manifests: tuple[Manifest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {container["name"]: container for container in services(manifests)}
    assert set(found) == {"frontend", "scheduler", "executor"}
    for name, container in found.items():
        made = settings(container, monkeypatch)
        fields = [field for field in ("listen", "http_listen", "metrics_listen") if field in made.model_fields_set]
        listened = {port_of(getattr(made, field)) for field in fields}
        assert listened == {port["containerPort"] for port in container["ports"]}
        own = type(made).model_fields["listen"].default
        assert container["livenessProbe"]["grpc"]["port"] == port_of(own) == port_of(made.listen), name  # type: ignore[attr-defined]


def test_services_lead_to_ports_of_pods(manifests: tuple[Manifest, ...]) -> None:
    for service in of_kind(manifests, "Service"):
        (pod,) = (
            workload["spec"]["template"]
            for workload in of_kind(manifests, "Deployment", "StatefulSet")
            if matches({"matchLabels": service["spec"]["selector"]}, workload["spec"]["template"]["metadata"]["labels"])
        )
        ports = {
            port["name"]: port["containerPort"]
            for container in (*pod["spec"].get("initContainers", []), *pod["spec"]["containers"])
            for port in container["ports"]
        }
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"], service["metadata"]["name"]


def test_services_find_each_other(manifests: tuple[Manifest, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = {service["metadata"]["name"]: service["spec"] for service in of_kind(manifests, "Service")}
    made = {container["name"]: settings(container, monkeypatch) for container in services(manifests)}
    for target in (made["frontend"].scheduler, made["scheduler"].executors):  # type: ignore[attr-defined]
        host, _, port = target.removeprefix("dns:").rpartition(":")
        if host == "127.0.0.1":
            continue
        assert target.startswith("dns:")
        # A standby is not asked whether it is ready, nor an executor that drains.
        assert (by_name[host]["clusterIP"], by_name[host]["publishNotReadyAddresses"]) == ("None", True)
        assert int(port) in {each["port"] for each in by_name[host]["ports"]}
    assert made["scheduler"].redis == "redis://quire@quire-redis:6379/0"  # type: ignore[attr-defined]
    assert by_name["quire-redis"]["ports"][0]["port"] == 6379


def test_a_fault_is_seen_in_five_seconds(manifests: tuple[Manifest, ...]) -> None:
    for container in containers(manifests):
        probe = container["readinessProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"] <= 5, container["name"]
        # A restart costs what is cached; one that is only slow is left alone.
        alive = container["livenessProbe"]
        assert alive["periodSeconds"] * alive["failureThreshold"] >= 30


def test_probes_ask_for_health_that_there_is(manifests: tuple[Manifest, ...]) -> None:
    asked = {
        (container["name"], kind): container[f"{kind}Probe"]["grpc"].get("service", "")
        for container in services(manifests)
        for kind in ("startup", "readiness", "liveness")
    }
    # The whole server's health says that tokens can be made. A frontend has to wait for others for that, and a standby
    # never says so: it starts, and the scheduler is ready, as soon as it answers.
    assert asked == {
        ("frontend", "startup"): LIVE,
        ("frontend", "readiness"): "",
        ("frontend", "liveness"): LIVE,
        ("scheduler", "startup"): LIVE,
        ("scheduler", "readiness"): LIVE,
        ("scheduler", "liveness"): LIVE,
        ("executor", "startup"): "",
        ("executor", "readiness"): "",
        ("executor", "liveness"): LIVE,
    }


def test_a_pod_ends_within_its_grace_period(manifests: tuple[Manifest, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in pod_specs(manifests):
        seconds = 0.0
        # Containers of a pod end one after the other: the main one, then its sidecars.
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            if container["command"][0] == "quire":
                seconds += container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                is_last = container in spec.get("initContainers", [])
                # Nothing is open in a sidecar when the scheduler has ended, but what was cut off.
                drain = settings(container, monkeypatch).drain_seconds  # type: ignore[attr-defined]
                seconds += END_SECONDS + (0 if is_last else drain)
        assert seconds <= spec["terminationGracePeriodSeconds"]


def test_clients_may_come_until_every_node_knows_that_the_pod_ends(manifests: tuple[Manifest, ...]) -> None:
    (first,) = (
        spec["containers"][0]
        for spec in pod_specs(manifests)
        if any(container["name"] == "frontend" for container in (*spec.get("initContainers", []), *spec["containers"]))
    )
    assert first["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5


def test_sidecars_start_in_the_order_of_their_use() -> None:
    (spec,) = (spec for spec in pod_specs(overlay("one-pod")) if "initContainers" in spec)
    assert [container["name"] for container in spec["initContainers"]] == ["executor", "frontend"]
    assert all(container["restartPolicy"] == "Always" for container in spec["initContainers"])
    assert all(container["startupProbe"] for container in spec["initContainers"])
    # A second pod could not become ready before the first one has given the lead away.
    (deployment,) = of_kind(overlay("one-pod"), "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["replicas"] == 1


def test_sidecars_are_the_containers_of_the_cluster() -> None:
    own = ("env", "lifecycle", "restartPolicy")
    cluster = {container["name"]: container for container in containers(overlay("cluster"))}
    for container in containers(overlay("one-pod")):
        wanted = {key: value for key, value in cluster[container["name"]].items() if key not in own}
        assert {key: value for key, value in container.items() if key not in own} == wanted


def test_containers_can_do_nothing_but_their_work(manifests: tuple[Manifest, ...]) -> None:
    for spec in pod_specs(manifests):
        user = 999 if spec["containers"][0]["name"] == "redis" else 10001
        assert spec["securityContext"] | {"fsGroup": user} == {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert spec["automountServiceAccountToken"] is False
        # QUIRE_SCHEDULER_PORT=tcp://… and its like would be taken for settings.
        assert spec["enableServiceLinks"] is False
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_images_are_of_this_version(manifests: tuple[Manifest, ...]) -> None:
    executor = "quire-executor-gpu" if manifests == overlay("gpu") else "quire-executor-cpu"
    images = {container["image"] for container in services(manifests)}
    assert images == {f"{name}:{__version__}" for name in ("quire-frontend", "quire-scheduler", executor)}


def test_every_executor_of_the_gpu_overlay_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    (executor,) = (container for container in containers(overlay("gpu")) if container["name"] == "executor")
    assert executor["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert settings(executor, monkeypatch).device == "cuda"  # type: ignore[attr-defined]


def test_a_node_can_be_emptied_while_the_service_goes_on() -> None:
    budgets = of_kind(overlay("cluster"), "PodDisruptionBudget")
    for deployment in of_kind(overlay("cluster"), "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        (budget,) = (budget["spec"] for budget in budgets if matches(budget["spec"]["selector"], labels))
        assert deployment["spec"]["replicas"] > budget["maxUnavailable"] == 1


@pytest.mark.parametrize("name", ["cluster", "gpu"])
def test_a_rolling_restart_leaves_one_pod_of_each_service_that_all_know(name: str) -> None:
    for deployment in of_kind(overlay(name), "Deployment"):
        spec = deployment["spec"]
        assert spec["replicas"] > spec["strategy"]["rollingUpdate"]["maxUnavailable"]
        # How long CoreDNS' plug-in for Kubernetes lets a name be kept, and ours.
        assert spec["minReadySeconds"] >= 5 + RESOLVE_SECONDS


def test_the_documented_rolling_restart_names_every_deployment() -> None:
    lines = commands("operations.md", "### On Kubernetes").splitlines()
    names = {deployment["metadata"]["name"] for deployment in of_kind(overlay("cluster"), "Deployment")}
    restarted = [line.removeprefix("kubectl -n quire rollout restart deployment/") for line in lines[::2]]
    awaited = [line.removeprefix("kubectl -n quire rollout status deployment/") for line in lines[1::2]]
    assert restarted == awaited == ["quire-scheduler", "quire-executor", "quire-frontend"]
    assert set(restarted) == names


def _peers(rule: Manifest, direction: str, pods: dict[str, dict[str, str]]) -> set[str]:
    """Whom a rule of a policy is about: pods by name, or what is outside."""
    if direction not in rule:
        return {"anyone", *pods}
    found: set[str] = set()
    for peer in rule[direction]:
        if "namespaceSelector" in peer:
            found.add(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
        else:
            found |= {name for name, labels in pods.items() if matches(peer["podSelector"], labels)}
    return found


def _calls(manifests: tuple[Manifest, ...], kind: str) -> set[tuple[str, str, int]]:
    """(from, to, port) of every call that the policies let out of pods (Egress) or in (Ingress)."""
    pods = {
        workload["metadata"]["labels"]["app.kubernetes.io/component"]: workload["spec"]["template"]["metadata"][
            "labels"
        ]
        for workload in of_kind(manifests, "Deployment", "StatefulSet")
    }
    calls: set[tuple[str, str, int]] = set()
    for pod, labels in pods.items():
        policies = [
            policy["spec"]
            for policy in of_kind(manifests, "NetworkPolicy")
            if matches(policy["spec"]["podSelector"], labels)
        ]
        assert any(kind in policy["policyTypes"] for policy in policies), f"everything is let through at {pod}"
        for rule in (rule for policy in policies for rule in policy.get(kind.lower(), [])):
            for peer in _peers(rule, "from" if kind == "Ingress" else "to", pods):
                ends = (peer, pod) if kind == "Ingress" else (pod, peer)
                calls |= {(*ends, port["port"]) for port in rule["ports"]}
    return calls


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_network_lets_the_calls_of_the_architecture_through_and_no_others(name: str) -> None:
    if name == "one-pod":
        arrows = {("one-pod", "redis", 6379)}
        clients = {("one-pod", 8000), ("one-pod", 8001)}
        metrics = {("one-pod", 9002), ("one-pod", 9003)}
        resolving = {"one-pod"}
    else:
        arrows = {("frontend", "scheduler", 8002), ("scheduler", "executor", 8003), ("scheduler", "redis", 6379)}
        clients = {("frontend", 8000), ("frontend", 8001)}
        metrics = {("scheduler", 9002), ("executor", 9003)}
        resolving = {"frontend", "scheduler"}
    rendered = overlay(name)
    assert _calls(rendered, "Egress") == arrows | {(pod, "kube-system", 53) for pod in resolving}
    everyone = {"anyone", *(end for arrow in arrows for end in arrow[:2])}
    let_in = {(caller, *place) for caller in everyone for place in clients}
    assert _calls(rendered, "Ingress") == arrows | let_in | {("monitoring", *place) for place in metrics}


def test_the_monitor_finds_the_metrics_of_each_service(manifests: tuple[Manifest, ...]) -> None:
    (monitor,) = yaml.safe_load_all((KUBERNETES / "components" / "monitoring" / "services.yaml").read_text())
    asked = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
    found = {
        port["port"]
        for service in of_kind(manifests, "Service")
        if matches(monitor["spec"]["selector"], service["metadata"]["labels"])
        for port in service["spec"]["ports"]
        if port["name"] in asked
    }
    assert found == {8000, 9002, 9003}


def test_the_autoscaler_reads_metrics_that_there_are() -> None:
    folder = KUBERNETES / "components" / "autoscaling"
    scaler, rules = (
        yaml.safe_load((folder / name).read_text()) for name in ("executor.yaml", "prometheus-adapter.yaml")
    )
    names = [metric["external"]["metric"]["name"] for metric in scaler["spec"]["metrics"]]
    assert set(names) <= {metric.name for metric in METRICS}
    (rule,) = rules["rules"]["external"]
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    assert all(re.fullmatch(pattern, name) for name in names)
    (deployment,) = (
        each for each in of_kind(overlay("cluster"), "Deployment") if each["metadata"]["name"] == "quire-executor"
    )
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["spec"]["minReplicas"] == deployment["spec"]["replicas"]


def _comparable(manifests: tuple[Manifest, ...]) -> dict[tuple[str, str], Any]:
    """Without what a chart adds, and with variables in the order of their names."""
    added = ("app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart", "imagePullPolicy")

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: clean(value) for key, value in node.items() if key not in added}
        if isinstance(node, list):
            is_named = all(isinstance(each, dict) and "name" in each for each in node)
            items = [clean(each) for each in node]
            return sorted(items, key=itemgetter("name")) if is_named and "image" not in node[0] else items
        return node

    return {(each["kind"], each["metadata"]["name"]): clean(each) for each in manifests}


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cluster", ()),
        ("one-pod", ("--set", "topology=one-pod")),
        ("gpu", ("--values", str(CHART / "values-gpu.yaml"))),
    ],
)
def test_the_chart_renders_what_the_overlay_does(name: str, flags: tuple[str, ...]) -> None:
    chart = _comparable(helm(*flags))
    assert chart.pop(("Secret", "quire-redis"))
    assert chart.keys() == _comparable(overlay(name)).keys()
    for key, manifest in _comparable(overlay(name)).items():
        assert chart[key] == manifest
