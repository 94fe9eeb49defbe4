"""Collections of garbage are rare in the processes that hold configurations."""

import subprocess
import sys


def test_a_process_that_relaxes_collects_seldom_and_leaves_what_it_has_loaded() -> None:
    code = (
        "import gc; from control.node import collector; before = len(gc.get_objects()); collector.relax();"
        "print(gc.isenabled(), gc.get_threshold() == collector.THRESHOLDS, gc.get_freeze_count() >= before)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert told.split() == ["True", "True", "True"]
