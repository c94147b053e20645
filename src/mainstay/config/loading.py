"""One value for each setting: the sources are asked in order, parts are joined, texts decoded."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mainstay.config import fields, urls
from mainstay.config.fields import Group
from mainstay.config.messages import Problem
from mainstay.config.sources import EMBEDDED, Found, Source, Sources
from mainstay.config.values import environment

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from mainstay.config.settings import Settings

__all__ = ["collect", "family"]

# What `mainstay dev` gave is left out when somebody named another setting of its family: the
# async URL of the embedded database must not stand beside the sync URL of another. So is all that
# was read when a keyword argument gives another setting of its family.
_FAMILIES = (
    frozenset({"database_url", "async_database_url"}),
    frozenset({"rabbitmq_url", "rabbitmq_management_url"}),
    frozenset({"jwt_secret_key", "jwt_private_key", "jwt_jwks_url"}),
)
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?\Z")


def collect(
    settings: type[Settings], sources: Sources, given: Mapping[str, Any]
) -> tuple[dict[str, Found], list[Problem]]:
    """Read every setting of *settings* that is not *given* and that some source names."""
    problems: list[Problem] = []
    reader = _Reader(settings, sources.open(problems), problems)
    known = [name for name in settings.model_fields if name != "config_path"]
    path = given.get("config_path") or reader.text("config_path")
    reader.sources += sources.file(path and str(path), known, problems)
    # A process that is told where it runs, and that it is not here, does not take what is here.
    if environment(given.get("env") or reader.text("env") or "dev") == "dev":
        default = settings.model_fields["service_name"].default
        service = given.get("service_name") or reader.text("service_name") or default
        reader.sources += sources.running(str(service))

    found: dict[str, Found] = {}
    for name in settings.model_fields:
        if name not in given and (one := reader.read(name)) is not None:
            found[name] = one
    _leave_out(found, given)
    return found, problems


def family(name: str) -> frozenset[str]:
    """Return the settings of which one stands for setting *name*, itself among them."""
    return next((each for each in _FAMILIES if name in each), frozenset({name}))


class _Reader:
    def __init__(
        self, settings: type[Settings], sources: list[Source], problems: list[Problem]
    ) -> None:
        self._settings = settings
        self._problems = problems
        self.sources = sources

    def text(self, name: str) -> str | None:
        found = self.read(name)
        return None if found is None else str(found.value)

    def read(self, name: str) -> Found | None:
        field = self._settings.model_fields[name]
        variables = self._settings.variables(name)
        groups = fields.groups(field)
        for source in self.sources:
            if (found := source.find(name, variables)) is not None:
                return Found(_decoded(name, field, found.value), found.origin, found.place)
            for group in groups:
                if source.find("", group.variables) is not None:
                    return self._joined(name, group)
        return None

    def _joined(self, name: str, group: Group) -> Found | None:
        """Make the URL of a group; a password may come from a secret file beside a host from the
        environment, so each part is looked for in all sources.
        """
        parts = {variable: self._part(variable) for variable in group.variables}
        named = [found for found in parts.values() if found is not None]

        def part(variable: str, default: str) -> str:
            found = parts.get(variable)
            return default if found is None else str(found.value)

        host = part(group.host, "localhost").strip()
        port = part(group.port, str(group.default_port)).strip()
        user = part(group.user, group.default_user)
        password = next((parts[each] for each in group.passwords if parts[each]), None)
        wrong = []
        if not _is_host(host):
            wrong.append((group.host, "a host's name or address, without scheme and port"))
        if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):
            wrong.append((group.port, "a whole number from 1 to 65535"))
        for variable, accepted in wrong:
            found = parts[variable]
            place = variable if found is None else found.place
            self._problems.append(
                Problem(name, f"{place}: not accepted; accepted is {accepted}", frozenset({name}))
            )
        if self._disagree(name, group, parts) or wrong:
            return None
        url = urls.join(
            group.scheme,
            host,
            int(port),
            user,
            group.default_password if password is None else str(password.value),
            # libpq's rule: a database that is not named is called like its user
            part(group.path, user) if group.path else "",
        )
        return Found(
            url,
            ", ".join(dict.fromkeys(found.origin for found in named)),
            ", ".join(dict.fromkeys(found.place for found in named)),
        )

    def _disagree(self, name: str, group: Group, parts: Mapping[str, Found | None]) -> bool:
        """Note where the two names of a password give different ones: neither is the better."""
        given = {each: found for each in group.passwords if (found := parts[each]) is not None}
        if len({str(found.value) for found in given.values()}) < 2:
            return False
        places = " and ".join(f"{each} ({found.origin})" for each, found in given.items())
        message = f"{places} are one setting and give different passwords: leave one of them out"
        self._problems.append(Problem(name, message, frozenset({name})))
        return True

    def _part(self, variable: str) -> Found | None:
        asked = (source.find("", (variable,)) for source in self.sources)
        return next((found for found in asked if found is not None), None)


def _is_host(host: str) -> bool:
    if host.startswith("/") or _HOST_NAME.match(host):
        return True
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _decoded(name: str, field: FieldInfo, value: Any) -> Any:
    """Bring a value nearer to the field's type than its source could; checking comes later."""
    if isinstance(value, bool) and not fields.is_flag(field):
        return str(value).lower()  # YAML makes `off` a boolean, and Python a boolean a number
    if not isinstance(value, str):
        return value
    if not fields.is_secret(name, field):
        value = value.strip()  # a blank may be part of a password
    if fields.is_structure(field) or (fields.is_sequence(field) and value.startswith("[")):
        try:
            return json.loads(value)
        except ValueError:
            return value
    if fields.is_sequence(field):
        return [one.strip() for one in value.split(",") if one.strip()]
    return value


def _leave_out(found: dict[str, Found], given: Mapping[str, Any]) -> None:
    for family in _FAMILIES:
        members = family & found.keys()
        is_given = any(given.get(name) is not None for name in family)
        is_named = family & set(given) or any(found[name].origin != EMBEDDED for name in members)
        for name in members:
            if is_given or (is_named and found[name].origin == EMBEDDED):
                del found[name]
