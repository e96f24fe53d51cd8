"""Streams: plain torch data sets with a domain name on each part."""

from rtl_continual.streams._cache import cache_folder
from rtl_continual.streams._registry import build_stream, stream_config_class, stream_names
from rtl_continual.streams._sheet import contact_sheet
from rtl_continual.streams._stream import ArraySet, Experience, ImageSet, Stream, concatenate
from rtl_continual.streams.digits import DigitsConfig, build_digits

__all__ = [
    "ArraySet",
    "DigitsConfig",
    "Experience",
    "ImageSet",
    "Stream",
    "build_digits",
    "build_stream",
    "cache_folder",
    "concatenate",
    "contact_sheet",
    "stream_config_class",
    "stream_names",
]
