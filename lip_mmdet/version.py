"""The package's version, in one place: ``setup.py`` reads it without importing anything."""

__version__ = '0.1.0'
