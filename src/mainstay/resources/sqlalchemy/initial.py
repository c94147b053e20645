"""Write what Alembic needs for a service that has no migrations yet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mainstay.config import Settings
from mainstay.errors import Misconfigured

__all__ = ["write"]

_INI = """\
[alembic]
script_location = %(here)s/migrations
prepend_sys_path = {source}
path_separator = os
file_template = %%(year)d%%(month).2d%%(day).2d_%%(rev)s_%%(slug)s
# Its own, so that services may share a database.
version_table = {version_table}
"""
_ENV = """\
\"\"\"Alembic asks here which database the settings name, and which tables the models define.\"\"\"

{settings}

run(Settings, models={models})
"""
_RUN = "from mainstay.resources.sqlalchemy.alembic import run"
_NO_CLASS = f"""\
import mainstay
{_RUN}


class Settings(mainstay.Settings, prefix="{{prefix}}"):
    \"\"\"The settings that every service has.\"\"\"
"""
_TEMPLATE = Path(__file__).with_name("migrations") / "script.py.mako"


def write(
    folder: Path,
    name: str,
    settings: type[Settings],
    models: Sequence[str],
    *,
    say: Callable[[str], None] = print,
) -> None:
    """Write ``alembic.ini`` and ``migrations/`` of a service.

    Args:
        folder: The service's folder.
        name: The service's name; its version table is called after it.
        settings: Its settings class, which names the database.
        models: The modules that define its tables, and packages of them.
        say: Told one line for each file.

    Raises:
        Misconfigured: One of the files is there already; nothing is written then.
    """
    suffix = re.sub(r"[^a-z0-9_]", "_", name.lower())
    files = {
        "alembic.ini": _INI.format(
            source="%(here)s/src" if (folder / "src").is_dir() else "%(here)s",
            version_table=f"alembic_version_{suffix}",
        ),
        "migrations/env.py": _ENV.format(
            settings=_import_of(settings),
            models=json.dumps(models[0] if len(models) == 1 else models),
        ),
        "migrations/script.py.mako": _TEMPLATE.read_text(encoding="utf-8"),
        "migrations/versions/.gitkeep": "",
    }
    if there := [each for each in files if (folder / each).exists()]:
        raise Misconfigured(f"{folder} has {', '.join(there)} already, so nothing is written")
    for each, text in files.items():
        path = folder / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        say(f"wrote {path}")


def _import_of(settings: type[Settings]) -> str:
    if "<locals>" in settings.__qualname__:  # no module defines it: it is a prefix and no more
        return _NO_CLASS.format(prefix=settings.env_prefix)
    module = settings.__module__ if settings is not Settings else "mainstay"
    return f"from {module} import {settings.__qualname__} as Settings\n{_RUN}".replace(
        " Settings as Settings", " Settings"
    )
