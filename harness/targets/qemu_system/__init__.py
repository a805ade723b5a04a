"""Boards that QEMU's system mode emulates: a kernel, a serial console, SSH, power, and faults on demand."""
