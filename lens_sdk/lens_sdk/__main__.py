"""`python -m lens_sdk`, and the `lens` command."""


def main() -> None:
    """Run the command line."""
    from lens_sdk.cli import app

    app(prog_name="lens")


if __name__ == "__main__":
    main()
