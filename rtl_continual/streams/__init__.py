"""Streams: plain torch data sets with a domain name on each part."""

from rtl_continual.streams._stream import ArraySet, Experience, ImageSet, Stream

__all__ = ["ArraySet", "Experience", "ImageSet", "Stream"]
