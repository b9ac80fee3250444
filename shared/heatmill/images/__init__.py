"""Bytes to an RGB photo, by stated rules; docs/images.md has all of them."""

from heatmill.images.decode import decode, decode_reduced
from heatmill.images.overlay import Box
from heatmill.images.own_photo import overlay_own_photo
from heatmill.images.photo import ImageLimits, JpegDecoder, JpegWarning, Photo

__all__ = ["Box", "ImageLimits", "JpegDecoder", "JpegWarning", "Photo", "decode", "decode_reduced", "overlay_own_photo"]
