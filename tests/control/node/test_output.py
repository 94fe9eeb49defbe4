import subprocess
import sys


def test_what_is_left_to_print_is_dropped_without_a_complaint() -> None:
    code = "from control.node.output import drop_output; print('x' * 100); {}"
    with open("/dev/full", "w") as full:
        ends = [
            subprocess.run(
                [sys.executable, "-E", "-c", code.format(last)], stdout=full, stderr=subprocess.PIPE, check=False
            )
            for last in ("drop_output()", "pass")
        ]
    assert (ends[0].returncode, ends[0].stderr) == (0, b"")
    assert ends[1].returncode == 120  # what Python does by itself
