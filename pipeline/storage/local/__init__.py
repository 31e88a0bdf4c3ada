"""Folders of this machine as stores: partials that are renamed when they are whole."""
