"""The conformance kit: does what a plugin brings keep its contract?

Each ``check_...`` takes a function that builds the thing afresh, runs a table of named properties,
and raises :class:`ConformanceError` with all that do not hold.
"""

from rtl_continual.testing._backbones import check_backbone
from rtl_continual.testing._discovery import check_clusterer, check_shift_detector
from rtl_continual.testing._plugins import Subject, check_plugin, subjects_of
from rtl_continual.testing._relaxation import check_relaxation_policy
from rtl_continual.testing._routers import check_router
from rtl_continual.testing._schedules import check_sparsity_schedule
from rtl_continual.testing._streams import check_stream
from rtl_continual.testing._suite import ConformanceError, Outcome

__all__ = [
    "ConformanceError",
    "Outcome",
    "Subject",
    "check_backbone",
    "check_clusterer",
    "check_plugin",
    "check_relaxation_policy",
    "check_router",
    "check_shift_detector",
    "check_sparsity_schedule",
    "check_stream",
    "subjects_of",
]
