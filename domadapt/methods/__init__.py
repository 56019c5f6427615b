"""Adaptation methods: `Method`, the registry, and one file per method, found by scanning."""

from domadapt.methods.base import BatchOutputs, Losses, Method, TargetView
from domadapt.methods.combine import build_method, method_settings
from domadapt.methods.registry import (
    Setting,
    method_class,
    method_names,
    register,
    settings_of,
)

__all__ = [
    "BatchOutputs",
    "Losses",
    "Method",
    "Setting",
    "TargetView",
    "build_method",
    "method_class",
    "method_names",
    "method_settings",
    "register",
    "settings_of",
]
