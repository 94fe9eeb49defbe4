"""What would be done about an answer, which nobody has yet: the part of proxy/explain_way.py on the way back."""

from __future__ import annotations

from typing import Final

from core.explain import Explanation, Place
from core.fields import Kind
from core.model import Listener, Rule
from proxy.exchange import Exchange
from proxy.message import CHUNKED

_KIND: Final = b"text/html"


class _Page:
    """An answer as most servers give one."""

    def values(self, name: bytes) -> list[bytes]:
        return [_KIND] if name == b"content-type" else []


def say_pages(told: Explanation, exchange: Exchange, listener: Listener, rule: Rule | None, status: int = 0) -> None:
    """In what form the client gets an error, of this status; 0: which answers of servers give way to a page."""
    answering = exchange.what_answers_become
    pages = answering.pages if answering is not None else None
    if answering is None or pages is None:
        return
    place = Place(Kind.LISTENERS, listener.name, "error_pages")
    if rule is not None and rule.error_pages:
        place = Place(Kind.RULES, rule.name, "error_pages")
    accepts = exchange.head.values(b"accept")
    if status:
        page = pages.page(status, accepts)
        kind = page.kind.decode("ascii") if page is not None else ""
        text = f"the page for {page.status}, of {kind}" if page is not None else "none is for it that the client reads"
        told.say("error page", text, place)
        return
    taken = sorted({page.status for pages in answering.error_pages for page in pages if page.servers})
    if taken:
        told.say("error page", f"in place of its server's answers of {', '.join(taken)}", place)


def say_compression(told: Explanation, exchange: Exchange, listener: Listener, rule: Rule | None) -> None:
    """Whether a page would be compressed for this client, where anything is."""
    answering = exchange.what_answers_become
    if answering is None or answering.compressing is None:
        return
    own = rule is not None and rule.compression is not None
    place = Place(Kind.RULES, rule.name, "compression") if own and rule is not None else \
        Place(Kind.LISTENERS, listener.name, "compression")  # fmt: skip
    settings = answering.compressing.settings
    fate = answering.compressing.fate(exchange.compression_case, 200, CHUNKED, _Page())
    types = ", ".join(settings.types[:3]) + ", …" * (len(settings.types) > 3)
    fit = f"of {types} from {settings.min_bytes} bytes on"
    if fate is None:
        told.say("compression", f"answers {fit} are compressed; a page of text/html is not among them", place)
    elif fate.coding is not None:
        told.say("compression", f"answers {fit} are compressed for this client by {fate.coding}", place)
    else:
        told.say("compression", f"an answer {fit} is not compressed: {fate.why}", place)
