"""KubeRay's published schemas (CustomResourceDefinitions) as JSON schemas that refuse unknown fields."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster_files.files import ROOT

VARIABLE = "TUNE_DDVAE_KUBERAY_CRDS"
FOLDER = Path(os.environ.get(VARIABLE, ROOT.parent / "shared" / "kuberay"))
FILES = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


@cache
def schema_for(kind: str, version: str) -> dict[str, Any]:
    """The schema of a kind in one of its versions; skips the test where it is not to be had."""
    path = FOLDER / FILES[kind]
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not at {FOLDER} (another place: {VARIABLE})")
    with path.open(encoding="utf-8") as file:
        definition = yaml.load(file, yaml.CSafeLoader)
    assert definition["spec"]["names"]["kind"] == kind
    (found,) = [one for one in definition["spec"]["versions"] if one["name"] == version]
    assert found["served"]
    schema = strict(found["schema"]["openAPIV3Schema"])
    # Every object's own, which the server checks by rules that no such file repeats.
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
            "generateName": {"type": "string", "pattern": "^[a-z0-9][-a-z0-9]*$"},
        },
        "minProperties": 1,
        "additionalProperties": False,
    }
    return schema


def strict(schema: Any) -> Any:
    """The same, where a field that Kubernetes would silently drop is an error."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strictly = {}
    for key, value in schema.items():
        named = key in ("properties", "patternProperties")  # its keys are names of fields
        strictly[key] = (
            {name: strict(one) for name, one in value.items()} if named else strict(value)
        )
    if schema.get("x-kubernetes-int-or-string"):
        strictly.pop("anyOf", None)
        strictly["type"] = ["integer", "string"]
    elif schema.get("type") == "object" and "additionalProperties" not in schema:
        strictly["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if schema.get("nullable") and "type" in strictly:
        strictly["type"] = [strictly["type"], "null"]
    return strictly


def rules(schema: dict[str, Any], value: Any) -> Iterator[str]:
    """Rules in Kubernetes' own language on fields that are used: nothing here can check those."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["rule"]
    if isinstance(value, dict):
        for name, one in value.items():
            yield from rules(schema.get("properties", {}).get(name, {}), one)
    if isinstance(value, list):
        for one in value:
            yield from rules(schema.get("items", {}), one)
