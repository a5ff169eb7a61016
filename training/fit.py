"""`fit`: the whole way from a folder of images to a published version, readable top to bottom."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.dataset import SPLITS
from models.manifest import DatasetCard, canonical_json, check_name
from models.scan_report import SCAN_REPORT
from training.checkpoint import Run
from training.confidence.answers import Known
from training.confidence.unrelated import read_unrelated
from training.distributed import leave
from training.errors import Preempted, TrainingError
from training.history import HISTORY, History, Sweep
from training.interpret import interpret
from training.loop import FineTuned, FineTuner
from training.lr_finder import find_lr, say_sweep
from training.plan import Plan, make_plan
from training.prepare import fit_head, prepare, setting_of
from training.progress import Events, say
from training.publish import Publication, publish
from training.report import write_report, write_review
from training.selection import choose, report
from training.stop import Stop
from training.subject import Outputs, Strange, Subject, name_images
from training.thumbnails import make_thumbnails
from training.watch import judge

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import nn

    from models.dataset import Split
    from models.manifest import Manifest
    from models.recipe import Recipe
    from models.registry import Registry
    from training.checkpoint import Snapshot
    from training.data import Images
    from training.distributed import World
    from training.prepare import Prepared
    from training.selection import Candidate, Verdict


@dataclass(frozen=True)
class Options:
    """What is no part of the recipe.

    Attributes:
        resume: Whether to go on with a run that was stopped.
        unrelated: Folder of images that are of none of the labels; None to have them made up.
        events: Who is told what happens.
        stop: Who may end it.
    """

    resume: bool = False
    unrelated: Path | None = None
    events: Events = field(default_factory=Events)
    stop: Stop = field(default_factory=Stop)


def fit(data: Path, name: str, recipe: Recipe, registry: Registry, runs_root: Path, options: Options | None = None) -> Manifest:
    """Fine-tune on a folder of images and publish the result as the next version of `name`.

    Under torchrun every process calls this and gets the same manifest; rank 0 alone writes.

    Args:
        data: Class folders, or `train/ val/ ...` with class folders in them; or as `models.dataset.scan` understands it.
        name: The model's name.
        recipe: Every choice; what is None is decided here and written into the manifest.
        registry: Where the version goes.
        runs_root: Where to work, and where checkpoints lie until the version is published.
        options: Resuming, unrelated images, and who is told.

    Raises:
        ContractError: If the data or the name cannot be used.
        TrainingError: If weights are missing, the loss diverges, or the export does not agree with torch.
        Preempted: If SIGTERM came; what was trained is in a checkpoint.
    """
    started = time.monotonic()
    options = options or Options()
    check_name(name)
    try:
        runs_root.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise TrainingError(f"{runs_root} cannot be made ({err.strerror}); CANDOR_HOME says where state lives") from err
    prepared = prepare(data, recipe, runs_root)
    try:
        world = prepared.world
        request = {
            "name": name,
            "data": prepared.dataset.fingerprint(),
            "recipe": recipe.model_dump(mode="json"),
            "number of processes": world.size,
        }
        options.events("started", name=name, images=len(prepared.dataset.items), labels=len(prepared.dataset.labels))
        unrelated = _unrelated(prepared, options.unrelated)
        run = _open_run(world, runs_root, name, request, resume=options.resume)
        try:
            trained = _train(prepared, run, options)
            manifest = world.from_main(lambda: _publish(name, prepared, trained, run, registry, options.stop, unrelated))
        except BaseException as err:
            if isinstance(err, Preempted):
                err.kept = run.has_checkpoint
            if world.is_main and not run.has_checkpoint:
                run.remove()
            run.release()
            raise
        if world.is_main:
            run.remove()
        options.events("published", version=manifest.version, seconds=round(time.monotonic() - started, 1))
        say(f"published {manifest.reference} in {time.monotonic() - started:.0f} s")
    finally:
        leave(prepared.world)
    production = registry.aliases(name).production
    if production != manifest.version:
        say(f"production is still {name}:{production}; to serve the new one: python -m models promote {manifest.reference}")
    return manifest


def _open_run(world: World, runs_root: Path, name: str, request: dict[str, Any], *, resume: bool) -> Run:
    """The run's folder, on every rank; rank 0 alone holds its lock."""
    held: list[Run] = []

    def begin() -> Path:
        held.append((Run.resume if resume else Run.start)(runs_root, name, request))
        return held[0].path

    path = world.from_main(begin)
    return held[0] if held else Run(path)


@dataclass(frozen=True)
class _Trained:
    verdict: Verdict
    plan: Plan
    history: History
    outputs: dict[Split, Outputs]


def _train(prepared: Prepared, run: Run, options: Options) -> _Trained:
    """Probe, fine-tune, choose; the network ends with the weights that were chosen."""
    network, objective, splits = prepared.pretrained.network, prepared.objective, prepared.splits
    probed = fit_head(prepared)
    tuner = FineTuner(network, setting_of(prepared, options.stop, options.events, run.save))
    resumed = run.load()
    plan, sweep = _plan(tuner, prepared, resumed)
    options.events("plan", **plan.to_json())
    states: dict[Candidate, dict[str, torch.Tensor]] = {"probe": probed.state}
    tuned: dict[Candidate, nn.Module] = {}
    result: FineTuned | None = None
    if plan.all_epochs > 0:
        _say_plan(plan, resumed)
        result = tuner.run(splits["train"], splits.get("validation"), plan, sweep, resumed)
        tuned = {"last": result.last, "ema": result.ema}
        states |= {candidate: weights.state_dict() for candidate, weights in tuned.items()}

    @functools.cache
    def outputs(candidate: Candidate, split: Split) -> np.ndarray:
        if candidate == "probe":
            return objective.in_units(probed.probe.logits(probed.embeddings[split]))
        return tuner.outputs(tuned[candidate], splits[split])

    verdict = choose(list(states), outputs, splits, objective.task, prepared.dataset.labels)
    report(verdict)
    network.load_state_dict(states[verdict.chosen])
    epochs = result.epochs if result else ()
    temperature = verdict.calibration.temperature
    overfit = judge(epochs, temperature.value if temperature.images else None)
    history = History(epochs=epochs, sweep=sweep, overfit=overfit)
    reviewed = {
        split: Outputs(images, outputs(verdict.chosen, split), probed.embeddings[split].numpy())
        for split, images in sorted(splits.items())
    }
    return _Trained(verdict, plan, history, reviewed)


def _plan(tuner: FineTuner, prepared: Prepared, resumed: Snapshot | None) -> tuple[Plan, Sweep | None]:
    """The plan of the run that was stopped, or a new one."""
    if resumed is not None:
        sweep = resumed.progress["sweep"]
        return Plan.from_json(resumed.progress["plan"]), Sweep.model_validate(sweep) if sweep else None
    recipe, train = prepared.recipe, prepared.splits["train"]
    sweep = None
    if recipe.lr == "auto" and recipe.epochs != 0:
        sweep = find_lr(tuner, train, recipe, prepared.world.size)
        say_sweep(sweep)
        recipe = recipe.model_copy(update={"lr": sweep.chosen})
    plan = make_plan(
        recipe,
        len(train),
        is_cuda=prepared.device.is_cuda,
        world=prepared.world.size,
        seconds_per_step=lambda batch_size: tuner.stepper.seconds(train, batch_size),
    )
    return plan, sweep


def _unrelated(prepared: Prepared, folder: Path | None) -> np.ndarray | None:
    """Read before anything is trained, so that a wrong path costs nothing."""
    return None if folder is None else read_unrelated(folder, prepared.preprocessing, prepared.image_size)


def _publish(
    name: str, prepared: Prepared, trained: _Trained, run: Run, registry: Registry, stop: Stop, unrelated: np.ndarray | None
) -> Manifest:
    network = prepared.pretrained.network
    prepared.objective.fold(network)
    sizes = {split: len(prepared.splits[split]) for split in SPLITS if split in prepared.splits}
    dataset = prepared.dataset
    publication = Publication(
        name=name,
        task=dataset.task,
        labels=dataset.labels,
        unit=prepared.recipe.unit,
        pretrained=prepared.pretrained,
        normalise=prepared.normalise,
        preprocessing=prepared.preprocessing,
        image_size=prepared.image_size,
        backbone=prepared.recipe.backbone,
        recipe=prepared.recipe.model_copy(update=trained.plan.resolved()),
        dataset=DatasetCard(fingerprint=dataset.fingerprint(), splits=sizes, skipped=len(dataset.skipped)),
        calibration=trained.verdict.calibration,
        metrics=trained.verdict.metrics,
        golden_pool=_golden_pool(prepared.splits),
        known=Known(prepared.splits, name_images(trained.outputs), prepared.copies, prepared.recipe.seed, unrelated),
        add_files=lambda folder, gathered: _add_files(folder, prepared, trained, gathered.strange),
        finish=write_report,
        stop=stop,
    )
    return publish(publication, registry, run.path)


def _add_files(folder: Path, prepared: Prepared, trained: _Trained, strange: Strange) -> None:
    """What people and the service ask of a version besides its answers: how it was trained, and what it is unsure of."""
    (folder / HISTORY).write_bytes(canonical_json(trained.history))
    (folder / SCAN_REPORT).write_bytes(prepared.report.to_bytes())
    say("reviewing what it is sure and unsure of")
    calibration = trained.verdict.calibration
    subject = Subject(
        task=prepared.dataset.task,
        labels=prepared.dataset.labels,
        outputs=trained.outputs,
        temperature=calibration.temperature.value,
        root=prepared.dataset.root,
        findings=tuple(prepared.report.lines()),
        thresholds=calibration.thresholds,
        unit=prepared.recipe.unit,
        strange=strange,
    )
    review = interpret(subject)
    write_review(folder, review, make_thumbnails(review, trained.outputs))


def _golden_pool(splits: dict[Split, Images]) -> np.ndarray:
    """Images that the network was not trained on, where there are any."""
    return next(splits[split].pixels for split in ("test", "calibration", "validation", "train") if split in splits)


def _say_plan(plan: Plan, resumed: Snapshot | None) -> None:
    if resumed is not None:
        say(f"resuming at epoch {resumed.progress['epoch'] + 1}, step {resumed.progress['step'] + 1}")
    frozen = f"{plan.freeze_epochs} with the head alone at {plan.freeze_lr:.1e}, then " if plan.freeze_epochs else ""
    say(f"fine-tuning: {frozen}{plan.epochs} epochs of {plan.steps_per_epoch} steps of {plan.batch_size}, lr {plan.lr:.1e}")
