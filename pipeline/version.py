"""The tool's own version, as it goes into manifests and reports."""

__version__ = "0.1.0"
TOOL = f"param-delta-pipeline {__version__}"
