"""``python -m tune_lt.cli``, where the command itself is not on the path."""

from tune_lt.cli import main

if __name__ == "__main__":
    main()
