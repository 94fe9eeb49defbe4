"""What the page on security says of rights is what the units say, and of links what they insist on."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from certs.authority import Authority
from control.node.identity import Identity
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


@pytest.mark.parametrize(
    ("process", "role"),
    [("control plane", "control"), ("key server", "keyserver"), ("L7 node", "l7"), ("L4 node", "l4")],
)
def test_users_and_capabilities(process: str, role: str) -> None:
    unit = (ROOT / "deploy" / "systemd" / f"paifang-{role}.service").read_text()
    (row,) = re.findall(rf"^\| {process} \| `?([\w-]+)`? \| (none|CAP_.*) \|$", PAGE, re.M)
    (user,) = re.findall(r"^User=(.*)$", unit, re.M)
    (capabilities,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.M)
    assert row == (user, ", ".join(capabilities.split()) or "none")
    assert "NoNewPrivileges=yes\n" in unit
    assert "ProtectSystem=strict\n" in unit
    assert ("MemoryDenyWriteExecute=yes\n" in unit) is (role != "l4")


def test_links_of_the_cluster_are_tls_1_3_with_certificates_of_both_sides(tmp_path: Path) -> None:
    Authority.init(tmp_path / "ca").issue_node("l7", "l7-1").write(tmp_path / "id")
    identity = Identity.load(tmp_path / "id")
    for context in (identity.client_context("keyserver"), identity.server_context({"l7"})):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert "| TLS 1.3, both sides |" in PAGE
