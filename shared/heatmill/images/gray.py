"""Gray values of 16 bits as 8 bits."""

from PIL import Image

WHITE = 65535
# Values that reach a sixteenth of the range make a picture of hardly any contrast.
FAINT = 4096


def scaled_gray(image: Image.Image, white: float = WHITE) -> Image.Image:
    """A picture of one 16-bit channel, rounded to 8 bits; 0 is black, and values beyond white are cut off.

    Pillow's own conversion clips at 255. What a point makes of an integer is cut off behind the point; no value of the
    whole range comes within 0.5 / 257 of where floating point would cut off the wrong way.
    """
    step = 255 / white
    return image.convert("I").point(lambda value: value * step + 0.5).convert("L")


def faintness(image: Image.Image) -> str | None:
    """A note where the values of a 16-bit picture use so few bits that there is next to nothing to see."""
    wide = image.mode.startswith("I;16")
    # Of colours, the upper bytes were read.
    extrema, unit = (image.convert("I").getextrema(), 1) if wide else (image.convert("L").getextrema(), 257)
    highest = extrema[1] * unit if isinstance(extrema[1], (int, float)) else WHITE
    if highest < FAINT:
        return f"the 16-bit values reach {highest:g} of {WHITE}, so that the picture has hardly any contrast"
    return None
