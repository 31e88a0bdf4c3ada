"""The delta file: its format, its layout, its manifest."""
