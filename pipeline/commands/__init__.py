"""The command line's commands: parse, call one operation, show what it returns. No logic of their own.

Start-up is kept light: an operation, and with it numpy, numba or the Azure SDK, is imported only by the
command that needs it.
"""
