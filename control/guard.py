"""What every request of the users' API passes, outermost first: the log, errors as problem documents, the token.

Whether a token may do what it asks, and whether the parameters are what they should be, is said by the route alone.
The request log has the token's name, method, path, status and time, never a query, header or body.
"""

from __future__ import annotations

import logging
import time

from aiohttp import web

from control.edit import ExistsError, MissingError, StaleError
from control.gate import forbidden, identify
from control.handling import CALLER, Caller
from control.preconditions import PreconditionError
from control.problem import problem
from control.protection import ProtectedError
from control.roles import ApiRole
from control.routes import ROUTES_BY_PLACE, Handler, RequestError, read_parameters, route_of
from control.store import NoSuchVersionError, StoreUnavailableError, VersionConflictError
from control.token_format import without_secrets
from control.token_record import BeyondRightsError, NoSuchTokenError, TokenError
from core.errors import ConfigErrors
from core.reader import did_you_mean

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 1 << 24
PATH_LIMIT = 100
NOBODY = Caller("-", ApiRole.READ)


@web.middleware
async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line a request, after it."""
    CALLER.set(NOBODY)  # a connection's requests share their task
    started = time.monotonic()
    response = await handler(request)
    elapsed_ms = (time.monotonic() - started) * 1000
    path = without_secrets(request.path)
    log.info("%s %s %s %d %.1f ms", CALLER.get().name, request.method, path, response.status, elapsed_ms)
    return response


@web.middleware
async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as problem documents; the only place that knows which error is which status."""
    try:
        return await handler(request)
    except RequestError as error:
        told = [f"{each.object_path}: {each.why}" if each.object_path else each.why for each in error.errors]
        return problem(400, "; ".join(told), error.errors)
    except ConfigErrors as error:
        return problem(422, f"{len(error.errors)} error(s); nothing was changed", error.errors)
    except VersionConflictError as error:
        return problem(412, f"{error}; read it again and repeat your change", current_version=error.current)
    except (PreconditionError, StaleError) as error:
        return problem(412, str(error), current_etag=None if error.current is None else f'"{error.current}"')
    except (ProtectedError, ExistsError) as error:
        return problem(409, str(error))
    except MissingError as error:
        return problem(404, str(error))
    except NoSuchVersionError as error:
        return problem(404, str(error))
    except StoreUnavailableError as error:
        log.warning("%s %s: %s", request.method, request.path, error)
        return problem(503, str(error), headers={"Retry-After": "1"})
    except BeyondRightsError as error:
        return forbidden(request, str(error))
    except NoSuchTokenError as error:
        return problem(404, str(error))
    except TokenError as error:
        return problem(409, str(error))
    except web.HTTPRequestEntityTooLarge:
        return problem(413, f"a request may have {BODY_LIMIT_BYTES} bytes")
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return problem(error.status, error.text or error.reason, headers=headers)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "the control plane's log says more")


@web.middleware
async def authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who asks: 401 for whom we do not know, 403 for who may not; then what the parameters are."""
    route = route_of(request)
    if route is None or route.role is not None:
        caller = await identify(request)
        if isinstance(caller, web.Response):
            return caller
        CALLER.set(caller)
        if route is not None and route.role is not None and not caller.role.may(route.role):
            detail = f"the token {caller.name!r} has the role {caller.role.value}; this needs {route.role.value}"
            return forbidden(request, detail)
    if route is None:
        raise _unknown(request)
    read_parameters(request, route)
    return await handler(request)


def _unknown(request: web.Request) -> web.HTTPException:
    """What to say to who asks for what is not there."""
    error = request.match_info.http_exception
    if isinstance(error, web.HTTPMethodNotAllowed):
        takes = ", ".join(sorted(error.allowed_methods))
        error.text = f"{request.method} is not for {request.path[:PATH_LIMIT]}, which takes {takes}"
        return error
    paths = [path for _, path in request.app[ROUTES_BY_PLACE]]
    near = did_you_mean(request.path[:PATH_LIMIT], paths)
    return web.HTTPNotFound(
        text=f"there is no {request.path[:PATH_LIMIT]}; {near or 'docs/api.md lists what there is'}"
    )
