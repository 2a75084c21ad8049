"""What stops a command before anything is changed."""


class Refused(Exception):
    """Nothing was changed; the message says why and what to do next."""
