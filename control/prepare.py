"""A configuration file made ready for the control plane: chains inlined, paths of keys taken out.

Paths in a file are relative to the file. The control plane gets public text only; which key files there were is told to
the caller, who may own a key server (`paifang up`) or tell the user to look after one (`paifang apply`). A chain that
no node would ever serve is an error here, with its line; one that has expired, or is not valid yet, is a warning: it is
no reason to refuse a change to anything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from certs.ca_bundle import BundleReport, inspect_bundle
from certs.chain import inspect
from control import prepare_maps, prepare_pages
from control.material import AUTHORITIES, INLINE_KEY, key_errors
from control.several import Joined, join, listed
from core import acme, shared_ports
from core.acme import Acme
from core.config import load_file, to_dict
from core.errors import ConfigError, ConfigErrors
from core.lines import scan
from core.model import CaCertificate, Certificate, Kind, Model
from core.syntax import Format

FILE_LIMIT_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration file that has been read, and its text, which gives messages their lines."""

    file: Path
    model: Model
    text: str
    format: Format
    acme: Acme | None = None
    joined: Joined | None = None

    def acme_error(self, field: str, why: str, remedy: str = "") -> ConfigError:
        """A fault of the `acme` table, or of one of its fields."""
        path = (acme.TABLE, field) if field else (acme.TABLE,)
        line = scan(self.text, self.format).line(path)
        return self._placed(ConfigError(str(self.file), line, ".".join(path), why, remedy))

    def error(self, kind: Kind, name: str, field: str, why: str, remedy: str = "") -> ConfigError:
        """A fault of a field of an object of the model; without a field, of the object."""
        # The model has the file's order; what shorthand has made comes after it.
        index = list(self.model.of(kind)).index(name)
        line = scan(self.text, self.format).line((kind.value, index, field) if field else (kind.value, index))
        place = f"{kind.value}.{name}" + (f".{field}" if field else "")
        return self._placed(ConfigError(str(self.file), line, place, why, remedy))

    def _placed(self, error: ConfigError) -> ConfigError:
        return error if self.joined is None else self.joined.placed(error)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model for the control plane, the key file of each certificate that had one, and what is wrong for now only.

    acme: the file's table, its path absolute. notes: what is not wrong and might be better.
    """

    model: Model
    keys: Mapping[str, Path]
    warnings: tuple[ConfigError, ...] = ()
    acme: Acme | None = None
    notes: tuple[ConfigError, ...] = ()


def read(*paths: Path) -> Document:
    """A TOML file, a JSON file if its name says so, or several TOML files as one; a directory stands for its files.

    Raises ConfigErrors with all that is wrong.
    """
    files = listed(paths)
    texts = [_read(file) for file in files]
    file, text = files[0], texts[0]
    joined = join(files, texts) if len(files) > 1 else None
    if joined is not None:
        text = joined.text
    format: Format = "json" if file.suffix == ".json" else "toml"
    try:
        found = load_file(text, path=str(file), format=format)
        errors = key_errors(json.loads(json.dumps(to_dict(found.model))), str(file))
        if errors:
            line = text.count("\n", 0, text.index("PRIVATE KEY")) + 1
            raise ConfigErrors(replace(error, line=line) for error in errors)
    except ConfigErrors as error:
        raise error if joined is None else joined.errors(error.errors) from None
    return Document(file, found.model, text, format, found.acme, joined)


def _read(file: Path) -> str:
    """Raises ConfigErrors."""
    data = b""
    try:
        with file.open("rb") as stream:
            data = stream.read(FILE_LIMIT_BYTES + 1)  # bounded: it might be a device
        text = data.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        remedy = "make it readable for this user" if isinstance(error, PermissionError) else "give a TOML or JSON file"
        raise _error(file, 0, error.strerror or "cannot be read", remedy) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(file, line, f"byte {data[error.start]:#04x} is not UTF-8", "save it as UTF-8 text") from None
    if len(data) > FILE_LIMIT_BYTES:
        raise _error(file, 0, f"is longer than {FILE_LIMIT_BYTES} bytes", "give a TOML or JSON file")
    return text


def inline(document: Document) -> Prepared:
    """The file's model with each file's text in its place and no `key_file`. Raises ConfigErrors for useless ones."""
    errors: list[ConfigError] = []
    warnings: list[ConfigError] = []
    keys: dict[str, Path] = {}
    certificates = dict(document.model.certificates)
    for name, certificate in document.model.certificates.items():
        field = "chain_file" if certificate.chain_file else "chain"
        chain, why = _chain(certificate, document.file.parent)
        problems = [(why, "give a file of PEM certificates, the leaf first")] if why else list(_problems(chain))
        errors += [document.error(Kind.CERTIFICATES, name, field, why, remedy) for why, remedy in problems]
        if not problems:
            warnings += [document.error(Kind.CERTIFICATES, name, field, text) for text in _for_now(chain)]
        if certificate.key_file:
            keys[name] = document.file.parent / certificate.key_file
        certificates[name] = replace(certificate, chain=chain, chain_file="", key_file="")
    authorities = _inline_authorities(document, errors, warnings)
    maps, notes = prepare_maps.inline(document, errors)
    with_pages = prepare_pages.inline(document, errors)
    settings = _locate(document, errors)
    if errors:
        raise ConfigErrors(errors)
    model = replace(with_pages, certificates=certificates, ca_certificates=authorities, redirect_maps=maps)
    of_several = [
        document.error(Kind.LISTENERS, name, "", why, shared_ports.REMEDY) for name, why in shared_ports.shared(model)
    ]
    return Prepared(model, keys, tuple(warnings), settings, (*notes, *of_several))


def _locate(document: Document, errors: list[ConfigError]) -> Acme | None:
    """The file's `acme` table with an absolute path; adds what is wrong with the file there."""
    settings = document.acme
    if settings is None or not settings.directory_ca_file:
        return settings
    text, why = _text(settings.directory_ca_file, "", document.file.parent)
    if not why:
        try:
            x509.load_pem_x509_certificates(text.encode())
        except ValueError as error:
            why = f"not PEM certificates: {error}"
    if why:
        remedy = "give a file of the CAs that vouch for the ACME server itself"
        errors.append(document.acme_error("directory_ca_file", why, remedy))
    return replace(settings, directory_ca_file=str((document.file.parent / settings.directory_ca_file).absolute()))


def _inline_authorities(
    document: Document, errors: list[ConfigError], warnings: list[ConfigError]
) -> dict[str, CaCertificate]:
    """The model's `ca_certificates` without files; adds what is wrong with them."""
    made = {}
    for name, given in document.model.ca_certificates.items():
        bundle, bundle_why = _text(given.bundle_file, given.bundle, document.file.parent)
        crl, crl_why = _text(given.crl_file, given.crl, document.file.parent)
        report = BundleReport()
        if not bundle_why and not crl_why:
            report = inspect_bundle(bundle, crl, datetime.now(UTC))
        for field, why, problems, for_now in (
            ("bundle", bundle_why, report.problems, report.for_now),
            ("crl", crl_why, report.problems_crl, report.for_now_crl),
        ):
            field = f"{field}_file" if getattr(given, f"{field}_file") else field
            faults = [(why, "give a file of PEM text")] if why else [(text, AUTHORITIES) for text in problems]
            errors += [document.error(Kind.CA_CERTIFICATES, name, field, text, remedy) for text, remedy in faults]
            for text in for_now:
                late = f"{text}; no client of it is admitted while that is so"
                warnings.append(document.error(Kind.CA_CERTIFICATES, name, field, late))
        made[name] = replace(given, bundle=bundle, bundle_file="", crl=crl, crl_file="")
    return made


def _chain(certificate: Certificate, directory: Path) -> tuple[str, str]:
    """The certificate's chain as text, and why it cannot be read."""
    return _text(certificate.chain_file, certificate.chain, directory)


def _text(file: str, text: str, directory: Path) -> tuple[str, str]:
    """The PEM text of a file, or the one given without, and why it cannot be read."""
    if not file:
        return text, ""
    path = directory / file
    try:
        text = path.read_text("ascii")
    except OSError as error:
        return "", f"{path}: {error.strerror}"
    except UnicodeDecodeError:
        return "", f"{path}: is not PEM text"
    return text, "" if "-----BEGIN" in text else f"{path}: holds no certificate"


def _problems(chain: str) -> Iterator[tuple[str, str]]:
    """Why no node will ever serve a chain, and what to do about it."""
    if "PRIVATE KEY-----" in chain:
        yield INLINE_KEY
    elif chain:
        yield from ((problem, "no node serves it like this") for problem in inspect(chain, _within(chain)).problems)


def _for_now(chain: str) -> Iterator[str]:
    """Why nodes do not serve a sound chain today."""
    if chain:
        for problem in inspect(chain, datetime.now(UTC)).problems:
            yield f"{problem}; no node serves it while that is so"


def _within(chain: str) -> datetime:
    """A time at which all certificates of a chain are valid, if there is one."""
    try:
        return max(each.not_valid_before_utc for each in x509.load_pem_x509_certificates(chain.encode()))
    except ValueError:
        return datetime.now(UTC)  # it cannot be read at all, as `inspect` will say


def _error(file: Path, line: int, why: str, remedy: str) -> ConfigErrors:
    return ConfigErrors([ConfigError(str(file), line, "", why, remedy)])
