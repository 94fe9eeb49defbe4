"""What a machine needs to run one of Paifang's processes under systemd: files, users, words. Pure.

The units in deploy/systemd are the truth; what they leave open is where `paifang` is (`@BIN@`) and, in
/etc/paifang/ROLE.conf, the options that differ from machine to machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIGURATION = "etc/paifang"
UNITS = "etc/systemd/system"
SYSUSERS = "etc/sysusers.d/paifang.conf"
HIDDEN = ("/home/", "/root/", "/run/user/")  # ProtectHome=yes


@dataclass(frozen=True, slots=True)
class Question:
    """An option of the process that a machine has to answer for itself. `default` may be empty: there is none."""

    option: str
    what: str
    example: str
    default: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True)
class Keep:
    """A file or directory that is copied into the state as `name`; if `random`, it is made where none is given."""

    option: str
    name: str
    how: str
    random: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """One process as a service."""

    name: str
    user: str
    questions: tuple[Question, ...]
    keeps: tuple[Keep, ...] = ()
    programs: tuple[tuple[str, str], ...] = ()  # what it runs, and the Debian package that has it
    needs_bcc: bool = False

    @property
    def unit(self) -> str:
        return f"paifang-{self.name}.service"

    @property
    def state(self) -> str:
        return f"var/lib/paifang-{self.name}"

    @property
    def configuration(self) -> str:
        return f"{CONFIGURATION}/{self.name}.conf"


_NAME = Question("--name", "this node's name in the configuration", "{role}-1")
_CONTROL = Question("--control", "the control plane's node API", "https://10.0.0.5:8471")


def _identity(role: str) -> Keep:
    how = f"`paifang certs issue CADIR --role {role} --name NAME --out DIR` makes one, where the CA is"
    return Keep("--identity", "identity", how)


_TICKETS = Keep(
    "--ticket-secret", "ticket-secret", "what session tickets come from; all key servers have the same", random=True
)
_CLUSTER_KEY = Keep(
    "--cluster-key", "cluster.key", "`paifang l4 --make-cluster-key FILE` makes one; all L4 nodes have the same"
)
_NODES = Question(
    "--nodes", "where the nodes reach it (empty: all is on this machine)", "10.0.0.5:8471", required=False
)
_API = Question("--api", "the users' REST API", "127.0.0.1:8470", "127.0.0.1:8470")
_LISTEN = Question("--listen", "where the L7 nodes reach it", "10.0.0.6:8473")
_KEY_SERVERS = Question(
    "--keyserver", "key servers, for https (several: blanks between)", "10.0.0.6:8473", required=False
)
_INTERFACE = Question("--interface", "where traffic comes in and goes out", "eth0")
_VIP = Question("--vip", "who announces the VIPs: static, vrrp or bgp", "vrrp", "static")

ROLES: Mapping[str, Role] = {
    role.name: role
    for role in (
        Role("control", "paifang-control", (_NODES, _API), (_identity("control"),)),
        Role("keyserver", "paifang-keyserver", (_LISTEN,), (_identity("keyserver"), _TICKETS)),
        Role("l7", "paifang-l7", (_NAME, _CONTROL, _KEY_SERVERS), (_identity("l7"),)),
        Role(
            "l4",
            "root",
            (_NAME, _CONTROL, _INTERFACE, _VIP),
            (_identity("l4"), _CLUSTER_KEY),
            (("ip", "iproute2"),),
            needs_bcc=True,
        ),
    )
}

ANNOUNCERS = {"vrrp": ("keepalived", "keepalived"), "bgp": ("birdc", "bird2")}


def words_of(role: Role, answers: Mapping[str, str], more: Sequence[str]) -> list[str]:
    """The options for the process, from the answers by option and what was said besides. Raises ValueError with the
    options that are missing."""
    words: list[str] = []
    missing = []
    for question in role.questions:
        said = answers.get(question.option, "") or question.default
        if said:
            values = said.split() if question.option == "--keyserver" else [said]
            words += [question.option, *values]
        elif question.required and question.option not in more:
            example = question.example.format(role=role.name)
            missing.append(f"{question.option} {example}  ({question.what})")
    if missing:
        raise ValueError("give " + "; ".join(missing))
    if role.name == "control" and "--nodes" in words:
        words += ["--identity", f"/{role.state}/identity"]
    if role.name == "keyserver":
        words += ["--identity", f"/{role.state}/identity"]
    return [*words, *more]


def configuration_of(role: Role, words: Sequence[str]) -> str:
    """The text of /etc/paifang/ROLE.conf (systemd.exec(5), EnvironmentFile=). Raises ValueError for odd words."""
    if odd := [word for word in words if set(word) & set(" \t\n\"'\\")]:
        raise ValueError(f"{odd[0]!r}: a word of a unit's options may have no blanks, quotes or backslashes")
    return (
        f"# Options of {role.unit}, besides those that stand in the unit: paifang {role.name} --help\n"
        f'OPTIONS="{" ".join(words)}"\n'
    )


def files_of(role: Role, bin_directory: str, templates: Mapping[str, str], configuration: str) -> dict[str, str]:
    """The files that are written, by their paths below the root directory."""
    files = {
        f"{UNITS}/{role.unit}": templates[role.unit].replace("@BIN@", bin_directory),
        SYSUSERS: templates["paifang.sysusers"],
        role.configuration: configuration,
    }
    if (settings := templates.get(f"{role.name}.sysctl")) is not None:
        files[f"etc/sysctl.d/60-paifang-{role.name}.conf"] = settings
    return files


def out_of_sight(bin_directory: str) -> str:
    """Why a service could not run the programs of that directory, with the remedy; empty if it could."""
    if not f"{bin_directory}/".startswith(HIDDEN):
        return ""
    return (
        f"services do not see {bin_directory}: install it for all, as root, in a clone of the project: "
        "`python3 -m venv --system-site-packages /opt/paifang && /opt/paifang/bin/pip install .`, "
        "then use /opt/paifang/bin/paifang"
    )
