"""Stands in for setuptools while pip downloads a source distribution: see cmake/dependencies.cmake."""
