"""Killed, moved, damaged, raced: what comes after is what would have come without."""
