"""Pictures of a campaign: memory and descriptors of each process over time, faults as lines."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from bench.faults.campaign import Result

INCHES, DOTS = (9.0, 7.0), 80


def plot(result: Result, path: Path) -> None:
    """Writes a PNG."""
    import matplotlib  # takes half a second, and is of the extra `bench`

    matplotlib.use("agg")
    from matplotlib import pyplot

    times: dict[str, list[float]] = defaultdict(list)
    rss: dict[str, list[float]] = defaultdict(list)
    files: dict[str, list[float]] = defaultdict(list)
    for sample in result.samples:
        times[sample.process].append(sample.at - result.began)
        rss[sample.process].append(sample.rss_mib)
        files[sample.process].append(sample.files)
    figure, (upper, lower) = pyplot.subplots(2, 1, sharex=True, figsize=INCHES, layout="constrained")
    for process in sorted(times):
        upper.plot(times[process], rss[process], linewidth=1, label=process)
        lower.plot(times[process], files[process], linewidth=1)
    for axis, what in ((upper, "RSS, MiB"), (lower, "open descriptors")):
        axis.set_ylabel(what)
        axis.set_ylim(bottom=0)
        for fault in result.struck:
            axis.axvline(fault.struck - result.began, color="0.8", linewidth=0.6, zorder=0)
    lower.set_xlabel("seconds; a grey line is a fault")
    upper.legend(fontsize=6, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.3))
    figure.savefig(path, dpi=DOTS)
    pyplot.close(figure)
