# SPDX-License-Identifier: Apache-2.0
"""The end of a process at any step of its work, played within a test."""


class Killed(BaseException):
    """Stands for the end of the process."""


class Steps:
    """Calls of some functions, counted: the steps of a work, before any of which it can be ended.

    Args:
        places: owner and name of each function.
    """

    def __init__(self, monkeypatch, *places):
        self.left = -1  # until the end; below 0 there is none
        for owner, name in places:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def kill(self, step, work, *args):
        """Work until so many steps are done, and none after that; whether there was one more."""
        self.left = step
        try:
            work(*args)
        except Killed:
            return True
        finally:
            self.left = -1
        return False

    def _counted(self, function):
        def call(*args, **options):
            if self.left == 0:
                raise Killed
            self.left -= 1
            return function(*args, **options)

        return call
