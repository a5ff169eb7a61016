"""What the graph that is about to be published says of images: the network that is served, and not the one that was trained.

Owns which images of a split are asked about. Knows nothing of what the answers are good for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from training.errors import TrainingError
from training.progress import bar
from training.subject import of_each_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnxruntime

    from models.dataset import Split
    from models.recipe import Task
    from training.data import Images

# Of one label; and together, since with a thousand labels that would be hours on a CPU.
MOST_OF_A_LABEL, MOST_TRAINING = 300, 10_000
MOST_HELD_OUT = 20_000
_BATCH = 64
_ASKED: tuple[Split, ...] = ("train", "calibration", "test")

Rows = npt.NDArray[np.intp]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Known:
    """The images that there are when a version is published.

    Attributes:
        splits: As they were trained on.
        names: An id for every image, by split; None for a copy of another one (`subject.name_images`).
        copies: What near copies have in common, by the digest of each (`duplicates.group_copies`).
        seed: Of what is drawn.
        unrelated: Images that are of none of the labels, uint8 `[N, H, W, 3]`; None to have them made up.
    """

    splits: Mapping[Split, Images]
    names: Mapping[Split, Sequence[str | None]]
    copies: Mapping[str, str]
    seed: int
    unrelated: UInt8Array | None = None


@dataclass(frozen=True)
class Answers:
    """Some images of a split, and what the graph says of them.

    Attributes:
        targets: As `Images` has them, `[N]` or `[N, K]`.
        ids: Of the images; a copy that is nameless has an empty one.
        logits: float32 `[N, K]`.
        embeddings: float32 `[N, D]`.
    """

    targets: npt.NDArray[Any]
    ids: npt.NDArray[np.str_]
    logits: npt.NDArray[np.float32]
    embeddings: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """How many images."""
        return len(self.logits)


def ask_all(session: onnxruntime.InferenceSession, known: Known, task: Task) -> dict[Split, Answers]:
    """Ask about training, calibration and test images, whichever there are; a split of nothing but copies is left out.

    Raises:
        TrainingError: If an output is not finite.
    """
    rows = {split: chosen for split in _ASKED if split in known.splits and len(chosen := choose_rows(known, split, task))}
    answers: dict[Split, Answers] = {}
    with bar("evidence", sum(map(len, rows.values()))) as shown:
        for split, chosen in rows.items():
            images = known.splits[split]
            logits, embeddings = ask(session, images.pixels, chosen, f"a {split} image")
            ids = np.array([known.names[split][row] or "" for row in chosen], dtype=np.str_)
            answers[split] = Answers(images.targets[chosen], ids, logits, embeddings)
            shown.update(len(chosen))
    return answers


def ask(
    session: onnxruntime.InferenceSession, pixels: UInt8Array, rows: Rows | None = None, whose: str = "an image"
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Logits `[N, K]` and embeddings `[N, D]` of uint8 `[N, H, W, 3]`, or of some rows of it.

    Raises:
        TrainingError: If one is not finite: such a version cannot be served.
    """
    chosen = np.arange(len(pixels)) if rows is None else rows
    parts = [
        session.run(["logits", "embedding"], {"image": pixels[chosen[start : start + _BATCH]]})
        for start in range(0, len(chosen), _BATCH)
    ]
    logits, embeddings = (np.concatenate([part[index] for part in parts]) for index in range(2))
    for name, values in (("logits", logits), ("embedding", embeddings)):
        if not np.isfinite(values).all():
            raise TrainingError(f"the network's {name} of {whose} is not finite (NaN or infinity); nothing was published")
    return cast("npt.NDArray[np.float32]", logits), cast("npt.NDArray[np.float32]", embeddings)


def choose_rows(known: Known, split: Split, task: Task) -> Rows:
    """Which images of a split are asked about, rising.

    Of copies, near ones too, one is kept where something is fitted, since they would vouch for each other; test is counted
    as it is.
    """
    rows = np.arange(len(known.names[split])) if split == "test" else _without_copies(known, split)
    rng = np.random.default_rng(known.seed)
    if split != "train":
        return np.sort(rng.permutation(rows)[:MOST_HELD_OUT])
    if task != "single_label":
        return np.sort(rng.permutation(rows)[:MOST_TRAINING])
    labels = known.splits[split].targets[rows]
    most = fair_share(np.bincount(labels), MOST_TRAINING, MOST_OF_A_LABEL)
    return rows[draw_of_each(labels, most, rng)]


def _without_copies(known: Known, split: Split) -> Rows:
    kept, seen = [], set()
    for row, (name, item) in enumerate(zip(known.names[split], known.splits[split].items, strict=True)):
        group = known.copies.get(item.digest, item.digest)
        if name and group not in seen:
            kept.append(row)
            seen.add(group)
    return np.array(kept, dtype=np.intp)


def fair_share(counts: npt.NDArray[np.integer], room: int, most: int) -> int:
    """The largest number, up to `most`, of which every label may have so many images and all of them together fit."""
    fitting = [share for share in range(most + 1) if int(np.minimum(counts, share).sum()) <= room]
    return fitting[-1]


def draw_of_each(labels: npt.NDArray[np.integer], most: int, rng: np.random.Generator) -> Rows:
    """At most so many images of each label, drawn; rising."""
    groups = of_each_group(labels, rng.random(len(labels)), int(labels.max(initial=0)) + 1)
    return np.sort(np.concatenate([group[:most] for group in groups]))
