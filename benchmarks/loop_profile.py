"""Where the time of the training loop goes: `python -m benchmarks.loop_profile` on the sample, with the default recipe.

Every part of a step is timed by wrapping it where it stands; what no part accounts for is the loop itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3

from models.recipe import Recipe
from training.loop import FineTuner
from training.plan import Plan
from training.prepare import fit_head, prepare, setting_of
from training.progress import say
from training.sample import unpack_sample

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT = Path(__file__).with_name("results") / "loop-profile.json"
_BATCH, _STEPS, _LR = 32, 40, 1e-3


class Clock:
    """Seconds by part; a part inside another is counted once, with the inner one."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Time every call of `owner.name` as `part`."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                took = time.perf_counter() - started
                self.seconds[part] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        setattr(owner, name, timed)


def main() -> int:
    """Profile one epoch and write the shares."""
    with tempfile.TemporaryDirectory(prefix="candor-profile-") as work:
        prepared = prepare(unpack_sample(Path(work)), Recipe(), Path(work, "runs"))
        fit_head(prepared)
        tuner = FineTuner(prepared.pretrained.network, setting_of(prepared))
        train = prepared.splits["train"]
        tuner.run(train, None, Plan(_BATCH, _LR, 1, 0, _LR, 4))
        clock = Clock()
        clock.wrap(tuner, "_epoch", "the loop itself")
        clock.wrap(prepared.pretrained.network, "forward", "forward")
        clock.wrap(torch.Tensor, "backward", "backward")
        clock.wrap(tuner.stepper._augment, "_move", "augmentation")  # noqa: SLF001 - looked at, not used
        clock.wrap(tuner.stepper._augment, "_relight", "augmentation")  # noqa: SLF001
        clock.wrap(prepared.normalise, "forward", "bytes to normalised floats")
        clock.wrap(torch.optim.AdamW, "step", "optimizer")
        clock.wrap(torch.nn.utils, "clip_grad_norm_", "gradient clipping")
        clock.wrap(ModelEmaV3, "update", "weight average")
        tuner.run(train, None, Plan(_BATCH, _LR, 1, 0, _LR, _STEPS))
    total = sum(clock.seconds.values())
    shares = {part: round(seconds / total, 4) for part, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1])}
    found = {
        "what": f"one epoch of {_STEPS} steps of {_BATCH} at {prepared.image_size} px, {prepared.recipe.backbone}",
        "device": prepared.device.describe(),
        "images_per_s": round(_STEPS * _BATCH / total, 1),
        "shares": shares,
        "forward_and_backward": round(shares["forward"] + shares["backward"], 4),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    say(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
