"""Outside of development nobody gets in without a token."""

from __future__ import annotations

import httpx

from tests.services.data.platform import API
from tests.services.data.test_bad_input import is_problem
from tests.services.platform import Platform
from tests.waiting import PATIENCE_SECONDS


def test_what_changes_or_shows_data_needs_a_token(real_platform: Platform) -> None:
    with httpx.Client(base_url=real_platform.url, timeout=PATIENCE_SECONDS) as nobody:
        for method, path in [
            ("POST", f"{API}/data/process"),
            ("POST", f"{API}/data/process-async"),
            ("GET", f"{API}/data/process-async/x"),
            ("GET", f"{API}/database/records"),
            ("DELETE", f"{API}/database/records/x"),
            ("GET", f"{API}/database/logs"),
            ("GET", f"{API}/metrics"),
        ]:
            answer = nobody.request(method, path, json={"payload": 1})
            is_problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in ("/", "/health", "/ready", "/readyz", "/healthz", "/metrics"):
            assert nobody.get(path).status_code == 200
        forged = nobody.get(f"{API}/metrics", headers={"Authorization": "Bearer a.b.c"})
        is_problem(forged, 401)
