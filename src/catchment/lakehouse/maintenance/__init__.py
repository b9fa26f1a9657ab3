"""Keeping the lake healthy beside capture: few files, few dead rows, nothing that nobody needs."""
