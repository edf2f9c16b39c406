"""The two errors that a person can act on; everything else is a bug."""


class InputError(ValueError):
    """Something the user wrote or pointed at is wrong: the message says where, what was found, what is valid.

    The command line prints the message alone and exits with code 2.
    """


class TrainingFailed(RuntimeError):
    """A training run cannot go on (NaN loss, for example): the trial ends with this reason, the study goes on."""
