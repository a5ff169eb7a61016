"""What each process of a torchrun does in the test of it: the same small run; losses and weights go into a file a rank.

python -m torch.distributed.run --nproc-per-node 2 -m tests.support.ranks FOLDER [key=value ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.support.tuning import CPU, colours, plan, recipe, tuner
from training.distributed import join, leave


def main() -> None:
    """Train for two epochs and write what came out."""
    folder, changes = Path(sys.argv[1]), dict(item.split("=") for item in sys.argv[2:])
    train, validation = colours(36), colours(13, seed=1)
    chosen = recipe(**changes)
    world = join(CPU)
    try:
        tuned = tuner(chosen, train, world=world).run(train, validation, plan(chosen, len(train)))
        name = f"{world.rank}-of-{world.size}"
        epochs = [entry.model_dump() for entry in tuned.epochs]
        (folder / f"{name}.json").write_text(json.dumps(epochs))
        for kind, network in (("last", tuned.last), ("ema", tuned.ema)):
            tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
            save_file(tensors, folder / f"{name}-{kind}.safetensors")
    finally:
        leave(world)


if __name__ == "__main__":
    main()
