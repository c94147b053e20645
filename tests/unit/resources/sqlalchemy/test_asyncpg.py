"""A URL in libpq's words says the same to asyncpg."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
from sqlalchemy import make_url

from mainstay.resources.sqlalchemy.asyncpg import arguments

PLACE = "postgresql+asyncpg://u:p@h/d"


def test_server_settings_are_arguments() -> None:
    options = "-c%20search_path%3Dtbc%20-cwork_mem%3D8MB%20--lock-timeout%3D1s"
    address, given = arguments(make_url(f"{PLACE}?options={options}"))
    assert address == make_url(PLACE)
    assert given == {
        "server_settings": {"search_path": "tbc", "work_mem": "8MB", "lock_timeout": "1s"}
    }


def test_a_root_certificate_is_checked_against() -> None:
    for mode, checks_name in (("verify-full", True), ("verify-ca", False), ("require", False)):
        url = f"{PLACE}?ssl={mode}&sslrootcert={Path(certifi.where())}"
        address, given = arguments(make_url(url))
        assert address == make_url(PLACE)
        assert given["ssl"].verify_mode is ssl.CERT_REQUIRED
        assert given["ssl"].check_hostname is checks_name


def test_what_asyncpg_understands_is_left_to_it() -> None:
    address = make_url(f"{PLACE}?ssl=require")
    assert arguments(address) == (address, {})
