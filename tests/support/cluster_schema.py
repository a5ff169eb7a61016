"""Whether an object has only the fields that its kind has, with values of the right form."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

from tests.support.cluster import reference
from tests.support.server import ROOT

if TYPE_CHECKING:
    from tests.support.cluster import Cluster, Object

# The oldest that has all that is used (preStop's sleep), and the newest that the schemas are known of.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
_SCHEMAS = ROOT / "tests" / "cluster" / "schemas"


@cache
def _schema(kind: str) -> Draft202012Validator | None:
    path = _SCHEMAS / f"{kind}.yaml"
    return Draft202012Validator(yaml.safe_load(path.read_text())) if path.exists() else None


def check_schema(cluster: Cluster) -> list[str]:
    """Fields that there are not, values of another form, and kinds that nobody knows."""
    return [f"{reference(item)}: {finding}" for item in cluster.objects for finding in findings_of(item)]


def findings_of(item: Object) -> tuple[str, ...]:
    """What is wrong with one object."""
    return _findings(json.dumps(item))


@cache
def _findings(text: str) -> tuple[str, ...]:
    """Of the same object, which is in many overlays, it is known: the schemas of Kubernetes take long to read."""
    item = json.loads(text)
    own = _schema(item["kind"])
    if own is not None:
        return tuple(f"{error.json_path}: {error.message}" for error in own.iter_errors(item))
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as err:
            found.append(f"{version}: {err.json_path}: {err.message}"[:400])
        except kubernetes_validate.SchemaNotFoundError as err:
            found.append(f"{err.message}; write a schema into tests/cluster/schemas")
    return tuple(found)
