"""Labels from a CSV with a row an image: which columns say what, and which file each row means.

A row can only ever name a file that the walk over the data set has found, so that no CSV reads anything outside it.
"""

from __future__ import annotations

import csv
import io
import os.path
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import DatasetError
from models.layouts import SPLIT_FOLDERS, Layout, Row, Skipped, walk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.recipe import Recipe
    from models.splits import Split

IMAGE_COLUMNS = (
    "file", "filename", "file_name", "filepath", "file_path", "path", "image", "images", "image_path", "image_name",
    "image_id", "image_file", "img", "img_path", "fname",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "class", "classes", "class_name", "tag", "tags", "category", "categories", "target", "value",
)  # fmt: skip
# What is taken for the image where no column is called as above.
LAST_RESORT = "id"
DELIMITERS = ",;\t"
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})


@dataclass(frozen=True)
class _Table:
    """A CSV as it stands: `rows` holds the number of each row's last line, and its values."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def where(self, line: int) -> str:
        return f"line {line} of {self.path.name}"


def by_label_file(root: Path, path: Path, recipe: Recipe) -> Layout:
    """Label each file below `root` by its row in the CSV at `path`.

    Raises:
        DatasetError: If the CSV cannot be read, if it is not clear which column says what, if a row points outside `root`,
            or if no row names a file that is there.
    """
    table = _read(path)
    image, split = _image_column(table, recipe), _split_column(table)
    others = [column for column in table.columns if column not in {image, split}]
    columns = _yes_no_columns(table, others) if recipe.task == "multi_label" and recipe.label_column is None else ()
    label = None if columns else _label_column(table, others, recipe)
    files, unusable = walk(root)
    finder = _Finder(root, path.parent, files, table)
    rows: list[Row] = []
    missing: list[Skipped] = []
    for line, values in table.rows:
        named = dict(zip(table.columns, values, strict=True))
        inside = finder.inside(named[image], line)
        found = finder.find(inside, line)
        if found is None:
            missing.append(Skipped(root / inside, f"{table.where(line)} names it, and there is no such image"))
            continue
        labels = tuple(one for one in columns if _is_yes(named[one])) if label is None else (named[label],)
        rows.append(Row(found, labels, _split_of(table, line, split, named), table.where(line)))
    if not rows:
        raise DatasetError(
            f"{path}: column {image!r} names no image that is below {root}, as {table.rows[0][1][table.columns.index(image)]!r}; "
            "pass image_column if another column has the paths"
        )
    listed = {row.path for row in rows}
    known = {entry.path for entry in unusable}
    skipped = [*unusable, *(entry for entry in missing if entry.path not in known)]
    skipped += [Skipped(file, f"is not listed in {path.name}") for file in files if file not in listed]
    skipped = [entry for entry in skipped if entry.path != path]
    return Layout(root, tuple(rows), tuple(skipped), label, columns, (_columns_note(path, image, label, columns, split),))


def _columns_note(path: Path, image: str, label: str | None, columns: Sequence[str], split: str | None) -> str:
    said = f"labels from {label!r}" if label else f"a label from each of the {len(columns)} columns of 0 and 1"
    return f"{path.name}: images from {image!r}, {said}, " + (f"splits from {split!r}" if split else "no column of splits")


def _read(path: Path) -> _Table:
    """Read the whole file, with the delimiter that gives its first line most columns.

    Raises:
        DatasetError: If it is missing, not UTF-8, not a CSV with a header and rows, or if a row has too few or many values.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as err:
        raise DatasetError(f"label_file {path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise DatasetError(f"label_file {path} is not UTF-8 (byte {err.start}); save it as CSV in UTF-8") from err
    try:
        delimiter = max(DELIMITERS, key=lambda one: len(next(_reader(text, one), [])))
        table = _parse(path, text, delimiter)
    except csv.Error as err:
        raise DatasetError(f"label_file {path} is no CSV: {err}") from err
    if len(table.columns) < 2 or not table.rows:
        raise DatasetError(
            f"label_file {path} has {len(table.columns)} columns and {len(table.rows)} rows; expected a header that names "
            "two columns or more (image and label), and a row an image"
        )
    repeated = [name for name in table.columns if table.columns.count(name) > 1 or not name]
    if repeated:
        raise DatasetError(f"label_file {path} has two columns called {repeated[0]!r}, or one without a name; rename one")
    for line, values in table.rows:
        if len(values) != len(table.columns):
            raise DatasetError(f"{table.where(line)} has {len(values)} values, expected {len(table.columns)}, as the header has")
    return table


def _reader(text: str, delimiter: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)


def _parse(path: Path, text: str, delimiter: str) -> _Table:
    reader = _reader(text, delimiter)
    header = tuple(name.strip() for name in next(reader, []))
    rows = tuple((reader.line_num, tuple(value.strip() for value in row)) for row in reader if any(row))
    return _Table(path, header, rows)


def _image_column(table: _Table, recipe: Recipe) -> str:
    if recipe.image_column is not None:
        return _named(table, recipe.image_column, "image_column")
    found = _called(table.columns, IMAGE_COLUMNS) or _called(table.columns, (LAST_RESORT,))
    if len(found) != 1:
        raise DatasetError(
            f"label_file {table.path}: {_list(found) or 'no column'} could be the image's path; its columns are "
            f"{_list(table.columns)}. Pass image_column"
        )
    return found[0]


def _label_column(table: _Table, others: Sequence[str], recipe: Recipe) -> str:
    """The column that was asked for, the one with a usual name, or the only one that is left."""
    if recipe.label_column is not None:
        return _named(table, recipe.label_column, "label_column")
    found = _called(others, LABEL_COLUMNS) or (list(others) if len(others) == 1 else [])
    if len(found) == 1:
        return found[0]
    hint = ", or task=multi_label, since all of them are 0 and 1" if _yes_no_columns(table, others) else ""
    raise DatasetError(
        f"label_file {table.path}: {_list(found) or 'no column by a usual name'} could be the label; its columns are "
        f"{_list(table.columns)}. Pass label_column{hint}"
    )


def _split_column(table: _Table) -> str | None:
    found = _called(table.columns, ("split", "is_valid"))
    if len(found) > 1:
        raise DatasetError(f"label_file {table.path} has {_list(found)}; expected one column that says the split")
    return found[0] if found and any(values[table.columns.index(found[0])] for _, values in table.rows) else None


def _split_of(table: _Table, line: int, column: str | None, named: dict[str, str]) -> Split | None:
    if column is None:
        return None
    value = named[column].lower()
    if column.lower() == "is_valid" and value in _TRUE | _FALSE:
        return "validation" if value in _TRUE else "train"
    if column.lower() == "split" and value in SPLIT_FOLDERS:
        return SPLIT_FOLDERS[value]
    expected = ", ".join(SPLIT_FOLDERS) if column.lower() == "split" else "true or false"
    raise DatasetError(f"{table.where(line)} has {named[column]!r} in {column!r}; expected {expected}")


def _named(table: _Table, name: str, key: str) -> str:
    if name not in table.columns:
        raise DatasetError(f"label_file {table.path} has no column {name!r} ({key}); its columns are {_list(table.columns)}")
    return name


def _called(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for column in columns if column.lower().replace(" ", "_") in names]


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _yes_no_columns(table: _Table, columns: Sequence[str]) -> tuple[str, ...]:
    """All of `columns`, if there are several and each holds only 0 and 1 (or -1 and 1): a column a label."""
    for column in columns:
        at = table.columns.index(column)
        if not {values[at] for _, values in table.rows} <= {"0", "1", "-1", "0.0", "1.0", "-1.0"}:
            return ()
    return tuple(columns) if len(columns) > 1 else ()


def _is_yes(value: str) -> bool:
    return float(value) == 1


class _Finder:
    """Which of the files that were found below the root a row means."""

    def __init__(self, root: Path, beside: Path, files: Sequence[Path], table: _Table) -> None:
        self._root = root
        self._bases = (root, beside)
        self._table = table
        self._files = set(files)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for file in files:
            self._by_name[file.name].append(file)
            self._by_stem[file.stem].append(file)

    def inside(self, value: str, line: int) -> str:
        """The path below the root that a row has, spelt plainly.

        Raises:
            DatasetError: If it is empty, or leads outside the root.
        """
        if not value:
            raise DatasetError(f"{self._table.where(line)} names no image")
        path = os.path.normpath(value.replace("\\", "/"))
        if path.startswith("/"):
            path = os.path.relpath(path, self._root.absolute())
        if path.split("/")[0] == "..":
            raise DatasetError(f"{self._table.where(line)} names {value!r}, which is outside {self._root}; expected a path in it")
        return path

    def find(self, path: str, line: int) -> Path | None:
        """The file at `path` below the root or beside the CSV, else the only one whose path ends so, suffix or not.

        Raises:
            DatasetError: If several files fit.
        """
        for base in self._bases:
            if (exact := base / path) in self._files:
                return exact
        *folders, name = path.split("/")
        for called in (self._by_name, self._by_stem):
            fitting = [file for file in called.get(name, []) if file.parts[-len(folders) - 1 : -1] == tuple(folders)]
            if len(fitting) > 1:
                names = " and ".join(repr(str(file.relative_to(self._root))) for file in fitting[:2])
                raise DatasetError(f"{self._table.where(line)} names {path!r}, which fits {names}; give the whole path")
            if fitting:
                return fitting[0]
        return None
