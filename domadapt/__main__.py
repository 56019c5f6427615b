"""``python -m domadapt``: the command line without its script."""

from domadapt.cli import main

if __name__ == "__main__":
    main()
