"""What trust and explanations cost: `python -m benchmarks.explain HOME`, with the state that `make run` left (`var`).

The sample's model is served three times: as it is, with a bank of 1,000 known images, and without its evidence. One client asks
for one image at a time, every kind of request in turn, so that a machine that slows down slows all of them; the median of each
is kept.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.served import sample_images, served
from models.artifact import CONFIDENCE, MANIFEST, Artifact
from models.confidence.bank import Bank
from models.confidence.evidence import EVIDENCE
from models.confidence.schema import Confidence
from models.manifest import canonical_json
from models.registry import Registry
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx

    from models.confidence.evidence import Evidence

RESULT = Path(__file__).with_name("results") / "explain.json"
_WARM, _ROUNDS = 20, 300
_SMALL_BANK = 1000
_KINDS = {
    "classify, of a version without evidence": "/classify?model=plain",
    "classify, with a bank of 1,000": "/classify?model=small",
    "classify": "/classify?model=fashion",
    "explain-confidence without a heatmap, with a bank of 1,000": "/explain-confidence?model=small&heatmap=none",
    "explain-confidence without a heatmap": "/explain-confidence?model=fashion&heatmap=none",
    "explain-confidence": "/explain-confidence?model=fashion",
    "explain-confidence with a PNG": "/explain-confidence?model=fashion&heatmap=png",
}


def main(home: str) -> int:
    """Serve all three, ask, and write the medians."""
    source = Registry(Path(home) / "registry")
    fashion = Artifact.load(source.path("fashion", source.aliases("fashion").production or 1))
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as work:
        registry = Registry(Path(work) / "registry")
        registry.publish(_files(fashion, Path(work) / "fashion", fashion.evidence), fashion.manifest)
        small = replace(fashion.evidence, bank=_thinned(fashion.evidence.bank))
        for name, evidence in (("small", small), ("plain", None)):
            named = fashion.manifest.model_copy(update={"name": name})
            registry.publish(_files(fashion, Path(work) / name, evidence), named)
        medians = _serve_and_ask(work)
    manifest, bank = fashion.manifest, fashion.evidence.bank
    found = {
        "what": f"median milliseconds of a request with one image, one client, {_ROUNDS} of each kind in turn",
        "machine": f"{os.cpu_count()} cores of {platform.machine()}",
        "model": f"{manifest.backbone.name} at {manifest.input.height} px, {len(manifest.labels)} labels",
        "bank": len(bank.ids) if bank is not None else 0,
        "milliseconds": medians,
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    say(json.dumps(found, indent=2))
    return 0


def _thinned(bank: Bank | None) -> Bank | None:
    """Known images from all along the bank."""
    if bank is None:
        return None
    rows = np.linspace(0, len(bank.ids) - 1, min(_SMALL_BANK, len(bank.ids))).astype(int)
    return Bank(*(getattr(bank, part.name)[rows] for part in fields(Bank)))


def _files(fashion: Artifact, folder: Path, evidence: Evidence | None) -> Path:
    """The version's own files, to be published again with this evidence."""
    shutil.copytree(fashion.path, folder, ignore=shutil.ignore_patterns(MANIFEST, EVIDENCE))
    if evidence is not None:
        (folder / EVIDENCE).write_bytes(evidence.to_bytes())
    else:
        bare = Confidence.without_evidence(fashion.confidence.temperature, None, None, "left out, to measure what it costs")
        (folder / CONFIDENCE).write_bytes(canonical_json(bare))
    return folder


def _serve_and_ask(home: str) -> dict[str, float]:
    with served(home, default_model="fashion", run="serve") as client:
        return _medians(client, sample_images())


def _medians(client: httpx.Client, images: Iterable[bytes]) -> dict[str, float]:
    shown = list(images)
    took: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for turn in range(_WARM + _ROUNDS):
        for kind, address in _KINDS.items():
            started = time.perf_counter()
            answer = client.post(address, content=shown[turn % len(shown)], headers={"content-type": "image/png"})
            if turn >= _WARM:
                took[kind].append(time.perf_counter() - started)
            answer.raise_for_status()
    return {kind: round(1000 * statistics.median(seconds), 2) for kind, seconds in took.items()}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or ("var",)))
