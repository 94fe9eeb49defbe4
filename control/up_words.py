"""What `paifang up` tells its user at the start: what listens where, and how to trust, look at and end it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from control import show
from control.client import default_state
from control.cloud.options import CLOUDS, Served
from control.up_source import Source
from core.acme import challenge_of
from core.endpoints import endpoint
from core.model import Model, Protocol


def listeners(model: Model) -> str:
    """Where what listens, as a table."""
    rows = []
    for listener in model.listeners.values():
        host = (model.instances[listener.instance].vips or ("0.0.0.0",))[0]
        names = [d for name in listener.certificates for d in model.certificates[name].domains]
        shown = next((name for name in names if "*" not in name), "localhost" if host == "0.0.0.0" else host)
        address = f"{listener.protocol.value}://{endpoint(shown, listener.port)}/"
        rows.append((listener.name, address if listener.enabled else "stopped", listener.backend_service))
    return show.table(rows, ("LISTENER", "ADDRESS", "BACKEND SERVICE"))


def help_text(
    source: Source, model: Model, root: Path, api_url: str, token_file: Path, file: Path, served: Sequence[Served] = ()
) -> str:
    """`root`: the state directory."""
    text = _trust(source, model, root)
    state = "" if root == default_state().absolute() else f" --state {root}"
    text += f"\nAPI {api_url}, token in {token_file}; logs in {root}/log\n"
    for each in served:
        api = next(cloud.api for cloud in CLOUDS if cloud.name == each.name)
        text += f"{api} http://{endpoint(*each.address)}, region {each.site.region}\n"
    if served:
        text += f"access key: paifang token access-key{state}\n"
    return f"{text}paifang status{state}; paifang reload{state} reads {file} again; Ctrl-C ends it"


def _trust(source: Source, model: Model, root: Path) -> str:
    developed = [each for each in model.certificates.values() if each.domains]
    https = next((each for each in model.listeners.values() if each.enabled and each.protocol is Protocol.HTTPS), None)
    if not developed or https is None:
        return ""
    name = next((d for each in developed for d in each.domains if "*" not in d), "localhost")
    ask = f"  curl --cacert {root}/ca/ca.pem https://{name}:{https.port}/\n"
    if source.acme is not None:
        way = f"{source.acme.directory}, by {challenge_of(source.acme, source.model)}"
        own = f"development certificates of this machine's own CA, {root}/ca/ca.pem"
        return f"\ncertificates are got from {way}; {own}, stand in until they are there\n{ask}"
    return (
        f"\ndevelopment certificates are signed by this machine's own CA, {root}/ca/ca.pem\n{ask}"
        "  browsers: import that file as an authority; remove it when you no longer use it\n"
    )
