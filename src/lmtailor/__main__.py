"""`python -m lmtailor` is the command `lmtailor`."""

from lmtailor.cli import main

if __name__ == "__main__":
    main()
