"""What a fault point raises in tests, in place of a kill."""


class Killed(BaseException):
    """A kill within the process. It is no `Exception`, so that no handler of the code under test catches it."""
