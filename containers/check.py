"""`make image-check`: build an image for real, look at its files, and run it as a cluster would.

buildah works without a daemon, in a storage of its own that is gone afterwards. Its base is Debian with Python, made once by
debootstrap from the mirror that this machine's apt uses; wheels come from uv's cache, so that the build itself asks no network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containers.audit import findings, size_bytes
from containers.running import RunError, classify, refusal, runs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "var" / "images"
UV = Path(sys.executable).with_name("uv")
# Above the base, in millions of bytes; the trainer's has no limit.
LIMITS_MB = {"cpu": 260, "openvino": 440, "gpu": 2700}
SUITE, PYTHON = "bookworm", "3.11"
_BASE, _BUILD_BASE, _BAKED = "candor-base", "candor-build-base", "candor-baked"
# What the base's image of uv reads: wheels from this machine's cache, and nothing from elsewhere.
_UV_SETTINGS = 'cache-dir = "/uv-cache"\noffline = true\n'


@dataclass(frozen=True)
class Asked:
    """Which image, by the names of the Makefile."""

    image: str
    tag: str
    locks: list[str]

    @property
    def kind(self) -> str:
        """Whether it serves or trains."""
        return "trainer" if self.image == "trainer" else "serve"


class CheckError(Exception):
    """The image is not what it should be, or cannot be built here."""


class Buildah:
    """Debian's buildah with a storage of its own: layers over each other, or whole copies where that cannot be done here."""

    def __init__(self, home: Path) -> None:
        """Keep everything in `home`."""
        self.command = ["buildah", "--root", str(home / "storage"), "--runroot", str(home / "run"), "--storage-driver"]
        has_overlay = subprocess.run([*self.command, "overlay", "info"], capture_output=True, check=False).returncode == 0
        if not has_overlay:
            shutil.rmtree(home, ignore_errors=True)
        self.command.append("overlay" if has_overlay else "vfs")

    def __call__(self, *arguments: str) -> str:
        """Run one command and return what it said.

        Raises:
            CheckError: If it failed.
        """
        return _run([*self.command, *arguments])

    def commit(self, source: str, target: str, *copies: tuple[str, str]) -> None:
        """Make an image of another one, or of nothing, and files."""
        container = self("from", source)
        for file, place in copies:
            self("add", "--quiet", container, file, place)
        self("commit", "--quiet", "--rm", container, target)

    def files(self, image: str) -> Path:
        """Where an image's files lie."""
        return Path(self("mount", self("from", image)))

    def settings(self, image: str) -> dict[str, list[str]]:
        """What an image says of how it is run."""
        return json.loads(self("inspect", "--type", "image", image))["OCIv1"]["config"]


def main() -> int:
    """Build and check one image; 0 where it is right."""
    parser = argparse.ArgumentParser(prog="python -m containers.check", description="Build an image, and check it.")
    for name, text in (("image", "cpu, openvino, gpu or trainer"), ("tag", "its name"), ("locks", "what is installed into it")):
        parser.add_argument(name, help=text)
    given = parser.parse_args()
    try:
        require_tools()
        check(Asked(given.image, given.tag, given.locks.split()))
    except (CheckError, RunError) as err:
        sys.stderr.write(f"{err}\n")
        return 1
    return 0


def require_tools() -> None:
    """Say what is missing here.

    Raises:
        CheckError: If something is.
    """
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing:
        raise CheckError(f"{' and '.join(missing)} not found; apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        raise CheckError("debootstrap and buildah's chroot isolation need root; run this as root, in a container of its own")


def check(asked: Asked) -> None:
    """See the module.

    Raises:
        CheckError: If the image is not what it should be.
    """
    started = time.monotonic()
    base, registry = base_archive(), model_to_bake()
    fetch_wheels(asked.locks)
    with storage() as buildah:
        _say("building", started)
        build(buildah, asked, base)
        bake(buildah, asked.tag, registry)
        image, below = buildah.files(asked.tag), buildah.files(_BASE)
        _say("built; looking at its files", started)
        said = findings(image, below, asked.kind)
        if said:
            raise CheckError(f"{asked.tag} is not as it should be:\n  " + "\n  ".join(said))
        measure(asked, size_bytes(image) - size_bytes(below))
        _say("starting it as its user with a read-only root", started)
        _start(asked, image, buildah)
        _say(f"{asked.tag} is good", started)


def measure(asked: Asked, above_base: int) -> None:
    """Print the size above the base.

    Raises:
        CheckError: If it is over the limit.
    """
    limit = LIMITS_MB.get(asked.image)
    sys.stdout.write(f"{asked.tag}: {above_base / 1e6:.0f} MB above its base" + (f", of at most {limit}\n" if limit else "\n"))
    if limit is not None and above_base > limit * 1e6:
        raise CheckError(f"{asked.tag} is {above_base / 1e6:.0f} MB above its base, over the limit of {limit}")


def mirror(sources: str) -> str | None:
    """Debian's mirror as apt's sources name it, in either of their forms; None where they name none."""
    found = re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+/debian)/?(?=\s|$)", sources, re.MULTILINE)
    return found[1] if found else None


def base_archive() -> Path:
    """Debian with Python, made once.

    Raises:
        CheckError: If it cannot be made.
    """
    archive = WORK / f"{SUITE}.tar"
    if archive.exists():
        return archive
    folder, made = WORK / SUITE, WORK / f"{SUITE}.tar.part"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources = [*Path("/etc/apt").glob("sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    named = mirror("\n".join(path.read_text() for path in sources if path.is_file()))
    sys.stdout.write("making the base image's files with debootstrap (2 minutes, once)\n")
    _run(
        ["debootstrap", "--variant=minbase", "--include=python3,ca-certificates", SUITE, str(folder), *([named] if named else [])]
    )
    for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(folder / cache)
        (folder / cache / "partial").mkdir(parents=True)
    _run(["tar", "--directory", str(folder), "--create", "--file", str(made), "."])
    made.rename(archive)
    shutil.rmtree(folder)
    return archive


def model_to_bake() -> Path:
    """A registry with the pretrained classifier alone, made once, as the documentation says."""
    baked, name = WORK / "baked", "imagenet"
    home = {**os.environ, "CANDOR_HOME": str(WORK), "CANDOR_REGISTRY": ""}
    python = [sys.executable, "-m"]
    if not (WORK / "registry" / name / "aliases").exists():
        _run([*python, "training", "publish-pretrained", "--name", name], home)
    if not (baked / name / "aliases").exists():
        _run([*python, "models", "copy", f"{name}:1", str(baked)], home)
        _run([*python, "models", "promote", f"{name}:1"], {**home, "CANDOR_REGISTRY": str(baked)})
    return baked


def fetch_wheels(locks: list[str]) -> None:
    """Put what the locks name into uv's cache, as the base's Python needs it."""
    target = WORK / "fetched"
    command = [str(UV), "pip", "sync", "--quiet", "--require-hashes", "--python-version", PYTHON, "--target", str(target), *locks]
    try:
        _run(command)
    finally:
        shutil.rmtree(target, ignore_errors=True)


@contextlib.contextmanager
def storage() -> Iterator[Buildah]:
    """A storage for images that is gone at the end."""
    home = WORK / "buildah"
    shutil.rmtree(home, ignore_errors=True)
    buildah = Buildah(home)
    try:
        yield buildah
    finally:
        buildah("umount", "--all")
        shutil.rmtree(home)


def build(buildah: Buildah, asked: Asked, base: Path) -> None:
    """Build the image as a user would, by `make image`, and import what it is built on."""
    settings = WORK / "uv.toml"
    settings.write_text(_UV_SETTINGS)
    buildah.commit("scratch", _BASE, (str(base), "/"))
    buildah.commit(_BASE, _BUILD_BASE, (str(UV), "/usr/local/bin/uv"), (str(settings), "/etc/uv/uv.toml"))
    options = [
        "--isolation",
        "chroot",
        "--build-arg",
        f"BUILD_BASE={_BUILD_BASE}",
        "--volume",
        f"{_run([str(UV), 'cache', 'dir'])}:/uv-cache",
    ]
    variables = {
        "IMAGE": asked.image,
        "BASE": _BASE,
        "BUILDER": shlex.join(buildah.command),
        "BUILD_OPTIONS": shlex.join(options),
    }
    _run(["make", "--no-print-directory", "image", *(f"{name}={value}" for name, value in variables.items())])


def bake(buildah: Buildah, tag: str, registry: Path) -> None:
    """Put a model over the image, as the documentation says."""
    file = ROOT / "containers" / "model.Containerfile"
    buildah("build", "--isolation", "chroot", "-f", str(file), "--build-arg", f"IMAGE={tag}", "-t", _BAKED, str(registry))


def _start(asked: Asked, image: Path, buildah: Buildah) -> None:
    said = refusal(image, buildah.settings(asked.tag))
    if "CANDOR_KEYS" not in said:
        raise CheckError(f"{asked.tag} without keys should have refused to listen beyond loopback; it said: {said}")
    with runs(buildah.files(_BAKED), buildah.settings(_BAKED)) as service:
        sys.stdout.write(f"  ready after {service.ready_s:.1f} s\n")
        if asked.kind == "serve":
            sys.stdout.write(f"  samples/cat.jpg is {classify(service.url, ROOT / 'samples' / 'cat.jpg')}\n")


def _say(what: str, started: float) -> None:
    sys.stdout.write(f"[{time.monotonic() - started:4.0f} s] {what}\n")
    sys.stdout.flush()


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckError(f"{shlex.join(command[:4])} … ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
