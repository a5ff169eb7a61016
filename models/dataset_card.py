"""What is written down of a stored data set when it is stored: `dataset.json`, a value.

Sentences for people, counts and a few names for programs. Decides nothing: what cannot be trained on is never stored.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from models.frozen import Frozen, parse_json
from models.manifest import Name, Sha256, canonical_json
from models.recipe import Task  # noqa: TC001 - pydantic reads the annotation
from models.splits import Split  # noqa: TC001 - pydantic reads the annotation

CARD = "dataset.json"
MOST_EXAMPLES = 20
# As many digits of the fingerprint as name a version: two contents that share them are not met by chance.
VERSION_DIGITS = 16
VERSION_PATTERN = rf"^[0-9a-f]{{{VERSION_DIGITS}}}$"

Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
Kind = Literal[
    "unreadable",
    "left_out",
    "equal_copies",
    "near_copies",
    "leaks",
    "contradictions",
    "few_images",
    "not_trained",
    "sampled",
    "labels",
    "note",
]


class Finding(Frozen):
    """Something to know before training on it. `examples` are the first `MOST_EXAMPLES` at most, of `count`."""

    kind: Kind
    count: int = Field(ge=1)
    sentence: str
    examples: tuple[str, ...] = Field(max_length=MOST_EXAMPLES)


class Contents(Frozen):
    """What was seen in the files.

    Attributes:
        layout: Where the labels stand: in folders, in a table, or where only a recipe can say.
        label_file: The table, where the labels stand in one; a recipe names it to train by it.
        task: As the labels suggest; null where nothing says the labels.
        images: Those that can be used. Of a sample the rest is taken to be readable.
        labels: Images of each label; a number's name for a regression; none where nothing says the labels.
        splits: Images of each split that the layout gives; none where all are drawn when it is trained on.
        findings: What else there is to know.
    """

    layout: Literal["folders", "table", "files"]
    label_file: str | None
    task: Task | None
    images: int = Field(ge=1)
    labels: dict[str, int]
    splits: dict[Split, int]
    findings: tuple[Finding, ...]


class DatasetCard(Contents):
    """One version of a stored data set.

    Attributes:
        fingerprint: sha256 over the path and the sha256 of every file: labels and splits count, how it was packed does not.
        size_bytes: All files together.
        source: Where it came from, in words.
    """

    schema_version: Literal[1]
    name: Name
    version: Version
    fingerprint: Sha256
    created: datetime
    size_bytes: int = Field(ge=1)
    source: str = Field(max_length=200)

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    def to_bytes(self) -> bytes:
        """UTF-8 JSON with sorted keys."""
        return canonical_json(self)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read `dataset.json`.

        Raises:
            ManifestError: If a key is missing, unknown or out of range.
        """
        return parse_json(cls, data, "dataset.{}".format, "store the data set again")
