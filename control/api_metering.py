"""What listeners have used, for bills: `GET /v1/metering`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Final

from aiohttp import web

from control.handling import PLANE
from control.metering import COLUMNS, DAY_HOURS, By, Query, hour_of, time_of
from control.metering_keep import BusyError, TooMuchError
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, asked, text
from core.fields import Name, Pattern
from core.usage import HOUR_S

CSV: Final = "csv"
FORMATS: Final = ("json", CSV)
HEADER: Final = ("time", "instance", "listener", *COLUMNS)
WRITTEN_AT_ONCE: Final = 2000  # rows
Row = tuple[str, str, str, Sequence[int]]
Time = Annotated[str, Pattern(r"[-0-9T:.Z+ ]{10,32}", "a date, or a full hour such as 2026-11-20T13:00Z, in UTC")]


async def get_metering(request: web.Request) -> web.StreamResponse:
    keep = request.app[PLANE].metering
    query = _query(request, keep.now())
    try:
        sums = await keep.ask(query)
    except TooMuchError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    except BusyError as error:
        raise web.HTTPServiceUnavailable(text=str(error)) from None
    as_csv = asked(request)["format"] == CSV
    response = web.StreamResponse(headers={"Cache-Control": "no-store"})
    response.content_type = "text/csv" if as_csv else "application/json"
    await response.prepare(request)
    pieces = _csv if as_csv else _json
    for piece in pieces(query, sums.answer()):
        await response.write(piece.encode())
    await response.write_eof()
    return response


def _query(request: web.Request, now: float) -> Query:
    """Raises HTTPBadRequest."""
    given = asked(request)
    by = By(text(request, "by"))
    today = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        start = hour_of(str(given["from"] or today.replace(day=1).isoformat()))
        end = hour_of(str(given["to"])) if given["to"] else (int(today.timestamp()) // HOUR_S + DAY_HOURS)
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    if start >= end:
        raise web.HTTPBadRequest(text=f"from {time_of(start)} is not before to {time_of(end)}")
    if by is not By.HOUR and (start % DAY_HOURS or end % DAY_HOURS):
        raise web.HTTPBadRequest(text=f"by={by} takes whole days (of UTC); by=hour takes hours")
    return Query(start, end, by, str(given["instance"]), str(given["listener"]))


def _json(query: Query, rows: Iterator[Row]) -> Iterator[str]:
    yield f'{{"from":"{time_of(query.start)}","to":"{time_of(query.end)}","by":"{query.by}","rows":['
    separator = ""
    for some in _some(rows):
        documents = [dict(zip(HEADER, (*row[:3], *row[3]), strict=True)) for row in some]
        yield separator + json.dumps(documents, separators=(",", ":"))[1:-1]
        separator = ","
    yield "]}\n"


def _csv(_: Query, rows: Iterator[Row]) -> Iterator[str]:
    yield ",".join(HEADER) + "\r\n"
    for some in _some(rows):
        out = io.StringIO()
        csv.writer(out).writerows((*row[:3], *row[3]) for row in some)
        yield out.getvalue()


def _some(rows: Iterator[Row]) -> Iterator[list[Row]]:
    return iter(lambda: list(islice(rows, WRITTEN_AT_ONCE)), [])


_NUMBER: Final = {"type": "integer", "minimum": 0}
_ROW: Final = {
    "type": "object",
    "required": [*HEADER],
    "properties": {**{name: {"type": "string"} for name in HEADER[:3]}, **dict.fromkeys(COLUMNS, _NUMBER)},
}
_BODY: Final = {
    "type": "object",
    "required": ["from", "to", "by", "rows"],
    "properties": {
        "from": {"type": "string"}, "to": {"type": "string"}, "by": {"type": "string"},
        "rows": {"type": "array", "items": _ROW},
    },
}  # fmt: skip
ROUTES = (
    Route(
        "GET", "/v1/metering", get_metering, ApiRole.READ, "What listeners have used", tag="metering",
        query=(
            Parameter("from", Time, "the first hour; by default this month's first", ""),
            Parameter("to", Time, "the hour behind the last; by default the end of today", ""),
            Parameter("instance", Name, "of this instance alone", ""),
            Parameter("listener", Name, "of this listener alone", ""),
            Parameter("by", By, "what a row is of: hour, day or month, in UTC", By.DAY.value),
            Parameter("format", Annotated[str, Pattern("|".join(FORMATS), "json or csv")], "of the answer", FORMATS[0]),
        ),
        answers={
            200: Answer(
                "a row for each listener that has used anything, by time", Schema(_BODY),
                others=(Schema({"type": "string"}, "text/csv"),),
            )
        },
        problems=(503,),
    ),
)  # fmt: skip
