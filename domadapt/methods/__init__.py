"""Adaptation methods: `Method`, the registry, and one file per method, found by scanning."""

from domadapt.methods.base import BatchOutputs, Losses, Method, SourceView, TargetView
from domadapt.methods.combine import build_method, is_source_free, method_settings, read_settings
from domadapt.methods.registry import method_class, method_names, method_parts, register
from domadapt.settings import Setting, settings_of

__all__ = [
    "BatchOutputs",
    "Losses",
    "Method",
    "Setting",
    "SourceView",
    "TargetView",
    "build_method",
    "is_source_free",
    "method_class",
    "method_names",
    "method_parts",
    "method_settings",
    "read_settings",
    "register",
    "settings_of",
]
