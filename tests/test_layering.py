"""The arrows of the architecture, read from the imports of every file."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "l4fast", "proxy", "keyserver", "certs", "control", "deploy", "bench")

# What each package may import of ours besides itself. The longest matching prefix of the importer decides.
MAY_IMPORT = {
    "core": (),
    "control.node": ("core",),
    "control": ("core", "certs"),
    "certs": ("core", "control.node"),
    "keyserver": ("core", "certs", "control.node"),
    "l4fast": ("core", "control.node"),
    "proxy": ("core", "control.node", "keyserver.client", "keyserver.protocol", "keyserver.errors"),
    "deploy": ("core", "certs", "control.node"),
    "bench": PACKAGES,
}
# Modules of `core` are pure; so are these. They may not import what reaches outside the process.
PURE = (
    "core",
    "bench.faults.bills",
    "bench.faults.events",
    "bench.faults.promises",
    "certs.chain",
    "certs.inventory",
    "certs.ocsp",
    "certs.report",
    "control.alibaba.access_lists",
    "control.alibaba.actions",
    "control.alibaba.backends",
    "control.alibaba.balancers",
    "control.alibaba.call",
    "control.alibaba.certificates",
    "control.alibaba.domains",
    "control.alibaba.errors",
    "control.alibaba.health",
    "control.alibaba.instances",
    "control.alibaba.listener_forms",
    "control.alibaba.listeners",
    "control.alibaba.marks",
    "control.alibaba.parameters",
    "control.alibaba.reference",
    "control.alibaba.regions",
    "control.alibaba.rendering",
    "control.alibaba.rules",
    "control.alibaba.servers",
    "control.alibaba.services",
    "control.alibaba.signature",
    "control.alibaba.tagging",
    "control.audit_chain",
    "control.cloud.access_keys",
    "control.cloud.action",
    "control.cloud.certificates",
    "control.cloud.draft",
    "control.cloud.errors",
    "control.cloud.extensions",
    "control.cloud.given",
    "control.cloud.health",
    "control.cloud.marks",
    "control.cloud.nonces",
    "control.cloud.reference",
    "control.cloud.signing",
    "control.cloud.site",
    "control.jdcloud.actions",
    "control.jdcloud.ags",
    "control.jdcloud.backends",
    "control.jdcloud.balancers",
    "control.jdcloud.call",
    "control.jdcloud.certificates",
    "control.jdcloud.errors",
    "control.jdcloud.extensions",
    "control.jdcloud.forms",
    "control.jdcloud.groups",
    "control.jdcloud.listeners",
    "control.jdcloud.policies",
    "control.jdcloud.reference",
    "control.jdcloud.rules",
    "control.jdcloud.signature",
    "control.jdcloud.url_maps",
    "control.doctor",
    "control.exporter",
    "control.limits",
    "control.roles",
    "control.token_format",
    "control.token_record",
    "control.metering",
    "keyserver.acme_plan",
    "l4fast.sync_codec",
    "l4fast.problems",
    "l4fast.snapshot",
    "l4fast.sync_ends",
    "l4fast.sync_keys",
    "l4fast.sync_peer",
    "l4fast.sync_peers",
    "l4fast.sync_records",
    "l4fast.sync_status",
    "l4fast.sync_window",
    "proxy.actions",
    "proxy.balance",
    "proxy.bills",
    "proxy.body",
    "proxy.census",
    "proxy.exporter",
    "proxy.log_shape",
    "proxy.meters",
    "proxy.conditions",
    "proxy.errors",
    "proxy.head",
    "proxy.memory",
    "proxy.message",
    "proxy.policy",
    "proxy.rules",
    "proxy.headers",
    "proxy.moves",
    "proxy.names",
    "proxy.exchange",
    "proxy.commands",
    "proxy.lane",
    "proxy.keys",
    "proxy.pool",
    "proxy.dialects",
    "proxy.h2_events",
    "proxy.h2_frames",
    "proxy.h2_message",
    "proxy.h2_session",
    "proxy.hpack",
    "proxy.http1",
    "proxy.http2",
    "proxy.sticky",
    "proxy.tally",
    "proxy.totals",
    "proxy.traffic",
    "keyserver.protocol",
    "keyserver.messages",
    "keyserver.bodies",
    "keyserver.policy",
    "keyserver.grants",
    "keyserver.chains",
)
IMPURE = {"asyncio", "socket", "ssl", "time", "random", "secrets", "os", "pathlib", "subprocess", "threading", "uvloop"}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every imported module with its line; `from a import b` counts as `a.b`, which `a` covers as a prefix."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def allowed(importer: str, imported: str) -> bool:
    owner = max((package for package in MAY_IMPORT if within(importer, package)), key=len)
    return within(imported, owner) or any(within(imported, target) for target in MAY_IMPORT[owner])


@pytest.mark.parametrize(("name", "path"), [pytest.param(n, p, id=n) for n, p in modules()])
def test_imports_follow_the_arrows(name: str, path: Path) -> None:
    ours = [(line, target) for line, target in imports(path) if target.split(".")[0] in PACKAGES]
    wrong = [f"{path}:{line}: {name} imports {target}" for line, target in ours if not allowed(name, target)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "path"),
    [pytest.param(n, p, id=n) for n, p in modules() if any(within(n, pure) for pure in PURE)],
)
def test_pure_modules_reach_nothing_outside(name: str, path: Path) -> None:
    wrong = [f"{path}:{line}: {name} imports {t}" for line, t in imports(path) if t.split(".")[0] in IMPURE]
    assert not wrong, "\n".join(wrong)
    if within(name, "core"):
        foreign = [
            f"{path}:{line}: {name} imports {target}"
            for line, target in imports(path)
            if target.split(".")[0] not in sys.stdlib_module_names and not within(target, "core")
        ]
        assert not foreign, "\n".join(foreign)


def test_only_the_compiler_imports_bcc() -> None:
    users = {name for name, path in modules() for _, target in imports(path) if target.split(".")[0] == "bcc"}
    assert users == {"l4fast.compiler"}


def test_the_check_can_fail() -> None:
    assert not allowed("core.model", "proxy.head.parse")
    assert not allowed("proxy.conn", "control.store.Store")
    assert not allowed("control.node.link", "control.store.Store")
    assert allowed("proxy.tls", "keyserver.client.KeyClient")
    assert allowed("l4fast.agent", "control.node.link.ControlLink")
