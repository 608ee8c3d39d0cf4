"""The KubeRay manifests: their fields, their pods by Kubernetes' own schemas, their commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from atoll.platform.cli.application import application
from atoll.platform.cli.submission import read_runtime_env
from atoll.platform.config.experiment import load_experiment
from tests.support.deploy.kustomize import build, containers
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kuberay"
KUBERNETES = "1.32"

# What the operator (v1.5 and later) knows, and of what type; a wrong name would be dropped.
RAY_JOB = {
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "submissionMode": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "activeDeadlineSeconds": int,
    "backoffLimit": int,
    "suspend": bool,
    "clusterSelector": dict,
    "submitterPodTemplate": dict,
    "submitterConfig": dict,
    "entrypointNumCpus": float,
    "entrypointNumGpus": float,
    "entrypointResources": str,
    "managedBy": str,
    "deletionStrategy": dict,
    "rayClusterSpec": dict,
    "metadata": dict,
}
RAY_CLUSTER = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
    "gcsFaultToleranceOptions": dict,
    "authOptions": dict,
    "suspend": bool,
}
AUTOSCALER = {"version": str, "idleTimeoutSeconds": int, "upscalingMode": str, "resources": dict}
HEAD = {"rayStartParams": dict, "template": dict, "serviceType": str}
WORKERS = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": dict,
    "template": dict,
    "numOfHosts": int,
    "idleTimeoutSeconds": int,
}


OVERLAYS = ("cluster", "job", "gpu")


@cache
def documents() -> list[tuple[str, dict[str, Any]]]:
    """The objects of every folder that is applied, with the folder's name."""
    return [(name, one) for name in ("volume", *OVERLAYS) for one in build(FOLDER / name)]


def custom(kind: str) -> list[Any]:
    return [pytest.param(d, id=name) for name, d in documents() if d["kind"] == kind]


def ray_clusters() -> list[Any]:
    specs = [(name, d["spec"]) for name, d in documents() if d["kind"] == "RayCluster"]
    specs += [(n, d["spec"]["rayClusterSpec"]) for n, d in documents() if d["kind"] == "RayJob"]
    assert len(specs) == 3
    return [pytest.param(spec, id=name) for name, spec in specs]


def check_fields(table: dict[str, Any], known: dict[str, type]) -> None:
    for name, value in table.items():
        assert name in known, f"{name}: no such field"
        assert isinstance(value, known[name]), f"{name} = {value!r}: expected {known[name]}"


def pods(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]


@pytest.mark.parametrize("job", custom("RayJob"))
def test_a_job_is_tried_again_and_its_command_continues(job: dict[str, Any]) -> None:
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    check_fields(spec, RAY_JOB)
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    program, *arguments = shlex.split(spec["entrypoint"])
    assert program == "atoll"
    # The command line takes it as it is, and the experiment with its settings is in order.
    command: Any = get_command(application)
    found = command.get_command(click.Context(command), "run")
    run = found.make_context("run", arguments[1:]).params
    assert run["resume"]
    assert str(run["out"]).startswith("/shared/")
    folder, name = Path(run["file"]).parts[1:]
    assert folder == "experiments"
    file = FOLDER / "base" / name
    assert load_experiment(file, run["overrides"] or []).run.rounds > 0


@pytest.mark.parametrize("job", custom("RayJob"))
def test_a_jobs_runtime_environment_is_one(job: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "env.yaml"
    path.write_text(job["spec"]["runtimeEnvYAML"])
    assert set(read_runtime_env(path)) == {"env_vars"}


@pytest.mark.parametrize("spec", ray_clusters())
def test_a_cluster_has_the_images_ray_and_shares_what_must_outlive_it(spec: dict[str, Any]) -> None:
    check_fields(spec, RAY_CLUSTER)
    check_fields(spec["autoscalerOptions"], AUTOSCALER)
    check_fields(spec["headGroupSpec"], HEAD)
    # The operator (v1.5.1 and later) makes the token for Ray 2.52 and later.
    assert spec["authOptions"] == {"mode": "token"}
    for group in spec["workerGroupSpecs"]:
        check_fields(group, WORKERS)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert f"ray=={spec['rayVersion']}" in (ROOT / "requirements.lock").read_text().splitlines()
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    claims = {d["metadata"]["name"] for _, d in documents() if d["kind"] == "PersistentVolumeClaim"}
    for pod in pods(spec):
        [container] = pod["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["shared"] == "/shared"
        # The autoscaler (v2) knows a pod as one node for all of its life.
        assert pod["spec"]["restartPolicy"] == "Never"
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert set(mounts) == set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] in claims


@pytest.mark.parametrize("spec", ray_clusters())
def test_pods_are_as_kubernetes_wants_them(spec: dict[str, Any]) -> None:
    for pod in pods(spec):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **pod}
        try:
            kubernetes_validate.validate(whole, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{error.path}: {error.message}")


def test_a_wrong_field_of_a_pod_would_be_found() -> None:
    pod = {"containers": [{"name": "x", "image": "y", "volumeMount": []}]}
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def test_the_volume_is_as_kubernetes_wants_it() -> None:
    [claim] = [d for _, d in documents() if d["kind"] == "PersistentVolumeClaim"]
    kubernetes_validate.validate(claim, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("spec", ray_clusters())
def test_no_object_store_is_cut_short_by_its_volume(spec: dict[str, Any]) -> None:
    for pod in pods(spec):
        [container] = pod["spec"]["containers"]
        [shm] = [v["emptyDir"] for v in pod["spec"]["volumes"] if v["name"] == "shm"]
        # Ray takes three tenths of the memory, if /dev/shm has as much.
        memory = gibibytes(container["resources"]["limits"]["memory"])
        assert gibibytes(shm["sizeLimit"]) >= 0.3 * memory


def gibibytes(amount: str) -> float:
    assert amount.endswith("Gi")
    return float(amount.removesuffix("Gi"))


def test_only_the_gpu_variant_asks_for_gpus_and_has_cuda() -> None:
    for name, document in documents():
        text = json.dumps(document)
        assert ("nvidia.com/gpu" in text) == (name == "gpu" and document["kind"] == "RayJob")
        images = {container["image"] for container in containers(document)}
        assert images <= {"atoll:cuda" if name == "gpu" else "atoll:cpu"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_deleting_what_was_applied_keeps_the_volume(name: str) -> None:
    kinds = [document["kind"] for folder, document in documents() if folder == name]
    assert sorted(kinds) == ["ConfigMap", "RayCluster" if name == "cluster" else "RayJob"]


@pytest.mark.parametrize("name", ["volume", *OVERLAYS])
def test_kustomize_makes_the_same_of_it(name: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    done = subprocess.run(
        [kubectl, "kustomize", FOLDER / name], capture_output=True, text=True, check=True
    )
    # A generated name has a hash of the contents, wherever it is named.
    found = set(re.findall(r"atoll-experiments\S*", done.stdout))
    assert len(found) == (name != "volume")
    text = re.sub(r"atoll-experiments-\w+", "atoll-experiments", done.stdout)
    ours = {one["kind"]: one for folder, one in documents() if folder == name}
    assert {one["kind"]: one for one in yaml.safe_load_all(text)} == ours


def test_the_operators_own_schemas_agree() -> None:
    folder = os.environ.get("ATOLL_KUBERAY_CRDS")
    if folder is None:
        pytest.skip("ATOLL_KUBERAY_CRDS does not name a folder with KubeRay's CRDs")
    checked = 0
    for path in Path(folder).glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        [version] = [v for v in definition["versions"] if v["name"] == "v1"]
        for _, document in documents():
            if document["kind"] == definition["names"]["kind"]:
                jsonschema.validate(document, _closed(version["schema"]["openAPIV3Schema"]))
                checked += 1
    assert checked == 3


def _closed(schema: Any) -> Any:
    """Return a schema that knows no fields but its own, as an API server would prune them."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed
