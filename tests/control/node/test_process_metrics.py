from __future__ import annotations

import os
import re
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from control.node import process_metrics
from control.node.metrics import render
from control.node.process_metrics import families, version


def scraped() -> dict[str, float]:
    text = b"".join(render(families("l4", "l4-1"))).decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_the_build() -> None:
    build = next(iter(families("l4", "l4-1")))
    ((values, number),) = build.samples
    assert dict(zip(build.labels, values, strict=True)).items() >= {
        ("version", version()), ("role", "l4"), ("node", "l4-1"),
    }  # fmt: skip
    assert number == 1


def test_the_process_is_this_one() -> None:
    before = scraped()
    spent = time.process_time()
    while time.process_time() < spent + 0.1:
        pass
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    after = scraped()
    for fd in files:
        os.close(fd)
    assert after["process_cpu_seconds_total"] > before["process_cpu_seconds_total"]
    assert after["process_open_fds"] == before["process_open_fds"] + 5 < after["process_max_fds"]
    assert 1 << 20 < after["process_resident_memory_bytes"] < 1 << 36
    assert time.time() - 86400 * 7 < after["process_start_time_seconds"] <= time.time() + 1
    assert after["process_start_time_seconds"] == before["process_start_time_seconds"]
    (booted,) = re.findall(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.M)
    assert abs(process_metrics._boot_s() - int(booted)) < 3
