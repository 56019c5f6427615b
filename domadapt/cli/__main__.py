"""``python -m domadapt.cli``, which launchers of several processes need."""

from domadapt.cli import main

if __name__ == "__main__":
    main()
