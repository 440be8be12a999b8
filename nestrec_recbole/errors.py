"""The one exception that users are meant to read."""


class NestRecError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do."""
