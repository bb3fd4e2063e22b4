"""Trueshift: fair tests for models of transcriptional response to perturbations."""

__version__ = "0.1.0"
