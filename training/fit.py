"""`fit`: the whole way from a folder of images to a published version, readable top to bottom."""

from __future__ import annotations

import functools
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from models.holdout import Holdout
from models.manifest import check_name, check_run
from training.assemble import Trained, assemble
from training.checkpoint import Run, read_request
from training.confidence.unrelated import read_unrelated
from training.distributed import leave
from training.errors import Preempted, TrainingError
from training.history import History, Sweep
from training.loop import FineTuned, FineTuner
from training.lr_finder import find_lr, say_sweep
from training.plan import Plan, make_plan
from training.prepare import fit_head, prepare, setting_of
from training.progress import Events, is_main, say
from training.publish import publish
from training.selection import choose, report
from training.start import PRETRAINED, resolve_start, start_at
from training.stop import Stop
from training.subject import Outputs
from training.watch import judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from torch import nn

    from models.dataset import Split
    from models.manifest import Manifest
    from models.recipe import Recipe
    from models.registry import Registry
    from training.checkpoint import Snapshot
    from training.distributed import World
    from training.prepare import Prepared
    from training.selection import Candidate
    from training.start import Start


@dataclass(frozen=True)
class Options:
    """What is no part of the recipe.

    Attributes:
        resume: Whether to go on with a run that was stopped.
        run: A name for the run, by which it goes on wherever it was stopped, and makes one version however often it is called.
        start_from: `pretrained`, `production` or `NAME:N`.
        promotes_first: Whether a first version goes into production; else every version becomes the candidate.
        unrelated: Folder of images that are of none of the labels; None to have them made up.
        events: Who is told what happens.
        stop: Who may end it.
    """

    resume: bool = False
    run: str | None = None
    start_from: str = PRETRAINED
    promotes_first: bool = True
    unrelated: Path | None = None
    events: Events = field(default_factory=Events)
    stop: Stop = field(default_factory=Stop)


@dataclass(frozen=True)
class _Order:
    """One call of `fit`: what is to come of it, and where it goes."""

    name: str
    registry: Registry
    runs_root: Path
    options: Options
    started: float = field(default_factory=time.monotonic)

    @property
    def made(self) -> Manifest | None:
        """The version that the run of this name made before, where it did."""
        version = None if self.options.run is None else self.registry.find_run(self.name, self.options.run)
        return None if version is None else self.registry.manifest(self.name, version)


def fit(
    data: Path | Sequence[Path],
    name: str,
    recipe: Recipe,
    registry: Registry,
    runs_root: Path,
    options: Options | None = None,
) -> Manifest:
    """Fine-tune on a folder of images and publish the result as the next version of `name`.

    Under torchrun every process calls this and gets the same manifest; rank 0 alone writes.

    Args:
        data: Class folders, or `train/ val/ ...` with class folders in them; or as `models.dataset.scan` understands it.
            Several are merged.
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
    order = _Order(check_name(name), registry, runs_root, options or Options())
    if order.options.run is not None:
        check_run(order.options.run)
    made = order.made
    if made is not None:
        return _settle(order, made)
    try:
        runs_root.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise TrainingError(f"{runs_root} cannot be made ({err.strerror}); CANDOR_HOME says where state lives") from err
    start = _start(order, recipe)
    holdout = Holdout.read(registry, name)
    prepared = prepare(data, start.recipe, runs_root, start.weights, holdout)
    try:
        manifest = _fit(order, prepared, start, recipe)
    finally:
        leave(prepared.world)
    _say_what_serves(order, manifest)
    return manifest


def _start(order: _Order, recipe: Recipe) -> Start:
    """Where to start from; a run that goes on starts where it did, whatever went into production since."""
    options = order.options
    before = read_request(order.runs_root, options.run) if options.run is not None else {}
    parent = before["parent"] if before else resolve_start(options.start_from, order.name, order.registry)
    return start_at(parent, recipe, order.registry)


def _fit(order: _Order, prepared: Prepared, start: Start, recipe: Recipe) -> Manifest:
    world, options, dataset = prepared.world, order.options, prepared.dataset
    request = {
        "name": order.name,
        "data": dataset.fingerprint(),
        "recipe": recipe.model_dump(mode="json"),
        "number of processes": world.size,
        "parent": start.parent,
    }
    options.events("started", name=order.name, images=len(dataset.items), labels=len(dataset.labels))
    if prepared.holdout is not None:
        options.events("held_out", images=len(prepared.holdout.index.images), left_out=len(dataset.withheld))
    unrelated = _unrelated(prepared, options.unrelated)
    run = _open_run(world, order, request)
    try:
        # Whoever held the run's lock until now may have published.
        made = world.from_main(lambda: order.made)
        if made is None:
            trained = _train(prepared, run, options)
            made = world.from_main(lambda: _publish(order, prepared, trained, run, start, unrelated))
    except BaseException as err:
        if isinstance(err, Preempted):
            err.kept = run.has_checkpoint
        if world.is_main and not run.has_checkpoint:
            run.remove()
        run.release()
        raise
    if world.is_main:
        run.remove()
    options.events("published", version=made.version, seconds=round(time.monotonic() - order.started, 1))
    say(f"published {made.reference} in {time.monotonic() - order.started:.0f} s")
    return made


def _settle(order: _Order, made: Manifest) -> Manifest:
    """The run was published before: see that its alias is set and its folder gone, since it may have ended in between."""
    name, version, options = order.name, made.version, order.options
    if is_main():
        aliases = order.registry.aliases(name)
        if options.promotes_first:
            order.registry.promote_first(name, version)
        elif version not in aliases.previous:
            order.registry.nominate(name, version)
        shutil.rmtree(order.runs_root / str(options.run), ignore_errors=True)
    options.events("published", version=version, seconds=0.0)
    say(f"run {options.run} was published before, as {made.reference}; nothing was trained")
    return made


def _say_held_out(holdout: Holdout | None) -> None:
    if holdout is None:
        say("  no test images: nothing is held out, so that later versions must be promoted by hand")
    else:
        say(f"  its {len(holdout.index.images)} test images are held out from every version to come, which is judged on them")


def _say_what_serves(order: _Order, manifest: Manifest) -> None:
    aliases, reference = order.registry.aliases(order.name), manifest.reference
    if aliases.candidate == manifest.version:
        say(f"{reference} is the candidate; python -m training gate {reference} compares it with what is in production")
    elif aliases.production != manifest.version:
        say(f"production is still {order.name}:{aliases.production}; to serve the new one: python -m models promote {reference}")


def _open_run(world: World, order: _Order, request: dict[str, Any]) -> Run:
    """The run's folder, on every rank; rank 0 alone holds its lock."""
    held: list[Run] = []
    options = order.options

    def begin() -> Path:
        if options.run is not None:
            held.append(Run.open(order.runs_root, options.run, request))
        else:
            held.append((Run.resume if options.resume else Run.start)(order.runs_root, order.name, request))
        return held[0].path

    path = world.from_main(begin)
    return held[0] if held else Run(path)


def _publish(
    order: _Order, prepared: Prepared, trained: Trained, run: Run, start: Start, unrelated: np.ndarray | None
) -> Manifest:
    if not order.registry.has_begun(order.name):
        # Before the version: one that appears without it could never be compared with.
        _say_held_out(Holdout.fix(order.registry, order.name, prepared.dataset))
    publication = replace(
        assemble(order.name, prepared, trained, unrelated),
        stop=order.options.stop,
        parent=start.parent,
        run=order.options.run,
        first_is_production=order.options.promotes_first,
    )
    return publish(publication, order.registry, run.path)


def _train(prepared: Prepared, run: Run, options: Options) -> Trained:
    """Probe, fine-tune, choose; the network ends with the weights that were chosen."""
    network, objective, splits = prepared.pretrained.network, prepared.objective, prepared.splits
    probed = fit_head(prepared)
    is_named = options.run is not None
    tuner = FineTuner(network, setting_of(prepared, options.stop, options.events, run.save, saves_epochs=is_named))
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
    return Trained(verdict, plan, history, reviewed)


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


def _say_plan(plan: Plan, resumed: Snapshot | None) -> None:
    if resumed is not None:
        say(f"resuming at epoch {resumed.progress['epoch'] + 1}, step {resumed.progress['step'] + 1}")
    frozen = f"{plan.freeze_epochs} with the head alone at {plan.freeze_lr:.1e}, then " if plan.freeze_epochs else ""
    say(f"fine-tuning: {frozen}{plan.epochs} epochs of {plan.steps_per_epoch} steps of {plan.batch_size}, lr {plan.lr:.1e}")
