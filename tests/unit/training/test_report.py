"""The page: whole, self-contained, inert, bounded, and made again from the artifact's own files."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from models.confidence.schema import Confidence, Interval, Temperature
from models.dataset import Item
from models.errors import ArtifactError
from models.registry import Registry
from models.review_schema import RegressionReview
from tests.support.artifacts import make_confidence, make_manifest, write_files
from tests.support.html import Html
from tests.support.judged import ROOT, digest, images_of, made_up
from tests.support.reported import HISTORY_OF, LABELS, make_card, write_all
from training import plots
from training.interpret import interpret
from training.page.build import build
from training.page.parts import NBSP, Pictures, percent
from training.page.source import Source
from training.report import PLOTS, REPORT, render, render_evaluation, render_from_artifact, write_report
from training.subject import Outputs, Strange, Subject
from training.thumbnails import make_thumbnails

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version as the registry keeps it, with its report."""
    work = tmp_path_factory.mktemp("report")
    subject = made_up(4, labels=LABELS, findings=("2 images are nearly the same",))
    registry = Registry(work / "registry")
    registry.publish(write_files(work / "first"), make_card())
    sealed = registry.publish(write_all(work / "second", subject, HISTORY_OF), make_card(), write_report)
    return registry.path("birds", sealed.version)


@pytest.fixture(scope="module")
def html(published: Path) -> Html:
    return Html((published / REPORT).read_text(encoding="utf-8"))


def test_first_screen_names_the_version_and_says_how_good_and_how_far_to_trust_it(html: Html) -> None:
    text = html.text.replace(NBSP, " ")
    head = text[: text.index("What was compared")]
    assert "birds:2" in head
    said = r"Right on (\d+) of 80 images of the test split: ([\d.]+) % \(([\d.]+)\N{EN DASH}([\d.]+) % allowing for chance\)"
    found = re.search(said, head)
    assert found is not None
    right, share, low, high = (float(group) for group in found.groups())
    assert share == pytest.approx(100 * right / 80, abs=0.05)
    assert low < share < high
    assert "Its probabilities were calibrated on 40 images (temperature 1.50)." in head
    assert "No sign of overfitting." in head
    assert "It is weakest on" in head


def test_every_section_is_there_and_linked(html: Html) -> None:
    anchors = [section["id"] for section in html.of("section")]
    first, second = "trust training data confusion labels questions", "losses suspects reliability recipe environment"
    assert anchors == [*first.split(), *second.split()]
    assert [link["href"] for link in html.of("a")] == [f"#{anchor}" for anchor in anchors]
    text = html.text.replace(NBSP, " ")
    for told in ("weight average", "published", "2 files were left out", "2 images are nearly the same"):
        assert told in text
    for label in LABELS:
        assert f"Sure, but wrong: called “{label}”, and is not" in html.text
        assert f"Strange: called “{label}”, and least like what it learnt from" in html.text


def test_page_marks_what_the_service_would_call_strange_and_says_where_nobody_knows(published: Path, tmp_path: Path) -> None:
    subject = made_up(4, labels=LABELS)
    p_familiar = subject.strange.p_familiar
    assert p_familiar is not None
    marks = re.findall(r'class="mark">(\w+)<', (published / REPORT).read_text())
    listed = [len([p for p in p_familiar.values() if low <= p < high]) for low, high in ((0, 0.01), (0.01, 0.05))]
    assert [marks.count("unknown"), marks.count("unusual")] == listed == [1, 4]
    folder = write_all(tmp_path / "page", replace(subject, strange=Strange(None, "the data has no calibration split")))
    write_report(folder, make_card())
    text = (folder / REPORT).read_text()
    assert "Which of them are strange is not known: the data has no calibration split." in text
    assert "Strange: called" not in text


def test_page_needs_nothing_but_itself(published: Path, html: Html) -> None:
    text = (published / REPORT).read_text()
    assert html.of("script") == html.of("link") == html.of("iframe") == []
    sources = [attributes["src"] for attributes in html.of("img")] + [attributes["srcset"] for attributes in html.of("source")]
    assert sources
    assert all(source and source.startswith("data:image/") for source in sources)
    assert "://" not in text
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_page_can_be_read_without_seeing_it(html: Html) -> None:
    assert all(attributes.get("alt") for attributes in html.of("img"))
    assert {attributes.get("scope") for attributes in html.of("th")} == {"col", "row"}
    assert len(html.of("caption")) == len(html.of("table")) > 5
    assert html.of("html") == [{"lang": "en"}]
    scrolled = [attributes for attributes in html.of("div") if attributes.get("class") == "scroll" and "role" in attributes]
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in scrolled)
    assert html.of("meta")[2]["content"] == "width=device-width, initial-scale=1"


def test_plots_lie_beside_the_page_and_are_listed_in_the_manifest(published: Path) -> None:
    names = {"loss.png", "learning-rate.png", "confusion.png", "reliability.png"}
    assert {path.name for path in (published / PLOTS).iterdir()} == names
    for name in names:
        with Image.open(published / PLOTS / name) as image:
            assert image.format == "PNG"
            assert min(image.size) >= 400
    files = json.loads((published / "manifest.json").read_text())["files"]
    assert {f"plots/{name}" for name in names} < files.keys()
    assert {"report.html", "review.json", "history.json"} < files.keys()


def test_page_is_the_same_when_made_again_and_nothing_is_touched(published: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in published.rglob("*")}
    assert render_from_artifact(published) == (published / REPORT).read_text(encoding="utf-8")
    assert {path: path.stat().st_mtime_ns for path in published.rglob("*")} == before


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7 * 7 }}{% raw %}.png"


def test_names_that_are_markup_are_shown_and_do_nothing(tmp_path: Path) -> None:
    labels = ("<b onclick=alert(3)>kite</b>", "javascript:alert(4)", '"><svg onload=alert(5)>', "{{ config }}")
    subject = made_up(4, {"train": 40, "test": 60}, labels=labels, findings=(f"unreadable: {EVIL}",))
    test = subject.outputs["test"]
    items = tuple(replace(item, path=ROOT / "test" / f"{row}{EVIL}") for row, item in enumerate(test.images.items))
    outputs = {**subject.outputs, "test": replace(test, images=replace(test.images, items=items))}
    folder = write_all(tmp_path / "evil", replace(subject, outputs=outputs))
    write_report(folder, make_card(labels=labels))
    text = (folder / REPORT).read_text(encoding="utf-8")
    page = Html(text)
    assert not {"script", "svg", "b", "iframe", "object"} & {tag for tag, _ in page.tags}
    handlers = [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert handlers == []
    assert all((attributes["src"] or "").startswith("data:image/") for attributes in page.of("img"))
    assert EVIL in page.text
    assert labels[0] in page.text
    assert "{{ config }}" in page.text
    assert all((link["href"] or "").startswith("#") for link in page.of("a"))


@pytest.mark.parametrize("name", ["$\\frac{1}{0}$", "鳥の写真", "a" * 300, "x\ny", "🦉"])
def test_any_label_can_be_plotted(name: str) -> None:
    matrix = np.array([[3, 1], [0, 4]])
    for theme in (plots.LIGHT, plots.DARK):
        image = Image.open(io.BytesIO(plots.confusion(matrix, (name, "b"), theme)))
        assert image.format == "PNG"


def test_artifact_without_review_and_history_says_so(tmp_path: Path) -> None:
    write_report(write_files(tmp_path / "bare"), make_manifest())
    page = Html((tmp_path / "bare" / REPORT).read_text())
    assert "published without a look at its answers" in page.text
    assert "Published as it came" in page.text
    assert list((tmp_path / "bare" / PLOTS).iterdir()) == []


def test_version_with_nothing_held_out_promises_nothing(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "all", made_up(4, {"train": 60}, labels=LABELS))
    why = "no held-out images to calibrate on"
    none = Confidence.without_evidence(Temperature(value=1.0, status="none", images=0, reason=why), None, None, why)
    (folder / "confidence.json").write_text(none.model_dump_json())
    write_report(folder, make_card())
    text = Html((folder / REPORT).read_text()).text
    assert "Nothing was held out from training, so nobody knows how good it is on new images." in text
    assert "Its probabilities were not calibrated: no held-out images to calibrate on." in text
    assert "nothing can be said of images that are new to it" in text


def test_page_that_was_judged_on_validation_warns(tmp_path: Path) -> None:
    folder = write_all(tmp_path / "val", made_up(4, {"train": 40, "validation": 40}, labels=LABELS))
    write_report(folder, make_card())
    text = Html((folder / REPORT).read_text()).text
    assert "Validation helped to make it, so expect somewhat less." in text
    assert "which helped to make the model" in text


@pytest.mark.parametrize("name", ["review.json", "history.json"])
def test_broken_file_is_named_by_its_field(tmp_path: Path, name: str) -> None:
    folder = write_all(tmp_path / "broken", made_up(4, {"train": 20, "test": 20}, labels=LABELS), HISTORY_OF)
    (folder / "manifest.json").write_bytes(make_card().to_bytes())
    (folder / name).write_text('{"task": "single_label"}')
    with pytest.raises(ArtifactError, match=r"(review|history)\.\S+: "):
        render_from_artifact(folder)


def test_large_model_has_a_page_that_can_still_be_sent(tmp_path: Path) -> None:
    """400 labels, 8,000 held-out images whose pictures are noise, the worst case for JPEG."""
    count = 400
    labels = tuple(f"order/family/species number {index}" for index in range(count))
    rng = np.random.default_rng(0)
    targets = np.arange(8000) % count
    logits = (rng.normal(size=(8000, count)) + 3.2 * np.eye(count)[targets]).astype(np.float32)
    pixels = np.broadcast_to(rng.integers(0, 256, (1, 96, 96, 3), dtype=np.uint8), (8000, 96, 96, 3))
    items = tuple(Item(ROOT / f"{row}.png", int(target), "test", digest(str(row))) for row, target in enumerate(targets))
    test = Outputs(replace(images_of("test", targets[:4]), pixels=pixels, targets=targets, items=items), logits, None)
    subject = Subject("single_label", labels, {"test": test}, 1.0, ROOT)
    review = interpret(subject)
    thumbnails = make_thumbnails(review, subject.outputs)
    source = Source(make_card(labels=labels), make_confidence(), review, None, Pictures(thumbnails.get))
    text = render(build(source))
    assert len(text) < 10_000_000
    page = Html(text)
    assert "The 60 weakest of 400 labels; all of them are in review.json." in page.text
    assert "The matrix of 400 labels is in review.json" in page.text
    assert len(page.of("img")) > 500


def test_pictures_end_where_the_page_would_grow_too_large() -> None:
    pictures = Pictures({"a": b"x" * 300, "b": b"y" * 300}.get, left_bytes=1000)
    assert [pictures.source(image_id) is not None for image_id in "abab"] == [True, True, False, False]
    assert pictures.left_out == 2
    assert pictures.source("c") is None


def test_evaluation_page_is_of_the_other_data(tmp_path: Path) -> None:
    subject = made_up(4, {"test": 60}, labels=LABELS)
    review = interpret(subject)
    page = Html(render_evaluation(make_card(), make_confidence(), review, make_thumbnails(review, subject.outputs), "garden"))
    text = page.text.replace(NBSP, " ")
    assert "birds:1 on garden" in text
    assert "of 60 images of “garden”" in text
    assert "What was compared" not in text


def test_multi_label_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 4)) < 0.4).astype(np.float32)
    logits = ((targets * 2 - 1) * 2 + rng.normal(size=(50, 4))).astype(np.float32)
    outputs: dict[Any, Outputs] = {"test": Outputs(images_of("test", targets), logits, None)}
    subject = Subject("multi_label", LABELS, outputs, 1.0, ROOT, thresholds=dict.fromkeys(LABELS, 0.5))
    review = interpret(subject)
    manifest = make_card(metrics=None).model_copy(update={"task": "multi_label"})
    page = Html(render(build(Source(manifest, make_confidence(), review, None, Pictures(make_thumbnails(review, outputs).get)))))
    assert "mean average precision" in page.text
    assert "Wrong: has “owl”, and it was missed" in page.text
    assert len(page.of("img")) > 20


def test_regression_page() -> None:
    targets = np.random.default_rng(0).uniform(-90, 90, (50, 1)).astype(np.float32)
    outputs: dict[Any, Outputs] = {"test": Outputs(images_of("test", targets), targets + 2, None)}
    review = interpret(Subject("regression", ("angle",), outputs, 1.0, ROOT, unit="degrees"))
    assert isinstance(review, RegressionReview)
    manifest = make_card(metrics=None).model_copy(update={"task": "regression", "labels": ("angle",), "unit": "degrees"})
    interval = Interval(level=0.9, half_width=2.5, images=50, method="split_conformal", reason=None)
    confidence = make_confidence().model_copy(update={"interval": interval})
    page = build(Source(manifest, confidence, review, HISTORY_OF, Pictures(lambda _: None)))
    assert {plot.name for plot in page.plots()} == {"loss", "learning-rate", "predicted", "residuals"}
    text = Html(render(page)).text.replace(NBSP, " ")
    assert "On 50 images of the test split it is 2 degrees off on average" in text
    assert "For 90 % of images the truth lies within 2.5 degrees of the answer (measured on 50 images)." in text
    assert text.count("no picture") == 50
    assert "validation RMSE" in text
    assert "Training loss in deviations of the numbers" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0"), (1.0, "100.0"), (0.9996, ">99.9"), (0.0004, "<0.1"), (0.884, "88.4"), (0.999, "99.9"), (0.001, "0.1")],
)
def test_percent_never_rounds_to_certainty(share: float, text: str) -> None:
    assert percent(share) == f"{text}{NBSP}%"
