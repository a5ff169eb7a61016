"""The catalogue: what the table says, and that every network in it can be trained and served."""

from __future__ import annotations

import pytest

from models.recipe import CATALOGUE, Recipe
from training import catalogue
from training.backbone import is_servable, skeleton
from training.cli import main
from training.optim import make_optimizer

pytestmark = pytest.mark.torch


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    assert main(["backbones", *arguments]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["backbone", "input", "px", "params", "M", "top-1", "%", "licence", "weights", "here"]
    return {row.split()[0]: row.split()[1:] for row in rows}


def test_table_holds_the_catalogue_and_what_is_known_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys)
    assert tuple(rows) == CATALOGUE
    assert rows["tf_efficientnet_lite0"] == ["224", "4.7", "74.8", "apache-2.0", "package"]
    assert rows["tf_efficientnetv2_s"][:4] == ["300", "21.5", "83.3", "apache-2.0"]
    # Every default of timm is still the one that the published figures are of.
    assert "-" not in [row[2] for row in rows.values()]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> str:
    """A catalogue of one, for what is asked of the others."""
    monkeypatch.setattr(catalogue, "CATALOGUE", ("resnet18",))
    return "resnet18"


def test_pattern_adds_what_matches_and_is_a_cnn(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "*convnextv2_atto*")
    assert list(rows) == [short, "convnextv2_atto"]
    assert rows["convnextv2_atto"] == ["224", "3.7", "-", "cc-by-nc-4.0", "no"]
    assert list(listed(capsys, "vit_tiny_patch16_224")) == [short]


def test_pattern_with_a_dot_lists_weights(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "resnet18.[ft]*")
    assert short in rows
    assert rows["resnet18.tv_in1k"] == ["224", "11.7", "-", "bsd-3-clause", "no"]
    assert rows["resnet18.fb_swsl_ig1b_ft_in1k"][3] == "cc-by-nc-4.0"


def test_pattern_that_matches_nothing_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "resnet9000*"]) == 2
    assert "no network of timm matches 'resnet9000*'" in capsys.readouterr().err


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_network_of_the_catalogue_can_be_served(name: str) -> None:
    assert is_servable(skeleton(name), 64)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnetv2_50x1_bit", "deepseek_vit_412m_enc"])
def test_network_that_needs_more_than_an_image_or_has_another_head_cannot(name: str) -> None:
    assert not is_servable(skeleton(name), 64)


def test_weights_that_were_published_without_a_head_can_get_one() -> None:
    assert is_servable(skeleton("convnext_tiny.dinov3_lvd1689m"), 64)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_parameter_has_one_rate_that_falls_from_head_to_stem(name: str) -> None:
    network = skeleton(name)
    optimizer = make_optimizer(network, Recipe(stem_lr_scale=0.1), 1e-2)
    rates = [(id(parameter), group["lr"]) for group in optimizer.param_groups for parameter in group["params"]]
    rate = dict(rates)
    assert len(rates) == len(rate)
    assert rate.keys() == {id(parameter) for parameter in network.parameters()}
    head, stem = network.get_classifier(), next(network.parameters())
    assert rate[id(head.weight)] == rate[id(head.bias)] == max(rate.values()) == pytest.approx(1e-2)
    assert rate[id(stem)] == min(rate.values()) == pytest.approx(1e-3, rel=0.01)
    assert len(set(rate.values())) >= 5
