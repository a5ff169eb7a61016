from __future__ import annotations

import io
import os
import stat
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from models.archive import ArchiveLimits, extract, unpacked
from models.dataset import scan
from models.errors import ContractError, DatasetError, NoSpaceError
from models.recipe import Recipe

SAMPLE = Path(__file__).resolve().parents[3] / "samples" / "fashion-mnist.zip"
Entry = tuple[str | zipfile.ZipInfo, bytes]


def pack(path: Path, *entries: Entry, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def special(name: str, mode: int, content: bytes = b"/etc/passwd") -> Entry:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info, content


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(
    tmp_path: Path, *entries: Entry, limits: ArchiveLimits | None = None, kind: type[ContractError] = DatasetError
) -> str:
    """Refuse to unpack, and leave nothing behind, here or above."""
    path = pack(tmp_path / "data.zip", *entries)
    return refusal_of(path, limits, kind)


def refusal_of(path: Path, limits: ArchiveLimits | None = None, kind: type[ContractError] = DatasetError) -> str:
    here = path.parent
    before = files(here)
    with pytest.raises(kind) as caught:
        extract(path, here / "cache" / "one", limits or ArchiveLimits())
    assert files(here) == before
    assert list((here / "cache").iterdir()) == []
    prefix = f"{path}"
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix).removeprefix(": ")


# --- what is unpacked


def test_images_and_tables_are_written_under_their_names_and_nothing_else_is(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "data.zip",
        ("train/cat/1.JPG", b"cat"),
        ("train/chien été/2.png", b"dog"),
        ("./labels.csv", b"file,label\n"),
        ("train/", b""),
        ("run.sh", b"#!/bin/sh"),
        ("more.zip", b"PK"),
        ("train/cat/.hidden.jpg", b""),
        ("__MACOSX/train/cat/._1.jpg", b""),
        ("no suffix", b""),
    )

    folder = extract(path, tmp_path / "out")

    assert folder == tmp_path / "out"
    assert files(folder) == {"labels.csv": b"file,label\n", "train/cat/1.JPG": b"cat", "train/chien été/2.png": b"dog"}
    assert stat.S_IMODE((folder / "labels.csv").stat().st_mode) & 0o133 == 0, "nothing is executable or writable by others"


@pytest.mark.parametrize(("top", "inside"), [("photos", "photos"), ("train", ""), ("TEST", "")])
def test_a_single_folder_at_the_top_is_entered_unless_it_is_a_split(top: str, inside: str, tmp_path: Path) -> None:
    path = pack(tmp_path / "data.zip", (f"{top}/cat/1.jpg", b"1"), (f"{top}/dog/1.jpg", b"1"), ("readme.txt", b""))

    assert extract(path, tmp_path / "out") == tmp_path / "out" / inside


def test_the_sample_is_unpacked_into_the_cache_once_and_scanned(tmp_path: Path) -> None:
    folder = unpacked(SAMPLE, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    assert folder.name == "fashion-mnist"
    assert len(list((tmp_path / "zips").iterdir())) == 1
    assert len(scan(folder, Recipe()).items) == 4200
    assert unpacked(SAMPLE, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written


def test_what_is_no_zip_by_name_or_no_file_is_left_to_the_scan(tmp_path: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    for path in (tmp_path / "folder.zip", tmp_path / "gone.zip", tmp_path):
        assert unpacked(path, tmp_path / "cache") == path
    assert not (tmp_path / "cache").exists()


def test_the_cache_goes_by_content(tmp_path: Path) -> None:
    one = pack(tmp_path / "data.zip", ("cat/1.jpg", b"1"), ("dog/1.jpg", b"1"))
    first = unpacked(one, tmp_path / "cache")
    pack(one, ("cat/1.jpg", b"2"), ("dog/1.jpg", b"1"))

    assert unpacked(one, tmp_path / "cache") != first
    assert files(first)["cat/1.jpg"] == b"1"


def test_many_at_once_unpack_into_one_folder(tmp_path: Path) -> None:
    path = pack(tmp_path / "data.zip", *((f"cat/{number}.jpg", b"x" * 1000) for number in range(200)), ("dog/1.jpg", b"1"))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(unpacked(path, tmp_path / "cache"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 6
    assert len(set(found)) == 1
    assert len(files(found[0])) == 201
    assert len(list((tmp_path / "cache" / "zips").iterdir())) == 1


# --- what is refused


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "a/..", "/x.jpg", "//x.jpg", "C:/x.jpg", "c:x.jpg", "a/../x.jpg"])
def test_a_path_that_leads_outside_refuses_the_archive(name: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, ("cat/1.jpg", b"1"), (name, b"1")) == f"{name!r} leads outside the archive; expected paths inside it"


@pytest.mark.parametrize("name", ["a\\x.jpg", "..\\x.jpg", "a//x.jpg", "a/\n.jpg", "\x7f.jpg", "a/ \x1b[2J.jpg"])
def test_a_name_that_means_different_things_elsewhere_refuses_the_archive(name: str, tmp_path: Path) -> None:
    assert "is no path that can be written" in refusal(tmp_path, ("cat/1.jpg", b"1"), (name, b"1"))


def test_a_zero_byte_in_a_name_is_seen_though_zipfile_cuts_it_off(tmp_path: Path) -> None:
    path = pack(tmp_path / "data.zip", ("cat/1.jpg", b"1"), ("cat/2.jpgX.txt", b"1"))
    path.write_bytes(path.read_bytes().replace(b"cat/2.jpgX.txt", b"cat/2.jpg\x00.txt"))

    assert "is no path that can be written" in refusal_of(path)


@pytest.mark.parametrize("name", ["x" * 252 + ".jpg", "é" * 126 + ".jpg", "a/" * 16 + "x.jpg"])
def test_a_name_that_is_too_long_or_too_deep_refuses_the_archive(name: str, tmp_path: Path) -> None:
    assert "is too long; expected 16 folders and 255 bytes a name at most" in refusal(tmp_path, (name, b"1"))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_refuse_the_archive(mode: int, tmp_path: Path) -> None:
    message = refusal(tmp_path, ("cat/1.jpg", b"1"), special("cat/2.jpg", mode))

    assert message == "'cat/2.jpg' is a link or a device; expected plain files"


def test_modes_do_not_make_files_executable_or_devices_of_what_other_systems_packed(tmp_path: Path) -> None:
    plain, odd = special("cat/1.jpg", stat.S_IFREG | 0o7777, b"1"), special("cat/2.jpg", stat.S_IFLNK | 0o777, b"2")
    assert isinstance(odd[0], zipfile.ZipInfo)
    odd[0].create_system = 0
    folder = extract(pack(tmp_path / "data.zip", plain, odd), tmp_path / "out")

    assert files(folder) == {"1.jpg": b"1", "2.jpg": b"2"}
    assert {stat.S_IMODE(path.stat().st_mode) & 0o7133 for path in folder.iterdir()} == {0}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["cat/1.jpg", "./cat/1.jpg", "cat/./1.jpg"])
def test_a_name_that_is_there_twice_refuses_the_archive(again: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, ("cat/1.jpg", b"1"), (again, b"2")) == f"{again!r} is in it twice; expected one file of a name"


def test_a_name_of_a_file_and_of_a_folder_refuses_the_archive(tmp_path: Path) -> None:
    assert refusal(tmp_path, ("cat.jpg/1.jpg", b"1"), ("cat.jpg", b"2")) == "'cat.jpg' is a file and a folder in it"


def test_an_encrypted_file_refuses_the_archive(tmp_path: Path) -> None:
    path = pack(tmp_path / "data.zip", ("cat/1.jpg", b"1"))
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)

    assert refusal_of(path) == "'cat/1.jpg' is encrypted; make the zip without a password"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_compressing_refuse_the_archive(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w", method) as archive:
        archive.writestr("cat/1.jpg", b"1" * 100)

    assert refusal_of(tmp_path / "data.zip") == f"'cat/1.jpg' is compressed by method {method}; expected stored or deflated files"


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, ("notes.txt", b"1")).startswith("it holds no images; expected .bmp")
    assert refusal(tmp_path).startswith("it holds no images")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + b"\0" * 10, b"\x89PNG\r\n\x1a\n" * 100])
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(content)

    assert "is no zip that can be read" in refusal_of(tmp_path / "data.zip")


def test_a_zip_that_is_cut_or_altered_is_refused_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    contents = [os.urandom(50) for _ in range(3)]
    packed = pack(tmp_path / "whole.zip", *((f"cat/{number}.jpg", content) for number, content in enumerate(contents)))
    whole = packed.read_bytes()
    broken = tmp_path / "data" / "data.zip"
    broken.parent.mkdir()
    unpacked_anyway = 0
    for position in range(0, len(whole), 3):
        for data in (whole[:position], whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]):
            broken.write_bytes(data)
            target = tmp_path / "cache" / f"{position}-{len(data)}"
            try:
                extract(broken, target)
                unpacked_anyway += 1
            except DatasetError:
                assert not target.exists()
    # Times, modes and versions may be anything; no file's content may.
    assert all(content in contents for folder in (tmp_path / "cache").iterdir() for content in files(folder).values())
    assert unpacked_anyway < len(whole) / 3


# --- limits


def test_too_many_entries_refuse_the_archive_even_if_none_of_them_is_wanted(tmp_path: Path) -> None:
    entries = [(f"{number}.txt", b"") for number in range(11)]

    assert refusal(tmp_path, *entries, limits=ArchiveLimits(entries=10)) == "it has 11 entries; at most 10 are accepted"


def test_a_directory_is_not_read_that_would_hold_more_entries_than_are_accepted(tmp_path: Path) -> None:
    entries = [(f"{number:05}{'x' * 200}.txt", b"") for number in range(4500)]

    message = refusal(tmp_path, *entries, limits=ArchiveLimits(entries=10))

    assert message.startswith("its directory takes ")
    assert message.endswith(" bytes; at most 1048576 are accepted")


def test_one_file_may_not_be_too_large(tmp_path: Path) -> None:
    limits = ArchiveLimits(file_bytes=1000)

    assert extract(pack(tmp_path / "good.zip", ("cat/1.jpg", bytes(1000))), tmp_path / "out", limits)
    message = refusal(tmp_path / "out", ("cat/1.jpg", bytes(1001)), limits=limits)
    assert message == "'cat/1.jpg' is larger than 1000 bytes, the limit for one file"


def test_all_files_together_may_not_be_too_large(tmp_path: Path) -> None:
    entries = [(f"cat/{number}.jpg", os.urandom(400)) for number in range(3)]

    message = refusal(tmp_path, *entries, limits=ArchiveLimits(total_bytes=1199))

    assert message == "it unpacks to more than 1199 bytes, the limit for all files together"


def test_a_bomb_is_refused_by_what_it_becomes(tmp_path: Path) -> None:
    entries = [(f"cat/{number}.bmp", bytes(9 << 20)) for number in range(8)]

    assert refusal(tmp_path, *entries) == "it unpacks to more than 100 times its size, as no images do"


def test_an_archive_that_hides_its_size_unpacks_to_no_more_than_it_says(tmp_path: Path) -> None:
    path = pack(tmp_path / "data.zip", ("cat/1.bmp", bytes(1 << 20)))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(data)

    assert "is no zip that can be read" in refusal_of(path)


def test_entries_that_share_their_bytes_are_counted_for_each(tmp_path: Path) -> None:
    """Many names for one compressed kernel: small, and each entry alone is within every limit."""
    path = pack(tmp_path / "data.zip", *((f"cat/{number:02}.bmp", bytes(9 << 20)) for number in range(8)))
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first, second = archive.infolist()[:2]
        directory = archive.start_dir
    kernel, entries = data[: second.header_offset], bytearray(data[directory:])
    position = 0
    while (position := entries.find(b"PK\x01\x02", position)) >= 0:
        entries[position + 42 : position + 46] = struct.pack("<I", first.header_offset)
        position += 46
    entries[-6:-2] = struct.pack("<I", len(kernel))
    path.write_bytes(kernel + entries)

    assert refusal_of(path) == "it unpacks to more than 100 times its size, as no images do"


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=99))

    said = refusal(tmp_path, ("cat/1.jpg", bytes(100)), kind=NoSpaceError)
    assert said == f"it unpacks to 100 bytes, and {tmp_path / 'cache'} has 99 free; make room, or split it"
