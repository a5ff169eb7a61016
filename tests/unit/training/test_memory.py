from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from training.memory import available_bytes

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def machine(tmp_path: Path, free_gib: int, group: str = "0::/\n") -> tuple[Path, Path]:
    write(tmp_path / "proc", meminfo=f"MemTotal:       99 kB\nMemAvailable:   {free_gib << 20} kB\nHugePages_Total:       0\n")
    write(tmp_path / "proc" / "self", cgroup=group)
    return tmp_path / "proc", tmp_path / "cgroup"


def second(folder: Path, most: str, used_gib: int, cache_gib: int) -> None:
    used, cache = used_gib * GIB, cache_gib * GIB
    write(folder, memory__max=most, memory__current=f"{used}\n", memory__stat=f"anon 5\ninactive_file {cache}\n")


def test_here_and_now_there_is_some() -> None:
    assert 10 << 20 < available_bytes() < 1 << 50


def test_without_a_limit_it_is_what_the_machine_has_left(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 8)
    second(cgroups, "max\n", 3, 1)

    assert available_bytes(proc, cgroups) == 8 * GIB


def test_a_container_has_its_limit_less_what_is_used_and_cannot_be_dropped(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 8)
    second(cgroups, f"{4 * GIB}\n", 3, 1)

    assert available_bytes(proc, cgroups) == 2 * GIB


def test_the_strictest_group_above_the_process_counts(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 8, "0::/pod/container\n")
    second(cgroups / "pod", f"{5 * GIB}\n", 4, 0)
    second(cgroups / "pod" / "container", f"{4 * GIB}\n", 1, 0)
    second(cgroups / "other", f"{GIB}\n", 1, 0)

    assert available_bytes(proc, cgroups) == GIB


def test_the_first_version_of_groups_is_read_too(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 8, "9:cpu:/job\n4:memory:/job\n")
    write(
        cgroups / "memory" / "job",
        memory__limit_in_bytes=f"{6 * GIB}",
        memory__usage_in_bytes=f"{5 * GIB}",
        memory__stat=f"total_inactive_file {GIB}\n",
    )

    assert available_bytes(proc, cgroups) == 2 * GIB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    proc, cgroups = machine(tmp_path, 8)
    second(cgroups, f"{GIB}", 2, 0)

    assert available_bytes(proc, cgroups) == 0


@pytest.mark.parametrize("meminfo", [None, "MemTotal: 99 kB\n", "MemAvailable: many kB\n", "nonsense\n"])
def test_where_the_kernel_does_not_say_half_of_all_memory_is_assumed(meminfo: str | None, tmp_path: Path) -> None:
    import os

    if meminfo is not None:
        write(tmp_path / "proc", meminfo=meminfo)

    expected = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    assert available_bytes(tmp_path / "proc", tmp_path / "cgroup") == expected
