"""`python -m lens_sdk`, and the `lens` command."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from lens_sdk.cli import app
    except KeyboardInterrupt:
        # Importing takes long enough to be interrupted.
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)

    app(prog_name="lens")


if __name__ == "__main__":
    main()
