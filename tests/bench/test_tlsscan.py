"""What the two scanners' reports come to; and what sslyze says of every policy now."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.tlsscan import (
    DEFAULT,
    EXPLAINED,
    SUPPLIED,
    Finding,
    by_sslyze,
    of_sslyze,
    of_testssl,
    rows,
    start,
)
from core.model import TlsPolicy

PAGE = (Path(__file__).parent.parent.parent / "docs" / "tls.md").read_text()


def line(id: str, severity: str = "INFO", finding: str = "") -> dict[str, str]:
    return {"id": id, "ip": "scan.test/127.0.0.1", "port": "4433", "severity": severity, "finding": finding}


def test_a_report_of_testssl_without_what_is_of_the_machine() -> None:
    report = [line("engine_problem", "WARN"), line("TLS1", "INFO", "not offered"), line("cert_notAfter <cert#1>", "OK")]
    report += [line("LUCKY13", "LOW", "CBC"), line("scanTime", "INFO", "85")]
    assert of_testssl(report) == [Finding("TLS1", "INFO", "not offered"), Finding("LUCKY13", "LOW", "CBC")]


@pytest.mark.parametrize("report", [[], [line("TLS1")], [line("TLS1"), line("scanProblem", "FATAL"), line("scanTime")]])
def test_a_scan_that_was_cut_short(report: list[dict[str, str]]) -> None:
    with pytest.raises(RuntimeError, match="cut short"):
        of_testssl(report)


def sslyze_report(**results: Any) -> dict[str, Any]:
    scans = {name: {"status": "COMPLETED", "result": result} for name, result in results.items()}
    return {"server_scan_results": [{"connectivity_error_trace": None, "scan_result": scans}]}


COMPLIANT = " COMPLIANCE AGAINST TLS CONFIGURATION\n\n    scan.test:4433: OK - Compliant.\n"
FAILED = """ COMPLIANCE AGAINST TLS CONFIGURATION
    scan.test:4433: FAILED - Not compliant.
        * ciphers: Cipher suites {'TLS_B', 'TLS_A'} are supported, but should be rejected.
"""


def test_a_report_of_sslyze() -> None:
    report = sslyze_report(
        tls_1_2_cipher_suites={"accepted_cipher_suites": [{"cipher_suite": {"name": each}} for each in "ba"]},
        heartbleed={"is_vulnerable_to_heartbleed": False},
        robot={"robot_result": "NOT_VULNERABLE_NO_ORACLE"},
    )
    assert of_sslyze(report, COMPLIANT) == [
        Finding("mozilla_intermediate", "OK", "compliant"),
        Finding("heartbleed is_vulnerable_to_heartbleed", "INFO", "false"),
        Finding("robot robot_result", "INFO", '"NOT_VULNERABLE_NO_ORACLE"'),
        Finding("tls_1_2_cipher_suites", "INFO", "a, b"),
    ]


@pytest.mark.parametrize(
    ("results", "name"),
    [
        ({"heartbleed": {"is_vulnerable_to_heartbleed": True}}, "heartbleed"),
        ({"robot": {"robot_result": "VULNERABLE_WEAK_ORACLE"}}, "robot"),
        ({"certificate_info": {"certificate_deployments": [{"path_validation_results": []}]}}, "certificate_info"),
        (
            {
                "certificate_info": {
                    "certificate_deployments": [
                        {
                            "path_validation_results": [
                                {"trust_store": {"name": SUPPLIED}, "verified_certificate_chain": None}
                            ]
                        }
                    ]
                }
            },
            "certificate_info",
        ),
    ],
    ids=["heartbleed", "robot", "no trust store", "untrusted"],
)
def test_what_sslyze_objects_to_counts(results: dict[str, Any], name: str) -> None:
    assert [(each.name, each.severity) for each in of_sslyze(sslyze_report(**results), COMPLIANT) if each.counts] == [
        (name, "HIGH")
    ]


def test_what_is_not_mozillas_configuration_counts_in_the_same_words_each_time() -> None:
    (found,) = [each for each in of_sslyze(sslyze_report(), FAILED) if each.counts]
    text = "Cipher suites TLS_A, TLS_B are supported, but should be rejected."
    assert found == Finding("mozilla_ciphers", "MEDIUM", text)


def test_a_scan_of_sslyze_that_failed() -> None:
    with pytest.raises(RuntimeError, match="no verdict"):
        of_sslyze(sslyze_report(), "")
    report = sslyze_report(robot={})
    report["server_scan_results"][0]["scan_result"]["robot"] |= {
        "status": "ERROR", "error_reason": "TIMEOUT", "error_trace": "",
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="robot: ERROR"):
        of_sslyze(report, COMPLIANT)


def test_findings_that_nobody_has_explained() -> None:
    found = [Finding("cipher_order", "HIGH", ""), Finding("RC4 <x>", "CRITICAL", ""), Finding("TLS1", "INFO", "")]
    assert [row.value for row in rows(DEFAULT, "testssl.sh", found)] == [2, 1]
    assert [row.value for row in rows(TlsPolicy.TLS_1_3, "testssl.sh", found)] == [2, 2]


def test_the_page_explains_what_is_explained() -> None:
    """In a table: the finding, and the policies for which it comes."""
    told: dict[str, set[str]] = {}
    for names, policies in re.findall(
        r"^\| (`[\w`, ]+`) \| ([^|]+) \|", PAGE.partition("## What scanners say")[2], re.M
    ):
        for name in re.findall(r"`(\w+)`", names):
            told[name] = set(re.findall(r"`(\w+)`", policies)) or {str(policy) for policy in TlsPolicy}
    assert told == {
        name: {str(policy) for policy in TlsPolicy if name in EXPLAINED[policy]}
        for name in frozenset().union(*EXPLAINED.values())
    }


def test_what_sslyze_says_of_every_policy(tmp_path: Path) -> None:
    """At a real node with a real key server: the default policy is clean, the others are as the page says."""
    with ExitStack() as stack:
        for policy, port in start(stack, tmp_path, [*TlsPolicy]).items():
            counted = {each.name for each in by_sslyze(port, tmp_path) if each.counts}
            assert counted == ({"mozilla_ciphers"} if policy is TlsPolicy.TLS_1_2 else set()), policy
