"""Losses as pure functions: tensors in, a scalar out; one file per family.

Domain order is always ``(source, target)``; the two batches may differ in size. No function here
holds state, a schedule or a weight.
"""
