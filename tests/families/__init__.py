"""Families of the course: parity with what was published, in and out."""
