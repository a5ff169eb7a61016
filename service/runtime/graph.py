"""What a loaded graph says of itself, compared with what the manifest says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.manifest import Manifest


def check_graph(manifest: Manifest, inputs: Mapping[str, tuple[str, tuple[object, ...]]], outputs: Mapping[str, object]) -> None:
    """Refuse a graph that is not the manifest's.

    Args:
        manifest: What was promised.
        inputs: By name: `uint8` or another type, and the shape without the first axis.
        outputs: By name: the length of the second axis.

    Raises:
        ModelLoadError: If they differ.
    """
    expected = {"image": ("uint8", (manifest.input.height, manifest.input.width, 3))}
    if inputs != expected:
        raise ModelLoadError(f"{manifest.reference}: the graph takes {dict(inputs)}, and the manifest says {expected}")
    said = manifest.outputs
    promised = {"logits": said.logits, "embedding": said.embedding, said.spatial: said.spatial_channels}
    if outputs != promised:
        raise ModelLoadError(f"{manifest.reference}: the graph answers {dict(outputs)}, and the manifest says {promised}")
