"""A Docker engine of one's own, for machines that have none: Debian's packages in a private directory, ended and
removed with it. Root; nothing is installed into the system, and no rule of its firewall is touched.

Debian 12's docker.io knows no CAP_BPF, so the engine comes from the next release; its runc is Debian 12's, which fits
the kernel interfaces of both. No registry is needed: the base image is what debootstrap makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUITE, BASE_SUITE = "trixie", "bookworm"
PACKAGES = ("docker.io", "docker-cli", "docker-compose", "docker-buildx", "containerd")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
BASE_IMAGE = "debian:bookworm-slim"
START_S = 60.0
END_S = 30.0


class EngineError(Exception):
    """There is no engine to be had; the text says why."""


def present() -> bool:
    """Whether an engine answers already."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@contextmanager
def private(root: Path) -> Iterator[dict[str, str]]:
    """An engine below `root`, with the base image; the environment by which `docker` finds it. Raises EngineError."""
    _say(f"no Docker engine answers: one from Debian's packages is set up below {root}, for this test alone")
    _get(root)
    environment = {
        **os.environ,
        "HOME": str(root / "home"),
        "DOCKER_HOST": f"unix://{root}/docker.sock",
        "PATH": f"{root}/root/usr/bin:{root}/root/usr/sbin:{os.environ['PATH']}:/usr/sbin:/sbin",
    }
    options = ["--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "--pidfile", f"{root}/docker.pid"]
    options += ["--host", environment["DOCKER_HOST"], "--bridge=none", "--ip-masq=false", "--ip-forward=false"]
    options += ["--iptables=false", "--ip6tables=false"]
    with (root / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd", *options], env=environment, stdout=log, stderr=log)
    try:
        _await(daemon, environment, root)
        _base_image(root, environment)
        yield environment
    finally:
        daemon.terminate()
        try:
            daemon.wait(END_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _get(root: Path) -> None:
    """The packages, unpacked below `root`/root."""
    for name in ("state/lists/partial", "cache/archives/partial", "root", "packages", "data", "exec"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    plugins = root / "home/.docker"
    plugins.mkdir(parents=True, exist_ok=True)
    _apt(root, SUITE, PACKAGES)
    _apt(root, BASE_SUITE, ("runc",))
    for package in sorted((root / "packages").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root / "root")])
    if not (plugins / "cli-plugins").exists():
        (plugins / "cli-plugins").symlink_to(root / "root/usr/libexec/docker/cli-plugins")


def _apt(root: Path, suite: str, packages: tuple[str, ...]) -> None:
    source, settings = root / f"{suite}.list", root / f"{suite}.conf"
    source.write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    settings.write_text(
        f'Dir::Etc::sourcelist "{source}"; Dir::Etc::sourceparts "-"; Dir::State "{root}/state"; '
        f'Dir::State::status "{root}/status"; Dir::Cache "{root}/cache"; APT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(settings)}
    _run(["apt-get", "update", "-q"], env=environment)
    _run(["apt-get", "download", "-q", *packages], env=environment, cwd=root / "packages")


def _await(daemon: subprocess.Popen[bytes], environment: dict[str, str], root: Path) -> None:
    deadline = time.monotonic() + START_S
    while subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            end = (root / "dockerd.log").read_text(errors="replace").splitlines()[-5:]
            raise EngineError("the engine does not start:\n" + "\n".join(end))
        time.sleep(0.2)


def _base_image(root: Path, environment: dict[str, str]) -> None:
    tree = root / "base"
    _say(f"base image {BASE_IMAGE} from debootstrap")
    _run(["debootstrap", "--variant=minbase", BASE_SUITE, str(tree), MIRROR])
    shutil.rmtree(tree / "var/cache/apt/archives")
    shutil.rmtree(tree / "var/lib/apt/lists")
    with subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE) as tar:
        _run(["docker", "import", "-", BASE_IMAGE], env=environment, stdin=tar.stdout)


def _run(argv: list[str], **how: object) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **how)  # type: ignore[call-overload]
    if done.returncode:
        raise EngineError(f"`{' '.join(argv[:3])} …` failed:\n{done.stdout[-1500:]}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
