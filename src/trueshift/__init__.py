"""Trueshift: fair tests for models of transcriptional response to perturbations."""

__version__ = "0.2.0"
