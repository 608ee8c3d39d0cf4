"""What ``kustomize build`` makes of our folders, for machines that do not have it.

Only what they use: resources, generated ConfigMaps, JSON patches, labels and images. Generated
names have no hash here. A kustomization with any other field is refused: nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KNOWN = {
    *("apiVersion", "kind", "resources", "configMapGenerator", "configurations"),
    *("patches", "labels", "images"),
}


def build(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that a kustomization stands for.

    Raises
    ------
    AssertionError
        If it names files or objects that are not there, or has fields that are not known here.
    """
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= KNOWN, set(kustomization) - KNOWN
    made: list[dict[str, Any]] = []
    for resource in kustomization.get("resources", []):
        path = folder / resource
        made += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for generator in kustomization.get("configMapGenerator", []):
        data = {Path(name).name: (folder / name).read_text() for name in generator["files"]}
        metadata = {"name": generator["name"]}
        made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for name in kustomization.get("configurations", []):
        # kustomize reads files of other folders only where they are resources.
        assert (folder / name).resolve().parent == folder.resolve()
    for patch in kustomization.get("patches", []):
        kind, name = patch["target"]["kind"], patch["target"]["name"]
        [target] = [o for o in made if o["kind"] == kind and o["metadata"]["name"] == name]
        for operation in yaml.safe_load((folder / patch["path"]).read_text()):
            apply(target, operation)
    for labels in kustomization.get("labels", []):
        for one in made:
            one["metadata"].setdefault("labels", {}).update(labels["pairs"])
    for image in kustomization.get("images", []):
        for container in containers(made):
            name, _, _ = container["image"].partition(":")
            if name == image["name"]:
                container["image"] = f"{name}:{image['newTag']}"
    return made


def apply(target: Any, operation: dict[str, Any]) -> None:
    """Apply one operation of a JSON patch (RFC 6902): "add" a new key, "replace" what is there."""
    *path, last = [int(p) if p.isdigit() else p for p in operation["path"].split("/")[1:]]
    for part in path:
        target = target[part]
    is_there = last < len(target) if isinstance(last, int) else last in target
    assert is_there == (operation["op"] == "replace"), operation
    target[last] = operation["value"]


def containers(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the containers of all pods in a tree."""
    if isinstance(tree, list):
        for item in tree:
            yield from containers(item)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("containers", "initContainers"):
                yield from value
            else:
                yield from containers(value)
