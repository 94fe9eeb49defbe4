"""`paifang install`: one of Paifang's processes as a systemd service of this machine.

It checks what the machine lacks, asks what only the machine's owner knows (on a terminal), writes the unit, its options
and its sysctls, makes the users, and says what comes next. Doing it again changes what is new; what others have
put into /etc/paifang is kept unless options are given.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from control.node.files import write_atomic
from deploy.install import plan
from deploy.install.plan import ROLES, Keep, Role

TEMPLATES = Path(__file__).resolve().parents[1] / "systemd"
EXAMPLES = """examples:
  paifang install control --nodes 10.0.0.5:8471 --identity ./control-id --start
  paifang install keyserver --listen 10.0.0.6:8473 --identity ./key-1 --start
  paifang install l7 --name l7-1 --control https://10.0.0.5:8471 --keyserver 10.0.0.6:8473 --identity ./l7-1 --start
  paifang install l4 --name l4-1 --control https://10.0.0.5:8471 --interface eth0 --vip vrrp \\
      --identity ./l4-1 --cluster-key ./cluster.key --start
  paifang install l7 … --dry-run                what it would write and run
  paifang install l7 … -- --workers 4           further options of `paifang l7`
  paifang install l7 --remove                   stops it and takes its unit away; configuration and state stay

Changes of a unit: systemctl edit paifang-l7. Options: /etc/paifang/l7.conf. Logs: journalctl -u paifang-l7.
"""
START_S = 30
MOST_RESTARTS = 2


class InstallError(Exception):
    """This machine cannot be set up like that; the text has the remedy."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="paifang install",
        description="Sets one of Paifang's processes up as a systemd service of this machine (root).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    roles = top.add_subparsers(dest="role", required=True, metavar="ROLE")
    for role in ROLES.values():
        one = roles.add_parser(role.name, help=f"paifang {role.name} as {role.unit}")
        for question in role.questions:
            value = question.example.format(role=role.name)
            one.add_argument(question.option, metavar="VALUE", nargs="+" if question.option == "--keyserver" else None,
                             help=f"{question.what}, such as {value}")  # fmt: skip
        for keep in role.keeps:
            one.add_argument(keep.option, type=Path, metavar="PATH", help=f"is copied; {keep.how}")
        one.add_argument("--start", action="store_true", help="start it, and wait until it serves")
        one.add_argument("--dry-run", action="store_true", help="say what would be written and run, and do nothing")
        one.add_argument("--remove", action="store_true", help="stop it and take its unit away")
        one.add_argument("--root", type=Path, default=Path("/"), metavar="DIR",
                         help="write below DIR, as for an image, and run nothing")  # fmt: skip
        one.add_argument("more", nargs="*", metavar="-- OPTIONS", help=f"further options of `paifang {role.name}`")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    role = ROLES[options.role]
    try:
        if options.remove:
            _remove(role, options.root, options.dry_run)
        else:
            _install(role, options)
    except InstallError as error:
        print(f"paifang install: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"paifang install: {error.filename or ''}: {error.strerror}; run it as root", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _install(role: Role, options: argparse.Namespace) -> None:
    here = options.root == Path("/")
    configuration = options.root / role.configuration
    answers = {question.option: _said(options, question.option) for question in role.questions}
    kept = configuration.read_text() if configuration.exists() else ""
    bin_directory = str(Path(sys.executable).parent)
    if here and (why := _lacking(role, answers, bin_directory)):
        raise InstallError(why)
    try:
        if kept and not any(answers.values()) and not options.more:
            text = kept
        else:
            if sys.stdin.isatty() and not options.dry_run:
                answers = _asked(role, answers)
            text = plan.configuration_of(role, plan.words_of(role, answers, options.more))
    except ValueError as error:
        raise InstallError(str(error)) from None
    templates = {path.name: path.read_text() for path in TEMPLATES.iterdir() if path.is_file()}
    for name, content in plan.files_of(role, bin_directory, templates, text).items():
        _write(options.root / name, content, options.dry_run)
    run = _Runner(options.dry_run or not here)
    run("systemd-sysusers", f"/{plan.SYSUSERS}")
    run("install", "-d", "-m", "0700", "-o", role.user, f"/{role.state}")
    for keep in role.keeps:
        _keep(role, keep, getattr(options, keep.option[2:].replace("-", "_")), run)
    if f"{role.name}.sysctl" in templates:
        run("sysctl", "-q", "-p", f"/etc/sysctl.d/60-paifang-{role.name}.conf")
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--quiet", role.unit)
    if not here or options.dry_run:
        return
    if options.start:
        print(f"{role.unit} {_start(role)}\njournalctl -u {role.unit} has its log")
    else:
        print(f"next: systemctl start {role.unit}")


def _said(options: argparse.Namespace, option: str) -> str:
    value = getattr(options, option[2:].replace("-", "_"))
    return " ".join(value) if isinstance(value, list) else value or ""


def _asked(role: Role, answers: dict[str, str]) -> dict[str, str]:
    """The answers, with those that were not given asked for."""
    for question in role.questions:
        if not answers[question.option]:
            example = question.default or f"such as {question.example.format(role=role.name)}"
            answers[question.option] = input(f"{question.what} [{example}]: ").strip()
    return answers


def _lacking(role: Role, answers: dict[str, str], bin_directory: str) -> str:
    """What this machine lacks, with the remedy; empty if nothing."""
    if os.geteuid() != 0:
        return "services are set up by root: run it with sudo"
    if why := plan.out_of_sight(bin_directory):
        return why
    if not Path("/run/systemd/system").is_dir():
        return "systemd does not run here; --root DIR writes the files for another machine, --dry-run shows them"
    if role.needs_bcc and importlib.util.find_spec("bcc.table" if importlib.util.find_spec("bcc") else "bcc") is None:
        return (
            "BCC's Python module is missing: apt install python3-bpfcc linux-libc-dev, and a virtual environment with "
            "--system-site-packages"
        )
    programs = [*role.programs, *filter(None, [plan.ANNOUNCERS.get(answers.get("--vip", ""))])]
    packages = [package for program, package in programs if shutil.which(program, path=_path()) is None]
    return f"missing here: apt install {' '.join(packages)}" if packages else ""


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _write(path: Path, content: str, dry_run: bool) -> None:
    if path.exists() and path.read_text() == content:
        return
    print(f"{'would write' if dry_run else 'writes'} {path}")
    if dry_run:
        print("".join(f"    {line}\n" for line in content.splitlines() if line and not line.startswith("#")), end="")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.encode(), mode=0o644)


class _Runner:
    """Runs commands of the system, or says what it would run."""

    def __init__(self, only_says: bool) -> None:
        self._only_says = only_says

    def __call__(self, *argv: str) -> None:
        if self._only_says:
            print(f"would run {' '.join(argv)}")
            return
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InstallError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")


def _keep(role: Role, keep: Keep, source: Path | None, run: _Runner) -> None:
    """Copy a file or directory with secrets to where the process has it, for its user alone."""
    target = Path("/", role.state, keep.name)
    if source is None and keep.random and not target.exists():
        with tempfile.NamedTemporaryFile() as made:  # for its owner only
            made.write(base64.b64encode(os.urandom(48)) + b"\n")
            made.flush()
            run("install", "-m", "0600", "-o", role.user, made.name, str(target))
        print(f"{target}: made; {keep.how}")
    elif source is None:
        if not target.exists():
            print(f"to be put at {target}, for {role.user} alone: {keep.how}")
    elif not source.exists():
        raise InstallError(f"{source}: is not there; {keep.how}")
    elif source.is_dir():
        run("install", "-d", "-m", "0700", "-o", role.user, str(target))
        for file in sorted(source.iterdir()):
            run("install", "-m", "0600", "-o", role.user, str(file), str(target / file.name))
    else:
        run("install", "-m", "0600", "-o", role.user, str(source), str(target))


def _start(role: Role) -> str:
    """Start it anew and wait until it serves, or runs without being able to. What it does then; raises InstallError
    with the end of its log if it ends."""
    subprocess.run(["systemctl", "restart", "--no-block", role.unit], check=True)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        time.sleep(0.2)
        shown = _output("systemctl", "show", "-p", "ActiveState,SubState,NRestarts", role.unit)
        state = dict(line.partition("=")[::2] for line in shown.splitlines())
        if state["ActiveState"] == "active":
            return "serves"
        if state["ActiveState"] == "failed" or int(state["NRestarts"]) >= MOST_RESTARTS:
            log = _output("journalctl", "-u", role.unit, "-n", "15", "--no-pager", "-o", "cat")
            raise InstallError(f"{role.unit} ends again and again. The end of its log:\n{log}")
    last = _output("journalctl", "-u", role.unit, "-n", "1", "--no-pager", "-o", "cat").strip()
    return f"runs, and does not serve yet; it last said: {last}"


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _remove(role: Role, root: Path, dry_run: bool) -> None:
    run = _Runner(dry_run or root != Path("/"))
    unit = root / plan.UNITS / role.unit
    if not unit.exists():
        raise InstallError(f"{unit}: is not there; nothing to remove")
    run("systemctl", "disable", "--now", "--quiet", role.unit)
    for path in (unit, root / f"etc/sysctl.d/60-paifang-{role.name}.conf"):
        print(f"{'would remove' if dry_run else 'removes'} {path}")
        if not dry_run:
            path.unlink(missing_ok=True)
    run("systemctl", "daemon-reload")
    print(f"kept: {root / role.configuration} and {root / role.state}")


if __name__ == "__main__":
    sys.exit(main())
