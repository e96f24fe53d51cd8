"""Which tickets does this data need? Shifts, clusters, and when a new ticket appears."""

from rtl_continual.discovery._clusterer import Clusterer
from rtl_continual.discovery._detector import ShiftDetector, Verdict
from rtl_continual.discovery._discover import (
    UNASSIGNED,
    Arrival,
    Discovery,
    DiscoveryConfig,
    discover,
)
from rtl_continual.discovery._gap import Gap, find_gap
from rtl_continual.discovery._known import KnownTickets
from rtl_continual.discovery._merge import MergeProposal, merge_proposals
from rtl_continual.discovery._online import OnlineDiscovery, OnlineStep
from rtl_continual.discovery._registry import (
    BUILT_IN_CLUSTERERS,
    BUILT_IN_DETECTORS,
    build_clusterer,
    build_detector,
    clusterer_config_class,
    clusterer_names,
    detector_config_class,
    detector_names,
)

__all__ = [
    "BUILT_IN_CLUSTERERS",
    "BUILT_IN_DETECTORS",
    "UNASSIGNED",
    "Arrival",
    "Clusterer",
    "Discovery",
    "DiscoveryConfig",
    "Gap",
    "KnownTickets",
    "MergeProposal",
    "OnlineDiscovery",
    "OnlineStep",
    "ShiftDetector",
    "Verdict",
    "build_clusterer",
    "build_detector",
    "clusterer_config_class",
    "clusterer_names",
    "detector_config_class",
    "detector_names",
    "discover",
    "find_gap",
    "merge_proposals",
]
