"""Recurrent layers (LSTM, GRU, RNN) in int8.

No environment has an int8 kernel for a whole recurrent layer, but its work is matrix products. A layer whose sequence
length is fixed and short is written out step by step (`unroll`): its products become `Gemm` nodes that every rule book
knows, its gates and its state stay float. Any other layer stays one node that computes in float from weights stored
as int8 (`int8_weights`).
"""
