"""Frozen records that cross the borders between stages. No torch, no files."""
