"""What a person did wrong, told in one sentence."""


class UserError(Exception):
    """A mistake the user can mend: the message names the thing, its value and the remedy.

    The front ends (`launch/run.py`, `launch/pipeline.py`, `align`) print it as `error: ...` and exit with 2, without
    a traceback. Anything else that is raised is a bug and keeps its traceback.
    """
