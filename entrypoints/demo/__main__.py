"""``python -m engine.entrypoints.demo``."""

import sys

from engine.entrypoints.demo.demo import main
from engine.errors import StartupError

if __name__ == "__main__":
    try:
        sys.exit(main())
    except StartupError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
