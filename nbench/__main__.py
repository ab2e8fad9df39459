"""`python -m nbench` is the `nbench` command."""

from nbench.cli import main

if __name__ == "__main__":
    main()
