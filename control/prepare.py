"""A configuration file made ready for the control plane: chains inlined, paths of keys taken out.

Paths in a file are relative to the file. The control plane gets public text only; which key files there were is told to
the caller, who may own a key server (`paifang up`) or tell the user to look after one (`paifang apply`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from control.material import chain_errors, key_errors
from core.config import load, to_dict
from core.errors import ConfigError, ConfigErrors
from core.model import Model

FILE_LIMIT_BYTES = 1 << 24


def read(file: Path) -> Model:
    """The model of a TOML file, or of a JSON file if its name says so. Raises ConfigErrors with all that is wrong."""
    try:
        data = file.read_bytes()
        if len(data) > FILE_LIMIT_BYTES:
            raise _error(file, "", f"is longer than {FILE_LIMIT_BYTES} bytes")
        text = data.decode()
    except OSError as error:
        raise _error(file, "", error.strerror or "cannot be read") from None
    except UnicodeDecodeError as error:
        raise _error(file, "", f"is not UTF-8 (byte {error.start})") from None
    model = load(text, path=str(file), format="json" if file.suffix == ".json" else "toml")
    errors = key_errors(json.loads(json.dumps(to_dict(model))), str(file))
    if errors:
        raise ConfigErrors(errors)
    return model


def inline(model: Model, file: Path) -> tuple[Model, Mapping[str, Path]]:
    """(the model with each `chain_file` as `chain` and no `key_file`, the key file of each certificate that had one).

    Raises ConfigErrors for chains that cannot be read.
    """
    errors: list[ConfigError] = []
    keys: dict[str, Path] = {}
    certificates = dict(model.certificates)
    for name, certificate in model.certificates.items():
        chain = certificate.chain
        if certificate.chain_file:
            path = file.parent / certificate.chain_file
            try:
                chain = path.read_text("ascii")
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "is not PEM text"
                errors.append(ConfigError(str(file), 0, f"certificates.{name}.chain_file", f"{path}: {why}"))
        if certificate.key_file:
            keys[name] = file.parent / certificate.key_file
        certificates[name] = replace(certificate, chain=chain, chain_file="", key_file="")
    inlined = replace(model, certificates=certificates)
    errors += key_errors(to_dict(inlined), str(file))
    errors += chain_errors(inlined, str(file))
    if errors:
        raise ConfigErrors(errors)
    return inlined, keys


def _error(file: Path, place: str, why: str) -> ConfigErrors:
    return ConfigErrors([ConfigError(str(file), 0, place, why)])
