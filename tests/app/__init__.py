"""Tests of App: all that a program produces and consumes, as one object."""
