"""White of gray that uses fewer than its 16 bits, where a TIFF states it.

MinSampleValue and MaxSampleValue are statistics of the picture as often as a range, so that a smallest value is never
black, and a largest one is white only where it leaves the highest of 16 bits unused.
"""

from PIL import Image

from heatmill.errors import ImageUnreadable
from heatmill.images.gray import WHITE
from heatmill.images.tiff_tags import BITS, EXTRA_SAMPLES, HIGHEST, SAMPLE_HIGHEST, Number, Tags, one

WIDE, HALF = 16, 2**15


def stated_white(tags: Tags) -> Number | None:
    """The largest value, where the file states that it leaves the highest of 16 bits unused."""
    highest = one(tags, SAMPLE_HIGHEST, one(tags, HIGHEST, WHITE))
    return highest if one(tags, BITS, 1) == WIDE and 0 < highest < HALF else None


def wrong_range(tags: Tags, name: str, *, is_gray: bool) -> str | None:
    """What is not read of samples whose white is stated, in words; None where there is nothing.

    Args:
        tags: Of a page.
        name: Of its samples.
        is_gray: They are gray.
    """
    white = stated_white(tags)
    if white is None or (is_gray and not tags.get(EXTRA_SAMPLES)):
        return None
    return f"{name} samples of {WIDE} bits that are stated to reach {white:g} only"


def untaken_white(tags: Tags) -> str | None:
    """A note on a largest value that is stated and may be white, of fewer bits, where it is not taken for it."""
    bits = int(one(tags, BITS, 1))
    highest = one(tags, SAMPLE_HIGHEST, one(tags, HIGHEST, 0))
    if bits >= WIDE or not 0 < highest < 1 << (bits - 1):
        return None
    return f"the file states values up to {highest:g} of {(1 << bits) - 1}; they were not taken for white"


def displayed_white(image: Image.Image, tags: Tags) -> Number:
    """The value that is white, or black where zero is white, of a loaded picture of one 16-bit channel.

    Raises:
        ImageUnreadable: The picture has larger values than the file states.
    """
    white = stated_white(tags)
    if white is None:
        return (1 << int(one(tags, BITS, 1))) - 1
    _, largest = image.convert("I").getextrema()
    if isinstance(largest, (int, float)) and largest > white:
        raise ImageUnreadable(f"a TIFF whose values reach {largest:g}, above the {white:g} that it states, is not read")
    return white
