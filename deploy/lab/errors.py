"""Errors of the lab.

LabError            what the user reads as one line; the exit code is 1
└─ UsageError       what was asked for cannot be; the exit code is 2
"""


class LabError(Exception):
    """The lab cannot do it; the text says why and, where there is one, the remedy."""


class UsageError(LabError):
    """Wrong arguments, missing rights or missing programs."""
