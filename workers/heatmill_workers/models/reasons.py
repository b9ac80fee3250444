"""What an error of a library says, in one line."""

# Of TorchScript's texts, the traceback of the compiled file stands before the reason.
TORCHSCRIPT = "The following operation failed in the TorchScript interpreter"
MOST_CHARACTERS = 300


def reason(error: Exception) -> str:
    """The line of an error's text that says what is wrong; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if lines[0].startswith(TORCHSCRIPT) else lines[0]
    return line.removeprefix("RuntimeError: ")[:MOST_CHARACTERS]
