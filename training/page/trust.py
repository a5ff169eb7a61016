"""What a page says of how far a version's answers may be trusted, and how that was tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.confidence.familiarity import FEWEST_FOR_UNKNOWN
from training.page.parts import NBSP, Bullets, Part, Section, Table, Text, counted, percent, sentence

if TYPE_CHECKING:
    from models.confidence.schema import Confidence, FamiliarityCard

_PASSED, _FAILED = "passed", "FAILED"
_TESTS = (
    "What was tested of this very version before it was published. A failed test did not stop it; it says what not to rely on. "
    "Expected ranges are what chance makes of a version that keeps its promises (99 times in 100; for calibration 95)."
)


def trust_section(confidence: Confidence) -> Section:
    """Acceptance, p_correct, familiarity, prediction sets, and the self-tests."""
    told = [
        text for text in (_acceptance(confidence), _p_correct(confidence), _familiarity(confidence), _sets(confidence)) if text
    ]
    parts: list[Part] = [Text(text) for text in told]
    if confidence.self_tests:
        failed = [test for test in confidence.self_tests if not test.passed]
        count = counted(len(confidence.self_tests), "self-test")
        parts.append(Text(f"All of {count} passed." if not failed else f"{len(failed)} of {count} failed."))
        rows = tuple((t.name, _PASSED if t.passed else _FAILED, t.found, t.expected) for t in confidence.self_tests)
        parts.append(Table(_TESTS, ("test", "result", "found", "expected"), rows, text_columns=frozenset({0, 2, 3})))
    if confidence.unavailable:
        parts.append(Bullets(tuple(f"{part}: {reason}" for part, reason in _grouped(confidence.unavailable))))
    return Section("trust", "How far to trust it", tuple(parts))


def _acceptance(confidence: Confidence) -> str | None:
    acceptance = confidence.acceptance
    if acceptance is None:
        return None
    target = percent(acceptance.target, 0)
    if acceptance.threshold is None:
        return (
            f"No answer is accepted without a look: the calibration images show no certainty at which {target} of answers "
            "are surely right."
        )
    from_there = f"its p_correct is {acceptance.threshold:.3f} or more, where {target} are right"
    said = f"An answer may be accepted without a look when the image is familiar and {from_there}"
    found = acceptance.on_test
    if found is None:
        return f"{said}."
    images = sum(one.right.of for one in confidence.expected_accuracy if one.right is not None)
    return (
        f"{said}. On test that was {percent(found.of / images)} of the images, and {percent(found.value)} of those answers were "
        f"right ({100 * found.low:.1f}\N{EN DASH}{100 * found.high:.1f}{NBSP}% allowing for chance)."
    )


def _p_correct(confidence: Confidence) -> str | None:
    card = confidence.correctness
    if card is None:
        return None
    numbers = (
        f"log-loss {card.log_loss:.3f} against {card.log_loss_of_probability:.3f}, and right and wrong answers are told apart "
        f"with an AUROC of {card.auroc:.3f} against {card.auroc_of_probability:.3f}"
    )
    what = "p_correct, the probability that an answer is right, also asks how near the image is to known ones of other labels"
    if card.coefficients is None:
        return f"{what} where that helps. Here it does not ({numbers}), so p_correct is the calibrated probability."
    return f"{what}: better than the calibrated probability alone ({numbers}, on images that it was not fitted on)."


def _familiarity(confidence: Confidence) -> str | None:
    card = confidence.familiarity
    if card is None:
        return None
    compared = f"how strange it looks is compared with {counted(card.images, 'image')} that were kept from training."
    if card.images < FEWEST_FOR_UNKNOWN:
        said = (
            f"An image that is not like what the model learnt from is called unusual: {compared} None is called unknown, for "
            f"which it takes {FEWEST_FOR_UNKNOWN}."
        )
    else:
        said = (
            f"An image that is like nothing the model learnt from is called unknown, whatever its probabilities are: {compared}"
        )
    return said + _weak(card) + _left_out(card)


def _weak(card: FamiliarityCard) -> str:
    return "" if card.weak is None else f" Do not rely on it: {card.weak}."


def _left_out(card: FamiliarityCard) -> str:
    """How near to its labels a thing may be, and still be told from them."""
    if not card.left_out:
        return ""
    worst = min(card.left_out, key=lambda one: one.auroc)
    mean = sum(one.auroc for one in card.left_out) / len(card.left_out)
    return (
        f" Kept from knowing one label, it tells test images of that label from the others with an AUROC of {mean:.3f} "
        f"on average and {worst.auroc:.3f} at worst, of “{worst.label}”; things that the network itself never saw may be harder."
    )


def _sets(confidence: Confidence) -> str | None:
    card = confidence.conformal
    if card is None:
        return None
    least = min(card.images, key=lambda label: card.images[label])
    return (
        "A prediction set is a list of labels that holds the true one as often as was asked for, whichever that is. It rests "
        f"on {counted(sum(card.images.values()), 'calibration image')}; “{least}” has the fewest, {card.images[least]:,}."
    )


def _grouped(unavailable: dict[str, str]) -> list[tuple[str, str]]:
    """Parts that are missing for one reason, together."""
    by_reason: dict[str, list[str]] = {}
    for part, reason in unavailable.items():
        by_reason.setdefault(reason, []).append(part.replace("_", " "))
    return [(f"No {', '.join(parts)}", sentence(reason)) for reason, parts in by_reason.items()]
