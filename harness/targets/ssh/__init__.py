"""Boards reached over SSH: their agent installed, upgraded, rolled back, restarted and removed."""
