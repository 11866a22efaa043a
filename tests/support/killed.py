"""The exception that a crash point raises in tests instead of a kill."""


class Killed(BaseException):
    """A simulated kill. It is not an `Exception`, so that no handler of the code under test catches it."""
