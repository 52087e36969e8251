"""Containers: the `Runtime` protocol and what implements it."""
