"""Streams: plain torch data sets with a domain name on each part."""

from rtl_continual.streams._ahead import read_ahead
from rtl_continual.streams._cache import cache_folder, cached_arrays
from rtl_continual.streams._decode import IMAGE_SUFFIXES, ImageForm
from rtl_continual.streams._domainnet_facts import PublishedResult
from rtl_continual.streams._files import FileNames, FileSet, Listing
from rtl_continual.streams._filled import FilledRows
from rtl_continual.streams._registry import (
    BUILT_IN_STREAMS,
    StreamSource,
    build_stream,
    prepare_stream,
    stream_config_class,
    stream_names,
    verify_stream,
)
from rtl_continual.streams._sheet import contact_sheet
from rtl_continual.streams._stream import ArraySet, Experience, ImageSet, Stream, concatenate
from rtl_continual.streams._verify import Finding, VerifyReport
from rtl_continual.streams.digits import DigitsConfig, build_digits
from rtl_continual.streams.domainnet import (
    DomainNetConfig,
    build_domainnet,
    published_results,
)
from rtl_continual.streams.emoji import EmojiConfig, build_emoji
from rtl_continual.streams.folders import DomainLists, FoldersConfig, build_folders
from rtl_continual.streams.glyphs import GlyphsConfig, build_glyphs
from rtl_continual.streams.photos import PhotosConfig, build_photos

__all__ = [
    "BUILT_IN_STREAMS",
    "IMAGE_SUFFIXES",
    "ArraySet",
    "DigitsConfig",
    "DomainLists",
    "DomainNetConfig",
    "EmojiConfig",
    "Experience",
    "FileNames",
    "FileSet",
    "FilledRows",
    "Finding",
    "FoldersConfig",
    "GlyphsConfig",
    "ImageForm",
    "ImageSet",
    "Listing",
    "PhotosConfig",
    "PublishedResult",
    "Stream",
    "StreamSource",
    "VerifyReport",
    "build_digits",
    "build_domainnet",
    "build_emoji",
    "build_folders",
    "build_glyphs",
    "build_photos",
    "build_stream",
    "cache_folder",
    "cached_arrays",
    "concatenate",
    "contact_sheet",
    "prepare_stream",
    "published_results",
    "read_ahead",
    "stream_config_class",
    "stream_names",
    "verify_stream",
]
