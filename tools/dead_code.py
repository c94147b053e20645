"""Which functions, classes, imports and lines does nothing use, neither code nor test?

Runs vulture with the settings of pyproject.toml. Fields of models and settings are left out: they
are read by name, from outside.
"""

from __future__ import annotations

import sys

from vulture.config import make_config
from vulture.core import Vulture

# Vulture is sure of what it found.
_CERTAIN = 100
_READ_BY_NAME = {"variable", "attribute"}


def main() -> int:
    config = make_config([])
    vulture = Vulture(
        ignore_names=config["ignore_names"], ignore_decorators=config["ignore_decorators"]
    )
    vulture.scavenge(config["paths"], exclude=config["exclude"])
    unused = [
        item
        for item in vulture.get_unused_code(min_confidence=config["min_confidence"])
        if item.typ not in _READ_BY_NAME or item.confidence >= _CERTAIN
    ]
    for item in unused:
        print(item.get_report())
    return 1 if unused else 0


if __name__ == "__main__":
    sys.exit(main())
