"""Texts of files that a configuration names: read where it is read."""

from __future__ import annotations

from pathlib import Path


def text_of(path: Path, most_bytes: int) -> tuple[str, str]:
    """The text of a file, and why there is none."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most_bytes + 1)  # bounded: it might be a device
    except OSError as error:
        return "", f"{path}: {error.strerror}"
    if len(data) > most_bytes:
        return "", f"{path}: is longer than {most_bytes} bytes"
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return "", f"{path}: is not UTF-8 text"
