"""Winning back what rounding to int8 loses, without training and without labels."""
