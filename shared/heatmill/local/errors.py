"""What can go wrong with the embedded stack."""

from heatmill.errors import HeatmillError


class LocalStackError(HeatmillError):
    """The stack on this machine cannot run; the message says what to do."""


class ProgramMissing(LocalStackError):
    """A server is not installed; the message says how to install it."""


class DataFolderInUse(LocalStackError):
    """Another stack runs on the same data folder."""


class DidNotStart(LocalStackError):
    """A part of the stack stopped or did not answer in time; the message shows the end of its log."""
