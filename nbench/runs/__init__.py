"""Runs: suite -> plan -> pictures -> scores -> tables, on a store that survives being killed."""
