"""Hyper-parameter search for long-tailed image classification, around the paper's GHM-CWAP loss."""

__version__ = "0.1.0"
