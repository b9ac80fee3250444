"""Bytes to an RGB photo; docs/images.md has the rules."""

from io import BytesIO

from PIL import Image, ImageMath, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from heatmill.errors import ImageTooLarge, ImageUnreadable
from heatmill.images import png, tiff
from heatmill.images.colour import to_srgb
from heatmill.images.damage import DAMAGE, in_short
from heatmill.images.gray import faintness, scaled_gray
from heatmill.images.heif import ignored_turn, readable_formats
from heatmill.images.jpeg import JpegFacts, jpeg_facts, lacks_scans, whole_pictures, zeros_inside
from heatmill.images.orientation import SIDEWAYS, begins_before, forget_xmp, stated_orientation, upright
from heatmill.images.photo import ImageLimits, JpegDecoder, JpegWarning, Photo
from heatmill.images.recognised import recognised
from heatmill.images.stated import stated_colours
from heatmill.images.tiff_damage import damage

# Formats whose other frames are other pictures; the second picture of a phone's JPEG is a map for bright screens.
ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF", "HEIF"})
# Modes whose numbers a colour profile is about, and what others are brought to, where that is not RGB.
COLOURS = {"L": "L", "RGB": "RGB", "CMYK": "CMYK", "1": "L"}
OPAQUE, BITS = 255, 8
# A photo that is decoded to a fraction still has to be read, which takes time: a second for 400 megapixels.
MOST_TIMES = 8
LEAST_SHARE = 0.001

# Pillow's own pixel check warns through the process-wide warning filters, from any thread, before ours can run. Ours is
# made on every image that is opened here, before its pixels are decoded, and is an error.
Image.MAX_IMAGE_PIXELS = None
# Said of an image that another machine may be able to decode.
NEEDS_MORE_MEMORY = "decoding needs more memory than there is"


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """The whole photo as an upright RGB picture. Safe in threads.

    Raises:
        ImageUnreadable: Not an image of an accepted format, of a kind that is not read, or damaged.
        ImageTooLarge: Over a limit, or over the memory at hand.
    """
    return decode_reduced(data, limits, None).image


def decode_reduced(
    data: bytes, limits: ImageLimits, least_side: int | None, decode_jpeg: JpegDecoder | None = None
) -> Photo:
    """The photo for a model that sees less of it. Safe in threads.

    A JPEG is decoded to 1/2, 1/4 or 1/8 of its size where no side becomes shorter than `least_side`: a smaller picture
    comes out of the transform itself, in a fraction of the time. At 1/8 it has the mean of each square of pixels, at
    1/2 and 1/4 what the lowest frequencies make of it.

    Args:
        data: The file.
        limits: Any.
        least_side: In pixels; None where every photo is decoded whole.
        decode_jpeg: Decodes in Pillow's place, which does not tell of a damaged stream.

    Raises:
        ImageUnreadable: Not an image of an accepted format, of a kind that is not read, or damaged.
        ImageTooLarge: Over a limit, or over the memory at hand.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"{len(data) / 1e6:.1f} MB; the limit is {limits.max_bytes / 1e6:g} MB")
    if not data:
        raise ImageUnreadable("the file is empty")
    try:
        reader = _Reader(data, limits, least_side, decode_jpeg)
        with Image.open(BytesIO(reader.data), formats=readable_formats()) as image:
            return reader.photo(image)
    except UnidentifiedImageError as error:
        known = recognised(data)
        reason = f"; it is {known}" if known else ""
        raise ImageUnreadable(f"not an image in one of the formats {', '.join(readable_formats())}{reason}") from error
    except MemoryError as error:
        raise ImageTooLarge(NEEDS_MORE_MEMORY) from error
    except DAMAGE as error:
        raise ImageUnreadable(f"the image is damaged: {in_short(error)}") from error


class _Reader:
    """Reads one file, and collects what there is to tell."""

    def __init__(
        self, data: bytes, limits: ImageLimits, least_side: int | None, decode_jpeg: JpegDecoder | None
    ) -> None:
        self._limits, self._least_side, self._decode_jpeg = limits, least_side, decode_jpeg
        self._tiff, self._png, self._jpeg = tiff.read_facts(data), png.read_facts(data), _checked_jpeg(data)
        self.data = data if self._png is None else png.for_pillow(data, self._png)
        self._notes: list[str] = []

    def photo(self, image: Image.Image) -> Photo:
        """The picture of an opened file."""
        if image.format == "TIFF" and self._tiff is None:
            raise ImageUnreadable(
                f"a TIFF that begins with {self.data[:4]!r}, which TIFF does not provide for, is not read"
            )
        forget_xmp(image)
        whole = image.size
        by = self._reduce(image)
        self._note_frames(image)
        stated = stated_colours(image, self.data, self._png)
        loaded = self._loaded(image)
        colours, alpha = self._colours_and_alpha(loaded)
        photo, note = to_srgb(colours, stated)
        # CIELab has its own colours.
        self._notes += [note] if note and loaded.mode != "LAB" else []
        if alpha is not None:
            photo = self._on_white(photo, alpha)
        orientation = stated_orientation(image)
        photo = upright(photo, orientation)
        size = photo.size if by == 1 else whole[::-1] if orientation in SIDEWAYS else whole
        if by > 1:
            whole_size = f"{size[0]} x {size[1]} pixels"
            self._notes.append(
                f"reduced to 1/{by} of {whole_size} on each side while it was decoded; the model sees fewer"
            )
        # What the file says of itself holds no longer: it is turned, sRGB and opaque.
        photo.info = {}
        name = "JPEG" if image.format == "MPO" else image.format or ""
        return Photo(photo, size, by, name, tuple(self._notes), begins_before(size, by, orientation))

    def _reduce(self, image: Image.Image) -> int:
        """Tell the decoder by how much to reduce, where it can, and check what it will decode."""
        (width, height), by = image.size, 1
        if width < 1 or height < 1:
            raise ImageUnreadable(f"{width} x {height} pixels")
        shorter, least = min(width, height), self._least_side
        if isinstance(image, JpegImageFile) and least is not None:
            image.draft(None, (width * least // shorter, height * least // shorter))
            by = next(by for by in (1, 2, 4, 8) if -(-width // by) == image.width)
        self._check_pixels((width, height), image.width * image.height, by)
        return by

    def _check_pixels(self, size: tuple[int, int], decoded: int, by: int) -> None:
        whole, limit = size[0] * size[1], self._limits.max_pixels
        is_buffered = self._jpeg is not None and self._jpeg.is_buffered
        if (whole if is_buffered else decoded) > limit:
            how = "" if by == 1 else ", which its scans need at once" if is_buffered else f", decoded to 1/{by}"
            raise ImageTooLarge(f"{size[0]} x {size[1]} pixels{how}; the limit is {limit / 1e6:g} megapixels")
        if whole > MOST_TIMES * limit:
            most = f"the limit of what is read is {MOST_TIMES * limit / 1e6:g} megapixels"
            raise ImageTooLarge(f"{size[0]} x {size[1]} pixels; {most}, however small it is decoded")

    def _note_frames(self, image: Image.Image) -> None:
        if self._tiff is not None:
            self._notes += self._tiff.notes
        elif image.format in ANIMATED and (count := int(getattr(image, "n_frames", 1))) > 1:
            self._notes.append(f"frame {image.tell() + 1} of {count} was read; the other frames are left out")
        elif image.format == "MPO" and (count := whole_pictures(self.data)) > 1:
            self._notes.append(f"picture 1 of {count} was read; the other pictures of the file are left out")
        self._notes += [note] if (note := ignored_turn(image, self.data)) else []
        if image.mode == "CMYK" and self._jpeg is not None and "adobe" not in image.info:
            self._notes.append("the file does not say whether its CMYK values are inverted; they were read as if so")

    def _loaded(self, image: Image.Image) -> Image.Image:
        if isinstance(image, JpegImageFile):
            return self._loaded_jpeg(image)
        image.load()
        if self._png is not None:
            self._notes += [note] if (note := png.check_rows(self.data, self._png, image)) else []
            self._notes += png.notes(self._png, image)
        if self._is_wide():
            self._notes += [note] if (note := faintness(image)) else []
        if self._tiff is None:
            return image
        self._notes += [note] if (note := damage(self.data, self._tiff.tags, self._decode_jpeg)) else []
        return tiff.adjusted(image, self._tiff)

    def _loaded_jpeg(self, image: Image.Image) -> Image.Image:
        if zeros_inside(self.data):
            self._notes.append("the file is damaged: zeros stand where compressed pixels were")
        if lacks_scans(self.data):
            self._notes.append("the file is damaged: the last scans are missing, so that the picture is coarser")
        if self._decode_jpeg is not None:
            try:
                return self._decode_jpeg(self.data, image)
            except JpegWarning as warning:
                self._notes.append(f"the file is damaged; the decoder's warning: {warning}")
        image.load()
        return image

    def _is_wide(self) -> bool:
        """Whether values have 16 bits and the file does not say that it uses fewer."""
        if self._tiff is not None:
            return self._tiff.bits == 16 and not self._tiff.states_range
        return self._png is not None and self._png.bits == 16

    def _colours_and_alpha(self, image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
        """L, RGB or CMYK, and how opaque each pixel is, where the file says so."""
        transparent = image.info.get("transparency")
        if image.mode.startswith("I;16"):
            return scaled_gray(image), None if transparent is None else _differs(image, transparent)
        if image.mode in {"I", "F"}:
            raise ImageUnreadable("32-bit pixels have no stated range; 8 and 16 bit are read")
        if self._png is not None and self._png.has_wide_transparent_colour:
            return image, png.wide_alpha(self.data, self._png)
        if not image.has_transparency_data:
            return image.convert(COLOURS.get(image.mode, "RGB")), None
        if self._png is not None and isinstance(transparent, int) and image.mode == "L":
            image.info["transparency"] = png.transparent_value(self._png, transparent)
        premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        seen = (image.convert(premultiplied) if premultiplied else image).convert("RGBA")
        gray = image.mode in {"L", "LA", "La"}
        return seen.getchannel("R") if gray else seen.convert("RGB"), seen.getchannel("A")

    def _on_white(self, photo: Image.Image, alpha: Image.Image) -> Image.Image:
        opaque, pixels = alpha.histogram()[OPAQUE], alpha.width * alpha.height
        if opaque == pixels:
            return photo
        share = 1 - opaque / pixels
        part = f"{share:.1%}" if share >= LEAST_SHARE else f"less than {LEAST_SHARE:.1%}"
        self._notes.append(f"transparent pixels were laid on white: {part} of the photo")
        return Image.composite(photo, Image.new("RGB", photo.size, "white"), alpha)


def _checked_jpeg(data: bytes) -> JpegFacts | None:
    facts = jpeg_facts(data)
    if facts is not None and facts.bits != BITS:
        raise ImageUnreadable(f"a JPEG of {facts.bits} bits a sample is not read; those of 8 bits are")
    if facts is not None and facts.components not in {1, 3, 4}:
        raise ImageUnreadable(f"a JPEG of {facts.components} components a pixel is not read; those of 1, 3 and 4 are")
    return facts


def _differs(image: Image.Image, transparent: int) -> Image.Image:
    """Opaque but where a 16-bit picture has one value."""
    differs: Image.Image = ImageMath.lambda_eval(
        lambda of: of["convert"]((of["values"] != transparent) * 255, "L"), values=image.convert("I")
    )
    return differs
