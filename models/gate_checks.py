"""The gate's checks: each looks at one thing and says it in one sentence, with its numbers.

Whatever is counted on few images may be chance, so nothing is called better, worse or fallen unless a test that pairs the two
versions image by image says that chance hardly explains it (`paired`); and nothing that is surely so, but small, matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.gate_report import Check
from models.intervals import covered_by_chance, largest_chance_ece
from models.metrics import average_precision, score_task
from models.paired import Chance, by_hits, by_losses, by_score

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from models.contest import Contest, Measured, Side, Spelt

# How improbable chance must be before something is called so.
LEVEL = 0.05
# What a label's recall may fall by, and the calibration error rise by, even where that is surely so.
RECALL_BOUND, ECE_BOUND = 0.05, 0.02
LATENCY_RATIO = 1.2
_NAMED = 3
_MAE = "mean absolute error"


def failed(name: str, sentence: str) -> Check:
    """A check that does not hold, without numbers."""
    return _check(name, passed=False, sentence=sentence)


def _check(
    name: str,
    *,
    passed: bool,
    sentence: str,
    candidate: float | None = None,
    production: float | None = None,
    bound: float | None = None,
    is_required: bool = True,
) -> Check:
    return Check(
        name=name,
        passed=passed,
        is_required=is_required,
        candidate=candidate,
        production=production,
        bound=bound,
        sentence=sentence,
    )


def check_sound(candidate: Measured) -> list[Check]:
    """Whether it computes what was trained, here and now."""
    golden = "The golden inputs give the outputs that were stored with them"
    parity = "The graph computes what was trained, as was proven when it was exported"
    return [
        _check("golden", passed=candidate.golden is None, sentence=candidate.golden or golden),
        _check("parity", passed=candidate.parity is None, sentence=candidate.parity or parity),
    ]


def _scores(contest: Contest) -> list[tuple[str, float, float, Chance]]:
    """Each score that decides: its name, the candidate's, the other's, and what chance explains."""
    ours, theirs, task = contest.candidate, contest.other, contest.task
    losses = ours.losses(task), theirs.losses(task)
    mean = float(losses[0].mean()), float(losses[1].mean())
    if task == "regression":
        return [(_MAE, *mean, by_losses(*losses))]
    nll = ("NLL", *mean, by_losses(*losses))
    if task == "single_label":
        hits = ours.hits(), theirs.hits()
        return [("accuracy", float(hits[0].mean()), float(hits[1].mean()), by_hits(*hits)), nll]
    score = _mean_average_precision(ours.targets)
    chance = by_score(score, ours.outputs, theirs.outputs)
    return [("mAP", score(ours.outputs), score(theirs.outputs), chance), nll]


def _mean_average_precision(targets: npt.NDArray[np.float64]) -> Callable[[npt.NDArray[np.floating]], float]:
    held = targets[:, targets.any(axis=0)]
    columns = np.flatnonzero(targets.any(axis=0))
    return lambda outputs: float(average_precision(outputs[:, columns], held).mean()) if len(columns) else 0.0


def check_scores(contest: Contest) -> list[Check]:
    """Whether it is surely better in one of the scores that decide, and surely worse in none: none is bought with the other."""
    scores = _scores(contest)
    return [_check_better(contest, scores), *(_check_not_worse(*score) for score in scores)]


def _check_better(contest: Contest, scores: Sequence[tuple[str, float, float, Chance]]) -> Check:
    """Any of the scores will do, so the level is shared among them (Bonferroni)."""
    level = LEVEL / len(scores)
    name, ours, theirs, _ = scores[0]
    passed = any(chance.better <= level for *_, chance in scores)
    said = " and ".join(
        f"{name} is {_spelt(ours)} against {_spelt(theirs)} (chance explains that with p = {chance.better:.2g})"
        for name, ours, theirs, chance in scores
    )
    verdict = "surely better" if passed else f"not surely better; p = {level:g} is asked"
    if contest.production is None and passed and _lead(name, ours, theirs) <= 0:
        passed, verdict = False, f"{name} must be better than that, too"
    return _check(
        "better",
        passed=passed,
        candidate=ours,
        production=theirs,
        sentence=f"On {contest.images} held-out images {said}, compared with that {contest.opponent}: {verdict}",
    )


def _lead(name: str, ours: float, theirs: float) -> float:
    return theirs - ours if name == _MAE else ours - theirs


def _check_not_worse(name: str, ours: float, theirs: float, chance: Chance) -> Check:
    is_worse = chance.worse <= LEVEL
    how = "surely worse" if is_worse else "not surely worse"
    return _check(
        name.replace(" ", "_").lower(),
        passed=not is_worse,
        candidate=ours,
        production=theirs,
        sentence=f"{name[0].upper() + name[1:]} is {_spelt(ours)} against {_spelt(theirs)}: {how} (p = {chance.worse:.2g})",
    )


def check_recall(contest: Contest) -> list[Check]:
    """Whether no label's recall fell by more than the bound, beyond what chance explains among so many labels."""
    if contest.task == "regression" or contest.production is None:
        return []
    positives = contest.positives()
    ours, theirs = _found(contest, contest.candidate), _found(contest, contest.other)
    labels = np.flatnonzero(positives.any(axis=0))
    falls: list[tuple[float, str, bool]] = []
    for index in labels:
        rows = positives[:, index]
        fall = float(theirs[rows, index].mean() - ours[rows, index].mean())
        is_sure = by_hits(ours[rows, index], theirs[rows, index]).worse <= LEVEL / len(labels)
        said = f"{contest.shared[index]} from {theirs[rows, index].mean():.3f} to {ours[rows, index].mean():.3f} on {rows.sum()}"
        falls.append((fall, said, is_sure))
    fallen = sorted((fall for fall in falls if fall[0] > RECALL_BOUND), reverse=True)
    surely = [fall for fall in fallen if fall[2]]
    worst = max(fall for fall, _, _ in falls) if falls else 0.0
    return [_check("recall", passed=not surely, candidate=worst, bound=RECALL_BOUND, sentence=_recall_words(fallen, surely))]


def _recall_words(fallen: Sequence[tuple[float, str, bool]], surely: Sequence[tuple[float, str, bool]]) -> str:
    bound = f"{RECALL_BOUND:g}"
    if not fallen:
        return f"No label's recall fell by more than {bound}"
    shown = surely or fallen
    more = f", and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    said = "; ".join(words for _, words, _ in shown[:_NAMED]) + f" images{more}"
    if surely:
        return f"The recall of {len(surely)} labels surely fell by more than {bound}: {said}"
    return f"The recall of {len(fallen)} labels fell by more than {bound}, which chance explains: {said}"


def _found(contest: Contest, side: Side) -> npt.NDArray[np.bool_]:
    """Whether each image is found under each shared label, `[N, shared]`; it counts where the image has the label."""
    if contest.task == "multi_label":
        return side.selected()
    return np.repeat(side.hits()[:, None], len(contest.shared), axis=1)


def check_status(candidate: Measured, production: Measured | None) -> list[Check]:
    """Whether something is known of its calibration, unless that is so of production too."""
    fitted = candidate.temperature
    is_lost = fitted.status == "none" and (production is None or production.temperature.status != "none")
    reason = f" ({fitted.reason})" if fitted.reason else ""
    return [_check("calibration", passed=not is_lost, sentence=f"Calibration was fitted with status {fitted.status}{reason}")]


def check_calibration(contest: Contest) -> list[Check]:
    """Whether its probabilities, or its interval, hold on the held-out images as well as those of production do."""
    if contest.task == "regression":
        return _check_interval(contest)
    if contest.production is None:
        return []
    ours, theirs = (
        score_task(contest.task, side.outputs, side.targets, side.thresholds).ece  # type: ignore[union-attr]
        for side in (contest.candidate, contest.other)
    )
    stated = contest.candidate.outputs
    chance = largest_chance_ece(stated.max(axis=1) if contest.task == "single_label" else stated.ravel())
    bound = max(theirs + ECE_BOUND, chance)
    return [
        _check(
            "ece",
            passed=ours <= bound,
            candidate=ours,
            production=theirs,
            bound=bound,
            sentence=f"The calibration error is {ours:.3f} against {theirs:.3f}; at most {bound:.3f} is allowed, the larger of "
            f"{ECE_BOUND:g} more than that and what chance alone makes of so few images ({chance:.3f})",
        )
    ]


def _check_interval(contest: Contest) -> list[Check]:
    interval, before = contest.measured.interval, contest.production and contest.production.interval
    if interval is None:
        return [failed("interval", "The candidate has no interval, and production has")] if before else []
    side = contest.candidate
    share = float((np.abs(side.outputs - side.targets) <= interval.half_width).mean())
    low = covered_by_chance(max(1, interval.images), contest.images, interval.level)[0]
    return [
        _check(
            "interval",
            passed=share >= low,
            candidate=share,
            bound=low,
            sentence=f"{share:.1%} of the held-out values lie within the interval, which promises {interval.level:.0%}; by "
            f"chance it may be as few as {low:.1%}",
        )
    ]


def check_new_labels(contest: Contest, truth: Sequence[Spelt]) -> list[Check]:
    """What is known of labels that production does not know; nothing hangs on it."""
    if contest.task == "regression" or contest.production is None:
        return []
    new = [label for label in contest.measured.labels if label not in contest.production.labels]
    if not new:
        return []
    count = sum(bool(set(new) & ({target} if isinstance(target, str) else set(target))) for target in truth)  # type: ignore[arg-type]
    shown = f"{', '.join(new[:_NAMED])}{f' and {len(new) - _NAMED} more' if len(new) > _NAMED else ''}"
    known = f"{count} held-out images have them, and are not compared" if count else "no held-out image tells how well"
    sentence = f"The candidate also knows {shown}; {known}"
    return [_check("new_labels", passed=True, is_required=False, sentence=sentence)]


def check_latency(candidate: Measured, production: Measured | None) -> list[Check]:
    """Whether it is not much slower."""
    if production is None or candidate.p95_ms is None or production.p95_ms is None:
        return []
    bound = LATENCY_RATIO * production.p95_ms
    return [
        _check(
            "latency",
            passed=candidate.p95_ms <= bound,
            candidate=candidate.p95_ms,
            production=production.p95_ms,
            bound=bound,
            sentence=f"One image takes {candidate.p95_ms:.3g} ms against {production.p95_ms:.3g} ms (95th percentile); at most "
            f"{bound:.3g} ms is allowed",
        )
    ]


def _spelt(value: float) -> str:
    return f"{value:.4g}"
