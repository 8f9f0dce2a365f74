"""Processes and devices: ranks, compiled kernels, and stopping on SIGTERM."""
