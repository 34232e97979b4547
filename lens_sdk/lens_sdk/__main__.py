"""Entry point of `python -m lens_sdk` and the `lens` command."""

import io
import os
import sys


def main() -> None:
    """Run the command line."""
    _write_any_character()
    try:
        from lens_sdk.cli import app
    except KeyboardInterrupt:
        # Importing takes long enough that the user may press Ctrl-C.
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)

    app(prog_name="lens")


def _write_any_character() -> None:
    """Use UTF-8 for files and pipes, whose default on Windows is a code page."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper) or stream.encoding.lower().startswith("utf"):
            continue
        if stream.isatty() or os.environ.get("PYTHONIOENCODING"):
            stream.reconfigure(errors="replace")
        else:
            stream.reconfigure(encoding="utf-8")


if __name__ == "__main__":
    main()
