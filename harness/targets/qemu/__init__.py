"""Boards that QEMU stands in for.

`via: qemu` in user mode: the agent and the aarch64 ONNX Runtime run as they are, every ARM instruction translated.
"""
