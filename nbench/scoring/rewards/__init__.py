"""Reward proxies and picture statistics, one file each."""
