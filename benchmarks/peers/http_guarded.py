"""The usual stack with traces, tokens and a rate limit: OpenTelemetry's instrumentation, a
dependency that decodes with PyJWT, and slowapi, each as its documentation has it.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIASGIMiddleware
from slowapi.util import get_remote_address

from benchmarks.lanes.http_routes import add_routes
from benchmarks.peers.http_traced import instrument
from benchmarks.peers.http_usual import with_usual_stack

_SECRET = os.environ["JWT_SECRET_KEY"]
_bearer = HTTPBearer()


async def claims(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(_bearer)],
) -> dict[str, Any]:
    try:
        return jwt.decode(
            credentials.credentials,
            _SECRET,
            algorithms=["HS256"],
            audience="python-service",
            issuer="python-service",
        )
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "the token is not valid") from error


app = FastAPI()
app.state.limiter = Limiter(key_func=get_remote_address, default_limits=["1000000/second"])
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
app.add_middleware(SlowAPIASGIMiddleware)
add_routes(app, dependencies=[Depends(claims)])
with_usual_stack(app)
instrument(app)
