"""The same behind the edge."""

from __future__ import annotations

from benchmarks.lanes import asgi_bare
from mainstay import Service, Settings
from mainstay.http.asgi import Edge, Rules

service = Service(Settings)
edge = Edge(asgi_bare.app, service, Rules())
service.start("api")
