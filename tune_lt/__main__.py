"""``python -m tune_lt`` does what the command ``tune-lt`` does, also where that is not on the path."""

from tune_lt.cli import main

if __name__ == "__main__":
    main()
